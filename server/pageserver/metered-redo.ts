/** WAL redo that counts what it does: a wrapper of the seam (engine/services.ts), with a clock finer than the engine's. */
import { CountHistogram } from '../../engine/counters.ts';
import type { RedoRequest, WalRedo } from '../../engine/services.ts';

/** Neon's bounds. */
const secondsBounds = [
  0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
  0.5, 1,
];
const recordsBounds = [0, 1, 2, 5, 10, 25, 50, 100, 250, 500];
const bytesBounds = [
  24, 32, 48, 64, 96, 128, 184, 256, 368, 512, 728, 1024, 1456, 2048, 2904, 4096, 5800, 8192, 11592, 16384, 23176,
  32768,
];

/** Pages that redo made, or refused to make. */
export class RedoCounters {
  readonly seconds = new CountHistogram(secondsBounds);
  readonly records = new CountHistogram(recordsBounds);
  readonly bytes = new CountHistogram(bytesBounds);
}

export class MeteredRedo implements WalRedo {
  readonly #redo: WalRedo;
  readonly #counters: RedoCounters;

  constructor(redo: WalRedo, counters: RedoCounters) {
    this.#redo = redo;
    this.#counters = counters;
  }

  redoPage(request: RedoRequest): Uint8Array {
    const startMs = performance.now();
    try {
      return this.#redo.redoPage(request);
    } finally {
      const { records } = request;
      let bytes = 0;
      for (let i = 0; i < records.length; i++) bytes += records[i]!.length;
      this.#counters.seconds.observe((performance.now() - startMs) / 1000);
      this.#counters.records.observe(records.length);
      this.#counters.bytes.observe(bytes);
    }
  }

  ready(): Promise<void> {
    return this.#redo.ready();
  }

  close(): Promise<void> {
    return this.#redo.close();
  }
}
