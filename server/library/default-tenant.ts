/** The tenant that an embedded repository works on: the default one; a new repository gets one, with a first branch. */
import { newTenantId, type TenantId, tenantId } from '../../engine/model/ids.ts';
import { createTenant } from '../control-plane/branching.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { StorageApi } from '../control-plane/storage-api.ts';
import { nodeRandom } from '../process/node-host.ts';

export async function defaultTenant(repository: Repository, storage: StorageApi): Promise<TenantId> {
  const { defaultTenantId } = repository.readConfig();
  if (defaultTenantId !== null) return tenantId(defaultTenantId);
  const tenant = newTenantId(nodeRandom);
  await repository.exclusively(async () => {
    await createTenant(storage, repository, tenant);
    await repository.update((config) => {
      config.defaultTenantId = tenant;
    });
  });
  return tenant;
}
