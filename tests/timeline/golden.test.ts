/**
 * Objects of a tenant in the store, pinned: the index of a timeline, claims, settings, names.
 *
 * Must hold: what is written today is these bytes; files of every earlier version are read; another version or a flipped bit is refused, and the file named.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { formatLayerName } from '../../engine/layers/layer-name.ts';
import { nodeId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { controlFileKey, dbDirectoryKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { loadBranchNames, storeBranchNames } from '../../engine/timeline/branch-names.ts';
import {
  decodeIndexPart,
  encodeChecked,
  encodeIndexPart,
  type IndexPart,
  tenantFolder,
} from '../../engine/timeline/index-part.ts';
import { claimTenant, newestClaim } from '../../engine/timeline/tenant-claims.ts';
import { loadTenantConfig, storeTenantConfig } from '../../engine/timeline/tenant-config.ts';

const tenant = tenantId('a'.repeat(32));
const keys = { start: dbDirectoryKey, end: controlFileKey };
const first = formatLayerName({ kind: 'image', keys, lsnStart: 0x1000 as Lsn, lsnEnd: 0x1001 as Lsn });
const image = formatLayerName({ kind: 'image', keys, lsnStart: 0x2000 as Lsn, lsnEnd: 0x2001 as Lsn });
const delta = formatLayerName({ kind: 'delta', keys, lsnStart: 0x1001 as Lsn, lsnEnd: 0x3001 as Lsn });

const index: IndexPart = {
  systemIdentifier: 7_000_000_000_000_000_001n,
  startLsn: 0x1000 as Lsn,
  ancestor: { timelineId: timelineId('c'.repeat(32)), lsn: 0x1000 as Lsn },
  diskConsistentLsn: 0x3000 as Lsn,
  prevRecordLsn: 0x2f00 as Lsn,
  compactedLsn: 0x2000 as Lsn,
  gcCutoffLsn: 0x1800 as Lsn,
  archivedAtMs: Date.UTC(2026, 0, 31, 12),
  leases: [
    { lsn: 0x1800 as Lsn, validUntilMs: Date.UTC(2026, 1, 1) },
    { lsn: 0x2000 as Lsn, validUntilMs: Date.UTC(2026, 1, 2) + 250 },
  ],
  layers: [
    { name: image, size: 10_000, generation: 10, isComplete: true },
    { name: delta, size: 20_000_000, generation: 0, isComplete: false },
  ],
};

const golden = (name: string) => new Uint8Array(readFileSync(join(import.meta.dirname, 'golden', name)));
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
function flipped(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  copy[20]! ^= 1;
  return copy;
}

describe('the index of a timeline', () => {
  it('version 3', () => {
    expect(text(encodeIndexPart(index))).toBe(text(golden('index-v3.txt')));
    expect(decodeIndexPart(golden('index-v3.txt'), 'f')).toEqual(index);
    expect(() => decodeIndexPart(flipped(golden('index-v3.txt')), 'f')).toThrow(/index f is damaged: wrong checksum/);
  });

  it('version 2: leases were not stored', () => {
    expect(decodeIndexPart(golden('index-v2.txt'), 'f')).toEqual({ ...index, leases: [] });
  });

  it('version 1: nothing is merged yet, and the layers at the start are complete', () => {
    const entry = (name: string, isComplete: boolean) => ({ name, size: 10_000, generation: 0, isComplete });
    expect(decodeIndexPart(golden('index-v1.txt'), 'f')).toEqual({
      ...index,
      ancestor: null,
      compactedLsn: 0x1000,
      gcCutoffLsn: 0x1000,
      archivedAtMs: null,
      leases: [],
      layers: [entry(first, true), entry(image, false), entry(delta, false)],
    });
  });

  it('of a version to come is refused', () => {
    const later = encodeChecked(text(golden('index-v3.txt')).split('\n')[0]!.replace('"version":3', '"version":4'));
    expect(() => decodeIndexPart(later, 'f')).toThrow(/version 4, this program reads 3/);
  });

  it('with a cutoff that only memory had reached is read as one that the layers have reached', () => {
    const bytes = encodeIndexPart({ ...index, gcCutoffLsn: 0x4000 as Lsn });
    expect(decodeIndexPart(bytes, 'f').gcCutoffLsn).toBe(index.diskConsistentLsn);
  });
});

describe('a tenant', () => {
  it('names of its branches, version 1', async () => {
    const store = new MemoryObjectStore();
    const names = new Map([
      [timelineId('c'.repeat(32)), 'main'],
      [timelineId('0d'.repeat(16)), 'feature/search'],
    ]);
    const stored = { clusterId: '4f9e461a2f722cea', names };
    await storeBranchNames(store, tenant, stored);
    const key = `${tenantFolder(tenant)}branches.json`;
    expect(text((await store.get(key))!.bytes)).toBe(text(golden('branches-v1.txt')));
    expect(await loadBranchNames(store, tenant)).toEqual(stored);
    await store.put(key, flipped(golden('branches-v1.txt')));
    await expect(loadBranchNames(store, tenant)).rejects.toThrow(/branches\.json is damaged: wrong checksum/);
    await store.put(key, encodeChecked('{"version":2,"names":{}}'));
    await expect(loadBranchNames(store, tenant)).rejects.toThrow(/version 2, this program reads 1/);
  });

  it('its claim, version 1', async () => {
    const store = new MemoryObjectStore();
    await claimTenant(store, tenant, nodeId(7));
    const key = `${tenantFolder(tenant)}generation-00000001`;
    expect(text((await store.get(key))!.bytes)).toBe(text(golden('claim-v1.txt')));
    await store.put(key, flipped(golden('claim-v1.txt')));
    await expect(newestClaim(store, tenant)).rejects.toMatchObject({ kind: 'corrupt', data: { file: key } });
  });

  it('its settings, version 1', async () => {
    const store = new MemoryObjectStore();
    const config = { pitr_interval: 7 * 86_400_000, gc_horizon: 1000 };
    await storeTenantConfig(store, tenant, config);
    const key = `${tenantFolder(tenant)}config.json`;
    expect(text((await store.get(key))!.bytes)).toBe(text(golden('config-v1.txt')));
    expect(await loadTenantConfig(store, tenant)).toEqual(config);
    await store.put(key, flipped(golden('config-v1.txt')));
    await expect(loadTenantConfig(store, tenant)).rejects.toMatchObject({ kind: 'corrupt', data: { file: key } });
  });
});
