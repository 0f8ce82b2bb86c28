/**
 * Branches: a new timeline is one small object, whatever the size of its ancestor. It has no layers; what it does not change it reads from
 * the ancestor at the branch point.
 *
 * Pure: decides where a branch begins and what its index says. The caller has waited until the ancestor has ingested the LSN.
 */
import { PageliteError } from '../errors.ts';
import type { TenantTimelineId, TimelineId } from '../model/ids.ts';
import { alignLsn, formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import { recordEnd } from '../wal/wal-page.ts';
import { type IndexPart, newIndexPart } from './index-part.ts';

export interface BranchSource {
  readonly timelineId: TimelineId;
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  /** What is before it may be gone. */
  readonly gcCutoffLsn: Lsn;
  readonly lastRecordLsn: Lsn;
  readonly prevRecordLsn: Lsn;
}

/** The LSN to wait for before branching at `requested`. Throws `invalid` if it is before the ancestor's start or past `endLsn`, its end of WAL. */
export function checkBranchPoint(source: BranchSource, requested: Lsn, endLsn: Lsn, isLeased = false): Lsn {
  const lsn = recordEnd(alignLsn(requested));
  const data = { timelineId: source.timelineId, lsn: formatLsn(lsn) };
  if (lsn < source.startLsn) {
    const start = formatLsn(source.startLsn);
    throw new PageliteError(
      'invalid',
      `cannot branch at ${formatLsn(lsn)}: timeline ${source.timelineId} starts at ${start}`,
      { ...data, startLsn: start },
    );
  }
  if (lsn < source.gcCutoffLsn && !isLeased) {
    const cutoff = formatLsn(source.gcCutoffLsn);
    throw new PageliteError(
      'invalid',
      `cannot branch at ${formatLsn(lsn)}: timeline ${source.timelineId} keeps its history from ${cutoff} on (pitr_interval, gc_horizon)`,
      { ...data, gcCutoffLsn: cutoff },
    );
  }
  if (lsn > endLsn) {
    const end = formatLsn(endLsn);
    throw new PageliteError(
      'invalid',
      `cannot branch at ${formatLsn(lsn)}: the WAL of timeline ${source.timelineId} ends at ${end}`,
      { ...data, endLsn: end },
    );
  }
  return lsn;
}

/** The index of a branch at `requested`. An LSN inside the last, incomplete record is the same as the end of the record before. */
export function branchIndex(source: BranchSource, requested: Lsn): IndexPart {
  const lsn = Math.min(requested, source.lastRecordLsn) as Lsn;
  return newIndexPart({
    systemIdentifier: source.systemIdentifier,
    lsn,
    prevRecordLsn: lsn === source.lastRecordLsn ? source.prevRecordLsn : invalidLsn,
    ancestor: { timelineId: source.timelineId, lsn },
  });
}

/** The branch that was made elsewhere begins where one made here would. */
export function checkSamePoint(id: TenantTimelineId, imported: IndexPart, branch: IndexPart): void {
  const problem =
    imported.startLsn !== branch.startLsn
      ? `a branch at ${formatLsn(imported.startLsn)} would begin at ${formatLsn(branch.startLsn)}`
      : imported.systemIdentifier !== branch.systemIdentifier
        ? `it is of system ${imported.systemIdentifier}, its ancestor of ${branch.systemIdentifier}`
        : null;
  if (problem !== null)
    throw new PageliteError('invalid', `timeline ${id.timelineId} does not fit: ${problem}`, { ...id });
}

export function sourceOf(timeline: Omit<BranchSource, 'timelineId'>): Omit<BranchSource, 'timelineId'> {
  const { systemIdentifier, startLsn, gcCutoffLsn, lastRecordLsn, prevRecordLsn } = timeline;
  return { systemIdentifier, startLsn, gcCutoffLsn, lastRecordLsn, prevRecordLsn };
}
