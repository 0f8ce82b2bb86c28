/**
 * W9. Writes frozen layers out: delta layer file first, then the index (upload-queue.ts), then memory is given back.
 *
 * Called by ingest after every batch (`afterBatch`) and whenever somebody wants everything in files (`flushAll`). Layers are written one at a time,
 * oldest first, in the background. A store that is away is tried again; one that belongs to somebody else now stops the timeline.
 *
 * Invariants:
 * - diskConsistentLsn moves only after the layers can be read again: the index that names them is stored, or they are staged on a local disk
 * - ingest waits while `frozenLayersMax` layers are unwritten: memory is bounded
 * - what ingest freezes waits while too many flushed layers are not merged (`FlushPressure`): what a read passes is bounded, as long as merging works. Whoever
 *   asks for a flush (`flushAll`) does not wait for that: compaction itself asks, of ancestors
 */

import { must } from '../assert.ts';
import { messageOf } from '../errors.ts';
import { writeDeltaLayer } from '../layers/delta-layer.ts';
import type { InMemoryLayer } from '../layers/in-memory-layer.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import type { WrittenLayer } from '../layers/layer-writer.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log } from '../services.ts';
import type { LayerEntry } from './index-part.ts';
import type { YieldTurn } from './reconstruct.ts';
import type { Timeline } from './timeline.ts';
import type { UploadQueue } from './upload-queue.ts';

export interface FlushLimits {
  readonly openLayerBytesMax: number;
  readonly frozenLayersMax: number;
}

/** How far compaction is behind, and when that slows ingest down. */
export interface FlushPressure {
  /** Layers that wait to be merged. */
  readonly l0Layers: number;
  /** With so many a flush takes twice as long; with so many it waits. Infinity: never. */
  readonly delayAt: number;
  readonly stallAt: number;
}

export interface FlushParts {
  readonly timeline: Timeline;
  readonly uploads: UploadQueue;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: FlushLimits;
  readonly yieldTurn: YieldTurn;
  /** WAL in memory before it is flushed, now. */
  checkpointDistance(): number;
  /** Aborted when the timeline is closed: attempts end. */
  readonly signal: AbortSignal;
  /** The LayerFile of a layer of this timeline. */
  openLayer(layer: LayerEntry): LayerFile;
  /** Now. */
  pressure(): FlushPressure;
  /** A layer was flushed. */
  onFlushed(): void;
}

interface Frozen {
  readonly layer: InMemoryLayer;
  readonly prevRecordLsn: Lsn;
}

export class Flusher {
  readonly #parts: FlushParts;
  readonly #frozen: Frozen[] = [];
  #running: Promise<void> | null = null;
  #freezeWanted: (() => void)[] = [];
  #roomWanted: (() => void)[] = [];
  /** Those who want everything flushed now. */
  #askers = 0;
  #reliefWanted: (() => void)[] = [];

  constructor(parts: FlushParts) {
    this.#parts = parts;
  }

  /** Ingest is at a record boundary. A promise to await before the next batch, if there is too much in memory. */
  afterBatch(): Promise<void> | undefined {
    const { timeline, limits } = this.#parts;
    const { openLayer, lastRecordLsn } = timeline;
    const full =
      openLayer.bytes >= limits.openLayerBytesMax ||
      lastRecordLsn - openLayer.lsnStart >= this.#parts.checkpointDistance();
    if (full || this.#freezeWanted.length > 0) {
      this.#freeze();
      for (const wake of this.#freezeWanted.splice(0)) wake();
    }
    if (this.#frozen.length < limits.frozenLayersMax) return;
    return new Promise((resolve) => this.#roomWanted.push(resolve));
  }

  /** Resolves when everything up to the present lastRecordLsn is in files and index. */
  async flushAll(): Promise<void> {
    const { timeline } = this.#parts;
    if (timeline.isMidRecord && timeline.stopped === null) {
      await new Promise<void>((resolve) => this.#freezeWanted.push(resolve));
    } else if (timeline.lastRecordLsn > timeline.openLayer.lsnStart - 1) {
      this.#freeze();
    }
    this.#askers++;
    this.pressureChanged();
    try {
      await this.#running;
    } finally {
      this.#askers--;
    }
  }

  /** Fewer layers may wait to be merged, or it makes no sense any more to wait for that. */
  pressureChanged(): void {
    for (const wake of this.#reliefWanted.splice(0)) wake();
  }

  /** The timeline is stopped or closed: nobody must wait for it. Resolves when nothing is being written any more. */
  async close(): Promise<void> {
    for (const wake of this.#freezeWanted.splice(0)) wake();
    for (const wake of this.#roomWanted.splice(0)) wake();
    this.pressureChanged();
    await this.#running?.catch(() => {});
  }

  #freeze(): void {
    const { timeline } = this.#parts;
    this.#frozen.push({ layer: timeline.freeze(), prevRecordLsn: timeline.prevRecordLsn });
    if (this.#running !== null) return;
    const running = this.#run().finally(() => {
      this.#running = null;
    });
    // flushAll hears of a failure; otherwise the timeline has stopped and says why.
    running.catch(() => {});
    this.#running = running;
  }

  async #run(): Promise<void> {
    const { timeline, log } = this.#parts;
    try {
      while (this.#frozen.length > 0) {
        await this.#stall();
        const frozen = this.#frozen[0]!;
        const startMs = this.#parts.clock.now();
        const lsnEnd = must(frozen.layer.lsnEnd);
        const written = await timeline.counters.layerFlush.time(this.#parts.clock, () =>
          this.#writeOut(frozen, lsnEnd),
        );
        log.debug('flushed a layer', { ...timeline.id, layer: written?.name, lsn: formatLsn(lsnEnd - 1) });
        this.#parts.onFlushed();
        await this.#delay(this.#parts.clock.now() - startMs);
        this.#frozen.shift();
        if (this.#frozen.length < this.#parts.limits.frozenLayersMax) {
          for (const wake of this.#roomWanted.splice(0)) wake();
        }
      }
    } catch (error) {
      if (!this.#parts.signal.aborted) {
        log.error('a timeline cannot be flushed', { ...timeline.id, error: messageOf(error) });
        timeline.stop(error as Error);
        for (const wake of this.#roomWanted.splice(0)) wake();
      }
      throw error;
    }
  }

  /** Resolves when reads do not pass too many layers, or the layer is wanted anyway. */
  async #stall(): Promise<void> {
    const { timeline, log, pressure } = this.#parts;
    const isStalled = () => {
      const { l0Layers, stallAt } = pressure();
      return this.#askers === 0 && timeline.stopped === null && l0Layers >= stallAt;
    };
    if (!isStalled()) return;
    log.warn('flushes wait for compaction', { ...timeline.id, l0Layers: pressure().l0Layers });
    while (isStalled()) await new Promise<void>((resolve) => this.#reliefWanted.push(resolve));
    log.info('flushes go on', { ...timeline.id, l0Layers: pressure().l0Layers });
  }

  /** A flush that took `ms` takes as long again, or until compaction has caught up. */
  async #delay(ms: number): Promise<void> {
    const { clock, pressure, signal, timeline } = this.#parts;
    const isWanted = () => this.#askers === 0 && timeline.stopped === null && isPressing(pressure());
    if (ms <= 0 || !isWanted()) return;
    const ended = new AbortController();
    const onAbort = () => ended.abort();
    signal.addEventListener('abort', onAbort);
    const over = clock.sleep(ms, ended.signal).catch(() => {});
    let isOver = false;
    void over.then(() => {
      isOver = true;
    });
    while (!isOver && isWanted()) {
      await Promise.race([over, new Promise<void>((resolve) => this.#reliefWanted.push(resolve))]);
    }
    signal.removeEventListener('abort', onAbort);
    ended.abort();
  }

  async #writeOut(frozen: Frozen, lsnEnd: Lsn): Promise<WrittenLayer | null> {
    const { timeline, uploads, yieldTurn } = this.#parts;
    const written = await writeDeltaLayer(timeline.id, frozen.layer, lsnEnd, yieldTurn);
    const entries = written === null ? [] : [await uploads.addLayer(written)];
    const files = entries.map((entry) => this.#parts.openLayer(entry));
    const stored = this.#changeIndex(frozen, entries);
    if (!uploads.isStaged) await stored;
    timeline.flushed(frozen.layer, files);
    return written;
  }

  #changeIndex(frozen: Frozen, entries: readonly LayerEntry[]): Promise<void> {
    return this.#parts.uploads.change((part) => ({
      ...part,
      diskConsistentLsn: (must(frozen.layer.lsnEnd) - 1) as Lsn,
      prevRecordLsn: frozen.prevRecordLsn,
      layers: [...part.layers, ...entries],
    }));
  }
}

const isPressing = ({ l0Layers, delayAt }: FlushPressure): boolean => l0Layers >= delayAt;
