/** Tenants of a remote storage, wherever they are attached: what can be attached here. Read from the storage itself; no server has to run. */
import { isPageliteError } from '../../engine/errors.ts';
import { isIdText, type TenantId, tenantId } from '../../engine/model/ids.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { loadBranchNames } from '../../engine/timeline/branch-names.ts';
import { isTenantDeleted, newestClaim } from '../../engine/timeline/tenant-claims.ts';
import { openTruth } from './open-truth.ts';
import type { Repository } from './repository.ts';

export interface StoredTenant {
  readonly tenantId: TenantId;
  /** The pageserver that has it; null: nobody. */
  readonly nodeId: number | null;
  readonly isHere: boolean;
  /** In alphabetical order. Null: they cannot be read (`pagelite scrub` says why). */
  readonly branches: readonly string[] | null;
}

/** Those that are not deleted, in the order of their ids. Throws `unavailable` if the storage is away. */
export async function listStoredTenants(repository: Repository): Promise<readonly StoredTenant[]> {
  const store = await openTruth(repository);
  const ownId = repository.readConfig().pageserver.id;
  const tenants: StoredTenant[] = [];
  for (const name of (await store.listFolders('tenants/')).toSorted()) {
    if (!isIdText(name) || (await isTenantDeleted(store, tenantId(name)))) continue;
    const nodeId = (await unlessDamaged(newestClaim(store, tenantId(name))))?.nodeId ?? null;
    tenants.push({ tenantId: tenantId(name), nodeId, isHere: nodeId === ownId, branches: await namesIn(store, name) });
  }
  return tenants;
}

async function namesIn(store: ObjectStore, name: string): Promise<readonly string[] | null> {
  const stored = await unlessDamaged(loadBranchNames(store, tenantId(name)));
  return stored && [...stored.names.values()].toSorted();
}

/** Null if it is. */
async function unlessDamaged<T>(reading: Promise<T>): Promise<T | null> {
  try {
    return await reading;
  } catch (error) {
    if (!isPageliteError(error, 'corrupt')) throw error;
    return null;
  }
}
