/**
 * Making tenants and branches by name: the same for the command line and the library.
 *
 * Invariants
 * - the timeline is made first, its name second: a crash between leaves a timeline without a name, which the list shows
 * - a branch from the end holds everything that was acknowledged before it was asked for, also what the pageserver has yet to ingest
 */
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { nodeRandom } from '../process/node-host.ts';
import { type BranchExtent, checkLsn, checkNotInFuture, lsnOfTimestamp } from './branch-point.ts';
import { branchNameDefault, checkNewBranchName, nameBranch, nameOfTimeline, resolveBranch } from './branches.ts';
import type { Repository, RepositoryConfig } from './repository.ts';
import type { StorageApi, TimelineInfo } from './storage-api.ts';
import { changeNames } from './stored-names.ts';

/** Where a branch begins: the ancestor's end, an LSN of it, or all that was committed until a time. */
export type BranchStart = 'end' | { readonly lsn: Lsn } | { readonly timestampMs: number };

export interface NewBranch {
  readonly tenantId: TenantId;
  readonly name: string;
  /** Default: a new one. */
  readonly timelineId?: TimelineId | undefined;
}

export interface MadeBranch {
  readonly id: TenantTimelineId;
  /** The branch point, or the template's LSN. */
  readonly lsn: Lsn | null;
}

export async function branchFrom(
  storage: StorageApi,
  repository: Repository,
  wanted: NewBranch,
  ancestorName: string,
  start: BranchStart,
): Promise<MadeBranch> {
  const config = repository.readConfig();
  checkNewBranchName(config, wanted.tenantId, wanted.name);
  const ancestor = {
    tenantId: wanted.tenantId,
    timelineId: resolveBranch(config, wanted.tenantId, ancestorName),
  };
  const lsn = start === 'end' ? null : await pointOnBranch(storage, config, ancestor, ancestorName, start);
  const { id, info } = await createNamed(storage, repository, wanted, { timelineId: ancestor.timelineId, lsn });
  return { id, lsn: info.ancestor?.lsn ?? null };
}

/** An empty branch, from the template. */
export async function createBranch(
  storage: StorageApi,
  repository: Repository,
  wanted: NewBranch,
): Promise<MadeBranch> {
  checkNewBranchName(repository.readConfig(), wanted.tenantId, wanted.name);
  const { id, info } = await createNamed(storage, repository, wanted, null);
  return { id, lsn: info.lastRecordLsn };
}

/** A tenant, in storage and as far as names go, with its first branch. Throws `invalid` if it exists. */
export async function createTenant(
  storage: StorageApi,
  repository: Repository,
  tenantId: TenantId,
  timelineId?: TimelineId,
): Promise<MadeBranch> {
  if ((await storage.listTenants()).includes(tenantId)) {
    throw new PageliteError('invalid', `tenant ${tenantId} exists. pagelite tenant list shows all`, { tenantId });
  }
  await storage.createTenant(tenantId);
  return createBranch(storage, repository, { tenantId, name: branchNameDefault, timelineId });
}

async function createNamed(
  storage: StorageApi,
  repository: Repository,
  { tenantId, name, timelineId = newTimelineId(nodeRandom) }: NewBranch,
  ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
): Promise<{ id: TenantTimelineId; info: TimelineInfo }> {
  const id = { tenantId, timelineId };
  if ((await storage.listTimelines(tenantId)).some((known) => known.timelineId === timelineId)) {
    throw new PageliteError('invalid', `timeline ${timelineId} exists. Choose another id`, { ...id });
  }
  const info = await storage.createTimeline(id, ancestor);
  await changeNames(storage, repository, tenantId, (config) => nameBranch(config, name, id));
  return { id, info };
}

/** The LSN of a place on a branch. Throws `invalid` if the branch does not have it. */
export async function pointOnBranch(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
  branch: string,
  place: Exclude<BranchStart, 'end'>,
): Promise<Lsn> {
  const extent = await branchExtent(storage, config, id, branch);
  if ('lsn' in place) {
    checkLsn(extent, place.lsn);
    return place.lsn;
  }
  checkNotInFuture(place.timestampMs, Date.now());
  const answer = await storage.findLsnByTimestamp(id, place.timestampMs);
  return lsnOfTimestamp(extent, answer, place.timestampMs);
}

/** What a branch holds, also what the pageserver has yet to ingest. Throws `corrupt` if the timeline is broken. */
export async function branchExtent(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
  branch: string,
): Promise<BranchExtent> {
  const committed = (await storage.getCommitLsn(id)) ?? 0;
  const { startLsn, lastRecordLsn, ancestor, broken } = await storage.getTimeline(id);
  if (broken !== null || startLsn === null || lastRecordLsn === null) {
    throw new PageliteError('corrupt', `branch "${branch}" does not work: ${broken ?? 'its LSNs are not known'}`, {
      ...id,
    });
  }
  return {
    branch,
    startLsn,
    endLsn: Math.max(lastRecordLsn, committed) as Lsn,
    ancestor: ancestor ? (nameOfTimeline(config, { ...id, ...ancestor }) ?? ancestor.timelineId) : null,
  };
}
