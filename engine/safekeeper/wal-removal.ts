/**
 * Which WAL a safekeeper need not hold any more (beside W3 of the write path): what every consumer has. Called by safekeeper/upkeep.ts.
 *
 * Source: Neon's safekeeper/src/timeline_manager.rs and remove_wal.rs.
 */
import { walSegmentSize } from '../limits.ts';
import type { Lsn } from '../model/lsn.ts';
import { segmentStart } from '../wal/wal-page.ts';
import type { SafekeeperTimeline } from './timeline.ts';

export interface WalConsumers {
  readonly commitLsn: Lsn;
  /** What the pageserver needs no more; 0 if it has not said. */
  readonly remoteConsistentLsn: Lsn;
  /** What the object store has; null if WAL is not sent there. */
  readonly backupLsn: Lsn | null;
  /** Of the peers that answer. What one that is away lacks is in the object store (wal-archive.ts). */
  readonly peerFlushLsns: readonly Lsn[];
  /** Where the reader is that is furthest behind; null if there is none. */
  readonly slowestReaderLsn: Lsn | null;
}

/** What nobody asks this safekeeper for any more; where that is the end of a record, WAL may begin there. */
export function removalHorizon(consumers: Omit<WalConsumers, 'backupLsn'>): Lsn {
  const { commitLsn, remoteConsistentLsn, peerFlushLsns, slowestReaderLsn } = consumers;
  return Math.min(commitLsn, remoteConsistentLsn, slowestReaderLsn ?? commitLsn, ...peerFlushLsns) as Lsn;
}

/**
 * Removes the segments that nobody needs. Where WAL is sent to the object store, the segment in which the log then begins is there as a whole, too: a new
 * safekeeper begins where this one does, and what that segment has before is read from the store (wal-archive.ts).
 */
export async function removeWal(timeline: SafekeeperTimeline, consumers: WalConsumers): Promise<void> {
  const horizon = removalHorizon(consumers);
  const { backupLsn } = consumers;
  const segment = segmentStart(backupLsn === null ? horizon : Math.min(horizon, backupLsn - 1));
  if (timeline.startLsn === 0 || segment <= timeline.startLsn || !timeline.wal.hasSegmentBelow(segment)) return;
  // What is left begins with the end of a record, which is of no use without its beginning.
  const boundary = await timeline.wal.firstBoundary(segment);
  if (boundary === null) return;
  const isStored = backupLsn === null || segmentStart(boundary) + walSegmentSize <= backupLsn;
  if (boundary <= horizon && isStored) await timeline.trim(boundary);
}
