/** Who has the backend: the decisions alone. */
import { expect, test } from 'vitest';
import { frontendType } from '../../server/compute/pg-frames.ts';
import { canEnd, standing, TurnGate, TurnQueue, type TurnState } from '../../server/compute/session-queue.ts';

const turn = (status: 'I' | 'T' | 'E' | 'P', changes: Partial<TurnState> = {}, pinned = false): TurnState => ({
  ready: { status, pinned, consumed: 5 },
  sent: 5,
  midMessage: false,
  ...changes,
});

test('a turn ends only at rest: nothing under way, no transaction, no pipeline, no pin', () => {
  expect(canEnd(turn('I'))).toBe(true);
  expect(canEnd(turn('I', { sent: 6 }))).toBe(false);
  expect(canEnd(turn('I', { midMessage: true }))).toBe(false);
  for (const status of ['T', 'E', 'P'] as const) expect(canEnd(turn(status))).toBe(false);
  expect(canEnd(turn('I', {}, true))).toBe(false);
  // The counters are modulo 2^32.
  expect(canEnd({ ready: { status: 'I', pinned: false, consumed: 0 }, sent: 0, midMessage: false })).toBe(true);
});

test('standing tells who is to blame for a wait', () => {
  expect(standing(turn('I'))).toBe('idle');
  expect(standing(turn('T'))).toBe('inTransaction');
  expect(standing(turn('P'))).toBe('inTransaction');
  expect(standing(turn('I', {}, true))).toBe('pinned');
  expect(standing(turn('T', { sent: 7 }))).toBe('running');
});

test('the gate lets one unit through while others wait, and its COPY data', () => {
  const { query, sync, parse, copyData, copyDone } = frontendType;
  const gate = new TurnGate();
  expect(gate.admits(parse, true, true)).toBe(true);
  gate.passed(parse);
  expect(gate.admits(sync, true, false)).toBe(true);
  gate.passed(sync);
  expect(gate.admits(query, true, false)).toBe(false);
  expect(gate.admits(query, false, false)).toBe(true);
  expect(gate.admits(copyData, true, false)).toBe(true);
  expect(gate.admits(sync, true, false)).toBe(false);
  gate.passed(copyDone);
  expect(gate.admits(sync, true, false)).toBe(true);
  gate.passed(sync);
  expect(gate.admits(sync, true, false)).toBe(false);
  expect(gate.admits(query, true, true)).toBe(true);
});

test('the queue is fair, and nobody stands in it twice', () => {
  const queue = new TurnQueue<string>();
  for (const name of ['a', 'b', 'a', 'c']) queue.join(name);
  queue.leave('b');
  expect([queue.take(), queue.take(), queue.take()]).toEqual(['a', 'c', null]);
});
