/**
 * A timeline's reads are those of a plain list of everything that was put, at every LSN, whatever was frozen, flushed, turned into images, branched,
 * cached or restarted in between; and a process that dies at any operation of its object store leaves a store from which the next one goes on.
 *
 * Attacked by random values, tiny layers and caches of random sizes; the store stops answering before or after each single one of its
 * operations. Modelled: redo (support/model-redo.ts) and WAL (the rig's log). The seed is in every message.
 */
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { formatKey, type Key } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { StoredIndex } from '../../engine/timeline/index-part.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import {
  allKeys,
  isReadable,
  type ModelTimeline,
  modelSize,
  modelValue,
  relBlocks,
  rels,
  TimelineRig,
} from '../support/timeline-rig.ts';

const same = (a: Uint8Array | null, b: Uint8Array | null) =>
  a === null || b === null ? a === b : Buffer.compare(a, b) === 0;

/** One that can be read, branched from and leased. */
function someLsn(rig: TimelineRig, random: SeededRandom, model: ModelTimeline): Lsn {
  const { lastRecordLsn } = model;
  const { gcCutoffLsn } = rig.running.get(model.id.timelineId)!.timeline;
  return random.chance(0.4) ? lastRecordLsn : ((gcCutoffLsn + random.below(lastRecordLsn - gcCutoffLsn + 1)) as Lsn);
}

async function checkKey(rig: TimelineRig, model: ModelTimeline, key: Key, lsn: Lsn, what: string): Promise<void> {
  if (!isReadable(model, key, lsn)) return;
  const value = await rig.read(model, key, lsn);
  expect(same(value, modelValue(model, key, lsn)), `${what}: ${formatKey(key.prefix, key.block)} at ${lsn}`).toBe(true);
}

async function checkSome(rig: TimelineRig, random: SeededRandom, keyCount: number, seed: number): Promise<void> {
  const model = random.pick(rig.models);
  for (let i = 0; i < keyCount; i++) {
    await checkKey(rig, model, random.pick(allKeys), someLsn(rig, random, model), `seed ${seed}`);
  }
  await checkRange(rig, random, model, seed);
}

async function checkRange(rig: TimelineRig, random: SeededRandom, model: ModelTimeline, seed: number): Promise<void> {
  const prefix = random.pick(rels);
  const lsn = someLsn(rig, random, model);
  const first = random.below(relBlocks);
  const count = 1 + random.below(relBlocks);
  const { pages } = rig.running.get(model.id.timelineId)!;
  const rel = { spc: prefix.spc, db: prefix.db, rel: prefix.rel, fork: 0 as const };
  const read = await pages.getPages({ requestLsn: lsn, notModifiedSince: lsn }, rel, first, count);
  const size = modelSize(model, prefix, lsn);
  for (let i = 0; i < count; i++) {
    const block = first + i;
    const expected = (block < size ? modelValue(model, { prefix, block }, lsn) : null) ?? new Uint8Array(pageSize);
    const page = read.subarray(i * pageSize, (i + 1) * pageSize);
    expect(same(page, expected), `seed ${seed}: page ${block} of ${first}+${count} at ${lsn}`).toBe(true);
  }
}

async function step(rig: TimelineRig, random: SeededRandom): Promise<void> {
  const model = random.pick(rig.models);
  const what = random.next();
  if (what < 0.6) await rig.ingest(model, 1 + random.below(60));
  else if (what < 0.72) await rig.flush(model);
  else if (what < 0.84) await rig.compact(model, random.pick(['none', 'merge', 'images'] as const));
  else if (what < 0.92) await rig.collect(model, someLsn(rig, random, model));
  else if (rig.models.length < 4) await rig.branch(model, someLsn(rig, random, model));
}

describe('random histories', () => {
  for (let seed = 1; seed <= 24; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const store = new MemoryObjectStore();
      const rig = new TimelineRig(random, store);
      await rig.create();
      for (let i = 0; i < 40; i++) {
        await step(rig, random);
        if (random.chance(0.1)) {
          await rig.close();
          await rig.restart(store);
        }
        await checkSome(rig, random, 6, seed);
      }
      for (const model of rig.models) {
        for (const key of allKeys) {
          await checkKey(rig, model, key, model.lastRecordLsn, `seed ${seed}`);
        }
      }
      await rig.close();
    });
  }
});

/** Stops for good at its `limit`th writing operation: before it is done, or after, when nobody hears of it. */
class DyingStore implements ObjectStore {
  readonly #store: ObjectStore;
  readonly #limit: number;
  readonly #after: boolean;
  count = 0;

  constructor(store: ObjectStore, limit: number, after: boolean) {
    this.#store = store;
    this.#limit = limit;
    this.#after = after;
  }

  async #write<T>(work: () => Promise<T>): Promise<T> {
    this.count++;
    if (this.count < this.#limit) return work();
    if (this.count === this.#limit && this.#after) await work();
    throw new PageliteError('closed', 'the process is dead');
  }

  put(...args: Parameters<ObjectStore['put']>): Promise<string> {
    return this.#write(() => this.#store.put(...args));
  }
  delete(key: string): Promise<void> {
    return this.#write(() => this.#store.delete(key));
  }
  get(...args: Parameters<ObjectStore['get']>) {
    return this.#store.get(...args);
  }
  head(key: string) {
    return this.#store.head(key);
  }
  list(prefix: string) {
    return this.#store.list(prefix);
  }
  listFolders(folder: string) {
    return this.#store.listFolders(folder);
  }
}

describe('death at every operation of the store', () => {
  const seed = 77;
  /** A fixed history; its operations on the store are the same in every run up to the death. */
  async function live(store: ObjectStore): Promise<{ rig: TimelineRig; flushedLsn: Lsn[]; random: SeededRandom }> {
    const random = new SeededRandom(seed);
    const rig = new TimelineRig(random, store);
    const flushedLsn: Lsn[] = [];
    try {
      const main = await rig.create();
      for (let i = 0; i < 3; i++) {
        await rig.ingest(main, 40);
        await rig.flush(main);
        flushedLsn.push(main.lastRecordLsn);
        await rig.compact(main, i === 1 ? 'images' : 'merge');
        if (i === 2) await rig.collect(main, flushedLsn[1]!);
      }
      const branch = await rig.branch(main, flushedLsn[1]!);
      await rig.ingest(branch, 30);
      await rig.flush(branch);
      await rig.compact(branch, 'images');
      await rig.collect(branch, branch.lastRecordLsn);
    } catch (error) {
      // Once the store is dead, so is the rest of it.
      expect(`${(error as Error).message}`).toMatch(/dead|stopped/);
    }
    return { rig, flushedLsn, random };
  }

  it('the next process goes on from what is stored', async () => {
    const whole = new DyingStore(new MemoryObjectStore(), Number.POSITIVE_INFINITY, false);
    await (await live(whole)).rig.close();
    expect(whole.count).toBeGreaterThan(10);
    for (let limit = 1; limit <= whole.count; limit++) {
      for (const after of [false, true]) {
        const store = new MemoryObjectStore();
        const { rig, flushedLsn, random } = await live(new DyingStore(store, limit, after));
        const what = `death at ${limit} ${after ? 'after' : 'before'}`;
        // Those whose creation was not heard of may be there or not.
        for (const model of [...rig.models]) {
          const exists = await StoredIndex.load(store, model.id, 0).then(
            () => true,
            () => false,
          );
          expect(exists, what).toBe(true);
        }
        await rig.restart(store);
        if (rig.models.length === 0) continue;
        const main = rig.running.get(rig.models[0]!.id.timelineId)!;
        expect(main.timeline.diskConsistentLsn, what).toBeGreaterThanOrEqual(flushedLsn.at(-1) ?? 0);
        for (const model of rig.models) {
          for (const key of allKeys.filter((_, i) => i % 3 === limit % 3)) {
            await checkKey(rig, model, key, someLsn(rig, random, model), what);
          }
          await rig.ingest(model, 20);
          await rig.flush(model);
          await rig.compact(model, 'merge');
        }
        for (const running of rig.running.values()) await running.settled();
        await rig.createTenant();
        const { problems, garbage } = await scrub({ store, tenant: null, isDeep: true });
        expect({ problems, garbage }, what).toEqual({ problems: [], garbage: [] });
        await rig.close();
      }
    }
  });
});
