/**
 * One timeline with everything that works on it: state, flusher, image creation, WAL receiver, page service. Wires them, starts and ends them.
 */

import { must } from '../assert.ts';
import type { CompactionHost } from '../compaction/compaction-parts.ts';
import type { TimelineCounters } from '../counters.ts';
import { messageOf, PageliteError } from '../errors.ts';
import type { SafekeeperSurvey } from '../ingest/safekeeper-survey.ts';
import { WalReceiver } from '../ingest/wal-receiver.ts';
import type { BlockCache } from '../layers/block-cache.ts';
import type { ClockCache } from '../layers/clock-cache.ts';
import { LayerFile } from '../layers/layer-file.ts';
import { isLayerKey, parseLayerName } from '../layers/layer-name.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatKey, type Key } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { Clock, LayerStaging, Log, ObjectStore, Random, WalRedo, WalService } from '../services.ts';
import { Compaction, type CompactionForce, type CompactionLimits } from './compaction.ts';
import { ConsistencyReport } from './consistency-report.ts';
import { writeInheritedPages } from './detach-ancestor.ts';
import { Flusher, type FlushLimits, type FlushPressure } from './flush.ts';
import { collectGarbage, type GcResult } from './garbage-collection.ts';
import { type Ancestor, gather } from './gather.ts';
import { type IndexPart, type LayerEntry, layerKey, type StoredIndex, timelineFolder } from './index-part.ts';
import { LogicalSize } from './logical-size.ts';
import { LsnLeases } from './lsn-leases.ts';
import { PageVersions } from './page-versions.ts';
import { reconstructWhenReady, WorkBudget, type YieldTurn } from './reconstruct.ts';
import { SlowReads } from './slow-reads.ts';
import type { TenantAttachment } from './tenant-claims.ts';
import type { TenantConfig } from './tenant-config.ts';
import { Timeline } from './timeline.ts';
import { TimelinePageService } from './timeline-page-service.ts';
import { UploadQueue } from './upload-queue.ts';
import { LsnWaiters } from './wait-lsn.ts';

export interface TimelineLimits extends FlushLimits, CompactionLimits {
  readonly waitLsnTimeoutMs: number;
  readonly openChainLengthMax: number;
}

/** What all timelines of a tenant share, most of it with those of other tenants. */
export interface SharedParts {
  readonly store: ObjectStore;
  /** Null: layers go to the store at once. */
  readonly staging: LayerStaging | null;
  readonly attachment: TenantAttachment;
  readonly wal: readonly WalService[];
  readonly survey: SafekeeperSurvey;
  readonly redo: WalRedo;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly limits: TimelineLimits;
  /** The tenant's settings as they are now. */
  readonly config: () => TenantConfig;
  readonly blocks: BlockCache;
  readonly versions: ClockCache;
  readonly compaction: CompactionHost;
  readonly yieldTurn: YieldTurn;
  /** What happened in timelines that are deleted. */
  readonly deletedCounters: TimelineCounters;
}

export class RunningTimeline {
  readonly timeline: Timeline;
  readonly pages: TimelinePageService;
  readonly index: StoredIndex;
  readonly uploads: UploadQueue;
  readonly leases: LsnLeases;
  readonly compaction: Compaction;
  logicalSize: LogicalSize;
  readonly #shared: SharedParts;
  readonly #id: TenantTimelineId;
  readonly #flusher: Flusher;
  readonly #receiver: WalReceiver;
  readonly #consistency: ConsistencyReport;
  readonly #abort = new AbortController();
  readonly #chainBudget: WorkBudget;
  readonly #fed: LsnWaiters;
  #fedLsn: Lsn;
  #isDetaching = false;
  /** Indexes whose layers somebody reads by name. */
  readonly #held = new Set<IndexPart>();
  #removing: Promise<void> = Promise.resolve();
  /** When a layer was flushed last, or the timeline was opened. */
  #lastFlushMs: number;
  #lastCompactionMs: number;
  /** Resolves when it is known again where the timeline ends. */
  #settling: Promise<void> | undefined;
  /** Files in the folder that the index did not name when it was loaded: left by a crash. */
  #leftovers: readonly string[];

  constructor(
    id: TenantTimelineId,
    index: StoredIndex,
    ancestor: Ancestor | null,
    leftovers: readonly string[],
    shared: SharedParts,
  ) {
    this.#shared = shared;
    this.#id = id;
    this.#leftovers = leftovers;
    this.index = index;
    this.timeline = timelineOf(id, index.part, ancestor, shared);
    this.#chainBudget = new WorkBudget(shared.yieldTurn);
    this.#fed = new LsnWaiters(shared.clock, shared.limits.waitLsnTimeoutMs);
    this.#fedLsn = index.part.diskConsistentLsn;
    this.#lastFlushMs = shared.clock.now();
    this.#lastCompactionMs = this.#lastFlushMs;
    this.leases = new LsnLeases(index.part.leases, this.#lastFlushMs, shared.config().lsn_lease_length);
    const { clock, log, limits, yieldTurn } = shared;
    const { timeline } = this;
    const { signal } = this.#abort;
    this.uploads = new UploadQueue({
      ...shared,
      index,
      signal,
      readersGone: () => timeline.readers.gone(),
      onStored: () => {
        this.#takeLeftovers();
        this.#consistency.tell();
      },
      onFailure: (error) => timeline.stop(error),
    });
    const { uploads } = this;
    this.#consistency = new ConsistencyReport({
      id,
      services: shared.wal,
      attachment: shared.attachment,
      storedLsn: () => uploads.storedPart.diskConsistentLsn,
      clock,
      log,
      signal,
    });
    const openLayer = (entry: LayerEntry) => layerFileOf(id, entry, shared);
    const parts = { timeline, uploads, clock, log, limits, yieldTurn, openLayer, signal };
    const checkpointDistance = () => shared.config().checkpoint_distance;
    this.#flusher = new Flusher({
      ...parts,
      checkpointDistance,
      pressure: () => this.#flushPressure(),
      onFlushed: () => this.#onFlushed(),
    });
    this.compaction = new Compaction({
      ...parts,
      host: shared.compaction,
      config: shared.config,
      onStep: () => this.#flusher.pressureChanged(),
    });
    this.pages = new TimelinePageService(timeline, {
      yieldTurn,
      clock,
      slowReads: new SlowReads(id, clock, log),
      checkOpen: () => this.#checkOpen(),
      settled: () => this.#settling,
      remoteConsistentLsn: () => uploads.storedPart.diskConsistentLsn,
      // Of the branch point all is the ancestor's, which keeps it.
      isLeased: (lsn) => this.leases.has(lsn, clock.now()) || (this.#isDetaching && lsn === timeline.startLsn),
      lease: (lsn) => this.#lease(lsn),
    });
    this.logicalSize = this.#newLogicalSize();
    this.#receiver = new WalReceiver({
      target: timeline,
      services: shared.wal,
      survey: shared.survey,
      clock,
      random: shared.random,
      log,
      yieldTurn,
      afterBatch: () => this.afterBatch(),
      onFed: (lsn) => this.#onFed(lsn),
      onFollow: () => this.#consistency.tell({ again: true }),
    });
    timeline.onWait = () => this.#receiver.hurry();
    timeline.onStop = (error) => {
      this.#fed.fail(error);
      this.#flusher.pressureChanged();
    };
  }

  get isClosed(): boolean {
    return this.#abort.signal.aborted;
  }

  start(): void {
    this.#receiver.start();
    this.#compactSoon();
    if (this.index.isOwn) this.#takeLeftovers();
    // Layers that nobody needs take room; an index of before goes with the next change.
    else if (this.#leftovers.some(isLayerKey)) {
      void this.uploads.change((part) => part);
    }
  }

  /** Ingest is at a record boundary. A promise to await before the next batch, if there is too much in memory. */
  afterBatch(): Promise<void> | undefined {
    const keys = this.timeline.openLayer.takeLongChains();
    if (keys.length === 0) return this.#flusher.afterBatch();
    return this.#shortenChains(keys).then(() => this.#flusher.afterBatch());
  }

  /** Puts images of pages that change again and again, so that a read never has to redo more than the last few hundred records of one. */
  async #shortenChains(keys: readonly Key[]): Promise<void> {
    const { timeline } = this;
    const { lastRecordLsn, openLayer } = timeline;
    for (const { prefix, block } of keys) {
      try {
        const [chain] = await gather(timeline, prefix, block, 1, lastRecordLsn + 1);
        const pause = this.#chainBudget.spend(chain!.lsns.length);
        if (pause !== undefined) await pause;
        const image = await reconstructWhenReady(chain!, timeline.redo, timeline.versions, timeline.id);
        if (timeline.openLayer !== openLayer) return;
        if (image !== null) timeline.putImage(prefix, block, lastRecordLsn, image);
      } catch (error) {
        // Its readers will hear of it; ingest goes on.
        const key = formatKey(prefix, block);
        this.#shared.log.warn('a page cannot be rebuilt', { ...timeline.id, key, error: messageOf(error) });
      }
    }
  }

  /** Resolves when every whole record below `lsn` is ingested, also if `lsn` is inside the last one. Rejects as a read would. */
  async catchUp(lsn: Lsn): Promise<void> {
    if (lsn <= this.#fedLsn || lsn <= this.timeline.lastRecordLsn) return;
    if (this.timeline.stopped !== null) await this.timeline.waitLsn(lsn);
    const wait = this.#fed.wait(lsn, this.#abort.signal);
    this.#receiver.hurry();
    await wait;
  }

  /** While `work` runs, nobody hears where the timeline ends: whoever asks waits. */
  async whileUnsettled<T>(work: () => Promise<T>): Promise<T> {
    const done = work();
    const settling = done.then(
      () => {},
      () => {},
    );
    this.#settling = settling;
    try {
      return await done;
    } finally {
      if (this.#settling === settling) this.#settling = undefined;
    }
  }

  /**
   * Goes on with layers that were made elsewhere and are in the folder: the index first, then reads see them. Throws `fenced` if the timeline does
   * not end at `base`, all of it in files. Nobody writes WAL to it meanwhile.
   */
  async extend(base: Lsn, piece: IndexPart): Promise<void> {
    this.#checkOpen();
    const { timeline, uploads } = this;
    if (timeline.lastRecordLsn !== base || timeline.diskConsistentLsn !== base) {
      throw new PageliteError('fenced', `timeline ${this.#id.timelineId} has been written meanwhile`, { ...this.#id });
    }
    const { diskConsistentLsn, prevRecordLsn, layers } = piece;
    await uploads.tryChange((part) => ({
      ...part,
      diskConsistentLsn,
      prevRecordLsn,
      layers: [...part.layers, ...layers],
    }));
    timeline.extend(
      diskConsistentLsn,
      prevRecordLsn,
      layers.map((entry) => layerFileOf(this.#id, entry, this.#shared)),
    );
    // Those layers hold more than ingest knows of.
    this.logicalSize = this.#newLogicalSize();
    this.#onFed(diskConsistentLsn);
    this.#onFlushed();
  }

  /**
   * What is due by the clock: a flush of what nobody adds to, compaction of what was flushed. A timeline that is not written to any more has all of its
   * flushed layers merged, however few they are.
   */
  keepHouse(): void {
    const { clock, config } = this.#shared;
    const { checkpoint_timeout, compaction_period } = config();
    const nowMs = clock.now();
    const { timeline } = this;
    if (this.isClosed || timeline.stopped !== null) return;
    // Settings may have changed.
    this.#flusher.pressureChanged();
    const hasUnflushed = timeline.lastRecordLsn > timeline.diskConsistentLsn;
    if (checkpoint_timeout > 0 && hasUnflushed && nowMs - this.#lastFlushMs >= checkpoint_timeout) {
      this.#lastFlushMs = nowMs;
      // The flusher tells of a failure.
      this.flush().catch(() => {});
    }
    if (compaction_period > 0 && nowMs - this.#lastCompactionMs >= compaction_period) {
      this.#lastCompactionMs = nowMs;
      const isQuiet = nowMs - this.#lastFlushMs >= compaction_period;
      this.compaction.kick(isQuiet && this.compaction.hasFlushed ? 'merge' : 'none');
    }
  }

  /** Everything ingested so far is in layers. With `isUploaded` also in the store, if that is not the same. */
  async flush({ isUploaded = false }: { readonly isUploaded?: boolean } = {}): Promise<void> {
    this.#checkOpen();
    await this.#flusher.flushAll();
    if (isUploaded) await this.uploads.idle();
  }

  /** Resolves when the store has everything, and what is not needed there is gone. */
  async settled(): Promise<void> {
    await this.uploads.idle();
    await this.#removing;
    await this.uploads.settled();
  }

  /** While `work` runs, layers of `part`, an index of this timeline, are there. */
  async holdingLayers<T>(part: IndexPart, work: () => Promise<T>): Promise<T> {
    const { readers } = this.timeline;
    const epoch = readers.enter();
    this.#held.add(part);
    try {
      return await work();
    } finally {
      this.#held.delete(part);
      readers.leave(epoch);
    }
  }

  /** Of the index, or of one that is held; null if none has it. */
  findLayer(name: string): LayerEntry | null {
    for (const { layers } of [this.uploads.part, ...this.#held]) {
      const found = layers.find((layer) => layer.name === name);
      if (found !== undefined) return found;
    }
    return null;
  }

  /** See garbage-collection.ts. What is leased or being read stays, beside `branchPoints`. */
  collectGarbage(cutoffLsn: Lsn, branchPoints: () => readonly Lsn[]): Promise<GcResult> {
    this.#checkOpen();
    const { clock } = this.#shared;
    // What comes up to the last moment counts: nothing is awaited between this look and the change.
    return this.compaction.exclusive(() =>
      collectGarbage(this.timeline, this.uploads, {
        cutoffLsn: Math.min(cutoffLsn, this.pages.floorLsn) as Lsn,
        leases: this.leases.active(clock.now()).map(({ lsn }) => lsn),
        points: [...branchPoints(), ...this.pages.lsnsRead()],
      }),
    );
  }

  /** Makes a branch independent of its ancestor. Nothing happens to a timeline that has none. */
  async detachAncestor(): Promise<void> {
    this.#checkOpen();
    const { timeline, uploads } = this;
    await this.compaction.exclusive(async () => {
      if (timeline.ancestor === null) return;
      const entries: LayerEntry[] = [];
      try {
        this.#isDetaching = true;
        await writeInheritedPages({
          id: this.#id,
          pages: this.pages,
          lsn: timeline.startLsn,
          targetBytes: this.#shared.config().compaction_target_size,
          signal: this.#abort.signal,
          put: async (written) => {
            entries.push(await uploads.addLayer(written, true));
          },
        });
      } catch (error) {
        await uploads.discard(entries.map((entry) => layerKey(this.#id, entry)));
        throw error;
      } finally {
        this.#isDetaching = false;
      }
      const stored = uploads.change((part) => ({ ...part, ancestor: null, layers: [...part.layers, ...entries] }));
      timeline.detached(entries.map((entry) => layerFileOf(this.#id, entry, this.#shared)));
      await stored;
    });
  }

  /** Everything is in the store and says that the timeline rests; nothing of it runs any more. */
  async archive(): Promise<void> {
    await this.flush({ isUploaded: true });
    await this.compaction.exclusive(() =>
      this.uploads.change((part) => ({ ...part, archivedAtMs: this.#shared.clock.now() })),
    );
    await this.settled();
    await this.close();
  }

  /** Compacts now, until there is nothing more to do; by force also what is little (compaction/plan.ts). */
  compact(force: CompactionForce = 'none'): Promise<void> {
    this.#checkOpen();
    this.compaction.retryBlocked();
    return this.compaction.run(force);
  }

  /** Ends everything; loses nothing: what is not in layers is read from the safekeepers again. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    const closed = new PageliteError('closed', `timeline ${this.timeline.id.timelineId} was closed`);
    this.#abort.abort(closed);
    const receiver = this.#receiver.close();
    this.timeline.stop(closed);
    await this.#flusher.close();
    await receiver;
    await this.compaction.idle();
    await this.uploads.close();
    for (const file of this.timeline.layers.files.layers()) file.forget();
  }

  /** Bytes of its own layer files. */
  get layerBytes(): number {
    return this.uploads.part.layers.reduce((sum, { size }) => sum + size, 0);
  }

  #newLogicalSize(): LogicalSize {
    const { clock, yieldTurn } = this.#shared;
    return new LogicalSize({
      timeline: this.timeline,
      clock,
      yieldTurn,
      reading: (lsn, work) => this.pages.holdingFrom(lsn, () => work(this.pages.readerAt(lsn))),
    });
  }

  /** For how long it holds, in milliseconds: it is stored then. */
  async #lease(lsn: Lsn): Promise<number> {
    const { clock, config, attachment } = this.#shared;
    const { lsn_lease_length: lengthMs, gc_period } = config();
    const nowMs = clock.now();
    const { validUntilMs } = this.leases.grant(lsn, nowMs, lengthMs);
    // From here on garbage collection sees it.
    const { storedPart, part } = this.uploads;
    const hasIt = ({ leases }: IndexPart) => leases.some((one) => one.lsn === lsn && one.validUntilMs >= validUntilMs);
    // In the store, and not about to go from there.
    const isStored = hasIt(storedPart) && hasIt(part);
    // A tab collects no garbage: its leases keep nothing that would go, and reading must not need room.
    const isNeeded = gc_period > 0 || attachment.generation > 0;
    if (!isStored && lengthMs > 0 && isNeeded) {
      await this.uploads.storeLeases(this.leases.toStore(part.leases, nowMs, lengthMs));
    }
    return Math.max(0, nowMs + lengthMs - clock.now());
  }

  #checkOpen(): void {
    if (this.isClosed) throw this.#abort.signal.reason;
  }

  #onFed(lsn: Lsn): void {
    this.#fedLsn = lsn;
    this.#fed.wake(lsn);
  }

  #onFlushed(): void {
    this.#lastFlushMs = this.#shared.clock.now();
    this.#compactSoon();
  }

  #compactSoon(): void {
    if (this.#shared.config().compaction_period > 0) this.compaction.kick();
  }

  /** Nothing waits for compaction that is off, fails, or has nothing that it can merge; a slower pace gives it time even then (as in Neon). */
  #flushPressure(): FlushPressure {
    const { compaction_period, compaction_threshold, l0_flush_delay_threshold, l0_flush_stall_threshold } =
      this.#shared.config();
    const at = (threshold: number, isOn: boolean) =>
      isOn && threshold > 0 && compaction_period > 0
        ? Math.max(threshold, compaction_threshold)
        : Number.POSITIVE_INFINITY;
    return {
      l0Layers: this.compaction.flushedLayers,
      delayAt: at(l0_flush_delay_threshold, true),
      stallAt: at(l0_flush_stall_threshold, this.compaction.isHealthy),
    };
  }

  #takeLeftovers(): void {
    const leftovers = this.#leftovers;
    this.#leftovers = [];
    if (leftovers.length > 0) this.#removing = this.#removeLeftovers(leftovers);
  }

  /** Once an index of ours is stored, what earlier owners or a crash left beside it is waste. */
  async #removeLeftovers(keys: readonly string[]): Promise<void> {
    await this.uploads.idle().catch(() => {});
    if (this.isClosed || this.timeline.stopped !== null) return;
    await this.uploads.removeLeftovers(keys);
  }
}

/** The state of a timeline as its index has it. Reads nothing yet. */
export function timelineOf(
  id: TenantTimelineId,
  part: IndexPart,
  ancestor: Ancestor | null,
  shared: SharedParts,
): Timeline {
  return new Timeline(
    {
      id,
      systemIdentifier: part.systemIdentifier,
      startLsn: part.startLsn,
      ancestorId: part.ancestor?.timelineId ?? null,
      ancestor,
      diskConsistentLsn: part.diskConsistentLsn,
      prevRecordLsn: part.prevRecordLsn,
      gcCutoffLsn: part.gcCutoffLsn,
      files: part.layers.map((entry) => layerFileOf(id, entry, shared)),
    },
    {
      redo: shared.redo,
      versions: new PageVersions(shared.versions),
      clock: shared.clock,
      waitLsnTimeoutMs: shared.limits.waitLsnTimeoutMs,
      openChainLengthMax: shared.limits.openChainLengthMax,
    },
  );
}

function layerFileOf(id: TenantTimelineId, entry: LayerEntry, { store, blocks }: SharedParts): LayerFile {
  const { name, size } = entry;
  return new LayerFile(id, must(parseLayerName(name)), timelineFolder(id), size, store, blocks, entry);
}
