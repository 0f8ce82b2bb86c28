/**
 * What of a timeline's history must stay, and why.
 *
 * Kept is everything from the cutoff on, which is the oldest of three points: `pitr_interval` ago, `gc_horizon` bytes of WAL ago, and the end of what is
 * in the object store; and before it single points: where branches begin, what somebody holds a lease of, what is being read at this moment. Which layers that needs is
 * compaction/plan.ts's to say; removing the others is garbage-collection.ts's.
 *
 * Invariant: a cutoff only rises; once it is said, nothing before it but the points can be read, branched from or leased.
 */
import type { Lsn } from '../model/lsn.ts';
import { findLsnByTimestamp } from './find-lsn.ts';
import type { LsnLease } from './lsn-leases.ts';
import type { TenantConfig } from './tenant-config.ts';
import type { Timeline } from './timeline.ts';
import type { TimelinePageService } from './timeline-page-service.ts';

/** A point before the cutoff that stays readable. */
export type RetainedPoint =
  | { readonly reason: 'branch'; readonly lsn: Lsn; readonly timelineId: string }
  | { readonly reason: 'lease'; readonly lsn: Lsn; readonly validUntilMs: number }
  | { readonly reason: 'read'; readonly lsn: Lsn };

export interface Retention {
  /** Everything from here on is kept. */
  readonly cutoffLsn: Lsn;
  /** `gc_horizon` before the end. */
  readonly spaceCutoffLsn: Lsn;
  /** As of `pitr_interval` ago; null: not asked for. */
  readonly timeCutoffLsn: Lsn | null;
  /** By LSN, those before the cutoff and others. */
  readonly points: readonly RetainedPoint[];
}

export interface RetentionInputs {
  readonly timeline: Timeline;
  readonly pages: TimelinePageService;
  readonly config: TenantConfig;
  readonly nowMs: number;
  readonly branchPoints: readonly { readonly lsn: Lsn; readonly timelineId: string }[];
  readonly leases: readonly LsnLease[];
  /** Up to where the object store has everything. */
  readonly storedLsn: Lsn;
}

/** What is to be kept now. Reads the timeline's clog to find the time's LSN. */
export async function findRetention(inputs: RetentionInputs): Promise<Retention> {
  const { timeline, config, branchPoints, leases, pages } = inputs;
  const spaceCutoffLsn = clamp(timeline, timeline.lastRecordLsn - config.gc_horizon);
  const timeCutoffLsn = await findTimeCutoff(inputs);
  const wanted = Math.min(spaceCutoffLsn, timeCutoffLsn ?? spaceCutoffLsn, inputs.storedLsn);
  const cutoffLsn = Math.max(timeline.gcCutoffLsn, wanted) as Lsn;
  const points: RetainedPoint[] = [
    ...branchPoints.map((point) => ({ reason: 'branch' as const, ...point })),
    ...leases.map((lease) => ({ reason: 'lease' as const, ...lease })),
    ...pages.lsnsRead().map((lsn) => ({ reason: 'read' as const, lsn })),
  ];
  return { cutoffLsn, spaceCutoffLsn, timeCutoffLsn, points: points.sort((a, b) => a.lsn - b.lsn) };
}

async function findTimeCutoff({ timeline, pages, config, nowMs }: RetentionInputs): Promise<Lsn | null> {
  if (config.pitr_interval === 0) return null;
  const { gcCutoffLsn: start, lastRecordLsn: end } = timeline;
  return pages.holdingFrom(start, async () => {
    const found = await findLsnByTimestamp((lsn) => pages.readerAt(lsn), start, end, nowMs - config.pitr_interval);
    return found.lsn;
  });
}

function clamp({ startLsn, lastRecordLsn }: Timeline, lsn: number): Lsn {
  return Math.max(startLsn, Math.min(lsn, lastRecordLsn)) as Lsn;
}
