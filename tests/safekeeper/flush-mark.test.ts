/**
 * The flush mark on the medium is never above the end of the WAL, whatever earlier processes did. One that was killed while it lowered the mark leaves the lower
 * one in the page cache only: the next reads that, cuts WAL off, and a power failure brings the higher one back (simulation seed 17).
 */
import { expect, it } from 'vitest';
import type { NodeId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import type { ProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import { newControlState, newProposerSession } from '../../engine/safekeeper/acceptor.ts';
import { decodeFlushMark, encodeFlushMark, flushMarkName } from '../../engine/safekeeper/control-file.ts';
import { MemoryTimelineStorage } from '../../engine/safekeeper/storage.ts';
import { SafekeeperTimeline } from '../../engine/safekeeper/timeline.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';
import { appendRequest, begin, greeting, history, timeline } from './acceptor-talk.ts';

const node = { nodeId: 1 as NodeId, incarnation: 0, knownPeers: [] };

function send(log: SafekeeperTimeline, proposer: string, ...messages: ProposerMessage[]): void {
  const target = { session: newProposerSession(), reply: () => {}, end: () => {} };
  for (const message of [greeting(proposer), ...messages]) log.process(target, message);
}

function won(term: number, proposer: string, at: Lsn, ...entries: [number, Lsn][]): ProposerMessage[] {
  const { proposerId } = greeting(proposer);
  return [
    { kind: 'voteRequest', term: term as Term, proposerId },
    { kind: 'proposerElected', term: term as Term, startStreamingAt: at, termHistory: history(...entries) },
  ];
}

it('is written again before the first cut of a process, though what it read is low enough', async () => {
  const storage = new MemoryTimelineStorage('memory');
  const wal = new SyntheticWal(begin);
  const [first, second] = [wal.next(new Uint8Array(100)), wal.next(new Uint8Array(100))];
  const before = await SafekeeperTimeline.create(node, newControlState(timeline), storage, silentLog);
  send(before, 'a', ...won(1, 'a', begin, [1, begin]), appendRequest(1, first), appendRequest(1, second));
  await expect.poll(() => before.status().flushLsn).toBe(second.endLsn);
  await before.close();
  // In the page cache, the next process finds this; on the medium is still the higher one.
  let durable = decodeFlushMark(await storage.readFile(flushMarkName));
  expect(durable.flushLsn).toBe(second.endLsn);
  await storage.overwriteFile(flushMarkName, encodeFlushMark({ flushLsn: first.endLsn, commitLsn: begin }), false);
  const overwrite = storage.overwriteFile.bind(storage);
  storage.overwriteFile = async (name, bytes, isDurable) => {
    if (name === flushMarkName && isDurable) durable = decodeFlushMark(bytes);
    await overwrite(name, bytes, isDurable);
  };
  const after = await SafekeeperTimeline.open(node, timeline, storage, silentLog);
  let atCut = -1;
  const { segments } = storage;
  const zeroFrom = segments.zeroFrom.bind(segments);
  segments.zeroFrom = async (name, offset) => {
    atCut = durable.flushLsn;
    await zeroFrom(name, offset);
  };
  send(after, 'b', ...won(2, 'b', first.endLsn, [1, begin], [2, first.endLsn]));
  await expect.poll(() => after.status().flushLsn).toBe(first.endLsn);
  expect(atCut).toBe(first.endLsn);
  await after.close();
});
