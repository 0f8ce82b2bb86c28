/**
 * What is put into a layer comes out of its file, for every key and LSN; and no damaged byte of a file is ever used.
 *
 * Attacked by random values of many relations, sizes and kinds (also several of one key at one LSN), by reads of ranges with a cache that holds
 * nothing, by one flipped bit in every byte of a file, by every way of cutting it short, and by files under another's name. The bytes of one
 * small file of each kind are pinned.
 */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { writeDeltaLayer } from '../../engine/layers/delta-layer.ts';
import { writeImageLayer } from '../../engine/layers/image-layer.ts';
import { InMemoryLayer } from '../../engine/layers/in-memory-layer.ts';
import { LayerFile } from '../../engine/layers/layer-file.ts';
import { formatLayerName, type LayerDesc, parseLayerName } from '../../engine/layers/layer-name.ts';
import type { WrittenLayer } from '../../engine/layers/layer-writer.ts';
import { ValueChain } from '../../engine/layers/value-chain.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { type KeyPrefix, keyKind, keyPrefix, sizeBlock } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const id = { tenantId: tenantId('ab'.repeat(16)), timelineId: timelineId('cd'.repeat(16)) };
const folder = 'tenants/t/timelines/l/';
const noYield = async () => {};

async function stored(layer: WrittenLayer, cacheBytes = 1e6): Promise<{ file: LayerFile; store: MemoryObjectStore }> {
  const store = new MemoryObjectStore();
  await store.put(folder + layer.name, layer.bytes);
  const file = new LayerFile(id, layer.desc, folder, layer.bytes.length, store, new BlockCache(cacheBytes));
  return { file, store };
}

function randomLayer(random: SeededRandom): { layer: InMemoryLayer; keys: { prefix: KeyPrefix; block: number }[] } {
  const layer = new InMemoryLayer(100 as Lsn);
  const prefixes = Array.from({ length: 1 + random.below(6) }, () =>
    keyPrefix(keyKind.rel, 1663, random.below(3), 1000 + random.below(50), random.below(4)),
  );
  const keys = Array.from({ length: 1 + random.below(60) }, () => ({
    prefix: random.pick(prefixes),
    block: random.pick([random.below(40), random.below(5000), random.below(4294967296), sizeBlock]),
  }));
  const count = 1 + random.below(400);
  for (let i = 0, lsn = 100; i < count; i++) {
    if (random.chance(0.7)) lsn += random.below(50);
    const value = new Uint8Array(random.pick([0, 1, 4, 47, 48, 49, 120, random.below(3000), 8192]));
    random.fill(value);
    const { prefix, block } = random.pick(keys);
    const what = random.next();
    if (what < 0.2) layer.putImage(prefix, block, lsn as Lsn, value);
    else if (what < 0.5) layer.putPatch(prefix, block, lsn as Lsn, value);
    else {
      const handle = layer.addRecord(lsn as Lsn, value, 0, value.length);
      layer.putRecord(prefix, block, lsn as Lsn, handle, random.chance(0.1));
      const other = random.pick(keys);
      if (random.chance(0.3)) layer.putRecord(other.prefix, other.block, lsn as Lsn, handle, false);
    }
  }
  return { layer, keys };
}

const plain = (chain: ValueChain) => chain.lsns.map((lsn, i) => [lsn, chain.kinds[i], [...chain.values[i]!]]);

it('a delta layer has what the layer in memory has', async () => {
  for (let seed = 1; seed <= 25; seed++) {
    const random = new SeededRandom(seed);
    const { layer, keys } = randomLayer(random);
    const lsnEnd = (layer.newestLsn + 1) as Lsn;
    const written = (await writeDeltaLayer(id, layer, lsnEnd, noYield))!;
    // With a cache of one byte every block is read again and again.
    const { file } = await stored(written, seed % 2 === 0 ? 1 : 1e9);
    for (const { prefix, block } of keys) {
      for (const [from, to] of [
        [0, lsnEnd],
        [100, 100 + random.below(3000)],
        [100 + random.below(1000), lsnEnd],
      ] as const) {
        const fromMemory = new ValueChain(prefix, block);
        layer.collect(fromMemory, from, to);
        const fromFile = new ValueChain(prefix, block);
        const held = await file.hold(prefix, block, block, from, to);
        if (held !== null) file.collect(held, fromFile, from, to);
        expect(plain(fromFile), `seed ${seed} ${prefix} ${block} [${from}, ${to})`).toEqual(plain(fromMemory));
      }
    }
    // A run of blocks at once.
    const { prefix } = random.pick(keys);
    const held = await file.hold(prefix, 0, 39, 100, lsnEnd);
    for (let block = 0; block < 40; block++) {
      const fromMemory = new ValueChain(prefix, block);
      layer.collect(fromMemory, 100, lsnEnd);
      const fromFile = new ValueChain(prefix, block);
      if (held !== null) file.collect(held, fromFile, 100, lsnEnd);
      expect(plain(fromFile), `seed ${seed} ${prefix} ${block}`).toEqual(plain(fromMemory));
    }
  }
});

it('values above the end are not written', async () => {
  const layer = new InMemoryLayer(10 as Lsn);
  const prefix = keyPrefix(keyKind.rel, 1663, 5, 7, 0);
  layer.putImage(prefix, 1, 20 as Lsn, new Uint8Array([1]));
  layer.putImage(prefix, 1, 30 as Lsn, new Uint8Array([2]));
  const written = (await writeDeltaLayer(id, layer, 30 as Lsn, noYield))!;
  const { file } = await stored(written);
  const chain = new ValueChain(prefix, 1);
  file.collect((await file.hold(prefix, 1, 1, 0, 100))!, chain, 0, 100);
  expect(chain.lsns).toEqual([20]);
  expect(await writeDeltaLayer(id, layer, 20 as Lsn, noYield)).toBeNull();
});

function smallLayer(): InMemoryLayer {
  const layer = new InMemoryLayer(4096 as Lsn);
  const heap = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
  const page = new Uint8Array(8192).map((_, i) => i % 7);
  layer.putImage(heap, 0, 4096 as Lsn, page);
  layer.putImage(heap, 1, 4096 as Lsn, page.fill(3));
  layer.putImage(heap, sizeBlock, 4096 as Lsn, new Uint8Array([2, 0, 0, 0]));
  return layer;
}

async function smallDelta(): Promise<WrittenLayer> {
  const layer = smallLayer();
  const heap = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
  const record = new Uint8Array(50).fill(9);
  const handle = layer.addRecord(4200 as Lsn, record, 10, 30);
  layer.putRecord(heap, 1, 4200 as Lsn, handle, false);
  layer.putPatch(keyPrefix(keyKind.slru, 0, 1, 0, 0), 3, 4300 as Lsn, new Uint8Array([4]));
  return (await writeDeltaLayer(id, layer, 4301 as Lsn, noYield))!;
}

const smallImage = async () => (await writeImageLayer(id, smallLayer(), 4096 as Lsn, noYield))!;

/** Reads every block of the file. */
async function readAll(written: WrittenLayer, bytes: Uint8Array, desc: LayerDesc = written.desc): Promise<void> {
  const store = new MemoryObjectStore();
  await store.put(folder + formatLayerName(desc), bytes);
  const file = new LayerFile(id, desc, folder, written.bytes.length, store, new BlockCache(1e9));
  const { blockCount } = await file.open();
  await file.holdBlocks(0, blockCount - 1);
}

async function expectCorrupt(promise: Promise<unknown>, name: string, what: string): Promise<void> {
  const error = await promise.then(
    () => expect.fail(`${what}: not noticed`),
    (e: unknown) => e,
  );
  expect(error, what).toBeInstanceOf(PageliteError);
  expect((error as PageliteError).kind, what).toBe('corrupt');
  expect((error as PageliteError).message, what).toContain(name);
}

it('a flipped bit in any byte is found, and the file is named', async () => {
  for (const written of [await smallDelta(), await smallImage()]) {
    await readAll(written, written.bytes);
    // Every byte of headers, columns, index and footer; of the pages' insides every 61st.
    for (let at = 0; at < written.bytes.length; at += at > 200 && at < 16300 && at % 8192 > 300 ? 61 : 1) {
      const bytes = written.bytes.slice();
      bytes[at]! ^= 1 << (at % 8);
      await expectCorrupt(readAll(written, bytes), written.name, `${written.desc.kind} byte ${at}`);
    }
  }
});

it('a file that is cut short, missing or another one is found', async () => {
  const written = await smallDelta();
  for (const length of [0, 1, 127, 128, 500, 16600, written.bytes.length - 1]) {
    await expectCorrupt(readAll(written, written.bytes.slice(0, length)), written.name, `${length} bytes`);
  }
  const other = { ...written.desc, lsnStart: (written.desc.lsnStart - 1) as Lsn };
  await expectCorrupt(readAll(written, written.bytes, other), formatLayerName(other), 'another name');
  const { file, store } = await stored(written);
  await store.delete(file.key);
  await expectCorrupt((async () => file.open())(), written.name, 'missing');
});

it('an image layer answers for a page that it does not have without reading', async () => {
  const { file, store } = await stored(await smallImage());
  await file.open();
  await store.delete(file.key);
  const heap = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
  expect(file.hold(heap, 2, 1000, 4096, 4097)).toBeNull();
  expect(file.hold(keyPrefix(keyKind.rel, 1663, 5, 1, 0), 0, 100, 4096, 4097)).toBeNull();
});

it('names of layers', async () => {
  const written = await smallDelta();
  expect(written.name).toBe(
    '000000067F000000050000400000' + '00000000-010000000000000001000000000000000004__0000000000001000-00000000000010CD',
  );
  for (const layer of [written, await smallImage()]) expect(parseLayerName(layer.name)).toEqual(layer.desc);
  for (const bad of [
    '',
    'index_part.json',
    written.name.slice(1),
    written.name.replace('1000-', '2000-'),
    'x'.repeat(92),
  ]) {
    expect(parseLayerName(bad)).toBeNull();
  }
});

/** One file of each kind, a line each: name, then the bytes in hex. Never changed: a new version of the format gets a golden file of its own. */
const golden = readFileSync(new URL('./golden/v1.txt', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .map((line) => line.split(' ') as [name: string, hex: string]);

async function goldenLayers(): Promise<WrittenLayer[]> {
  const layer = new InMemoryLayer(4096 as Lsn);
  const heap = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
  layer.putImage(heap, 0, 4096 as Lsn, new Uint8Array(20).fill(0xaa));
  layer.putImage(heap, sizeBlock, 4096 as Lsn, new Uint8Array([1, 0, 0, 0]));
  layer.putImage(keyPrefix(keyKind.slru, 0, 1, 0, 0), 3, 4096 as Lsn, new Uint8Array(5).fill(0xbb));
  const image = (await writeImageLayer(id, layer, 4096 as Lsn, noYield))!;
  const handle = layer.addRecord(4200 as Lsn, new Uint8Array(24).fill(0xcc), 0, 24);
  layer.putRecord(heap, 0, 4200 as Lsn, handle, false);
  layer.putRecord(heap, 1, 4200 as Lsn, handle, true);
  layer.putPatch(keyPrefix(keyKind.slru, 0, 1, 0, 0), 3, (2 ** 40 + 8) as Lsn, new Uint8Array([4]));
  return [(await writeDeltaLayer(id, layer, (2 ** 40 + 9) as Lsn, noYield))!, image];
}

it('golden: version 1 of the format is written and read as it was', async () => {
  const written = await goldenLayers();
  expect(written.map(({ name, bytes }) => [name, Buffer.from(bytes).toString('hex')])).toEqual(golden);
  const [name, hex] = golden[0]!;
  const bytes = new Uint8Array(Buffer.from(hex, 'hex'));
  const { file } = await stored({ name, bytes, desc: parseLayerName(name)! });
  const heap = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);
  const chain = new ValueChain(heap, 0);
  file.collect((await file.hold(heap, 0, 0, 0, 2 ** 41))!, chain, 0, 2 ** 41);
  expect(plain(chain)).toEqual([
    [4200, 1, new Array(24).fill(0xcc)],
    [4096, 0, new Array(20).fill(0xaa)],
  ]);
});
