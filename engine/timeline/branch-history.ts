/**
 * The history of a branch: its own from its branch point on, before that its ancestors', each up to where the next one branched from it. What a time
 * slider ranges over, and which timeline has a point of that history. Used by the server for its branches, and by a tab for its own.
 *
 * Invariant: LSNs rise along the history, from the start of the first ancestor to the end of the branch; a timeline answers for its part only.
 */
import { isPageliteError } from '../errors.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { formatTimestamp } from '../model/timestamp.ts';
import type { BranchHistory } from '../protocol/control-api.ts';
import { spread } from './commit-history.ts';
import type { TimestampLsn } from './find-lsn.ts';
import type { CommitHistory } from './pageserver.ts';

/** Commits of one answer: more than a screen shows apart. */
const commitsMax = 200;

/** What a pageserver, here or elsewhere, knows of when its timelines committed. */
export interface CommitTimes {
  commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory>;
  findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampLsn>;
}

/** A timeline's part of a branch's history. */
export interface LineagePart {
  readonly timeline: TenantTimelineId;
  /** Null: not known, as the timeline does not work. */
  readonly startLsn: Lsn | null;
  readonly hasAncestor: boolean;
  /** Where the next one branched off; null for the branch itself. */
  readonly until: Lsn | null;
}

/** `lineage`: the branch and its ancestors, nearest first. Begins after an ancestor that is damaged. */
export async function historyOfLineage(times: CommitTimes, lineage: readonly LineagePart[]): Promise<BranchHistory> {
  const parts: CommitHistory[] = [];
  for (const { timeline, until } of lineage) {
    const part = await times.commitHistory(timeline, until, commitsMax).catch((error: unknown) => {
      // The branch itself must be readable; an ancestor that is damaged ends the history.
      if (parts.length === 0 || !isPageliteError(error, 'corrupt')) throw error;
      return null;
    });
    if (part === null) break;
    parts.unshift(part);
  }
  const commits = spread(
    parts.flatMap((part) => part.commits),
    commitsMax,
  );
  return {
    start: pointText(parts[0]!.start),
    end: pointText(parts.at(-1)!.end),
    commits: commits.map(({ lsn, timeMs }) => ({ lsn: formatLsn(lsn), at: formatTimestamp(timeMs) })),
  };
}

/** The part of the history that has a place; the oldest one for what is before all of them. */
export async function partWith<Part extends LineagePart>(
  times: CommitTimes,
  lineage: readonly Part[],
  place: { readonly lsn: Lsn } | { readonly timestampMs: number },
): Promise<Part | null> {
  for (const part of lineage) {
    if (!part.hasAncestor || (await hasPlace(times, part, place))) return part;
  }
  return null;
}

async function hasPlace(
  times: CommitTimes,
  { timeline, startLsn }: LineagePart,
  place: { readonly lsn: Lsn } | { readonly timestampMs: number },
): Promise<boolean> {
  if ('lsn' in place) return startLsn === null || place.lsn >= startLsn;
  const { kind } = await times.findLsnByTimestamp(timeline, place.timestampMs);
  return kind === 'present' || kind === 'future';
}

const pointText = ({ lsn, timeMs }: CommitHistory['start']) => ({
  lsn: formatLsn(lsn),
  at: timeMs === null ? null : formatTimestamp(timeMs),
});
