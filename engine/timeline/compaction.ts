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
 */

import { findColumns, isFlushed } from '../compaction/columns.ts';
import type { CompactionHost, CompactionTask } from '../compaction/compaction-parts.ts';
import { type CompactionJob, nextJob, type PlanInput } from '../compaction/plan.ts';
import { isPageliteError, messageOf } from '../errors.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import { compactionBlockedMs, compactionRetryMaxMs, compactionRetryMinMs } from '../limits.ts';
import { formatKey, type Key } from '../model/key.ts';
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
}

export type CompactionForce = PlanInput<LayerFile>['force'];

export interface CompactionStatus {
  readonly isRunning: boolean;
  /** What is done now, and the bytes of layers that it has written so far. */
  readonly job: { readonly kind: Job['kind']; readonly bytesWritten: number } | null;
  /** Flushed layers that are not merged yet. */
  readonly flushedLayers: number;
  /** Why the last job failed; null if it did not. */
  readonly lastError: string | null;
}

type Job = CompactionJob<LayerFile>;

export class Compaction {
  readonly #parts: TimelineCompactionParts;
  readonly #blockedUntilMs = new Map<string, number>();
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
      lastError: this.#lastError,
    };
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
    if (job === null) return false;
    const counter = job.kind === 'mergeDeltas' ? timeline.counters.compact : timeline.counters.createImages;
    try {
      await counter.time(clock, () => this.#do(job));
    } catch (error) {
      if (job.kind !== 'imageColumn' || !isPageliteError(error, 'corrupt')) throw error;
      this.#block(job.column.start, error);
    }
    return true;
  }

  #flushed(): LayerFile[] {
    const { timeline, uploads } = this.#parts;
    const { compactedLsn } = uploads.part;
    return timeline.layers.files.layers().filter((layer) => isFlushed(layer, compactedLsn));
  }

  async #plan(force: CompactionForce): Promise<Job | null> {
    const { timeline, uploads, clock, limits } = this.#parts;
    const layers = timeline.layers.files.layers();
    const { compactedLsn } = uploads.part;
    const threshold = this.#parts.config().compaction_threshold;
    // What the plan asks of layers is in their indexes.
    const flushed = this.#flushed();
    if (flushed.length >= (force === 'none' ? threshold : 1)) for (const layer of flushed) await layer.open();
    for (const { images, runs } of findColumns(layers, compactedLsn)) {
      if (images.length > 0) continue;
      for (const run of runs) for (const layer of run.layers) await layer.open();
    }
    const nowMs = clock.now();
    return nextJob({
      layers,
      compactedLsn,
      threshold,
      imageDeltaBytesMin: limits.imageDeltaBytesMin,
      force,
      isBlocked: ({ start }) => (this.#blockedUntilMs.get(keyText(start)) ?? 0) > nowMs,
      bytesIn: (layer, start, end) => layer.bytesIn(start, end),
      entriesOf: (layer) => layer.entryCount,
    });
  }

  #block(start: Key, error: Error): void {
    const { timeline, log, clock } = this.#parts;
    this.#blockedUntilMs.set(keyText(start), clock.now() + compactionBlockedMs);
    this.#lastError = error.message;
    log.warn('keys get no image layer: a page cannot be rebuilt', {
      ...timeline.id,
      from: keyText(start),
      error: error.message,
    });
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
      targetBytes: this.#parts.config().compaction_target_size,
      chainRecordsMin: limits.imageChainRecordsMin,
      chainBytesMin: limits.imageChainBytesMin,
      log,
      yieldTurn,
      signal,
      ...results,
    };
  }
}

const keyText = ({ prefix, block }: Key): string => formatKey(prefix, block);

/** Layers that the job's result stands for. Images stand beside what they were made of: history needs that. */
function inputsOf(job: Job): LayerFile[] {
  if (job.kind === 'imageColumn') return [];
  const runs = job.columns.flatMap((column) => column.runs.flatMap((run) => run.layers));
  return [...new Set([...job.flushed, ...runs])];
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
