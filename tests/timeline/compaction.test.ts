/**
 * What compaction leaves behind, looked at directly; reads are compared by model.test.ts.
 *
 * Must hold, after any history of flushes, merges, images, garbage collection and restarts: columns tile all keys; a column has at most `columnRunsMax` runs above
 * its images once everything is merged; delta layers do not overlap, each holds every value of its rectangle, and none is much larger than it should be,
 * however many values one key has; reads, at the end and before, pass few layers. A job that is cut off changes nothing. The seed is in every message.
 */
import { describe, expect, it } from 'vitest';
import { type Column, findColumns, isFlushed, keyLimit, leastKey } from '../../engine/compaction/columns.ts';
import { LayerCursor } from '../../engine/compaction/layer-cursor.ts';
import { type RetainableLayer, removableLayers } from '../../engine/compaction/removable-layers.ts';
import { runJob } from '../../engine/compaction/run-job.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { LayerFile } from '../../engine/layers/layer-file.ts';
import { headerBytes } from '../../engine/layers/layer-format.ts';
import { rangeContains } from '../../engine/layers/layer-name.ts';
import { columnRunsMax, deltaBlockBytes } from '../../engine/limits.ts';
import { compareKeys, type Key, keyKind, keyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { valueKind } from '../../engine/model/value.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { gather } from '../../engine/timeline/gather.ts';
import type { RunningTimeline } from '../../engine/timeline/running-timeline.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { allKeys, isReadable, type ModelTimeline, modelValue, startLsn, TimelineRig } from '../support/timeline-rig.ts';

function columnsOf({ timeline, uploads }: RunningTimeline, rig: TimelineRig): Column<LayerFile>[] {
  return findColumns(timeline.layers.files.layers(), {
    compactedLsn: uploads.part.compactedLsn,
    sealedBytesMin: rig.config.compaction_target_size,
    setAside: new Set(),
  });
}

function checkColumns(running: RunningTimeline, rig: TimelineRig, isMerged: boolean, what: string): void {
  const columns = columnsOf(running, rig);
  expect(columns[0]!.start, what).toEqual(leastKey);
  expect(columns.at(-1)!.end, what).toEqual(keyLimit);
  for (const [i, column] of columns.entries()) {
    if (i > 0) expect(compareKeys(columns[i - 1]!.end, column.start), what).toBe(0);
    expect(compareKeys(column.start, column.end), what).toBeLessThan(0);
    if (isMerged) expect(column.runs.length, what).toBeLessThanOrEqual(columnRunsMax);
  }
}

function checkDisjoint(files: readonly LayerFile[], what: string): void {
  const deltas = files.filter(({ desc }) => desc.kind === 'delta');
  for (const a of deltas) {
    for (const b of deltas) {
      if (a === b) continue;
      const keysMeet =
        compareKeys(a.desc.keys.start, b.desc.keys.end) < 0 && compareKeys(b.desc.keys.start, a.desc.keys.end) < 0;
      const lsnsMeet = a.desc.lsnStart < b.desc.lsnEnd && b.desc.lsnStart < a.desc.lsnEnd;
      expect(keysMeet && lsnsMeet, `${what}: ${a.name} and ${b.name}`).toBe(false);
    }
  }
}

/** What is set aside is read beside the others. */
const checkDisjointBut = (files: readonly LayerFile[], key: string, what: string): void =>
  checkDisjoint(
    files.filter((file) => file.key !== key),
    what,
  );

/** Every value that was put in its rectangle, in order; images that stand for chains are more. */
async function checkContents(model: ModelTimeline, file: LayerFile, what: string): Promise<void> {
  const { keys, lsnStart, lsnEnd } = file.desc;
  const expected = model.log
    .filter((value) => rangeContains(keys, value) && value.lsn >= lsnStart && value.lsn < lsnEnd)
    .map((value, i) => ({ ...value, i }))
    .sort((a, b) => compareKeys(a, b) || a.lsn - b.lsn || a.i - b.i);
  const cursor = new LayerCursor([file], keys);
  let at = 0;
  while (await cursor.next()) {
    const next = expected[at];
    const value = cursor.data.bytes.subarray(cursor.valueStart, cursor.valueStart + cursor.valueLength);
    const isNext =
      next !== undefined &&
      compareKeys(next, cursor) === 0 &&
      next.lsn === cursor.lsn &&
      next.kind === cursor.kind &&
      Buffer.compare(next.bytes, value) === 0;
    if (isNext) at++;
    else expect(cursor.kind, `${what}: ${file.name}`).toBe(valueKind.image);
  }
  expect(at, `${what}: ${file.name}`).toBe(expected.length);
}

const hotKeys = allKeys.filter((_, i) => i % 20 === 3);

describe('after any history', () => {
  for (let seed = 1; seed <= 20; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const store = new MemoryObjectStore();
      const rig = new TimelineRig(random, store);
      const pickTarget = () => {
        rig.config = { ...rig.config, compaction_target_size: random.pick([16_384, 65_536]) };
      };
      pickTarget();
      const main = await rig.create();
      const models = [main];
      for (let i = 0; i < 30; i++) {
        const model = random.pick(models);
        const running = rig.running.get(model.id.timelineId)!;
        const what = random.next();
        if (what < 0.4) await rig.ingest(model, 1 + random.below(60));
        else if (what < 0.5) await rig.ingest(model, 1 + random.below(300), { hot: random.pick(hotKeys) });
        else if (what < 0.65) await rig.flush(model);
        else if (what < 0.85) {
          const force = random.pick(['none', 'merge', 'images'] as const);
          await rig.compact(model, force);
          checkColumns(running, rig, force !== 'none', `seed ${seed}`);
        } else if (what < 0.9 && models.length < 3) models.push(await rig.branch(model, model.lastRecordLsn));
        else if (what < 0.95) await rig.collect(model, model.lastRecordLsn);
        else {
          await rig.close();
          pickTarget();
          await rig.restart(store);
        }
      }
      const visited: number[] = [];
      for (const model of models) {
        await rig.flush(model);
        await rig.compact(model, 'merge');
        const running = rig.running.get(model.id.timelineId)!;
        const { timeline } = running;
        const files = timeline.layers.files.layers();
        checkColumns(running, rig, true, `seed ${seed}`);
        checkDisjoint(files, `seed ${seed}`);
        for (const file of files) if (file.desc.kind === 'delta') await checkContents(model, file, `seed ${seed}`);
        if (model !== main) continue;
        for (const { prefix, block } of allKeys) {
          const [chain] = await gather(timeline, prefix, block, 1, model.lastRecordLsn + 1);
          visited.push(chain!.layersVisited);
        }
      }
      // Two runs and an image, and the memory layer.
      expect(Math.max(...visited), `seed ${seed}`).toBeLessThanOrEqual(4);
      await rig.close();
    });
  }
});

/** What one LSN has of a key at most: the values of a record, each may be an image, and the image that a cut adds. */
const lsnBytesMax = 5 * 9_000;

for (let seed = 1; seed <= 4; seed++) {
  it(`a key with any number of values has layers of bounded size, and its reads pass few of them: seed ${seed}`, async () => {
    const random = new SeededRandom(seed);
    const store = new MemoryObjectStore();
    const rig = new TimelineRig(random, store);
    const model = await rig.create();
    const hot = random.pick(hotKeys);
    const running = rig.running.get(model.id.timelineId)!;
    const { timeline, uploads } = running;
    const target = random.pick([16_384, 40_000]);
    rig.config = { ...rig.config, compaction_target_size: target };
    for (let round = 0; round < 8; round++) {
      await rig.ingest(model, 40);
      await rig.ingest(model, 400, { hot });
      await rig.ingest(model, 40);
      await rig.flush(model);
      await rig.compact(model, random.pick(['none', 'merge']));
      const merged = timeline.layers.files
        .layers()
        .filter((layer) => layer.desc.kind === 'delta' && !isFlushed(layer, uploads.part.compactedLsn));
      for (const { size, name } of merged) {
        expect(size, `seed ${seed}: ${name}`).toBeLessThan(1.3 * target + lsnBytesMax);
      }
    }
    await rig.compact(model, 'merge');
    checkColumns(running, rig, true, `seed ${seed}`);
    const files = timeline.layers.files.layers();
    checkDisjoint(files, `seed ${seed}`);
    for (const file of files) if (file.desc.kind === 'delta') await checkContents(model, file, `seed ${seed}`);
    const ofKey = files.filter(({ desc }) => rangeContains(desc.keys, hot));
    expect(ofKey.length, `seed ${seed}`).toBeGreaterThan(5);
    for (let i = 0; i < 200; i++) {
      const lsn = startLsn + random.below(model.lastRecordLsn - startLsn + 1);
      const [chain] = await gather(timeline, hot.prefix, hot.block, 1, lsn + 1);
      // A run or two, and two layers of the key.
      expect(chain!.layersVisited, `seed ${seed}: at ${lsn}`).toBeLessThanOrEqual(4);
    }
    await rig.close();
  });
}

it('a merge of many layers reads less of each ahead', async () => {
  const rig = new TimelineRig(new SeededRandom(5), new MemoryObjectStore());
  const model = await rig.create();
  await rig.ingest(model, 2000);
  await rig.flush(model);
  const [file] = rig.running.get(model.id.timelineId)!.timeline.layers.files.layers();
  for (const readAhead of [1, 40_000]) {
    const cursor = new LayerCursor([file!], { start: leastKey, end: keyLimit }, readAhead);
    let held = 0;
    while (await cursor.next()) held = Math.max(held, cursor.heldBytes);
    expect(held).toBeGreaterThan(0);
    expect(held).toBeLessThanOrEqual(Math.max(readAhead, deltaBlockBytes * 2));
  }
  await rig.close();
});

/** Turns a bit of a layer's first data block over, or back again. */
async function flipBit(store: MemoryObjectStore, key: string): Promise<void> {
  const { bytes } = (await store.get(key))!;
  const flipped = bytes.slice();
  flipped[headerBytes + 40]! ^= 1;
  await store.put(key, flipped);
}

describe('a damaged layer costs what is in it', () => {
  for (let seed = 1; seed <= 5; seed++) {
    it(`others are merged around it, it is told, and taken up again when it is mended: seed ${seed}`, async () => {
      const what = `seed ${seed}`;
      const random = new SeededRandom(seed);
      const store = new MemoryObjectStore();
      const rig = new TimelineRig(random, store);
      const model = await rig.create();
      const running = () => rig.running.get(model.id.timelineId)!;
      const work = async () => {
        for (let n = 3 + random.below(3); n > 0; n--) {
          await rig.ingest(model, 60);
          if (random.chance(0.2)) await rig.ingest(model, 150, { hot: random.pick(hotKeys) });
          await rig.flush(model);
          if (random.chance(0.3)) await rig.compact(model, random.pick(['none', 'merge', 'images']));
        }
      };
      await work();
      await running().compaction.idle();
      const deltas = running()
        .timeline.layers.files.layers()
        .filter(({ desc }) => desc.kind === 'delta');
      const damaged = random.pick(deltas);
      const { compactedLsn } = running().uploads.part;
      const before = isFlushed(damaged, compactedLsn);
      await rig.close();
      await flipBit(store, damaged.key);
      await rig.restart(store);
      for (let round = 0; round < 2; round++) {
        await work();
        await rig.compact(model, 'merge');
        await rig.compact(model, 'images');
        const { timeline, compaction } = running();
        const isThere = timeline.layers.files.layers().some(({ key }) => key === damaged.key);
        expect(isThere, what).toBe(true);
        const { status } = compaction;
        if (before) expect(status.blocked[0], what).toMatchObject({ kind: 'merge', what: damaged.name });
        if (status.blocked.length > 0) expect(status.lastError, what).toMatch(/checksum/);
        expect(status.flushedLayers, what).toBe(0);
        let unreadable = 0;
        for (const key of allKeys) {
          if (!isReadable(model, key, model.lastRecordLsn)) continue;
          const value = await rig.read(model, key, model.lastRecordLsn).catch((error: unknown) => {
            expect(error, what).toMatchObject({ kind: 'corrupt' });
            unreadable++;
          });
          if (value !== undefined) expect(value, what).toEqual(modelValue(model, key, model.lastRecordLsn));
          if (value === undefined) continue;
          // What was read may have been kept from before.
          const chains = await Promise.resolve(
            gather(timeline, key.prefix, key.block, 1, model.lastRecordLsn + 1),
          ).catch(() => []);
          const [chain] = chains;
          if (chain === undefined) continue;
          // The damaged one, and two runs more.
          expect(chain.layersVisited, what).toBeLessThanOrEqual(4 + 1 + columnRunsMax);
        }
        expect(unreadable, what).toBeLessThan(allKeys.length / 2);
        checkDisjointBut(timeline.layers.files.layers(), damaged.key, what);
      }
      await rig.close();
      await flipBit(store, damaged.key);
      await rig.restart(store);
      await work();
      await rig.compact(model, 'merge');
      await rig.compact(model, 'images');
      const { timeline, compaction } = running();
      expect(compaction.status, what).toMatchObject({ blocked: [], lastError: null });
      for (const file of timeline.layers.files.layers()) {
        if (file.desc.kind === 'delta') await checkContents(model, file, what);
      }
      for (const key of allKeys) {
        const lsn = (startLsn + random.below(model.lastRecordLsn - startLsn + 1)) as Lsn;
        if (!isReadable(model, key, lsn)) continue;
        expect(await rig.read(model, key, lsn), what).toEqual(modelValue(model, key, lsn));
      }
      await rig.close();
    });
  }

  it('without a restart: what was left alone is tried again when somebody asks', async () => {
    const store = new MemoryObjectStore();
    const rig = new TimelineRig(new SeededRandom(3), store);
    const model = await rig.create();
    await rig.ingest(model, 200);
    await rig.flush(model);
    const running = rig.running.get(model.id.timelineId)!;
    await running.compaction.idle();
    const [flushed] = running.timeline.layers.files.layers();
    await flipBit(store, flushed!.key);
    flushed!.forget();
    await rig.compact(model, 'images');
    expect(running.compaction.status.blocked[0]).toMatchObject({ kind: 'merge', what: flushed!.name });
    expect(running.compaction.status.lastError).toMatch(/checksum/);
    await flipBit(store, flushed!.key);
    await rig.compact(model, 'images');
    expect(running.compaction.status).toMatchObject({ blocked: [], lastError: null, flushedLayers: 0 });
    await rig.close();
  });
});

it('a job that is cut off changes nothing, and what it wrote is removed', async () => {
  const random = new SeededRandom(9);
  const store = new MemoryObjectStore();
  const rig = new TimelineRig(random, store);
  const model = await rig.create();
  for (let i = 0; i < 3; i++) {
    await rig.ingest(model, 60);
    await rig.flush(model);
  }
  const running = rig.running.get(model.id.timelineId)!;
  await running.compaction.idle();
  await rig.ingest(model, 60);
  await rig.flush(model);
  await running.compaction.idle();
  const before = { part: running.uploads.part, keys: (await store.list('')).map(({ key }) => key) };
  let puts = 0;
  rig.compactWith({
    run: (task) =>
      runJob({
        ...task,
        put: async (layer, isComplete) => {
          if (++puts > 1) throw new PageliteError('corrupt', 'cut off');
          await task.put(layer, isComplete);
        },
      }),
    close: async () => {},
  });
  await rig.compact(model, 'images').catch((error: unknown) => expect(error).toMatchObject({ message: 'cut off' }));
  await running.uploads.settled();
  expect(puts).toBeGreaterThan(1);
  const after = running.uploads.part;
  if (after.compactedLsn === before.part.compactedLsn)
    expect((await store.list('')).map(({ key }) => key)).toEqual(before.keys);
  await rig.close();
});

describe('removable layers', () => {
  const prefix = keyPrefix(keyKind.rel, 1663, 5, 20001, 0);
  const key = (block: number): Key => ({ prefix, block });

  /** Point by point and key by key. */
  function needed(
    layer: RetainableLayer,
    layers: readonly RetainableLayer[],
    cutoff: number,
    points: readonly number[],
  ): boolean {
    const { desc } = layer;
    if (desc.lsnEnd > cutoff + 1) return true;
    return [...points, cutoff].some((point) => {
      if (desc.lsnStart > point) return false;
      for (let block = desc.keys.start.block; block < desc.keys.end.block; block++) {
        const isCovered = layers.some(
          ({ desc: other, isComplete }) =>
            isComplete &&
            other.kind === 'image' &&
            rangeContains(other.keys, key(block)) &&
            other.lsnStart <= point &&
            (desc.kind === 'image' ? other.lsnStart > desc.lsnStart : other.lsnStart >= desc.lsnEnd - 1),
        );
        if (!isCovered) return true;
      }
      return false;
    });
  }

  it('are those that no point needs, as a look at each point, key and layer finds', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = new SeededRandom(seed);
      const layers: RetainableLayer[] = Array.from({ length: 1 + random.below(14) }, () => {
        const first = random.below(10);
        const keys = { start: key(first), end: key(first + 1 + random.below(10)) };
        const lsnStart = random.below(40) as Lsn;
        if (random.chance(0.5)) {
          const desc = { kind: 'image' as const, keys, lsnStart, lsnEnd: (lsnStart + 1) as Lsn };
          return { desc, isComplete: random.chance(0.8) };
        }
        return {
          desc: { kind: 'delta' as const, keys, lsnStart, lsnEnd: (lsnStart + 1 + random.below(15)) as Lsn },
          isComplete: false,
        };
      });
      const cutoff = random.below(50) as Lsn;
      const points = Array.from({ length: random.below(4) }, () => random.below(50) as Lsn).filter(
        (point) => point < cutoff,
      );
      const expected = layers.filter((layer) => !needed(layer, layers, cutoff, points));
      const found = new Set(removableLayers(layers, cutoff, points));
      expect(
        layers.filter((layer) => found.has(layer)),
        `seed ${seed}`,
      ).toEqual(expected);
    }
  });
});
