/** The tenant that an embedded repository works on: the default one, else the only one; a new repository gets one, with a first branch. */
import { PageliteError } from '../../engine/errors.ts';
import { newTenantId, type TenantId, tenantId } from '../../engine/model/ids.ts';
import { branchesOf, branchNameDefault, nameBranch } from '../control-plane/branches.ts';
import { createBranch, createTenant } from '../control-plane/branching.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { StorageApi } from '../control-plane/storage-api.ts';
import { changeNames } from '../control-plane/stored-names.ts';
import { nodeRandom } from '../process/node-host.ts';

/** Throws `invalid` if there are several and none is the default. */
export async function defaultTenant(repository: Repository, storage: StorageApi): Promise<TenantId> {
  return repository.exclusively(async () => {
    const { defaultTenantId } = repository.readConfig();
    if (defaultTenantId !== null) return tenantId(defaultTenantId);
    const tenant = (await onlyTenant(storage)) ?? newTenantId(nodeRandom);
    await withFirstBranch(repository, storage, tenant);
    await repository.update((config) => {
      config.defaultTenantId = tenant;
    });
    return tenant;
  });
}

async function onlyTenant(storage: StorageApi): Promise<TenantId | null> {
  const tenants = await storage.listTenants();
  if (tenants.length <= 1) return tenants[0] ?? null;
  const hint = 'Choose one with: pagelite start, then pagelite tenant set-default';
  throw new PageliteError('invalid', `there are ${tenants.length} tenants and none is the default one. ${hint}`);
}

/** Goes on where a first run was cut off: after the tenant, or after its timeline and before its name. */
async function withFirstBranch(repository: Repository, storage: StorageApi, tenant: TenantId): Promise<void> {
  if (!(await storage.listTenants()).includes(tenant)) {
    await createTenant(storage, repository, tenant);
    return;
  }
  if (branchesOf(repository.readConfig(), tenant).length > 0) return;
  const root = (await storage.listTimelines(tenant)).find(({ ancestor }) => ancestor === null);
  if (root) {
    const id = { tenantId: tenant, timelineId: root.timelineId };
    await changeNames(storage, repository, tenant, (config) => nameBranch(config, branchNameDefault, id));
  } else {
    await createBranch(storage, repository, { tenantId: tenant, name: branchNameDefault });
  }
}
