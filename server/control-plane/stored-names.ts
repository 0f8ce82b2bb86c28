/**
 * Names of branches in two places: the repository's settings, which commands read, and the remote storage, for whoever attaches the tenant next.
 *
 * Invariants
 * - a name changes in the remote storage first: where that fails, it has not changed
 * - while a tenant is attached here, the settings are right, and what a crash between the two writes has left is mended at the next start
 * - whoever attaches a tenant that others had takes their names: here they may have changed since
 */
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { TenantId, TenantTimelineId, TimelineId } from '../../engine/model/ids.ts';
import { type BranchNames, noBranchNames } from '../../engine/timeline/branch-names.ts';
import { branchesOf, branchNameDefault, isBranchName, nameBranch, nameOfTimeline } from './branches.ts';
import type { Repository, RepositoryConfig } from './repository.ts';
import type { StorageApi, TimelineInfo } from './storage-api.ts';

/** Under `cli.pid`. `change` changes names of this tenant's branches only; what it throws, and what the storage refuses, leaves everything as it was. */
export async function changeNames(
  storage: StorageApi,
  repository: Repository,
  tenant: TenantId,
  change: (config: RepositoryConfig) => void,
): Promise<void> {
  await repository.update(async (config) => {
    const before = namesOf(config, tenant);
    change(config);
    const names = namesOf(config, tenant);
    if (!areSame(before, names)) await storage.setBranchNames(tenant, { clusterId: clusterOf(config), names });
  });
}

/**
 * At a start: names that are only in the remote storage are taken, then those of the settings are stored. A tenant whose names cannot be read or stored is
 * told to `warn`; it is served all the same.
 */
export async function exchangeNames(
  storage: StorageApi,
  repository: Repository,
  warn: (text: string) => void,
): Promise<void> {
  for (const tenant of await storage.listTenants()) {
    try {
      const stored = await readNames(storage, tenant, warn);
      if (areSame(stored.names, namesOf(repository.readConfig(), tenant))) continue;
      const timelines = await storage.listTimelines(tenant);
      await repository.update(async (config) => {
        takeNames(config, tenant, timelines, stored.names);
        const names = namesOf(config, tenant);
        const clusterId = stored.clusterId ?? clusterOf(config);
        if (!areSame(stored.names, names)) await storage.setBranchNames(tenant, { clusterId, names });
      });
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      warn(`names of branches of tenant ${tenant} are not stored: ${messageOf(error)}`);
    }
  }
}

/**
 * Names all timelines of a tenant that was attached: as they are called here, or as stored, which comes first if others had it meanwhile (`hadOther`). What has
 * neither gets a name. In the remote storage they are as before until `storeNames`. Returns whose safekeepers' WAL they went on with there; null: not known.
 */
export async function nameAttached(
  storage: StorageApi,
  repository: Repository,
  tenant: TenantId,
  { hadOther, warn }: { readonly hadOther: boolean; readonly warn: (text: string) => void },
): Promise<string | null> {
  const stored = await readNames(storage, tenant, warn);
  const timelines = await storage.listTimelines(tenant);
  await repository.update((config) => {
    const here = namesOf(config, tenant);
    if (hadOther) forgetNames(config, tenant);
    takeNames(config, tenant, timelines, stored.names);
    takeNames(config, tenant, timelines, here);
    nameOthers(config, tenant, timelines);
  });
  return stored.clusterId;
}

/** Names as they are here, with these safekeepers as those that the tenant is written through from now on. */
export async function storeNames(storage: StorageApi, repository: Repository, tenant: TenantId): Promise<void> {
  const config = repository.readConfig();
  await storage.setBranchNames(tenant, { clusterId: clusterOf(config), names: namesOf(config, tenant) });
}

/** Damaged ones are told, and are none: they are stored anew from the settings. */
async function readNames(storage: StorageApi, tenant: TenantId, warn: (text: string) => void): Promise<BranchNames> {
  try {
    return await storage.branchNames(tenant);
  } catch (error) {
    if (!isPageliteError(error, 'corrupt')) throw error;
    warn(`${messageOf(error)}. They are stored anew`);
    return noBranchNames;
  }
}

/** For timelines that have no name here, where the name is free. */
function takeNames(
  config: RepositoryConfig,
  tenant: TenantId,
  timelines: readonly TimelineInfo[],
  names: BranchNames['names'],
): void {
  for (const { timelineId } of timelines) {
    const id: TenantTimelineId = { tenantId: tenant, timelineId };
    const name = names.get(timelineId);
    if (name === undefined || !isBranchName(name) || nameOfTimeline(config, id) !== null) continue;
    if (branchesOf(config, tenant).some((branch) => branch.name === name)) continue;
    nameBranch(config, name, id);
  }
}

/** The only root is `main`, others are called by their ids. */
function nameOthers(config: RepositoryConfig, tenant: TenantId, timelines: readonly TimelineInfo[]): void {
  const roots = timelines.filter(({ ancestor }) => ancestor === null);
  for (const { timelineId, ancestor } of timelines) {
    const id = { tenantId: tenant, timelineId };
    if (nameOfTimeline(config, id) !== null) continue;
    const hasMain = branchesOf(config, tenant).some(({ name }) => name === branchNameDefault);
    const isMain = ancestor === null && roots.length === 1 && !hasMain;
    nameBranch(config, isMain ? branchNameDefault : `timeline_${timelineId.slice(0, 8)}`, id);
  }
}

/** Of a tenant that is deleted, or named anew. */
export function forgetNames(config: RepositoryConfig, tenant: TenantId): void {
  config.branches = config.branches.filter(({ tenantId }) => tenantId !== tenant);
}

const clusterOf = (config: RepositoryConfig): string | null => config.clusterId ?? null;

const namesOf = (config: RepositoryConfig, tenant: TenantId): Map<TimelineId, string> =>
  new Map(branchesOf(config, tenant).map(({ timelineId, name }) => [timelineId, name]));

const areSame = (a: BranchNames['names'], b: BranchNames['names']): boolean =>
  a.size === b.size && [...a].every(([id, name]) => b.get(id) === name);
