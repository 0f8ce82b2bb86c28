/** What a safekeeper remembers of its peers outlives it, and says nothing where it is torn. */
import { expect, it } from 'vitest';
import { safekeepersMax } from '../../engine/limits.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { decodePeerMarks, encodePeerMarks, PeerMemory } from '../../engine/safekeeper/peer-memory.ts';
import { MemoryTimelineStorage } from '../../engine/safekeeper/storage.ts';
import { silentLog } from '../support/any-host.ts';
import { samplePeerMarks } from './samples.ts';

const [first, second] = [1 as NodeId, 2 as NodeId];

it('a process that has introduced itself is known, also to the next one here; an earlier one changes nothing', async () => {
  const files = new MemoryTimelineStorage('peers');
  const memory = new PeerMemory(files, silentLog);
  expect(await memory.meet(first, 100)).toBe(0);
  expect(await memory.meet(second, 7)).toBe(0);
  expect(await memory.meet(first, 90)).toBe(100);
  expect(await memory.meet(first, 120)).toBe(100);
  const next = new PeerMemory(files, silentLog);
  expect(next.known).toEqual([]);
  await next.load();
  expect(next.known).toEqual([
    { node: first, incarnation: 120 },
    { node: second, incarnation: 7 },
  ]);
});

it('of more than there can be the one that began longest ago is forgotten', async () => {
  const files = new MemoryTimelineStorage('peers');
  const memory = new PeerMemory(files, silentLog);
  for (let node = 1; node <= safekeepersMax + 2; node++) await memory.meet(node as NodeId, 1000 + node);
  const next = new PeerMemory(files, silentLog);
  await next.load();
  expect(next.known.map(({ node }) => node)).toEqual(Array.from({ length: safekeepersMax }, (_, i) => i + 3));
});

it('is told before it is durable, and not answered for', async () => {
  let fail = () => {};
  const files = {
    readFile: async () => null,
    replaceFile: () =>
      new Promise<void>((_, reject) => {
        fail = () => reject(new Error('the disk fails'));
      }),
  };
  const memory = new PeerMemory(files, silentLog);
  await memory.load();
  const met = memory.meet(first, 5);
  await expect.poll(() => memory.known).toEqual([{ node: first, incarnation: 5 }]);
  fail();
  await expect(met).rejects.toThrow('the disk fails');
});

it('what is torn or changed says nothing', () => {
  const whole = encodePeerMarks(samplePeerMarks);
  expect(decodePeerMarks(null).size).toBe(0);
  for (let length = 0; length < whole.length; length++) expect(decodePeerMarks(whole.subarray(0, length)).size).toBe(0);
  for (let i = 0; i < whole.length; i++) {
    const changed = whole.slice();
    changed[i]! ^= 0x10;
    expect(decodePeerMarks(changed).size, `byte ${i}`).toBe(0);
  }
});

it('a shorter list over a longer one is read', () => {
  const long = encodePeerMarks(samplePeerMarks);
  const short = encodePeerMarks(new Map([[first, { term: 3, commitLsn: 0x28 as Lsn }]]));
  long.set(short);
  expect([...decodePeerMarks(long)]).toEqual([[first, { term: 3, commitLsn: 0x28 }]]);
});
