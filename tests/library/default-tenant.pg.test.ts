/**
 * Which tenant an embedded repository works on, with the real storage: a first run that is cut off anywhere is finished by the next one,
 * and no second tenant or branch comes of it.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { newTenantId, type TenantId } from '../../engine/model/ids.ts';
import { branchesOf } from '../../server/control-plane/branches.ts';
import { Repository } from '../../server/control-plane/repository.ts';
import type { StorageApi } from '../../server/control-plane/storage-api.ts';
import { defaultTenant } from '../../server/library/default-tenant.ts';
import { EmbeddedStorage } from '../../server/library/embedded-storage.ts';
import { nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { keepTemplate, putTemplate } from '../support/template-cache.ts';

/** The real storage, whose caller does not live to see what it has changed, from the n-th change on. */
class CutOff implements StorageApi {
  readonly #storage: EmbeddedStorage;
  changesLeft: number;

  constructor(storage: EmbeddedStorage, changesLeft: number) {
    this.#storage = storage;
    this.changesLeft = changesLeft;
  }

  async createTenant(id: TenantId): Promise<void> {
    await this.#storage.createTenant(id);
    this.#changed();
  }

  async createTimeline(...args: Parameters<StorageApi['createTimeline']>) {
    const info = await this.#storage.createTimeline(...args);
    this.#changed();
    return info;
  }

  async setBranchNames(...args: Parameters<StorageApi['setBranchNames']>): Promise<void> {
    await this.#storage.setBranchNames(...args);
    this.#changed();
  }

  #changed(): void {
    if (this.changesLeft-- === 0) throw new PageliteError('unavailable', 'cut off');
  }

  readonly branchNames: StorageApi['branchNames'] = (tenant) => this.#storage.branchNames(tenant);
  readonly listTenants: StorageApi['listTenants'] = () => this.#storage.listTenants();
  readonly listTimelines: StorageApi['listTimelines'] = (tenant) => this.#storage.listTimelines(tenant);
  readonly getTimeline: StorageApi['getTimeline'] = (id) => this.#storage.getTimeline(id);
  readonly findLsnByTimestamp: StorageApi['findLsnByTimestamp'] = (id, ms) => this.#storage.findLsnByTimestamp(id, ms);
  readonly commitHistory: StorageApi['commitHistory'] = (...args) => this.#storage.commitHistory(...args);
  readonly deleteTimeline: StorageApi['deleteTimeline'] = (id) => this.#storage.deleteTimeline(id);
  readonly getCommitLsn: StorageApi['getCommitLsn'] = (id) => this.#storage.getCommitLsn(id);
}

let parent: string;
let repository: Repository;
let storage: EmbeddedStorage;
beforeEach(async () => {
  parent = mkdtempSync(join(tmpdir(), 'pagelite-tenant-'));
  repository = await Repository.init(join(parent, '.pagelite'));
  putTemplate(repository.dir);
  storage = await EmbeddedStorage.open({ repository, artefacts: await loadPGliteArtefacts(), log: silentLog });
  keepTemplate(repository.dir);
});
afterEach(async () => {
  await storage.close();
  rmSync(parent, { recursive: true });
});

describe('the tenant of an embedded repository', () => {
  it.each([0, 1, 2, 3])('is made once, also if the first run ends after %i changes', async (changes) => {
    const first = defaultTenant(repository, new CutOff(storage, changes));
    if (changes < 3) await expect(first).rejects.toThrow('cut off');
    else await first;
    const tenant = await defaultTenant(repository, storage);
    expect(await storage.listTenants()).toEqual([tenant]);
    const [timeline, ...others] = await storage.listTimelines(tenant);
    expect(others).toEqual([]);
    const named = { name: 'main', tenantId: tenant, timelineId: timeline!.timelineId };
    expect(branchesOf(repository.readConfig(), tenant)).toEqual([named]);
    expect([...(await storage.branchNames(tenant)).names]).toEqual([[named.timelineId, 'main']]);
    expect(await defaultTenant(repository, storage)).toBe(tenant);
  });

  it('is the only one there is, or the default one; of several, somebody has to choose', async () => {
    const [one, two] = [newTenantId(nodeRandom), newTenantId(nodeRandom)];
    await storage.createTenant(one);
    await storage.createTenant(two);
    await expect(defaultTenant(repository, storage)).rejects.toThrow(/2 tenants and none is the default.*set-default/);
    await repository.update((config) => {
      config.defaultTenantId = two;
    });
    expect(await defaultTenant(repository, storage)).toBe(two);
  });
});
