/**
 * R6, W8. The state of one timeline: its layers, how far WAL is ingested, and who waits for more. It owns no algorithm.
 *
 * Ingest puts values (`sink`), calls `advance` and looks at `reader`; reads go through `layers` (gather.ts); the flusher turns frozen layers
 * into files and tells it (`flushed`).
 *
 * Invariants:
 * - values up to lastRecordLsn are complete; those above it belong to a batch under way and are seen by ingest only
 * - filesLsnEnd = diskConsistentLsn + 1: what is below is in files, what is not in memory layers, newest first
 * - a layer is frozen at a record boundary
 */
import { assert } from '../assert.ts';
import { TimelineCounters } from '../counters.ts';
import { PageliteError } from '../errors.ts';
import { InMemoryLayer } from '../layers/in-memory-layer.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import { LayerMap } from '../layers/layer-map.ts';
import type { TenantTimelineId, TimelineId } from '../model/ids.ts';
import { type KeyPrefix, keyKind, sizeBlock } from '../model/key.ts';
import { formatLsn, type Lsn, maxLsn } from '../model/lsn.ts';
import type { Clock, ValueReader, ValueSink, WalRedo } from '../services.ts';
import { type Ancestor, gather, type LayerSnapshot, type TimelineView } from './gather.ts';
import type { PageVersions } from './page-versions.ts';
import { Readers } from './readers.ts';
import { reconstructWhenReady } from './reconstruct.ts';
import { LsnWaiters } from './wait-lsn.ts';

export interface TimelineStart {
  readonly id: TenantTimelineId;
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  readonly ancestorId: TimelineId | null;
  readonly ancestor: Ancestor | null;
  readonly diskConsistentLsn: Lsn;
  readonly prevRecordLsn: Lsn;
  readonly gcCutoffLsn: Lsn;
  readonly files: readonly LayerFile[];
}

export interface TimelineParts {
  readonly redo: WalRedo;
  readonly versions: PageVersions;
  readonly clock: Clock;
  readonly waitLsnTimeoutMs: number;
  /** See InMemoryLayer. */
  readonly openChainLengthMax: number;
}

export class Timeline implements TimelineView, ValueSink, ValueReader {
  readonly id: TenantTimelineId;
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  #ancestorId: TimelineId | null;
  #ancestor: Ancestor | null;
  readonly versions: PageVersions;
  readonly redo: WalRedo;
  readonly readers = new Readers();
  readonly counters = new TimelineCounters();
  /** By how many blocks ingest has grown relations since this process has the timeline, as of lastRecordLsn. */
  blocksAdded = 0;
  /** Counts changes of the layer files but for those that flushes add. */
  settledVersion = 0;
  readonly #waiters: LsnWaiters;
  readonly #clock: Clock;
  readonly #openChainLengthMax: number;

  #open: InMemoryLayer;
  #layers: LayerSnapshot;
  #lastRecordLsn: Lsn;
  #prevRecordLsn: Lsn;
  #gcCutoffLsn: Lsn;
  #stopped: Error | null = null;
  /** Called when a read begins to wait: the WAL receiver looks for WAL at once. */
  onWait: () => void = () => {};
  /** Called once, when ingest ends for good. */
  onStop: (error: Error) => void = () => {};

  constructor(start: TimelineStart, parts: TimelineParts) {
    this.id = start.id;
    this.systemIdentifier = start.systemIdentifier;
    this.startLsn = start.startLsn;
    this.#ancestorId = start.ancestorId;
    this.#ancestor = start.ancestor;
    this.redo = parts.redo;
    this.versions = parts.versions;
    this.#clock = parts.clock;
    this.#waiters = new LsnWaiters(parts.clock, parts.waitLsnTimeoutMs);
    this.#openChainLengthMax = parts.openChainLengthMax;
    this.#lastRecordLsn = start.diskConsistentLsn;
    this.#prevRecordLsn = start.prevRecordLsn;
    this.#gcCutoffLsn = start.gcCutoffLsn;
    const filesLsnEnd = (start.diskConsistentLsn + 1) as Lsn;
    this.#open = new InMemoryLayer(filesLsnEnd, parts.openChainLengthMax);
    this.#layers = { memory: [this.#open], files: LayerMap.of(start.files), filesLsnEnd };
  }

  get ancestorId(): TimelineId | null {
    return this.#ancestorId;
  }

  get ancestor(): Ancestor | null {
    return this.#ancestor;
  }

  /** The index names `files`, which have all that was the ancestor's. */
  detached(files: readonly LayerFile[]): void {
    this.filesChanged(files, []);
    this.#ancestorId = null;
    this.#ancestor = null;
  }

  get layers(): LayerSnapshot {
    return this.#layers;
  }

  get lastRecordLsn(): Lsn {
    return this.#lastRecordLsn;
  }

  /** Start of the record that ends at lastRecordLsn; 0 if not known. */
  get prevRecordLsn(): Lsn {
    return this.#prevRecordLsn;
  }

  get diskConsistentLsn(): Lsn {
    return (this.#layers.filesLsnEnd - 1) as Lsn;
  }

  /** What is before it may be gone, but for points that are retained. */
  get gcCutoffLsn(): Lsn {
    return this.#gcCutoffLsn;
  }

  raiseGcCutoff(lsn: Lsn): void {
    assert(lsn >= this.#gcCutoffLsn && lsn <= this.#lastRecordLsn);
    this.#gcCutoffLsn = lsn;
  }

  get openLayer(): InMemoryLayer {
    return this.#open;
  }

  get frozenLayers(): readonly InMemoryLayer[] {
    return this.#layers.memory.slice(1);
  }

  get stopped(): Error | null {
    return this.#stopped;
  }

  // Ingest

  addRecord(lsn: Lsn, bytes: Uint8Array, start: number, length: number): number {
    return this.#open.addRecord(lsn, bytes, start, length);
  }

  putRecord(prefix: KeyPrefix, block: number, lsn: Lsn, handle: number, willInit: boolean): void {
    this.#open.putRecord(prefix, block, lsn, handle, willInit);
    this.#countPut(prefix, block, true);
  }

  putImage(prefix: KeyPrefix, block: number, lsn: Lsn, image: Uint8Array): void {
    this.#open.putImage(prefix, block, lsn, image);
    this.#countPut(prefix, block, false);
  }

  putPatch(prefix: KeyPrefix, block: number, lsn: Lsn, patch: Uint8Array): void {
    this.#open.putPatch(prefix, block, lsn, patch);
    this.#countPut(prefix, block, true);
  }

  /** Directories and sizes are no data. */
  #countPut(prefix: KeyPrefix, block: number, isDelta: boolean): void {
    const isData = prefix.kind === keyKind.rel && prefix.rel !== 0 && block !== sizeBlock;
    this.counters.valuesPut[(isData ? 2 : 0) + (isDelta ? 1 : 0)]!++;
  }

  async getImage(prefix: KeyPrefix, block: number): Promise<Uint8Array | null> {
    const [chain] = await gather(this, prefix, block, 1, maxLsn);
    // Not kept: the batch under way may still put more at the same LSN.
    return (await reconstructWhenReady(chain!, this.redo, null, this.id))?.slice() ?? null;
  }

  /** Everything up to `lsn` was put: the end of the record that begins at `prevLsn`. Wakes the reads that wait for it. */
  advance(lsn: Lsn, prevLsn: Lsn): void {
    assert(lsn >= this.#lastRecordLsn && this.#stopped === null);
    this.#lastRecordLsn = lsn;
    this.#prevRecordLsn = prevLsn;
    this.#waiters.wake(lsn);
  }

  /** Ingest ends for good: what is there is still served, and whoever waits for more hears why. */
  stop(error: Error): void {
    if (this.#stopped !== null) return;
    this.#stopped = error;
    const told = this.#stoppedError();
    this.#waiters.fail(told);
    this.onStop(told);
  }

  // Reads

  waitLsn(lsn: Lsn, signal?: AbortSignal): Promise<void> | undefined {
    if (lsn <= this.#lastRecordLsn) return;
    if (this.#stopped !== null) return Promise.reject(this.#stoppedError());
    const wait = this.counters.waitLsn.time(this.#clock, () => this.#waiters.wait(lsn, signal));
    this.onWait();
    return wait;
  }

  #stoppedError(): PageliteError {
    if (this.#stopped instanceof PageliteError && this.#stopped.kind === 'closed') return this.#stopped;
    return new PageliteError(
      'corrupt',
      `timeline ${this.id.timelineId} stopped at ${formatLsn(this.#lastRecordLsn)}: ${this.#stopped?.message}`,
      { ...this.id, lsn: formatLsn(this.#lastRecordLsn) },
      { cause: this.#stopped },
    );
  }

  // Flush

  /** The open layer has values of records that are not complete yet. */
  get isMidRecord(): boolean {
    return this.#open.newestLsn > this.#lastRecordLsn;
  }

  /** Closes the open layer at lastRecordLsn. Values above it, of a record at which ingest stopped, stay behind in it and are not written. */
  freeze(): InMemoryLayer {
    assert(!this.isMidRecord || this.#stopped !== null, 'a layer is frozen at a record boundary');
    const layer = this.#open;
    const lsnEnd = (this.#lastRecordLsn + 1) as Lsn;
    layer.freeze(lsnEnd);
    this.#open = new InMemoryLayer(lsnEnd, this.#openChainLengthMax);
    this.#layers = { ...this.#layers, memory: [this.#open, ...this.#layers.memory] };
    return layer;
  }

  /** The oldest frozen layer is in `files` (none if it had no values), and the index names them. */
  flushed(layer: InMemoryLayer, files: readonly LayerFile[]): void {
    const { memory } = this.#layers;
    assert(memory.length > 1 && memory.at(-1) === layer && layer.lsnEnd !== null, 'layers are flushed oldest first');
    this.#layers = {
      memory: memory.slice(0, -1),
      files: this.#layers.files.with(files),
      filesLsnEnd: layer.lsnEnd,
    };
  }

  /**
   * Layers that were made elsewhere go on where this timeline ended; the index names them. The record that ends at `lsn` begins at `prevLsn`.
   * Nothing was ingested since the last flush, and nothing is being ingested.
   */
  extend(lsn: Lsn, prevLsn: Lsn, files: readonly LayerFile[]): void {
    assert(this.#layers.memory.length === 1 && this.#lastRecordLsn === this.diskConsistentLsn && !this.isMidRecord);
    const lsnEnd = (lsn + 1) as Lsn;
    this.#open = new InMemoryLayer(lsnEnd, this.#openChainLengthMax);
    this.#layers = { memory: [this.#open], files: this.#layers.files.with(files), filesLsnEnd: lsnEnd };
    this.settledVersion++;
    this.advance(lsn, prevLsn);
  }

  /** The index names `added` and no longer `removed`. */
  filesChanged(added: readonly LayerFile[], removed: readonly LayerFile[]): void {
    this.#layers = { ...this.#layers, files: this.#layers.files.with(added, removed) };
    this.settledVersion++;
  }
}
