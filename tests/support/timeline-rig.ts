/**
 * Timelines over an object store, fed by hand, beside a plain model of everything that was put: for tests that attack layers, flushes, branches and
 * restarts without PGlite.
 *
 * The rig keeps each timeline's log of values, as safekeepers would: after a restart it puts again what is above diskConsistentLsn.
 */

import type { CompactionHost } from '../../engine/compaction/compaction-parts.ts';
import { inThisThread } from '../../engine/compaction/run-job.ts';
import { TimelineCounters } from '../../engine/counters.ts';
import { isPageliteError } from '../../engine/errors.ts';
import { applyPatches, slruWritePatch } from '../../engine/ingest/patch.ts';
import { SafekeeperSurvey } from '../../engine/ingest/safekeeper-survey.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { newTimelineId, nodeId, type TenantTimelineId, type TimelineId, tenantId } from '../../engine/model/ids.ts';
import { type Key, type KeyPrefix, keyKind, keyPrefix, sizeBlock } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { isSelfContained, type ValueKind, valueKind } from '../../engine/model/value.ts';
import type { Clock, LayerStaging, Log, ObjectStore } from '../../engine/services.ts';
import { branchIndex } from '../../engine/timeline/branch.ts';
import type { CompactionForce } from '../../engine/timeline/compaction.ts';
import type { GcResult } from '../../engine/timeline/garbage-collection.ts';
import type { Ancestor } from '../../engine/timeline/gather.ts';
import {
  encodeChecked,
  type IndexPart,
  newIndexPart,
  StoredIndex,
  tenantFolder,
  timelineFolder,
} from '../../engine/timeline/index-part.ts';
import { defaultPageserverLimits } from '../../engine/timeline/pageserver.ts';
import { RunningTimeline, type SharedParts } from '../../engine/timeline/running-timeline.ts';
import { claimTenant, TenantAttachment } from '../../engine/timeline/tenant-claims.ts';
import { type TenantConfig, tenantConfigDefaults } from '../../engine/timeline/tenant-config.ts';
import { unnamedKeys } from '../../engine/timeline/timeline-files.ts';
import { ModelRedo } from './model-redo.ts';
import type { SeededRandom } from './seeded-random.ts';
import { TestClock } from './test-clock.ts';

export interface ModelValue {
  readonly prefix: KeyPrefix;
  readonly block: number;
  readonly lsn: Lsn;
  readonly kind: ValueKind;
  readonly bytes: Uint8Array;
}

export interface ModelTimeline {
  readonly id: TenantTimelineId;
  readonly startLsn: Lsn;
  readonly ancestor: { readonly of: ModelTimeline; readonly lsn: Lsn } | null;
  /** In the order put; LSNs do not go down. */
  readonly log: ModelValue[];
  lastRecordLsn: Lsn;
  prevRecordLsn: Lsn;
}

export const relBlocks = 48;
export const rels = [1, 2].map((rel) => keyPrefix(keyKind.rel, 1663, 5, 20000 + rel, 0));
/** Pages that patches change. */
const slru = keyPrefix(keyKind.slru, 2, 1, 0, 0);
const slruBlocks = 8;
export const allKeys: readonly Key[] = [
  ...rels.flatMap((prefix) => Array.from({ length: relBlocks }, (_, block) => ({ prefix, block }))),
  ...[...rels, slru].map((prefix) => ({ prefix, block: sizeBlock })),
  ...Array.from({ length: slruBlocks }, (_, block) => ({ prefix: slru, block })),
];

/** One that is far away has a local disk before it. */
export type RigStore = ObjectStore | (ObjectStore & LayerStaging);
const isStaging = (store: RigStore): store is ObjectStore & LayerStaging => 'stage' in store;

/** As whoever asks a server: what is away is asked again. */
export async function insist<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!isPageliteError(error, 'unavailable')) throw error;
    }
  }
}

const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
export const startLsn = 4096 as Lsn;

/** What the model says a key's value is. */
export function modelValue(timeline: ModelTimeline, { prefix, block }: Key, lsn: number): Uint8Array | null {
  const values = versions(timeline, prefix, block, lsn);
  let from = values.length - 1;
  while (from > 0 && !isSelfContained(values[from]!.kind)) from--;
  let value: Uint8Array | null = null;
  const redo = new ModelRedo();
  for (const { kind, bytes, lsn: at } of values.slice(Math.max(0, from))) {
    if (kind === valueKind.image) value = bytes.length === 0 ? null : bytes;
    else if (kind === valueKind.patch) value = applyPatches(prefix, block, value, [bytes]);
    else {
      const rel = { spc: prefix.spc, db: prefix.db, rel: prefix.rel, fork: 0 as const };
      const base = kind === valueKind.recordWillInit ? null : (value ?? new Uint8Array(8192));
      value = redo.redoPage({ rel, block, base, lsns: [at], records: [bytes] });
    }
  }
  return value;
}

/** Blocks of a relation or SLRU segment at an LSN. */
export function modelSize(timeline: ModelTimeline, prefix: KeyPrefix, lsn: number): number {
  return sizeOf(modelValue(timeline, { prefix, block: sizeBlock }, lsn));
}

/** With values that are not in the log yet. */
function sizeWith(timeline: ModelTimeline, pending: readonly ModelValue[], prefix: KeyPrefix, lsn: number): number {
  const last = pending.findLast((value) => value.prefix === prefix && value.block === sizeBlock);
  return last === undefined ? modelSize(timeline, prefix, lsn) : sizeOf(last.bytes);
}

const sizeOf = (bytes: Uint8Array | null): number =>
  bytes === null || bytes.length === 0 ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);

/** Null: it is dropped. */
function sizeValue(prefix: KeyPrefix, lsn: Lsn, size: number | null): ModelValue {
  const bytes = new Uint8Array(size === null ? 0 : 4);
  if (size !== null) new DataView(bytes.buffer).setUint32(0, size, true);
  return { prefix, block: sizeBlock, lsn, kind: valueKind.image, bytes };
}

/** Whether the engine has to have a value: what lies behind the end of a relation is nobody's. */
export function isReadable(timeline: ModelTimeline, { prefix, block }: Key, lsn: number): boolean {
  return block === sizeBlock || block < modelSize(timeline, prefix, lsn);
}

function versions(timeline: ModelTimeline, prefix: KeyPrefix, block: number, lsn: number): ModelValue[] {
  const { ancestor } = timeline;
  const older = ancestor ? versions(ancestor.of, prefix, block, Math.min(lsn, ancestor.lsn)) : [];
  return [
    ...older,
    ...timeline.log.filter((value) => value.prefix === prefix && value.block === block && value.lsn <= lsn),
  ];
}

export class TimelineRig {
  readonly models: ModelTimeline[] = [];
  readonly running = new Map<TimelineId, RunningTimeline>();
  readonly redo = new ModelRedo();
  /** The tenant's. */
  config: TenantConfig = { ...tenantConfigDefaults, checkpoint_distance: 20_000, compaction_target_size: 65_536 };
  readonly #random: SeededRandom;
  readonly #tenant = tenantId('a1'.repeat(16));
  readonly #clock: Clock;
  #compaction: CompactionHost = inThisThread;
  #shared: SharedParts;

  constructor(random: SeededRandom, store: RigStore, clock: Clock = new TestClock()) {
    this.#random = random;
    this.#clock = clock;
    this.#shared = this.#parts(store);
  }

  #parts(store: RigStore, generation = 0): SharedParts {
    const random = this.#random;
    return {
      store,
      staging: isStaging(store) ? store : null,
      attachment: new TenantAttachment(store, this.#tenant, generation),
      wal: [],
      redo: this.redo,
      clock: this.#clock,
      random,
      log: silent,
      config: () => this.config,
      limits: {
        ...defaultPageserverLimits,
        openLayerBytesMax: 40_000,
        openChainLengthMax: random.pick([4, 7, 512]),
        imageChainRecordsMin: 3,
        imageChainBytesMin: 400,
        imageDeltaBytesMin: random.pick([1_000, 20_000, 1e9]),
      },
      blocks: new BlockCache(random.pick([1, 30_000, 1e9])),
      versions: new ClockCache(random.pick([1, 30_000, 1e9])),
      compaction: { run: (task) => this.#compaction.run(task), close: async () => {} },
      deletedCounters: new TimelineCounters(),
      survey: new SafekeeperSurvey(),
      yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
    };
  }

  /** 0 at first, then one that was claimed at each restart. */
  get #generation(): number {
    return this.#shared.attachment.generation;
  }

  /** What makes the folder a tenant's. */
  async createTenant(): Promise<void> {
    await this.#shared.store.put(`${tenantFolder(this.#tenant)}tenant.json`, encodeChecked('{"version":1}'));
  }

  /** A timeline of its own. */
  async create(): Promise<ModelTimeline> {
    const model: ModelTimeline = {
      id: { tenantId: this.#tenant, timelineId: newTimelineId(this.#random) },
      startLsn,
      ancestor: null,
      log: [],
      lastRecordLsn: startLsn,
      prevRecordLsn: 0 as Lsn,
    };
    await this.#start(
      model,
      await this.#createIndex(model.id, newIndexPart({ systemIdentifier: 1n, lsn: startLsn, prevRecordLsn: 0 as Lsn })),
    );
    return model;
  }

  async branch(of: ModelTimeline, lsn: Lsn): Promise<ModelTimeline> {
    const id = { tenantId: this.#tenant, timelineId: newTimelineId(this.#random) };
    const { timeline } = this.running.get(of.id.timelineId)!;
    const { systemIdentifier, startLsn: start, gcCutoffLsn, lastRecordLsn, prevRecordLsn } = timeline;
    const source = {
      timelineId: of.id.timelineId,
      systemIdentifier,
      startLsn: start,
      gcCutoffLsn,
      lastRecordLsn,
      prevRecordLsn,
    };
    const part = branchIndex(source, lsn);
    const model: ModelTimeline = {
      id,
      startLsn: lsn,
      ancestor: { of, lsn },
      log: [],
      lastRecordLsn: lsn,
      prevRecordLsn: part.prevRecordLsn,
    };
    await this.#start(model, await this.#createIndex(id, part));
    return model;
  }

  #createIndex(id: TenantTimelineId, part: IndexPart): Promise<StoredIndex> {
    return insist(() => StoredIndex.create(this.#shared.store, id, this.#generation, part));
  }

  async #start(model: ModelTimeline, index: StoredIndex): Promise<void> {
    if (!this.models.includes(model)) this.models.push(model);
    const { ancestor } = model;
    const local: Ancestor | null = ancestor && {
      kind: 'local',
      lsn: ancestor.lsn,
      open: () => this.running.get(ancestor.of.id.timelineId)!.timeline,
    };
    const leftovers = await this.#leftovers(model.id, index);
    this.running.set(model.id.timelineId, new RunningTimeline(model.id, index, local, leftovers, this.#shared));
  }

  /** Files that the index does not name: a crash left them. */
  async #leftovers(id: TenantTimelineId, index: StoredIndex): Promise<string[]> {
    const keys = (await insist(() => this.#shared.store.list(timelineFolder(id)))).map(({ key }) => key);
    return unnamedKeys(index, keys);
  }

  /** Some records with random values; `hot`: all of them of one key. */
  async ingest(model: ModelTimeline, recordCount: number, { hot }: { readonly hot?: Key } = {}): Promise<void> {
    const values: ModelValue[] = [];
    let lsn: number = model.lastRecordLsn;
    for (let i = 0; i < recordCount; i++) {
      model.prevRecordLsn = lsn as Lsn;
      lsn += 8 * (1 + this.#random.below(20));
      // No record ends in the header of a WAL page.
      if (lsn % 8192 < 48) lsn += 48;
      for (let n = this.#random.pick([0, 1, 1, 2, 4]); n > 0; n--)
        values.push(...this.#change(model, values, lsn as Lsn, hot));
    }
    model.log.push(...values);
    model.lastRecordLsn = lsn as Lsn;
    await this.#put(model, values);
  }

  /** What one change puts: a value, and what goes with it where a relation grows. */
  #change(model: ModelTimeline, pending: readonly ModelValue[], lsn: Lsn, hot: Key | undefined): ModelValue[] {
    const random = this.#random;
    const { prefix, block } = hot ?? random.pick(allKeys);
    const size = sizeWith(model, pending, prefix, lsn);
    if (block === sizeBlock) {
      const isDropped = random.chance(0.1);
      const next = isDropped ? 0 : random.below(relBlocks);
      return [...this.#extend(prefix, size, next, lsn), sizeValue(prefix, lsn, isDropped ? null : next)];
    }
    const value = this.#value(prefix, block, lsn);
    if (block < size) return [value];
    return [...this.#extend(prefix, size, block + 1, lsn), sizeValue(prefix, lsn, block + 1), value];
  }

  /** Nothing from before a truncation shines through (ingest/wal-ingest.ts). */
  #extend(prefix: KeyPrefix, size: number, next: number, lsn: Lsn): ModelValue[] {
    const gaps = Array.from({ length: Math.max(0, next - size) }, (_, i) => size + i);
    return gaps.map((block) => ({ prefix, block, lsn, kind: valueKind.image, bytes: new Uint8Array(0) }));
  }

  #value(prefix: KeyPrefix, block: number, lsn: Lsn): ModelValue {
    const random = this.#random;
    const bytes = new Uint8Array(1 + random.below(200));
    random.fill(bytes);
    bytes[0]! &= 0x7f;
    if (random.chance(0.1)) {
      const image = new Uint8Array(random.chance(0.2) ? 0 : 8192);
      random.fill(image.subarray(0, 100));
      return { prefix, block, lsn, kind: valueKind.image, bytes: image };
    }
    if (prefix === slru || random.chance(0.1)) {
      return { prefix, block, lsn, kind: valueKind.patch, bytes: slruWritePatch(random.below(7000), bytes) };
    }
    return { prefix, block, lsn, kind: random.chance(0.1) ? valueKind.recordWillInit : valueKind.record, bytes };
  }

  async #put(model: ModelTimeline, values: readonly ModelValue[]): Promise<void> {
    const running = this.running.get(model.id.timelineId)!;
    const { timeline } = running;
    if (timeline.stopped !== null) throw timeline.stopped;
    for (const { prefix, block, lsn, kind, bytes } of values) {
      if (kind === valueKind.image) timeline.putImage(prefix, block, lsn, bytes);
      else if (kind === valueKind.patch) timeline.putPatch(prefix, block, lsn, bytes);
      else {
        const handle = timeline.addRecord(lsn, bytes, 0, bytes.length);
        timeline.putRecord(prefix, block, lsn, handle, kind === valueKind.recordWillInit);
      }
    }
    timeline.advance(model.lastRecordLsn, model.prevRecordLsn);
    await running.afterBatch();
  }

  /** Resolves when the store has it, or at least the disk before the store. */
  flush(model: ModelTimeline, { isUploaded = true } = {}): Promise<void> {
    return this.running.get(model.id.timelineId)!.flush({ isUploaded });
  }

  /** Jobs are done there from now on. */
  compactWith(host: CompactionHost): void {
    this.#compaction = host;
  }

  compact(model: ModelTimeline, force: CompactionForce): Promise<void> {
    return this.running.get(model.id.timelineId)!.compact(force);
  }

  /** Collects what is before `cutoffLsn`, but for branch points and leases. */
  collect(model: ModelTimeline, cutoffLsn: Lsn): Promise<GcResult> {
    const running = this.running.get(model.id.timelineId)!;
    const branches = this.models.filter(({ ancestor }) => ancestor?.of === model).map(({ ancestor }) => ancestor!.lsn);
    return running.collectGarbage(cutoffLsn, () => branches);
  }

  /** As a read-only endpoint asks for it. */
  async lease(model: ModelTimeline, lsn: Lsn): Promise<number> {
    return (await this.running.get(model.id.timelineId)!.pages.leaseLsn(lsn)).validForMs;
  }

  /** A new process over `store`: nothing in memory survives. Ingest then goes on from what is in layers. */
  async restart(store: RigStore): Promise<void> {
    this.running.clear();
    this.#shared = this.#parts(store, await insist(() => claimTenant(store, this.#tenant, nodeId(1))));
    for (const model of this.models) {
      await this.#start(model, await insist(() => StoredIndex.load(store, model.id, this.#generation)));
    }
    for (const model of this.models) {
      const { timeline } = this.running.get(model.id.timelineId)!;
      if (timeline.diskConsistentLsn < model.lastRecordLsn) {
        await this.#put(
          model,
          model.log.filter(({ lsn }) => lsn > timeline.diskConsistentLsn),
        );
      }
    }
  }

  /** A key's value as the timeline reads it. */
  async read(model: ModelTimeline, key: Key, lsn: Lsn): Promise<Uint8Array | null> {
    const { pages } = this.running.get(model.id.timelineId)!;
    return (await pages.getImages({ requestLsn: lsn, notModifiedSince: lsn }, [key]))[0]!;
  }

  async close(): Promise<void> {
    for (const running of this.running.values()) await running.close();
  }
}
