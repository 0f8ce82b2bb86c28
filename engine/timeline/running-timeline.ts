/**
 * One timeline with everything that works on it: state, flusher, image creation, WAL receiver, page service. Wires them, starts and ends them.
 */

import { must } from '../assert.ts';
import { messageOf, PageliteError } from '../errors.ts';
import { WalReceiver } from '../ingest/wal-receiver.ts';
import type { BlockCache } from '../layers/block-cache.ts';
import type { ClockCache } from '../layers/clock-cache.ts';
import { LayerFile } from '../layers/layer-file.ts';
import { parseLayerName } from '../layers/layer-name.ts';
import type { WrittenLayer } from '../layers/layer-writer.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatKey, type Key } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { Clock, Log, ObjectStore, Random, WalRedo, WalService } from '../services.ts';
import { Flusher, type FlushLimits } from './flush.ts';
import { type Ancestor, gather } from './gather.ts';
import { ImageCreation, type ImageLimits } from './image-creation.ts';
import { type IndexPart, type StoredIndex, timelineFolder } from './index-part.ts';
import { LogicalSize } from './logical-size.ts';
import { PageVersions } from './page-versions.ts';
import { reconstructWhenReady, WorkBudget, type YieldTurn } from './reconstruct.ts';
import { SlowReads } from './slow-reads.ts';
import { Timeline } from './timeline.ts';
import { TimelinePageService } from './timeline-page-service.ts';
import { LsnWaiters } from './wait-lsn.ts';

export interface TimelineLimits extends FlushLimits, ImageLimits {
  readonly waitLsnTimeoutMs: number;
  readonly openChainLengthMax: number;
}

/** What all timelines of a pageserver share. */
export interface SharedParts {
  readonly store: ObjectStore;
  readonly wal: readonly WalService[];
  readonly redo: WalRedo;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly limits: TimelineLimits;
  readonly blocks: BlockCache;
  readonly versions: ClockCache;
  readonly yieldTurn: YieldTurn;
}

/** Turns of the event loop that image creation lets pass at most while reads are being served. */
const turnsForReadsMax = 20;
/** A read that redid this many times the records that make a page worth an image asks for one. */
const redoFactorForImage = 4;

export class RunningTimeline {
  readonly timeline: Timeline;
  readonly pages: TimelinePageService;
  readonly index: StoredIndex;
  logicalSize: LogicalSize;
  readonly #shared: SharedParts;
  readonly #id: TenantTimelineId;
  readonly #folder: string;
  readonly #flusher: Flusher;
  readonly #images: ImageCreation;
  readonly #receiver: WalReceiver;
  readonly #abort = new AbortController();
  readonly #chainBudget: WorkBudget;
  readonly #fed: LsnWaiters;
  #fedLsn: Lsn;
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
    this.#folder = timelineFolder(id);
    this.#leftovers = leftovers;
    this.index = index;
    this.timeline = timelineOf(id, index.part, ancestor, shared);
    this.#chainBudget = new WorkBudget(shared.yieldTurn);
    this.#fed = new LsnWaiters(shared.clock, shared.limits.waitLsnTimeoutMs);
    this.#fedLsn = index.part.diskConsistentLsn;
    const { store, clock, log, limits, yieldTurn } = shared;
    const { timeline } = this;
    const openLayer = ({ name, bytes }: WrittenLayer) => this.#layerFile(name, bytes.length);
    const parts = { timeline, index, store, clock, log, limits, yieldTurn, openLayer, signal: this.#abort.signal };
    this.#flusher = new Flusher({ ...parts, onFlushed: () => this.#onFlushed() });
    this.#images = new ImageCreation({ ...parts, yieldToReads: () => this.#yieldToReads() });
    this.pages = new TimelinePageService(timeline, {
      yieldTurn,
      clock,
      slowReads: new SlowReads(id, clock, log),
      checkOpen: () => this.#checkOpen(),
      settled: () => this.#settling,
      onRedo: (prefix, block, records) => {
        if (records >= limits.imageChainRecordsMin * redoFactorForImage) this.#images.want(prefix, block);
      },
    });
    this.logicalSize = this.#newLogicalSize();
    this.#receiver = new WalReceiver({
      target: timeline,
      services: shared.wal,
      clock,
      random: shared.random,
      log,
      yieldTurn,
      afterBatch: () => this.afterBatch(),
      onFed: (lsn) => this.#onFed(lsn),
    });
    timeline.onWait = () => this.#receiver.hurry();
    timeline.onStop = (error) => this.#fed.fail(error);
  }

  get isClosed(): boolean {
    return this.#abort.signal.aborted;
  }

  start(): void {
    this.#receiver.start();
    this.#images.kick();
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
    const { timeline, index } = this;
    if (timeline.lastRecordLsn !== base || timeline.diskConsistentLsn !== base) {
      throw new PageliteError('fenced', `timeline ${this.#id.timelineId} has been written meanwhile`, { ...this.#id });
    }
    const { diskConsistentLsn, prevRecordLsn, layers } = piece;
    await index.update((part) => ({
      ...part,
      diskConsistentLsn,
      prevRecordLsn,
      // Where they have images, none are made here: those of one LSN must not overlap.
      imagedLsn: Math.max(part.imagedLsn, piece.imagedLsn) as Lsn,
      layers: [...part.layers, ...layers],
    }));
    timeline.extend(
      diskConsistentLsn,
      prevRecordLsn,
      layers.map(({ name, size }) => this.#layerFile(name, size)),
    );
    // Those layers hold more than ingest knows of.
    this.logicalSize = this.#newLogicalSize();
    this.#onFed(diskConsistentLsn);
    this.#onFlushed();
  }

  flush(): Promise<void> {
    this.#checkOpen();
    return this.#flusher.flushAll();
  }

  /** Resolves when no image creation is under way. */
  imagesIdle(): Promise<void> {
    return this.#images.idle();
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
    await this.#images.idle();
    for (const file of this.timeline.layers.files.layers()) file.forget();
  }

  /** Bytes of its own layer files. */
  get layerBytes(): number {
    return this.index.part.layers.reduce((sum, { size }) => sum + size, 0);
  }

  #newLogicalSize(): LogicalSize {
    const { clock, yieldTurn } = this.#shared;
    return new LogicalSize({
      timeline: this.timeline,
      clock,
      yieldTurn,
      readerAt: (lsn) => this.pages.readerAt(lsn),
    });
  }

  #checkOpen(): void {
    if (this.isClosed) throw this.#abort.signal.reason;
  }

  #layerFile(name: string, size: number): LayerFile {
    return layerFileOf(this.#id, name, size, this.#shared);
  }

  #onFed(lsn: Lsn): void {
    this.#fedLsn = lsn;
    this.#fed.wake(lsn);
  }

  #onFlushed(): void {
    this.#images.kick();
    const leftovers = this.#leftovers;
    this.#leftovers = [];
    if (leftovers.length > 0) this.#removeLeftovers(leftovers);
  }

  /** The index was swapped by us, so nobody else is at work in this folder. */
  #removeLeftovers(keys: readonly string[]): void {
    const { store, log } = this.#shared;
    for (const key of keys) {
      if (this.index.part.layers.some(({ name }) => this.#folder + name === key)) continue;
      log.info('removing a file that the index does not name', { file: key });
      store.delete(key).catch((error: Error) => log.warn('cannot remove a file', { file: key, error: error.message }));
    }
  }

  async #yieldToReads(): Promise<void> {
    await this.#shared.yieldTurn();
    for (let i = 0; i < turnsForReadsMax && this.pages.reading > 0; i++) await this.#shared.yieldTurn();
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
      files: part.layers.map(({ name, size }) => layerFileOf(id, name, size, shared)),
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

function layerFileOf(id: TenantTimelineId, name: string, size: number, { store, blocks }: SharedParts): LayerFile {
  return new LayerFile(id, must(parseLayerName(name)), timelineFolder(id), size, store, blocks);
}
