/**
 * What happens in a timeline, as plain numbers that stand where it happens and are read by whoever runs the engine: server/pageserver/
 * pageserver-metrics.ts makes Prometheus metrics of them. The engine never reads them.
 *
 * Hot: to count is an addition; a histogram's `observe` is a search in a handful of bounds. Nothing is allocated.
 */
import { assert } from './assert.ts';
import type { Clock } from './services.ts';

/** How often each of some ranges was met: at most bounds[0], at most bounds[1], ..., above the last. */
export class CountHistogram {
  readonly bounds: Float64Array;
  /** One more than bounds; not cumulative. */
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[] | Float64Array) {
    this.bounds = Float64Array.from(bounds);
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds } = this;
    let i = 0;
    while (i < bounds.length && value > bounds[i]!) i++;
    this.counts[i]!++;
    this.sum += value;
  }

  /** `other` has the same bounds. */
  add(other: CountHistogram): void {
    assert(other.counts.length === this.counts.length);
    for (let i = 0; i < this.counts.length; i++) this.counts[i]! += other.counts[i]!;
    this.sum += other.sum;
  }
}

/** Something that takes time, or waits. */
export class OperationCounter {
  started = 0;
  /** Milliseconds of those that ended, also by an error. */
  readonly took: CountHistogram;

  constructor(boundsMs: readonly number[]) {
    this.took = new CountHistogram(boundsMs);
  }

  async time<T>(clock: Clock, work: () => Promise<T>): Promise<T> {
    const startMs = clock.now();
    this.started++;
    try {
      return await work();
    } finally {
      this.took.observe(Math.max(0, clock.now() - startMs));
    }
  }

  add(other: OperationCounter): void {
    this.started += other.started;
    this.took.add(other.took);
  }
}

/** Neon's bounds of pageserver_layers_per_read_global and pageserver_deltas_per_read_global. */
const layersPerReadBounds = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] as const;
const deltasPerReadBounds = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256] as const;
/** Neon's of pageserver_storage_operations_seconds_global. */
const operationBoundsMs = [10, 100, 1_000, 10_000, 100_000, 1_000_000] as const;
/** The clock tells milliseconds; a wait ends by `waitLsnTimeoutMs`. */
const waitBoundsMs = [1, 3, 6, 10, 30, 60, 100, 300, 600, 1_000, 3_000, 10_000, 30_000, 60_000] as const;

/** Of one timeline since this process has it. */
export class TimelineCounters {
  /** Layers, in memory or files, its ancestors' too, that were looked into for the value of one key. */
  readonly layersPerRead = new CountHistogram(layersPerReadBounds);
  /** Records and patches that were found for the value of one key. */
  readonly deltasPerRead = new CountHistogram(deltasPerReadBounds);
  walBytesReceived = 0;
  walRecordsReceived = 0;
  /** Those of them that put a value. */
  walRecordsCommitted = 0;
  /** Values put into the open layer: metadata images and deltas (records, patches), data images and deltas. */
  readonly valuesPut = new Float64Array(4);
  readonly waitLsn = new OperationCounter(waitBoundsMs);
  readonly layerFlush = new OperationCounter(operationBoundsMs);
  readonly createImages = new OperationCounter(operationBoundsMs);
  readonly compact = new OperationCounter(operationBoundsMs);
  readonly logicalSize = new OperationCounter(operationBoundsMs);

  get valuesPutCount(): number {
    const { valuesPut } = this;
    return valuesPut[0]! + valuesPut[1]! + valuesPut[2]! + valuesPut[3]!;
  }

  /** So that sums over all timelines do not go down when one is deleted. */
  add(other: TimelineCounters): void {
    this.layersPerRead.add(other.layersPerRead);
    this.deltasPerRead.add(other.deltasPerRead);
    this.walBytesReceived += other.walBytesReceived;
    this.walRecordsReceived += other.walRecordsReceived;
    this.walRecordsCommitted += other.walRecordsCommitted;
    for (let i = 0; i < this.valuesPut.length; i++) this.valuesPut[i]! += other.valuesPut[i]!;
    this.waitLsn.add(other.waitLsn);
    this.layerFlush.add(other.layerFlush);
    this.createImages.add(other.createImages);
    this.compact.add(other.compact);
    this.logicalSize.add(other.logicalSize);
  }
}
