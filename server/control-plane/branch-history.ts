/**
 * The history of a branch: its own from its branch point on, before that its ancestors', each up to where the next one branched from it. What a time
 * slider ranges over, and where a point of that history is to be found.
 *
 * Invariant: LSNs rise along the history, from the start of the first ancestor to the end of the branch; a timeline answers for its part only.
 */
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BranchHistory } from '../../engine/protocol/control-api.ts';
import { type CommitPoint, spread } from '../../engine/timeline/commit-history.ts';
import { checkNotInFuture } from './branch-point.ts';
import { nameOfTimeline } from './branches.ts';
import { type BranchStart, pointOnBranch } from './branching.ts';
import type { RepositoryConfig } from './repository.ts';
import type { CommitHistory, StorageApi, TimelineInfo } from './storage-api.ts';
import { formatTimestamp } from './timestamp.ts';

/** Commits of one answer: more than a screen shows apart. */
const commitsMax = 200;
/** Ancestors that are looked at: a branch that was reset a hundred times has as many. */
const ancestorsMax = 100;

/** Begins at the branch point if an ancestor cannot be read. */
export async function historyOf(storage: StorageApi, id: TenantTimelineId): Promise<BranchHistory> {
  const parts: CommitHistory[] = [];
  for (const { timeline, until } of await lineage(storage, id)) {
    const part = await storage.commitHistory(timeline, until, commitsMax).catch((error: unknown) => {
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
    commits: commits.map(({ lsn, timeMs }: CommitPoint) => ({ lsn: formatLsn(lsn), at: formatTimestamp(timeMs) })),
  };
}

/** A point of a branch's history, on the timeline that has it. */
export interface HistoryPlace {
  readonly id: TenantTimelineId;
  /** The branch that has it. */
  readonly branch: string;
  readonly lsn: Lsn;
}

/** Throws `invalid` for what is before the history or after it. */
export async function placeInHistory(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
  branch: string,
  place: Exclude<BranchStart, 'end'>,
): Promise<HistoryPlace> {
  if ('timestampMs' in place) checkNotInFuture(place.timestampMs, Date.now());
  for (const { timeline, info } of await lineage(storage, id)) {
    if (info.ancestor !== null && !(await hasPlace(storage, timeline, info, place))) continue;
    const name =
      timeline.timelineId === id.timelineId ? branch : (nameOfTimeline(config, timeline) ?? timeline.timelineId);
    return { id: timeline, branch: name, lsn: await pointOnBranch(storage, config, timeline, name, place) };
  }
  throw new PageliteError('invalid', `the history of branch "${branch}" cannot be followed to its beginning`, {
    ...id,
  });
}

/** Whether the place is in the timeline's own part of the history. */
async function hasPlace(
  storage: StorageApi,
  timeline: TenantTimelineId,
  { startLsn }: TimelineInfo,
  place: Exclude<BranchStart, 'end'>,
): Promise<boolean> {
  if ('lsn' in place) return startLsn === null || place.lsn >= startLsn;
  const { kind } = await storage.findLsnByTimestamp(timeline, place.timestampMs);
  return kind === 'present' || kind === 'future';
}

/** The branch and its ancestors, nearest first, each with the LSN where the one before it branched off. */
async function lineage(
  storage: StorageApi,
  id: TenantTimelineId,
): Promise<{ timeline: TenantTimelineId; info: TimelineInfo; until: Lsn | null }[]> {
  const known = new Map((await storage.listTimelines(id.tenantId)).map((info) => [info.timelineId, info]));
  const found: { timeline: TenantTimelineId; info: TimelineInfo; until: Lsn | null }[] = [];
  let until: Lsn | null = null;
  for (let info = known.get(id.timelineId); info && found.length <= ancestorsMax; ) {
    found.push({ timeline: { ...id, timelineId: info.timelineId }, info, until });
    until = info.ancestor?.lsn ?? null;
    info = info.ancestor ? known.get(info.ancestor.timelineId) : undefined;
  }
  if (found.length > 0) return found;
  throw new PageliteError('notFound', `no timeline ${id.timelineId} in tenant ${id.tenantId}`, { ...id });
}

const pointText = ({ lsn, timeMs }: CommitHistory['start']) => ({
  lsn: formatLsn(lsn),
  at: timeMs === null ? null : formatTimestamp(timeMs),
});
