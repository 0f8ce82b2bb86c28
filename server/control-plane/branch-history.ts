/** The history of a branch of the server (engine/timeline/branch-history.ts), by its name. */
import { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { BranchHistory } from '../../engine/protocol/control-api.ts';
import { historyOfLineage, type LineagePart, partWith } from '../../engine/timeline/branch-history.ts';
import { checkNotInFuture } from './branch-point.ts';
import { nameOfTimeline } from './branches.ts';
import { type BranchStart, pointOnBranch } from './branching.ts';
import type { RepositoryConfig } from './repository.ts';
import type { StorageApi } from './storage-api.ts';

/** Ancestors that are looked at: a branch that was reset a hundred times has as many. */
const ancestorsMax = 100;

/** Begins at the branch point if an ancestor cannot be read. */
export async function historyOf(storage: StorageApi, id: TenantTimelineId): Promise<BranchHistory> {
  return historyOfLineage(storage, await lineageOf(storage, id));
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
  const part = await partWith(storage, await lineageOf(storage, id), place);
  if (part === null) {
    const text = `the history of branch "${branch}" cannot be followed to its beginning`;
    throw new PageliteError('invalid', text, { ...id });
  }
  const { timeline } = part;
  const isOwn = timeline.timelineId === id.timelineId;
  const name = isOwn ? branch : (nameOfTimeline(config, timeline) ?? timeline.timelineId);
  return { id: timeline, branch: name, lsn: await pointOnBranch(storage, config, timeline, name, place) };
}

async function lineageOf(storage: StorageApi, id: TenantTimelineId): Promise<LineagePart[]> {
  const known = new Map((await storage.listTimelines(id.tenantId)).map((info) => [info.timelineId, info]));
  const found: LineagePart[] = [];
  let until: Lsn | null = null;
  for (let info = known.get(id.timelineId); info && found.length <= ancestorsMax; ) {
    const { timelineId, startLsn, ancestor } = info;
    // Its own history begins where it branched, also where that is not kept any more.
    const start = ancestor?.lsn ?? startLsn;
    found.push({ timeline: { ...id, timelineId }, startLsn: start, hasAncestor: ancestor !== null, until });
    until = ancestor?.lsn ?? null;
    info = ancestor ? known.get(ancestor.timelineId) : undefined;
  }
  if (found.length > 0) return found;
  throw new PageliteError('notFound', `no timeline ${id.timelineId} in tenant ${id.tenantId}`, { ...id });
}
