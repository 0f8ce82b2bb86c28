/**
 * A tenant that one pageserver has deleted stays deleted, whatever another one does that had it before and does not know.
 *
 * Must hold: the stale one is fenced by the first thing that it stores; nobody attaches the tenant, makes it anew or loads it; what the stale one has left is
 * garbage for a scrub, and goes with the next start of anybody.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newTenantId, newTimelineId, nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import { walBackupFolder } from '../../engine/safekeeper/wal-backup.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { noBranchNames } from '../../engine/timeline/branch-names.ts';
import { claimTenant } from '../../engine/timeline/tenant-claims.ts';
import { nodeRandom } from '../../server/process/node-host.ts';
import { type Faults, FaultyObjectStore } from '../support/faulty-object-store.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';

let store: MemoryObjectStore;
let stale: MemoryPageserver;
let newer: MemoryPageserver;
let id: TenantTimelineId;

beforeEach(async () => {
  store = new MemoryObjectStore();
  stale = await MemoryPageserver.open({ store, nodeId: nodeId(1) });
  id = await stale.createTimeline();
  newer = await MemoryPageserver.open({ store, nodeId: nodeId(2) });
});
afterEach(async () => {
  await stale.close();
  await newer.close();
});

const keys = async () => (await store.list('')).map(({ key }) => key);
const branch = () => ({ ...id, timelineId: newTimelineId(nodeRandom) });

describe('a tenant that another pageserver has attached and deleted', () => {
  beforeEach(async () => {
    await newer.pageserver.attachTenant(id.tenantId);
    await newer.pageserver.deleteTenant(id.tenantId);
  });

  it('leaves the note of its deletion and nothing else', async () => {
    expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`]);
    expect(await scrub({ store, tenant: null, isDeep: true })).toMatchObject({ tenants: 0, problems: [], garbage: [] });
  });

  it('has no WAL in the store, also what the safekeepers of others send later goes with the next start of anybody', async () => {
    const [of, other] = ['0', 'f'].map((digit) => `00000000016361d8-${digit.repeat(16)}/000000010000000000000001`);
    const elsewhere = `wal/${newTenantId(nodeRandom)}/${id.timelineId}/${of}`;
    for (const key of [walBackupFolder(id) + of, walBackupFolder(id) + other, elsewhere]) {
      await store.put(key, new Uint8Array(1));
    }
    await newer.close();
    newer = await MemoryPageserver.open({ store, nodeId: nodeId(2) });
    expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`, elsewhere]);
  });

  it('fences who had it before, and what that has stored is garbage that goes', async () => {
    await expect(stale.pageserver.createTimeline(branch(), null)).rejects.toMatchObject({
      kind: 'fenced',
      message: expect.stringMatching(/was deleted/),
    });
    await expect(stale.pageserver.setTenantConfig(id.tenantId, { gc_horizon: 1 })).rejects.toThrow(/was deleted/);
    await expect(stale.pageserver.setBranchNames(id.tenantId, noBranchNames)).rejects.toThrow(/was deleted/);
    // Its index of this generation is gone, which is not that of another process of the same generation.
    await expect(stale.pageserver.archiveTimeline(id)).rejects.toThrow(/was deleted/);
    await expect(stale.pageserver.deleteTimeline(id)).rejects.toThrow(/was deleted/);
    const { problems, garbage } = await scrub({ store, tenant: id.tenantId, isDeep: true });
    expect(problems).toEqual([]);
    expect(garbage.length).toBe((await keys()).length - 1);
    await stale.close();
    stale = await MemoryPageserver.open({ store, nodeId: nodeId(1) });
    expect(await stale.pageserver.listTenants()).toEqual([]);
    expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`]);
  });

  it('cannot be attached, made anew or claimed', async () => {
    for (const { pageserver } of [stale, newer]) {
      await expect(pageserver.attachTenant(id.tenantId)).rejects.toMatchObject({ kind: 'notFound' });
    }
    await expect(newer.pageserver.createTenant(id.tenantId)).rejects.toThrow(/was deleted. .*choose another id/);
    await expect(claimTenant(store, id.tenantId, nodeId(1))).rejects.toMatchObject({ kind: 'notFound' });
    expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`]);
  });
});

it('takes the WAL of all who had it along', async () => {
  for (const digit of ['0', 'f']) {
    await store.put(
      `${walBackupFolder(id)}00000000016361d8-${digit.repeat(16)}/000000010000000000000001`,
      new Uint8Array(1),
    );
  }
  await newer.pageserver.attachTenant(id.tenantId);
  await newer.pageserver.deleteTenant(id.tenantId);
  expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`]);
});

it('an owner whose claim is gone is fenced', async () => {
  for (const key of await keys()) if (key.includes('/generation-')) await store.delete(key);
  await expect(stale.pageserver.createTimeline(branch(), null)).rejects.toMatchObject({ kind: 'fenced' });
});

it('a folder without tenant.json is no tenant', async () => {
  await stale.close();
  for (const key of await keys()) if (!key.includes('/timelines/')) await store.delete(key);
  stale = await MemoryPageserver.open({ store, nodeId: nodeId(1) });
  expect(await stale.pageserver.listTenants()).toEqual([]);
  await expect(stale.pageserver.attachTenant(id.tenantId)).rejects.toMatchObject({ kind: 'notFound' });
});

it('whoever attaches it while it is being deleted does not have it afterwards', async () => {
  await newer.pageserver.attachTenant(id.tenantId);
  // The deletion is noted between the look for the note and the claim.
  let isNoted = false;
  const noted: Faults = {
    before: async (operation, key) => {
      if (operation !== 'put' || !key.includes('/generation-') || isNoted) return;
      isNoted = true;
      await newer.pageserver.deleteTenant(id.tenantId);
    },
    after: async () => {},
  };
  const third = await MemoryPageserver.open({ store: new FaultyObjectStore(store, noted), nodeId: nodeId(3) });
  await expect(third.pageserver.attachTenant(id.tenantId)).rejects.toMatchObject({ kind: 'notFound' });
  expect(isNoted).toBe(true);
  expect(await third.pageserver.listTenants()).toEqual([]);
  expect(await keys()).toEqual([`tenants/${id.tenantId}/deleted.json`]);
  await third.close();
});

it('in a store that nobody else can reach, nothing is left and the id is free', async () => {
  const own = new MemoryObjectStore();
  const alone = await MemoryPageserver.open({ store: own });
  const { tenantId } = await alone.createTimeline();
  await alone.pageserver.deleteTenant(tenantId);
  expect(await own.list('')).toEqual([]);
  await alone.pageserver.createTenant(tenantId);
  await alone.close();
});
