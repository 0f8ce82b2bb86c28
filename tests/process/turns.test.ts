/** Must hold: work starts in order, the first at once, at most one piece in a turn of the event loop, and none is lost or held back when idle. */
import { expect, it } from 'vitest';
import { Turns } from '../../server/process/turns.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

it('starts one piece of work in a turn, in order', async () => {
  const turns = new Turns();
  const started: number[] = [];
  const perTurn: number[] = [];
  for (let i = 0; i < 5; i++) turns.run(() => started.push(i));
  expect(started).toEqual([0]);
  while (started.length < 5) {
    const before = started.length;
    await turn();
    perTurn.push(started.length - before);
  }
  expect(started).toEqual([0, 1, 2, 3, 4]);
  expect(Math.max(...perTurn)).toBe(1);
});

it('lets sockets and timers in between', async () => {
  const turns = new Turns();
  const events: string[] = [];
  for (let i = 0; i < 200; i++) turns.run(() => events.push('work'));
  setTimeout(() => events.push('timer'), 0);
  const busy = Date.now() + 3;
  while (Date.now() < busy);
  while (turns.length > 0 || !events.includes('timer')) await turn();
  expect(events.indexOf('timer')).toBeLessThan(199);
});

it('starts at once again after it was idle', async () => {
  const turns = new Turns();
  turns.run(() => {});
  await turn();
  await turn();
  let started = false;
  turns.run(() => {
    started = true;
  });
  expect(started).toBe(true);
});
