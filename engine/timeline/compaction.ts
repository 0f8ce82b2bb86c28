/**
 * Compaction of one timeline: decides what is next (compaction/plan.ts), has it done, and puts the result in the place of what it was made of.
 *
 * Looks for something to do after each flush, and when `kick` is called (by the clock of its pageserver, pageserver.ts). A job's layers are made by the
 * CompactionHost: a worker thread in Node, this thread in turns in a tab. Jobs of all timelines of a pageserver are done one after another.
 *
 * Invariants:
 * - the result of a job replaces its inputs in one change of the index, or nothing changes
 * - compaction and garbage collection of a timeline do not overlap (`exclusive`)
 * - reads go on meanwhile: layers that were replaced are deleted after the reads that hold them (upload-queue.ts)
 * - a column with a page that cannot be rebuilt gets no image for a while; others go on
 * - a delta layer that cannot be read whole is set aside for a while, and merged with nothing; others go on around it (compaction/plan.ts)
 * - what is blocked so is told (`status`) until it is found whole, or gone
 */

import { type Column, findColumns, isFlushed } from '../compaction/columns.ts';
import type { CompactionHost, CompactionTask } from '../compaction/compaction-parts.ts';
import { type CompactionJob, nextJob, type PlanInput } from '../compaction/plan.ts';
import { isPageliteError, messageOf } from '../errors.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import type { KeyRange } from '../layers/layer-name.ts';
import { compactionBlockedMs, compactionRetryMaxMs, compactionRetryMinMs, layerBytesMax } from '../limits.ts';
import { compareKeys, formatKey, type Key } from '../model/key.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log } from '../services.ts';
import { type LayerEntry, layerKey } from './index-part.ts';
import type { ReaderEpoch, Readers } from './readers.ts';
import type { YieldTurn } from './reconstruct.ts';
import type { TenantConfig } from './tenant-config.ts';
import type { Timeline } from './timeline.ts';
import type { UploadQueue } from './upload-queue.ts';

export interface CompactionLimits {
  /** A chain of records this long gets an image when its layers are merged. */
  readonly imageChainRecordsMin: number;
  readonly imageChainBytesMin: number;
  /** Deltas of a key range that are fewer bytes than this do not call for images. */
  readonly imageDeltaBytesMin: number;
}

export interface TimelineCompactionParts {
  readonly timeline: Timeline;
  readonly uploads: UploadQueue;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: CompactionLimits;
  readonly yieldTurn: YieldTurn;
  readonly signal: AbortSignal;
  readonly host: CompactionHost;
  config(): TenantConfig;
  openLayer(layer: LayerEntry): LayerFile;
  /** There may be fewer flushed layers now, or merging has begun to fail. */
  onStep(): void;
}

export type CompactionForce = PlanInput<LayerFile>['force'];

export interface CompactionStatus {
  readonly isRunning: boolean;
  /** What is done now, and the bytes of layers that it has written so far. */
  readonly job: { readonly kind: Job['kind']; readonly bytesWritten: number } | null;
  /** Flushed layers that are not merged yet. */
  readonly flushedLayers: number;
  /** Why the last job failed, or something is left alone; null: neither. */
  readonly lastError: string | null;
  /** What is damaged and left alone. */
  readonly blocked: readonly BlockedPart[];
}

export interface BlockedPart {
  /** Key ranges get no images, layers are not merged. */
  readonly kind: 'images' | 'merge';
  /** Key range, or name of the layer. */
  readonly what: string;
  readonly error: string;
  /** It is left alone until then. */
  readonly untilMs: number;
}

type Job = CompactionJob<LayerFile>;

interface Blocked {
  readonly error: string;
  untilMs: number;
}

interface BlockedColumn extends Blocked {
  readonly start: Key;
  readonly end: Key;
}

/** What columns were found of. */
interface FoundColumns {
  readonly of: readonly unknown[];
  readonly columns: readonly Column<LayerFile>[];
}

export class Compaction {
  readonly #parts: TimelineCompactionParts;
  #blocked: BlockedColumn[] = [];
  /** By name. */
  #setAside: ReadonlyMap<string, Blocked> = new Map();
  #isFailing = false;
  /** Layers wait to be merged, and cannot. */
  #isStuck = false;
  #found: FoundColumns | null = null;
  /** What there was nothing to do with. */
  #nothingIn: readonly unknown[] = [];
  #exclusive: Promise<unknown> = Promise.resolve();
  #running: Promise<void> | null = null;
  #retryAtMs = 0;
  #retryPauseMs = compactionRetryMinMs;
  #lastError: string | null = null;
  #job: { readonly kind: Job['kind']; bytesWritten: number } | null = null;

  constructor(parts: TimelineCompactionParts) {
    this.#parts = parts;
  }

  get status(): CompactionStatus {
    return {
      isRunning: this.#running !== null || this.#job !== null,
      job: this.#job && { ...this.#job },
      flushedLayers: this.#flushed().length,
      lastError: this.#lastError ?? this.#blockedParts()[0]?.error ?? null,
      blocked: this.#blockedParts(),
    };
  }

  /** Flushed layers that will be merged. */
  get flushedLayers(): number {
    return this.#flushed().length;
  }

  /** Whether waiting for it makes sense: merging does not fail, and there is something that it can do. */
  get isHealthy(): boolean {
    return !this.#isFailing && !this.#isStuck;
  }

  #blockedParts(): BlockedPart[] {
    const columns = this.#blocked.map(({ start, end, error, untilMs }) => ({
      kind: 'images' as const,
      what: `${keyText(start)}-${keyText(end)}`,
      error,
      untilMs,
    }));
    const layers = [...this.#setAside].map(([what, blocked]) => ({ kind: 'merge' as const, what, ...blocked }));
    return [...layers, ...columns];
  }

  /** What was left alone is tried again now. */
  retryBlocked(): void {
    for (const blocked of [...this.#blocked, ...this.#setAside.values()]) blocked.untilMs = 0;
    this.#nothingIn = [];
  }

  /** Whether layers wait to be merged, however few. */
  get hasFlushed(): boolean {
    return this.#flushed().length > 0;
  }

  /** Begins to compact in the background if there is something to do, and nothing failed just now. */
  kick(force: CompactionForce = 'none'): void {
    const { signal, clock, timeline } = this.#parts;
    if (this.#running !== null || signal.aborted || timeline.stopped !== null) return;
    if (clock.now() < this.#retryAtMs) return;
    this.#running = this.run(force)
      .catch((error) => this.#failed(error))
      .finally(() => {
        this.#running = null;
      });
  }

  /** Compacts until there is nothing more to do. Rejects as reads and writes of layers do. */
  async run(force: CompactionForce): Promise<void> {
    while (await this.exclusive(() => this.#step(force)));
    // What was due again by now has been tried.
    const nowMs = this.#parts.clock.now();
    this.#blocked = this.#blocked.filter(({ untilMs }) => untilMs > nowMs);
    this.#retryPauseMs = compactionRetryMinMs;
    this.#lastError = null;
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#running !== null) await this.#running;
    await this.#exclusive.catch(() => {});
  }

  /** While `work` runs, nothing is compacted. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#exclusive.then(work, work);
    this.#exclusive = done.catch(() => {});
    return done;
  }

  #failed(error: unknown): void {
    const { signal, log, timeline, clock } = this.#parts;
    if (signal.aborted) return;
    this.#lastError = messageOf(error);
    this.#isFailing = true;
    this.#parts.onStep();
    // What is damaged stays so: its readers hear of it, and it is tried again once in a while.
    const pause = isPageliteError(error, 'corrupt') ? compactionBlockedMs : this.#retryPauseMs;
    this.#retryPauseMs = Math.min(2 * this.#retryPauseMs, compactionRetryMaxMs);
    this.#retryAtMs = clock.now() + pause;
    log.error('compaction failed', { ...timeline.id, error: messageOf(error), retryAfterMs: pause });
  }

  /** One job. False if there is none. */
  async #step(force: CompactionForce): Promise<boolean> {
    const { timeline, uploads, signal, clock } = this.#parts;
    signal.throwIfAborted();
    uploads.checkWorks();
    const job = await this.#plan(force);
    if (job === null) {
      this.#isFailing = false;
      return false;
    }
    const counter = job.kind === 'mergeDeltas' ? timeline.counters.compact : timeline.counters.createImages;
    try {
      await counter.time(clock, () => this.#do(job));
      if (job.kind === 'imageColumn') this.#unblock(job.column);
    } catch (error) {
      if (!isPageliteError(error, 'corrupt')) throw error;
      const damaged = deltasOf(job).find(({ key }) => key === error.data.file);
      // Without it the columns are others, and what it has to do with is less.
      if (damaged !== undefined) this.#putAside(damaged, error);
      else if (job.kind === 'imageColumn') this.#block(job.column, error);
      else throw error;
    }
    this.#isFailing = false;
    this.#parts.onStep();
    return true;
  }

  /** Those that are to be merged. */
  #flushed(): LayerFile[] {
    return this.#flushedOf(this.#parts.timeline.layers.files.layers());
  }

  #flushedOf(layers: readonly LayerFile[]): LayerFile[] {
    const { compactedLsn } = this.#parts.uploads.part;
    return layers.filter((layer) => isFlushed(layer, compactedLsn) && !this.#setAside.has(layer.name));
  }

  async #plan(force: CompactionForce): Promise<Job | null> {
    const { timeline, uploads, clock, limits } = this.#parts;
    await this.#lookAgain();
    const config = this.#parts.config();
    const { compactedLsn } = uploads.part;
    const threshold = config.compaction_threshold;
    const present = [timeline.layers.files, compactedLsn, config, force, this.#setAside];
    const nowMs = clock.now();
    if (isSame(present, this.#nothingIn) && this.#blocked.every(({ untilMs }) => untilMs > nowMs)) return null;
    // What the plan asks of layers is in their indexes.
    const layers = timeline.layers.files.layers();
    const flushed = this.#flushedOf(layers);
    const isMerge = flushed.length >= (force === 'none' ? threshold : 1);
    if (isMerge) for (const layer of flushed) await this.#open(layer);
    for (const { images, runs } of this.#columns()) {
      if (images.length > 0) continue;
      for (const run of runs) for (const layer of run.layers) await this.#open(layer);
    }
    const job = nextJob({
      layers,
      columns: this.#columns(),
      ...this.#columnsInput,
      threshold,
      imageDeltaBytesMin: limits.imageDeltaBytesMin,
      force,
      isBlocked: (column) => this.#blocked.some((blocked) => blocked.untilMs > nowMs && keysMeet(blocked, column)),
      bytesIn: (layer, start, end) => layer.bytesIn(start, end),
      entriesOf: (layer) => layer.entryCount,
    });
    this.#isStuck = isMerge && job?.kind !== 'mergeDeltas' && this.#flushedOf(layers).length >= threshold;
    if (job === null) this.#nothingIn = present;
    return job;
  }

  get #columnsInput() {
    return {
      compactedLsn: this.#parts.uploads.part.compactedLsn,
      sealedBytesMin: this.#targetBytes,
      setAside: new Set(this.#setAside.keys()),
    };
  }

  /** The same until something else than a flush changes them. */
  #columns(): readonly Column<LayerFile>[] {
    const { timeline, uploads } = this.#parts;
    const of = [timeline.settledVersion, uploads.part.compactedLsn, this.#targetBytes, this.#setAside];
    if (this.#found === null || !isSame(of, this.#found.of)) {
      this.#found = { of, columns: findColumns(timeline.layers.files.layers(), this.#columnsInput) };
    }
    return this.#found.columns;
  }

  get #targetBytes(): number {
    return Math.min(this.#parts.config().compaction_target_size, layerBytesMax);
  }

  /** Sets it aside if that cannot be done. */
  async #open(layer: LayerFile): Promise<void> {
    try {
      const opening = layer.open();
      if (opening instanceof Promise) await opening;
    } catch (error) {
      if (!isPageliteError(error, 'corrupt') || layer.desc.kind !== 'delta') throw error;
      this.#putAside(layer, error);
    }
  }

  #putAside(layer: LayerFile, error: Error): void {
    const { timeline, log, clock } = this.#parts;
    this.#setAside = new Map([
      ...this.#setAside,
      [layer.name, { error: error.message, untilMs: clock.now() + compactionBlockedMs }],
    ]);
    log.error('a layer cannot be merged: it is damaged', { ...timeline.id, layer: layer.name, error: error.message });
  }

  /** Layers that were set aside a while ago may have been mended, or removed. */
  async #lookAgain(): Promise<void> {
    const { timeline, clock } = this.#parts;
    if (this.#setAside.size === 0) return;
    const layers = new Map(timeline.layers.files.layers().map((layer) => [layer.name, layer]));
    for (const [name, blocked] of this.#setAside) {
      const layer = layers.get(name);
      if (layer !== undefined) {
        if (blocked.untilMs > clock.now() || !(await this.#isWhole(layer))) continue;
      }
      this.#setAside = new Map([...this.#setAside].filter(([other]) => other !== name));
    }
  }

  async #isWhole(layer: LayerFile): Promise<boolean> {
    const { yieldTurn, signal } = this.#parts;
    try {
      const { counts } = await layer.open();
      for (let block = 0; block < counts.length; block++) {
        signal.throwIfAborted();
        await layer.holdBlocks(block, block);
        if (block % 64 === 0) await yieldTurn();
      }
      return true;
    } catch (error) {
      if (!isPageliteError(error, 'corrupt')) throw error;
      this.#putAside(layer, error);
      return false;
    }
  }

  #block({ start, end }: Column<LayerFile>, error: Error): void {
    const { timeline, log, clock } = this.#parts;
    this.#unblock({ start, end });
    const untilMs = clock.now() + compactionBlockedMs;
    this.#blocked.push({ start, end, error: error.message, untilMs });
    log.warn('keys get no image layer: a page cannot be rebuilt', {
      ...timeline.id,
      from: keyText(start),
      error: error.message,
    });
  }

  #unblock(keys: KeyRange): void {
    this.#blocked = this.#blocked.filter(
      ({ start, end }) => compareKeys(start, keys.start) < 0 || compareKeys(keys.end, end) < 0,
    );
  }

  async #do(job: Job): Promise<void> {
    const { timeline, uploads, log } = this.#parts;
    const inputs = inputsOf(job);
    const entries: LayerEntry[] = [];
    /** An input that holds all of its keys already stays as it is. */
    const kept = new Set<LayerFile>();
    const progress = { kind: job.kind, bytesWritten: 0 };
    const task = this.#task(job, {
      put: async (written, isComplete) => {
        const same = inputs.find(({ name }) => name === written.name);
        if (same !== undefined) kept.add(same);
        else entries.push(await uploads.addLayer(written, isComplete));
      },
      onProgress: (bytes) => {
        progress.bytesWritten += bytes;
      },
    });
    this.#job = progress;
    try {
      await whileHeld(timeline, () => this.#parts.host.run(task));
    } catch (error) {
      // Nothing names them.
      await uploads.discard(entries.map((entry) => layerKey(timeline.id, entry)));
      throw error;
    } finally {
      this.#job = null;
    }
    const removed = inputs.filter((layer) => !kept.has(layer));
    await this.#swap(job, entries, removed);
    log.info(job.kind === 'mergeDeltas' ? 'merged delta layers' : 'made image layers', {
      ...timeline.id,
      lsn: formatLsn(timeline.diskConsistentLsn),
      layersRead: inputs.length,
      layersWritten: entries.length,
      bytesWritten: progress.bytesWritten,
    });
  }

  async #swap(job: Job, entries: readonly LayerEntry[], removed: readonly LayerFile[]): Promise<void> {
    const { timeline, uploads, signal } = this.#parts;
    signal.throwIfAborted();
    const gone = new Set(removed.map(({ key }) => key));
    timeline.filesChanged(
      entries.map((entry) => this.#parts.openLayer(entry)),
      removed,
    );
    const stored = uploads.change((part) => ({
      ...part,
      compactedLsn: job.kind === 'mergeDeltas' ? ((job.lsnEnd - 1) as Lsn) : part.compactedLsn,
      layers: [...part.layers.filter((entry) => !gone.has(layerKey(timeline.id, entry))), ...entries],
    }));
    for (const file of removed) file.forget();
    if (!uploads.isStaged) await stored;
  }

  #task(job: Job, results: Pick<CompactionTask, 'put' | 'onProgress'>): CompactionTask {
    const { timeline, limits, log, yieldTurn, signal } = this.#parts;
    return {
      job,
      id: timeline.id,
      view: timeline,
      targetBytes: this.#targetBytes,
      urgency: () => this.flushedLayers,
      chainRecordsMin: limits.imageChainRecordsMin,
      chainBytesMin: limits.imageChainBytesMin,
      log,
      yieldTurn,
      signal,
      ...results,
    };
  }
}

const isSame = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.length === b.length && a.every((value, i) => value === b[i]);

const keysMeet = (a: KeyRange, b: KeyRange): boolean =>
  compareKeys(a.start, b.end) < 0 && compareKeys(b.start, a.end) < 0;

const keyText = ({ prefix, block }: Key): string => formatKey(prefix, block);

/** Layers that the job's result stands for. Images stand beside what they were made of: history needs that. */
function inputsOf(job: Job): LayerFile[] {
  if (job.kind === 'imageColumn') return [];
  const runs = job.columns.flatMap((column) => column.runs.flatMap((run) => run.layers));
  return [...new Set([...job.flushed, ...runs])];
}

/** Deltas that the job reads, and that are not set aside. */
function deltasOf(job: Job): LayerFile[] {
  if (job.kind === 'mergeDeltas') return inputsOf(job);
  const { runs, sealed } = job.column;
  return [...sealed, ...runs.flatMap(({ layers }) => layers)];
}

/** The layers of a timeline, and of its ancestors here, stay while `work` runs. */
async function whileHeld(timeline: Timeline, work: () => Promise<void>): Promise<void> {
  const held: { readonly readers: Readers; readonly epoch: ReaderEpoch }[] = [];
  for (let view: Pick<Timeline, 'readers' | 'ancestor'> | null = timeline; view !== null; ) {
    held.push({ readers: view.readers, epoch: view.readers.enter() });
    view = view.ancestor?.kind === 'local' ? view.ancestor.open() : null;
  }
  try {
    await work();
  } finally {
    for (const { readers, epoch } of held) readers.leave(epoch);
  }
}
