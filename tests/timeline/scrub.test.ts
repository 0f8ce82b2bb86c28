/**
 * What `scrub` finds: it names every object that is missing, cut short or damaged, lists what nobody needs, and nothing else.
 *
 * Attacked with one change to one object of a store that is whole, for every object and kind of change. The seed is in every message.
 */
import { describe, expect, it } from 'vitest';
import { parseLayerFile } from '../../engine/layers/layer-name.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { walLogFolder } from '../../engine/safekeeper/wal-backup.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import { scrubWal } from '../../engine/scrub/scrub-wal.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { decodeIndexPart, timelineFolder } from '../../engine/timeline/index-part.ts';
import type { ImportManifest } from '../../engine/transfer/import-manifest.ts';
import { encodeImportRecord, importFile } from '../../engine/transfer/import-record.ts';
import { segmentFileName } from '../../engine/wal/wal-page.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { TimelineRig } from '../support/timeline-rig.ts';

/** A tenant with a timeline, some of whose history is in layers. */
async function openRig(seed: number) {
  const store = new MemoryObjectStore();
  const rig = new TimelineRig(new SeededRandom(seed), store);
  await rig.createTenant();
  const main = await rig.create();
  await rig.restart(store);
  await rig.ingest(main, 120);
  await rig.flush(main);
  const settled = async () => {
    for (const running of rig.running.values()) await running.settled();
  };
  return { store, rig, main, settled };
}

async function wholeStore(seed: number): Promise<MemoryObjectStore> {
  const { store, rig, main, settled } = await openRig(seed);
  await rig.compact(main, 'images');
  const branch = await rig.branch(main, main.lastRecordLsn);
  await rig.ingest(branch, 60);
  await rig.flush(branch);
  await settled();
  await rig.close();
  return store;
}

async function copyOf(store: MemoryObjectStore): Promise<MemoryObjectStore> {
  const copy = new MemoryObjectStore();
  for (const { key } of await store.list('')) await copy.put(key, (await store.get(key))!.bytes);
  return copy;
}

const scrubAll = (store: MemoryObjectStore) => scrub({ store, tenant: null, isDeep: true });

describe('a store', () => {
  it('that is whole has no problems and no garbage', async () => {
    const report = await scrubAll(await wholeStore(1));
    expect(report).toMatchObject({ tenants: 1, timelines: 2, problems: [], garbage: [] });
    expect(report.layers).toBeGreaterThan(3);
  });

  it('with one object missing, cut or flipped: that one is named', async () => {
    const seed = 2;
    const random = new SeededRandom(seed);
    const whole = await wholeStore(seed);
    for (const { key, size } of await whole.list('')) {
      const { bytes } = (await whole.get(key))!;
      const changes = {
        missing: null,
        cut: bytes.slice(0, random.below(size)),
        flipped: bytes.map((byte, i) => (i === Math.floor(size / 2) ? byte ^ (1 << random.below(8)) : byte)),
      };
      for (const [what, changed] of Object.entries(changes)) {
        const store = await copyOf(whole);
        if (changed === null) await store.delete(key);
        else await store.put(key, changed);
        const { problems, garbage } = await scrubAll(store);
        const told = [...problems, ...garbage].map((one) => one.key);
        // Without its claim a tenant is nobody's; without its index a timeline does not exist, and its layers are garbage.
        const isSilent = what === 'missing' && key.includes('/generation-');
        const isTimelineGone = what === 'missing' && key.includes('index_part.json');
        if (isTimelineGone) expect(garbage.length, `seed ${seed}: ${what} ${key}`).toBeGreaterThan(0);
        else if (!isSilent) expect(told, `seed ${seed}: ${what} ${key}`).toContain(key);
      }
    }
  });

  it('with objects that nothing names: they are listed with their sizes', async () => {
    const store = await wholeStore(3);
    const layer = (await store.list('')).find(({ key }) => key.includes('__'))!;
    const folder = layer.key.slice(0, layer.key.lastIndexOf('/') + 1);
    const stray = `${layer.key.slice(0, -1)}${layer.key.endsWith('0') ? '1' : '0'}`;
    await store.put(stray, new Uint8Array(17));
    await store.put(`${folder.replace(/[0-9a-f]{32}\/$/, `${'d'.repeat(32)}/`)}leftover`, new Uint8Array(5));
    const { problems, garbage } = await scrubAll(store);
    expect(problems).toEqual([]);
    expect(garbage.map(({ size }) => size).sort()).toEqual([17, 5]);
  });
});

it('a pageserver that works on, and swaps an index between what is listed and what is read, is no problem', async () => {
  const { store, rig, main, settled } = await openRig(6);
  await settled();
  let works = 0;
  const list = async (prefix: string) => {
    const found = await store.list(prefix);
    if (!prefix.startsWith('tenants/') || works === 3) return found;
    works++;
    await rig.ingest(main, 60);
    await rig.flush(main);
    await rig.compact(main, 'images');
    await settled();
    return found;
  };
  const watched: ObjectStore = {
    list,
    listFolders: (folder) => store.listFolders(folder),
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    put: (...of) => store.put(...of),
    delete: (key) => store.delete(key),
  };
  const report = await scrub({ store: watched, tenant: null, isDeep: true });
  await rig.close();
  expect(works).toBe(3);
  expect(report).toMatchObject({ timelines: 1, problems: [] });
});

describe('records beside an index', () => {
  const open = async (seed: number) => {
    const store = await wholeStore(seed);
    const index = (await store.list('')).find(({ key }) => key.includes('index_part.json'))!.key;
    const folder = index.slice(0, index.lastIndexOf('/') + 1);
    const [, tenant, , timeline] = folder.split('/');
    return { store, folder, id: { tenantId: tenantId(tenant!), timelineId: timelineId(timeline!) } };
  };
  const text = (content: string) => new TextEncoder().encode(content);

  it('that are damaged are told', async () => {
    for (const file of ['import.json', 'copy.json', 'transfer.json']) {
      const { store, folder } = await open(4);
      await store.put(folder + file, text('{"version":1}\n00000000\n'));
      const { problems, garbage } = await scrubAll(store);
      expect(problems, file).toMatchObject([{ key: folder + file, problem: expect.stringMatching(/checksum/) }]);
      expect(garbage, file).toEqual([]);
    }
  });

  it('of an import under way: what it has brought is no garbage, unless it is not on its list', async () => {
    const { store, folder, id } = await open(5);
    const layers = (await store.list(folder)).filter(({ key }) => key.includes('__'));
    const [name, other] = layers.map(({ key }) => parseLayerFile(key.slice(folder.length))!.name) as [string, string];
    const part = decodeIndexPart((await store.get(`${folder}index_part.json-00000001`))!.bytes, 'index');
    const manifest: ImportManifest = {
      origin: `${id.tenantId}/${id.timelineId}`,
      base: null,
      ...part,
      ancestor: { timelineId: timelineId('d'.repeat(32)), lsn: part.startLsn },
      layers: [{ name, size: 1000, crc32c: 1, isComplete: false }],
    };
    await storeOpenImport(store, id, manifest);
    await store.put(`${folder}${name}.part-0`, new Uint8Array(10));
    await store.put(`${folder}${name}-00000007`, new Uint8Array(1000));
    expect(await scrubAll(store)).toMatchObject({ problems: [], garbage: [] });
    // A timeline that is only being imported has no index yet.
    const next = { ...id, timelineId: timelineId('e'.repeat(32)) };
    await storeOpenImport(store, next, manifest);
    await store.put(`${timelineFolder(next)}${name}.part-0`, new Uint8Array(10));
    await store.put(`${timelineFolder(next)}${other}.part-0`, new Uint8Array(10));
    const { problems, garbage } = await scrubAll(store);
    expect(problems).toEqual([]);
    expect(garbage.map(({ key }) => key)).toEqual([`${timelineFolder(next)}${other}.part-0`]);
  });

  async function storeOpenImport(store: MemoryObjectStore, id: TenantTimelineId, manifest: ImportManifest) {
    const record = { committed: null, open: { importId: 'i', touchedAt: 0, manifest } };
    await store.put(importFile(id), encodeImportRecord(record));
  }
});

describe('what nothing of ours has written', () => {
  it("is told: in a tenant it is garbage, elsewhere it is somebody else's; what a check left is neither", async () => {
    const store = await wholeStore(6);
    const tenant = (await store.listFolders('tenants/'))[0]!;
    await store.put(`tenants/${tenant}/other/x`, new Uint8Array(3));
    for (const key of ['stray', 'tenants/stray', 'photos/1', 'wal/notes', 'access-check', 'storage.json']) {
      await store.put(key, new Uint8Array(4));
    }
    const { problems, garbage } = await scrubAll(store);
    expect(problems).toEqual([]);
    const told = garbage.map(({ key, isForeign }) => [key, isForeign]);
    expect(told.sort()).toEqual([
      ['photos/1', true],
      ['stray', true],
      [`tenants/${tenant}/other/x`, false],
      ['tenants/stray', true],
      ['wal/notes', true],
    ]);
    const shared = await scrub({ store, tenant: null, isDeep: false, isShared: true });
    expect(shared.garbage.map(({ key }) => key)).toEqual([`tenants/${tenant}/other/x`, 'wal/notes']);
  });
});

/** The log of one cluster of safekeepers. */
const logFolder = (id: TenantTimelineId, cluster = 'ab'.repeat(8)) => walLogFolder(id, walSegmentSize as Lsn, cluster);

describe('WAL of safekeepers', () => {
  const id = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
  const segment = (n: number) => `${logFolder(id)}${segmentFileName(n * walSegmentSize)}`;
  const full = (n: number) => ({ key: segment(n), size: walSegmentSize });
  const partial = (n: number, bytes: number) => ({
    key: `${segment(n)}.${(n * walSegmentSize + bytes).toString(16).padStart(16, '0')}.partial`,
    size: bytes,
  });
  const check = (...objects: { key: string; size: number }[]) => scrubWal(objects, () => true);

  it('that is whole and without gaps is fine', () => {
    expect(check(full(3), full(4), partial(5, 100))).toEqual({ problems: [], garbage: [], foreign: [] });
    expect(check(partial(5, 100))).toMatchObject({ problems: [], garbage: [] });
  });

  it('with a gap, or cut short: told with the object and what is missing', () => {
    expect(check(full(3), full(5)).problems).toEqual([
      { key: segment(3), problem: 'WAL from 0/4000000 to 0/5000000 is missing behind it' },
    ]);
    expect(check(full(3), partial(5, 100)).problems).toHaveLength(1);
    expect(check(partial(3, 100), full(4)).problems).toMatchObject([{ key: partial(3, 100).key }]);
    expect(check({ ...full(3), size: 100 }).problems).toEqual([
      { key: segment(3), problem: 'has 100 bytes, and should have 16777216' },
    ]);
    expect(check({ ...partial(3, 100), size: 99 }).problems).toHaveLength(1);
  });

  it('that was replaced is garbage, if what replaces it is whole; and what has no such name', () => {
    const keys = (report: ReturnType<typeof check>) => report.garbage.map(({ key }) => key);
    expect(keys(check(partial(3, 50), partial(3, 100)))).toEqual([partial(3, 50).key]);
    expect(keys(check(partial(3, 50), full(3)))).toEqual([partial(3, 50).key]);
    expect(keys(check(partial(3, 50), { ...full(3), size: 7 }))).toEqual([]);
    expect(keys(check({ key: `${logFolder(id)}notes`, size: 1 }))).toEqual([`${logFolder(id)}notes`]);
  });

  it('of one cluster of safekeepers is not expected to go on where that of another ends', () => {
    const other = {
      key: `${logFolder(id, 'cd'.repeat(8))}${segmentFileName(9 * walSegmentSize)}`,
      size: walSegmentSize,
    };
    expect(check(full(1), full(2), other)).toEqual({ problems: [], garbage: [], foreign: [] });
  });

  it('of a timeline that is deleted is garbage, and of one that is there is not', async () => {
    const store = await wholeStore(7);
    const tenant = tenantId((await store.listFolders('tenants/'))[0]!);
    const timeline = timelineId((await store.listFolders(`tenants/${tenant}/timelines/`))[0]!);
    const small = (ids: TenantTimelineId) => `${logFolder(ids)}${partial(3, 100).key.split('/').at(-1)}`;
    const there = small({ tenantId: tenant, timelineId: timeline });
    const deleted = small({ tenantId: tenant, timelineId: timelineId('c'.repeat(32)) });
    const nobodys = small(id);
    for (const key of [there, deleted, nobodys]) await store.put(key, new Uint8Array(100));
    const { problems, garbage } = await scrubAll(store);
    expect(problems).toEqual([]);
    expect(garbage.map(({ key }) => key).sort()).toEqual([deleted, nobodys].sort());
    expect(garbage.every(({ isForeign }) => !isForeign)).toBe(true);
  });
});
