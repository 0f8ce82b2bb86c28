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
  /** Of the peers that answer. One that is away for long begins anew where the others do. */
  readonly peerFlushLsns: readonly Lsn[];
  /** Where the reader is that is furthest behind; null if there is none. */
  readonly slowestReaderLsn: Lsn | null;
}

/** Everything below is with everybody who may ask for it. */
export function removalHorizon(consumers: WalConsumers): Lsn {
  const { commitLsn, remoteConsistentLsn, backupLsn, peerFlushLsns, slowestReaderLsn } = consumers;
  return Math.min(
    commitLsn,
    remoteConsistentLsn,
    backupLsn ?? commitLsn,
    slowestReaderLsn ?? commitLsn,
    ...peerFlushLsns,
  ) as Lsn;
}

/** Removes the segments that lie wholly below the horizon. */
export async function removeWal(timeline: SafekeeperTimeline, horizon: Lsn): Promise<void> {
  const segment = segmentStart(horizon);
  if (timeline.startLsn === 0 || segment <= timeline.startLsn || !timeline.wal.hasSegmentBelow(segment)) return;
  const boundary = await timeline.wal.firstBoundary(segment);
  // A record that is longer than what is left of the segment: later.
  if (boundary > horizon || boundary - segment > walSegmentSize) return;
  await timeline.trim(boundary);
}
