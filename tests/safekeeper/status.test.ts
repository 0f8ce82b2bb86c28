/**
 * What a safekeeper tells of its log is one log at any moment: while the end of an older term is being cut off it is that one with its history, not the new
 * proposer's history over the old end. A peer would take old WAL for that of the new term (simulation seed 616).
 */
import { expect, it } from 'vitest';
import type { NodeId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import type { ProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import { newControlState, newProposerSession } from '../../engine/safekeeper/acceptor.ts';
import { MemoryTimelineStorage } from '../../engine/safekeeper/storage.ts';
import { SafekeeperTimeline } from '../../engine/safekeeper/timeline.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';
import { appendRequest, begin, greeting, history, timeline } from './acceptor-talk.ts';

it('is of one log while its end is cut off', async () => {
  const storage = new MemoryTimelineStorage('memory');
  const { segments } = storage;
  let cut = () => {};
  const mayCut = new Promise<void>((resolve) => {
    cut = resolve;
  });
  let isCutting = false;
  const zeroFrom = segments.zeroFrom.bind(segments);
  segments.zeroFrom = async (name, offset) => {
    isCutting = true;
    await mayCut;
    await zeroFrom(name, offset);
  };
  const node = { nodeId: 1 as NodeId, incarnation: 0, knownPeers: [] };
  const log = await SafekeeperTimeline.create(node, newControlState(timeline), storage, silentLog);
  const wal = new SyntheticWal(begin);
  const [first, second] = [wal.next(new Uint8Array(100)), wal.next(new Uint8Array(100))];
  const send = (proposer: string, ...messages: ProposerMessage[]) => {
    const target = { session: newProposerSession(), reply: () => {}, end: () => {} };
    for (const message of [greeting(proposer), ...messages]) log.process(target, message);
  };
  const vote = (term: number, proposer: string): ProposerMessage => ({
    kind: 'voteRequest',
    term: term as Term,
    proposerId: greeting(proposer).proposerId,
  });
  const elected = (term: number, startStreamingAt: Lsn, ...entries: [number, Lsn][]): ProposerMessage => ({
    kind: 'proposerElected',
    term: term as Term,
    startStreamingAt,
    termHistory: history(...entries),
  });
  send('a', vote(1, 'a'), elected(1, begin, [1, begin]), appendRequest(1, first), appendRequest(1, second));
  await expect.poll(() => log.status().flushLsn).toBe(second.endLsn);
  send('b', vote(2, 'b'), elected(2, first.endLsn, [1, begin], [2, first.endLsn]));
  await expect.poll(() => isCutting).toBe(true);
  expect(log.status()).toMatchObject({ flushLsn: second.endLsn, termHistory: [[1, begin]] });
  cut();
  await expect.poll(() => log.status().flushLsn).toBe(first.endLsn);
  expect(log.status().termHistory).toEqual([
    [1, begin],
    [2, first.endLsn],
  ]);
  await log.close();
});
