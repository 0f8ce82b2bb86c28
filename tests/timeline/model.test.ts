/**
 * A timeline's reads are those of a plain list of everything that was put, at every LSN, whatever was frozen, flushed, turned into images, branched,
 * leased, collected, cached or restarted in between; what was leased can be read and leased again; and a process that dies at any operation of its object store leaves a store from which the next one goes on.
 *
 * Attacked by random values, tiny layers and caches of random sizes; the store is slow, fails, loses answers, and gives up what the disk has no room
 * for; it stops answering before or after each single one of its operations. Modelled: redo (support/model-redo.ts) and WAL (the rig's log). The seed is in every message.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { formatKey, type Key } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { StoredIndex } from '../../engine/timeline/index-part.ts';
import { TieredObjectStore } from '../../server/object-store/tiered.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { type Faults, FaultyObjectStore, RandomFaults, type StoreOperation } from '../support/faulty-object-store.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { HurriedClock } from '../support/test-clock.ts';
import {
  allKeys,
  insist,
  isReadable,
  type ModelTimeline,
  modelSize,
  modelValue,
  type RigStore,
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
  const value = await insist(() => rig.read(model, key, lsn));
  expect(same(value, modelValue(model, key, lsn)), `${what}: ${formatKey(key.prefix, key.block)} at ${lsn}`).toBe(true);
}

/** LSNs that were leased and are to stay, by timeline. Their holders renew them after every step. */
class HeldLeases {
  readonly #held = new Map<ModelTimeline, Set<Lsn>>();

  async take(rig: TimelineRig, model: ModelTimeline, lsn: Lsn): Promise<void> {
    await insist(() => rig.lease(model, lsn));
    const held = this.#held.get(model) ?? new Set();
    this.#held.set(model, held.add(lsn));
  }

  async renew(rig: TimelineRig): Promise<void> {
    for (const [model, held] of this.#held) for (const lsn of held) await insist(() => rig.lease(model, lsn));
  }

  async check(rig: TimelineRig, random: SeededRandom, what: string): Promise<void> {
    for (const [model, held] of this.#held) {
      for (const lsn of held) await checkKey(rig, model, random.pick(allKeys), lsn, `${what}, leased`);
    }
  }
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
  const read = await insist(() => pages.getPages({ requestLsn: lsn, notModifiedSince: lsn }, rel, first, count));
  const size = modelSize(model, prefix, lsn);
  for (let i = 0; i < count; i++) {
    const block = first + i;
    const expected = (block < size ? modelValue(model, { prefix, block }, lsn) : null) ?? new Uint8Array(pageSize);
    const page = read.subarray(i * pageSize, (i + 1) * pageSize);
    expect(same(page, expected), `seed ${seed}: page ${block} of ${first}+${count} at ${lsn}`).toBe(true);
  }
}

async function step(rig: TimelineRig, random: SeededRandom, leases: HeldLeases): Promise<void> {
  const model = random.pick(rig.models);
  const what = random.next();
  if (what < 0.54) await rig.ingest(model, 1 + random.below(60));
  else if (what < 0.6) await rig.ingest(model, 1 + random.below(200), { hot: random.pick(allKeys) });
  else if (what < 0.72) await rig.flush(model, { isUploaded: random.chance(0.5) });
  else if (what < 0.84) {
    const force = random.pick(['none', 'merge', 'images'] as const);
    await insist(() => rig.compact(model, force));
  } else if (what < 0.92) {
    await rig.collect(model, someLsn(rig, random, model));
    const { gcCutoffLsn, diskConsistentLsn } = rig.running.get(model.id.timelineId)!.uploads.storedPart;
    expect(gcCutoffLsn).toBeLessThanOrEqual(diskConsistentLsn);
  } else if (what < 0.96) await leases.take(rig, model, someLsn(rig, random, model));
  else if (rig.models.length < 4) await rig.branch(model, someLsn(rig, random, model));
}

describe('random histories', () => {
  for (let seed = 1; seed <= 24; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const store = new MemoryObjectStore();
      const rig = new TimelineRig(random, store);
      const leases = new HeldLeases();
      rig.config = { ...rig.config, compaction_target_size: random.pick([16_384, 65_536]) };
      await rig.create();
      for (let i = 0; i < 40; i++) {
        await step(rig, random, leases);
        if (random.chance(0.1)) {
          await rig.close();
          await rig.restart(store);
        }
        await checkSome(rig, random, 6, seed);
        await leases.renew(rig);
        await leases.check(rig, random, `seed ${seed}`);
      }
      await checkEnds(rig, seed);
      await rig.close();
    });
  }
});

describe('random histories in a store that is far away, slow and fails, behind a disk with little room', () => {
  for (let seed = 101; seed <= 112; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const remote = new MemoryObjectStore();
      const faults = new RandomFaults(new SeededRandom(seed + 1_000), { reads: 0.01, writes: 0.1 });
      const folder = await mkdtemp(join(tmpdir(), 'pagelite-model-'));
      const open = () =>
        TieredObjectStore.open({
          remote: new FaultyObjectStore(remote, faults),
          folder,
          budgetBytes: random.pick([0, 20_000, 200_000]),
          log: silentLog,
        });
      try {
        let store = await open();
        const rig = new TimelineRig(random, store, new HurriedClock());
        const leases = new HeldLeases();
        await rig.create();
        let evictions = 0;
        for (let i = 0; i < 40; i++) {
          await step(rig, random, leases);
          if (random.chance(0.1)) {
            await rig.close();
            evictions += store.counters.evictions;
            if (random.chance(0.5)) await rm(folder, { recursive: true, force: true });
            store = await open();
            await rig.restart(store);
          }
          await checkSome(rig, random, 4, seed);
          await leases.renew(rig);
          await leases.check(rig, random, `seed ${seed}`);
        }
        expect(faults.count, `seed ${seed}`).toBeGreaterThan(10);
        expect(evictions + store.counters.evictions, `seed ${seed}`).toBeGreaterThan(0);
        await rig.close();
        faults.stop();
        await rm(folder, { recursive: true, force: true });
        await rig.restart(await open());
        await checkEnds(rig, seed);
        await expectNoWaste(rig, remote, `seed ${seed}`);
        await rig.close();
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    }, 60_000);
  }
});

async function checkEnds(rig: TimelineRig, seed: number): Promise<void> {
  for (const model of rig.models) {
    for (const key of allKeys) await checkKey(rig, model, key, model.lastRecordLsn, `seed ${seed}`);
  }
}

/** After the next flush of each timeline, the store has what the indexes name and nothing else. */
async function expectNoWaste(rig: TimelineRig, store: ObjectStore, what: string): Promise<void> {
  for (const model of rig.models) {
    await rig.ingest(model, 20);
    await rig.flush(model);
    await rig.compact(model, 'merge');
  }
  for (const running of rig.running.values()) await running.settled();
  await rig.createTenant();
  const { problems, garbage } = await scrub({ store, tenant: null, isDeep: true });
  expect({ problems, garbage }, what).toEqual({ problems: [], garbage: [] });
}

/** The store stops for good at its `limit`th write: before it is done, or after, when nobody hears of it. */
class Death implements Faults {
  readonly #limit: number;
  readonly #when: 'before' | 'after';
  count = 0;

  constructor(limit: number, when: 'before' | 'after') {
    this.#limit = limit;
    this.#when = when;
  }

  async before(operation: StoreOperation): Promise<void> {
    if (operation !== 'put' && operation !== 'delete') return;
    this.count++;
    if (this.count > this.#limit || (this.count === this.#limit && this.#when === 'before')) throw dead();
  }

  async after(operation: StoreOperation): Promise<void> {
    if ((operation === 'put' || operation === 'delete') && this.count >= this.#limit) throw dead();
  }
}

const dead = () => new PageliteError('closed', 'the process is dead');

describe('death at every operation of the store', () => {
  const seed = 77;
  /** A fixed history; its operations on the store are much the same in every run up to the death. */
  async function live(store: RigStore) {
    const random = new SeededRandom(seed);
    const rig = new TimelineRig(random, store);
    const flushedLsn: Lsn[] = [];
    const leases = new HeldLeases();
    try {
      const main = await rig.create();
      for (let i = 0; i < 3; i++) {
        await rig.ingest(main, 40);
        await rig.flush(main);
        flushedLsn.push(main.lastRecordLsn);
        await rig.compact(main, i === 1 ? 'images' : 'merge');
        if (i === 0) await leases.take(rig, main, flushedLsn[0]!);
        if (i === 2) await rig.collect(main, flushedLsn[1]!);
      }
      const branch = await rig.branch(main, flushedLsn[1]!);
      await rig.ingest(branch, 30);
      await rig.flush(branch);
      await rig.compact(branch, 'images');
      await rig.collect(branch, branch.lastRecordLsn);
      for (const running of rig.running.values()) await running.settled();
    } catch (error) {
      // Once the store is dead, so is the rest of it.
      expect(`${(error as Error).message}`).toMatch(/dead|stopped/);
    }
    return { rig, flushedLsn, random, leases };
  }

  /** `open`: what a process puts before the store. */
  async function dieEverywhere(open: (store: ObjectStore) => Promise<RigStore>, afterDeath: () => Promise<void>) {
    const whole = new Death(Number.POSITIVE_INFINITY, 'before');
    await (await live(await open(new FaultyObjectStore(new MemoryObjectStore(), whole)))).rig.close();
    expect(whole.count).toBeGreaterThan(10);
    for (let limit = 1; limit <= whole.count; limit++) {
      for (const when of ['before', 'after'] as const) {
        await afterDeath();
        const store = new MemoryObjectStore();
        const { rig, flushedLsn, random, leases } = await live(
          await open(new FaultyObjectStore(store, new Death(limit, when))),
        );
        const what = `death ${when} operation ${limit}`;
        // Those whose creation was not heard of may be there or not.
        for (const { id } of rig.models) {
          const index = await StoredIndex.load(store, id, 0).catch(() => null);
          expect(index, what).not.toBeNull();
        }
        await afterDeath();
        await rig.restart(await open(store));
        if (rig.models.length === 0) continue;
        const main = rig.running.get(rig.models[0]!.id.timelineId)!;
        expect(main.timeline.diskConsistentLsn, what).toBeGreaterThanOrEqual(flushedLsn.at(-1) ?? 0);
        for (const model of rig.models) {
          for (const key of allKeys.filter((_, i) => i % 3 === limit % 3)) {
            await checkKey(rig, model, key, someLsn(rig, random, model), what);
          }
        }
        await leases.renew(rig);
        await rig.collect(rig.models[0]!, rig.models[0]!.lastRecordLsn);
        await leases.check(rig, random, what);
        await expectNoWaste(rig, store, what);
        await rig.close();
      }
    }
  }

  it('the next process goes on from what is stored', () =>
    dieEverywhere(
      async (store) => store,
      async () => {},
    ));

  for (const disk of ['still has', 'has lost'] as const) {
    it(`and from a store that is far away, where the disk ${disk} what was there`, async () => {
      const folder = await mkdtemp(join(tmpdir(), 'pagelite-model-'));
      const wipe = () => rm(folder, { recursive: true, force: true });
      try {
        await dieEverywhere(
          (remote) => TieredObjectStore.open({ remote, folder, budgetBytes: 1e9, log: silentLog }),
          disk === 'has lost' ? wipe : async () => {},
        );
      } finally {
        await wipe();
      }
    }, 120_000);
  }
});
