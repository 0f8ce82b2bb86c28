/**
 * Making tenants and branches by name: the same for the command line and the library.
 *
 * Invariants
 * - the timeline is made first, its name second: a crash between leaves a timeline without a name, which the list shows
 * - a branch from the end holds everything that was acknowledged before it was asked for, also what the pageserver has yet to ingest
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { nodeRandom } from '../process/node-host.ts';
import { type BranchExtent, checkLsn, checkNotInFuture, lsnOfTimestamp } from './branch-point.ts';
import { branchNameDefault, checkNewBranchName, nameBranch, nameOfTimeline, resolveBranch } from './branches.ts';
import type { Repository, RepositoryConfig } from './repository.ts';
import type { StorageApi, TimelineInfo } from './storage-api.ts';

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

/** A pageserver that has just started reads again what its layers do not hold: at most a few hundred megabytes. */
const catchUpTimeoutMs = 60_000;

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
  const extent = await branchExtent(storage, config, ancestor, ancestorName);
  const lsn = await branchPoint(storage, extent, ancestor, start);
  const { id, info } = await createNamed(storage, repository, wanted, { timelineId: ancestor.timelineId, lsn });
  return { id, lsn: info.ancestor?.lsn ?? lsn };
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
  ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null,
): Promise<{ id: TenantTimelineId; info: TimelineInfo }> {
  const id = { tenantId, timelineId };
  if ((await storage.listTimelines(tenantId)).some((known) => known.timelineId === timelineId)) {
    throw new PageliteError('invalid', `timeline ${timelineId} exists. Choose another id`, { ...id });
  }
  const info = await storage.createTimeline(id, ancestor);
  await repository.update((config) => nameBranch(config, name, id));
  return { id, info };
}

async function branchPoint(
  storage: StorageApi,
  extent: BranchExtent,
  ancestor: TenantTimelineId,
  start: BranchStart,
): Promise<Lsn> {
  if (start === 'end') return extent.endLsn;
  if ('lsn' in start) {
    checkLsn(extent, start.lsn);
    return start.lsn;
  }
  checkNotInFuture(start.timestampMs, Date.now());
  const answer = await storage.findLsnByTimestamp(ancestor, start.timestampMs);
  return lsnOfTimestamp(extent, answer, start.timestampMs);
}

/** What a branch holds, once the pageserver has all that is acknowledged now. Throws `corrupt` if the timeline is broken. */
export async function branchExtent(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
  branch: string,
): Promise<BranchExtent> {
  const committed = (await storage.getCommitLsn(id)) ?? 0;
  for (let waitedMs = 0; ; waitedMs += 20) {
    const { startLsn, lastRecordLsn, ancestor, broken } = await storage.getTimeline(id);
    if (broken !== null) {
      throw new PageliteError('corrupt', `branch "${branch}" does not work: ${broken}`, { ...id });
    }
    if (startLsn === null || lastRecordLsn === null) {
      throw new PageliteError('unavailable', `the pageserver does not say where branch "${branch}" ends`, { ...id });
    }
    if (lastRecordLsn >= committed) {
      const ancestorName = ancestor ? (nameOfTimeline(config, { ...id, ...ancestor }) ?? ancestor.timelineId) : null;
      return { branch, startLsn, endLsn: lastRecordLsn, ancestor: ancestorName };
    }
    if (waitedMs >= catchUpTimeoutMs) throw behind(branch, committed, lastRecordLsn);
    await sleep(20);
  }
}

function behind(branch: string, committed: number, reached: Lsn): PageliteError {
  const text =
    `the pageserver has branch "${branch}" up to ${formatLsn(reached)} and does not come to ${formatLsn(committed)}, ` +
    'which is acknowledged. Its log, pageserver_1/pageserver.log, says why';
  return new PageliteError('unavailable', text, { branch });
}
