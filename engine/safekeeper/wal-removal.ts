/**
 * Which WAL a safekeeper need not hold any more (beside W3 of the write path): what every consumer has. Called by safekeeper/upkeep.ts.
 *
 * Source: Neon's safekeeper/src/timeline_manager.rs and remove_wal.rs.
 */
import type { Lsn } from '../model/lsn.ts';
import { segmentStart } from '../wal/wal-page.ts';
import type { SafekeeperTimeline } from './timeline.ts';

export interface WalConsumers {
  readonly commitLsn: Lsn;
  /** What the pageserver needs no more; 0 if it has not said. */
  readonly remoteConsistentLsn: Lsn;
  /** What the object store has; null if WAL is not sent there. */
  readonly backupLsn: Lsn | null;
  /** Of the peers that answer. One that is away for long begins anew where the others do. */
  readonly peerFlushLsns: readonly Lsn[];
  /** Where the reader is that is furthest behind; null if there is none. */
  readonly slowestReaderLsn: Lsn | null;
}

/** What nobody asks this safekeeper for any more; where that is the end of a record, WAL may begin there. */
export function removalHorizon(consumers: Omit<WalConsumers, 'backupLsn'>): Lsn {
  const { commitLsn, remoteConsistentLsn, peerFlushLsns, slowestReaderLsn } = consumers;
  return Math.min(commitLsn, remoteConsistentLsn, slowestReaderLsn ?? commitLsn, ...peerFlushLsns) as Lsn;
}

/** Removes the segments that nobody needs. */
export async function removeWal(timeline: SafekeeperTimeline, consumers: WalConsumers): Promise<void> {
  const horizon = removalHorizon(consumers);
  const segment = segmentStart(Math.min(horizon, consumers.backupLsn ?? horizon));
  if (timeline.startLsn === 0 || segment <= timeline.startLsn || !timeline.wal.hasSegmentBelow(segment)) return;
  // What is left begins with the end of a record, which is of no use without its beginning.
  const boundary = await timeline.wal.firstBoundary(segment);
  if (boundary <= horizon) await timeline.trim(boundary);
}
