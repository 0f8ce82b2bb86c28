/**
 * Must hold: work starts in order, the first at once; pieces share a turn of the event loop only while they are short, each beginning when the one before has
 * come as far as it could; none is lost or held back when idle.
 */
import { expect, it } from 'vitest';
import { Turns } from '../../server/process/turns.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function busy(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

it('starts one piece of long work in a turn, in order', async () => {
  const turns = new Turns();
  const started: number[] = [];
  const perTurn: number[] = [];
  for (let i = 0; i < 5; i++) {
    turns.run(() => {
      started.push(i);
      busy(1);
    });
  }
  expect(started).toEqual([0]);
  while (started.length < 5) {
    const before = started.length;
    await turn();
    perTurn.push(started.length - before);
  }
  expect(started).toEqual([0, 1, 2, 3, 4]);
  expect(Math.max(...perTurn)).toBe(1);
});

it('starts a piece when the one before waits or is done', async () => {
  const turns = new Turns();
  const events: string[] = [];
  const work = (name: string) => async () => {
    events.push(`${name} starts`);
    for (let i = 0; i < 10; i++) await undefined;
    events.push(`${name} ends`);
  };
  turns.run(() => void work('a')());
  turns.run(() => void work('b')());
  while (turns.length > 0 || events.length < 4) await turn();
  expect(events).toEqual(['a starts', 'a ends', 'b starts', 'b ends']);
});

it('lets sockets and timers in between', async () => {
  const turns = new Turns();
  const events: string[] = [];
  const work = () => {
    events.push('work');
    busy(0.05);
  };
  for (let i = 0; i < 200; i++) turns.run(work);
  setTimeout(() => events.push('timer'), 0);
  busy(3);
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
