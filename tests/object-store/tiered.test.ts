/**
 * The local disk before a remote storage: reads give what the remote storage has, whatever happens to the disk, and the disk holds no more than its budget.
 *
 * Must hold: against a model, with random ranges, writes, deletes, restarts, wiped, damaged and cut files; staged layers are readable before they are
 * uploaded, and are never given up; concurrent reads of a chunk fetch it once; what came damaged or cut short once does not stay. The seed is in every
 * message.
 */
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { LayerFile } from '../../engine/layers/layer-file.ts';
import { LayerWriter, type WrittenLayer } from '../../engine/layers/layer-writer.ts';
import { cacheBlockBytes, cacheChunkBytes } from '../../engine/limits.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { keyKind, keyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { valueKind } from '../../engine/model/value.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { timelineFolder } from '../../engine/timeline/index-part.ts';
import { TieredObjectStore } from '../../server/object-store/tiered.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { SeededRandom } from '../support/seeded-random.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pagelite-tier-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const layerKey = (n: number): string =>
  `tenants/t/timelines/l/${'0'.repeat(36)}-${'03'.padEnd(36, '0')}__${(n + 1).toString(16).toUpperCase().padStart(16, '0')}-00000001`;
const openTier = (remote: ObjectStore, budgetBytes: number) =>
  TieredObjectStore.open({ remote, folder, budgetBytes, log: silentLog });

function randomBytes(random: SeededRandom, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  random.fill(bytes);
  return bytes;
}

async function files(): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

async function harm(random: SeededRandom): Promise<void> {
  const all = await files();
  if (all.length === 0) return;
  const path = random.pick(all);
  const what = random.next();
  if (what < 0.3) await rm(folder, { recursive: true });
  else if (what < 0.6) await truncate(path, random.below((await readFile(path)).length));
  else {
    const bytes = await readFile(path);
    bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    await writeFile(path, bytes);
  }
}

describe('random use', () => {
  for (let seed = 1; seed <= 12; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const remote = new MemoryObjectStore();
      const budget = random.pick([0, 1_500_000, 1e9]);
      let tier = await openTier(remote, budget);
      const model = new Map<string, Uint8Array>();
      for (let i = 0; i < 60; i++) {
        const what = random.next();
        const key = layerKey(i);
        const some = [...model.keys()];
        if (what < 0.25) {
          const bytes = randomBytes(random, random.pick([1, 100, cacheBlockBytes, cacheChunkBytes, 2_500_000]));
          if (random.chance(0.5)) await tier.put(key, bytes);
          else {
            await tier.stage(key, bytes);
            expect(Buffer.compare((await tier.get(key, { start: 0, end: bytes.length }))!.bytes, bytes)).toBe(0);
            await tier.upload(key);
          }
          model.set(key, bytes);
        } else if (what < 0.3 && some.length > 0) {
          const gone = random.pick(some);
          await tier.delete(gone);
          model.delete(gone);
          expect(await tier.get(gone, { start: 0, end: 10 })).toBeNull();
        } else if (what < 0.35) await harm(random);
        else if (what < 0.4) tier = await openTier(remote, budget);
        else if (some.length > 0) {
          const read = random.pick(some);
          const bytes = model.get(read)!;
          const start = random.below(bytes.length);
          const end = start + 1 + random.below(random.pick([10, 10_000, 2_000_000]));
          const found = await tier.get(read, { start, end });
          expect(Buffer.compare(found!.bytes, bytes.subarray(start, end)), `seed ${seed}: ${start}-${end}`).toBe(0);
        }
        expect(tier.residentBytes, `seed ${seed}`).toBeLessThanOrEqual(budget);
      }
    });
  }
});

describe('staged layers', () => {
  it('are read here, are not given up, and are in the remote storage after their upload', async () => {
    const remote = new MemoryObjectStore();
    const tier = await openTier(remote, 1000);
    const bytes = randomBytes(new SeededRandom(5), 3_000_000);
    await tier.stage(layerKey(1), bytes);
    expect(tier.stagedBytes).toBe(bytes.length);
    expect(await remote.list('')).toEqual([]);
    await tier.put(layerKey(2), randomBytes(new SeededRandom(6), 50_000));
    expect(Buffer.compare((await tier.get(layerKey(1), { start: 0, end: 3_000_000 }))!.bytes, bytes)).toBe(0);
    await tier.upload(layerKey(1));
    await tier.upload(layerKey(1));
    expect(Buffer.compare((await remote.get(layerKey(1)))!.bytes, bytes)).toBe(0);
    expect(tier.stagedBytes).toBe(0);
    expect(tier.residentBytes).toBeLessThanOrEqual(1000);
  });

  it('that the disk has lost are an error that names them, and nothing wrong is uploaded', async () => {
    const remote = new MemoryObjectStore();
    const tier = await openTier(remote, 1e9);
    await tier.stage(layerKey(1), randomBytes(new SeededRandom(7), 100_000));
    await rm(folder, { recursive: true });
    await expect(tier.upload(layerKey(1))).rejects.toMatchObject({ kind: 'corrupt', data: { file: layerKey(1) } });
    expect(await remote.list('')).toEqual([]);
  });

  it('go to the remote storage at once where the disk takes nothing', async () => {
    const remote = new MemoryObjectStore();
    const tier = await openTier(remote, 1e9);
    await rm(folder, { recursive: true });
    // A file where the folder was: as a disk that is full or read-only.
    await writeFile(folder, '');
    const bytes = randomBytes(new SeededRandom(8), 100_000);
    await tier.stage(layerKey(1), bytes);
    await tier.upload(layerKey(1));
    expect(Buffer.compare((await tier.get(layerKey(1), { start: 10, end: 20 }))!.bytes, bytes.subarray(10, 20))).toBe(
      0,
    );
    await rm(folder);
  });
});

it('readers at the same time fetch a chunk once, neighbours in one request; a failure is heard, and the next read works', async () => {
  const remote = new MemoryObjectStore();
  const bytes = randomBytes(new SeededRandom(9), 5 * cacheChunkBytes + 17);
  await remote.put(layerKey(1), bytes);
  let requests = 0;
  let fails = false;
  const counting = new Proxy(remote, {
    get: (target, name) => {
      if (name !== 'get') return Reflect.get(target, name).bind(target);
      return async (...args: Parameters<ObjectStore['get']>) => {
        requests++;
        if (fails) throw new PageliteError('unavailable', 'away');
        return target.get(args[0], args[1]);
      };
    },
  });
  const tier = await openTier(counting, 1e9);
  const all = { start: 0, end: bytes.length };
  fails = true;
  await expect(tier.get(layerKey(1), all)).rejects.toMatchObject({ kind: 'unavailable' });
  fails = false;
  requests = 0;
  const found = await Promise.all(Array.from({ length: 10 }, () => tier.get(layerKey(1), all)));
  for (const one of found) expect(Buffer.compare(one!.bytes, bytes)).toBe(0);
  expect(requests).toBe(1);
  // From here on the disk has it, also for the next process.
  fails = true;
  const again = await openTier(counting, 1e9);
  expect(Buffer.compare((await again.get(layerKey(1), all))!.bytes, bytes)).toBe(0);
});

/** What comes is harmed as often as it says. */
class HarmingStore extends MemoryObjectStore {
  harms = 0;
  gets = 0;
  away = false;
  readonly #random: SeededRandom;

  constructor(random: SeededRandom) {
    super();
    this.#random = random;
  }

  override async get(key: string, range?: { start: number; end: number }) {
    if (this.away) throw new PageliteError('unavailable', 'away');
    this.gets++;
    const found = await super.get(key, range);
    if (found === null || this.harms === 0) return found;
    this.harms--;
    const { bytes, version } = found;
    if (this.#random.chance(0.5)) return { bytes: bytes.slice(0, this.#random.below(bytes.length)), version };
    bytes[this.#random.below(bytes.length)]! ^= 1 << this.#random.below(8);
    return { bytes, version };
  }
}

const id = { tenantId: tenantId('ab'.repeat(16)), timelineId: timelineId('cd'.repeat(16)) };
const prefix = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
const pages = 300;

/** A layer of more than two chunks. */
function pagesLayer(random: SeededRandom): WrittenLayer {
  const writer = new LayerWriter('image', id, 1000);
  for (let page = 0; page < pages; page++) {
    writer.add(prefix, page, 100 as Lsn, valueKind.image, randomBytes(random, 8192), 0, 8192);
  }
  return writer.finish(100 as Lsn, 101 as Lsn)!;
}

describe('a layer that came damaged', () => {
  const openFile = ({ desc, bytes }: WrittenLayer, store: ObjectStore) =>
    new LayerFile(id, desc, timelineFolder(id), bytes.length, store, new BlockCache(1), { generation: 1 });
  const readAll = async (file: LayerFile) => {
    const { blockCount } = await file.open();
    await Promise.all(Array.from({ length: blockCount }, (_, i) => file.holdBlocks(i, i)));
    await file.holdBlocks(0, blockCount - 1);
  };

  it('is fetched once more, and the disk keeps what is right', async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = new SeededRandom(seed);
      const remote = new HarmingStore(random);
      const layer = pagesLayer(random);
      const key = `${timelineFolder(id)}${layer.name}-00000001`;
      await remote.put(key, layer.bytes);
      remote.harms = 1;
      await readAll(openFile(layer, await openTier(remote, 1e9)));
      expect(remote.harms, `seed ${seed}`).toBe(0);
      remote.away = true;
      await readAll(openFile(layer, await openTier(remote, 1e9)));
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('and is damaged in the bucket is an error until the bucket is repaired, also after a restart', async () => {
    const seed = 31;
    const random = new SeededRandom(seed);
    const remote = new HarmingStore(random);
    const layer = pagesLayer(random);
    const key = `${timelineFolder(id)}${layer.name}-00000001`;
    const damaged = layer.bytes.slice();
    damaged[damaged.length >> 1]! ^= 1;
    await remote.put(key, damaged);
    const tier = await openTier(remote, 1e9);
    const file = openFile(layer, tier);
    await expect(readAll(file)).rejects.toMatchObject({ kind: 'corrupt', data: { file: key } });
    await expect(readAll(openFile(layer, await openTier(remote, 1e9)))).rejects.toMatchObject({ kind: 'corrupt' });
    await remote.put(key, layer.bytes);
    await readAll(file);
    await readAll(openFile(layer, await openTier(remote, 1e9)));
    // Now the disk has all of it.
    remote.gets = 0;
    await readAll(openFile(layer, await openTier(remote, 1e9)));
    expect(remote.gets).toBe(0);
  });
});
