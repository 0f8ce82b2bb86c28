/**
 * Time and chance of a simulation: a seed decides everything. Events run one after another in the order of their time; what an event
 * starts runs to its end (promises included) before the next event.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { Clock, Random } from '../../engine/services.ts';

export class World implements Clock, Random {
  #nowMs = 0;
  #state: number;
  #sequence = 0;
  #events: { atMs: number; sequence: number; run: () => void }[] = [];

  constructor(seed: number) {
    this.#state = (seed * 2654435761) >>> 0;
  }

  now(): number {
    return this.#nowMs;
  }

  /** mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.below(256);
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  after(ms: number, run: () => void): void {
    const event = { atMs: this.#nowMs + Math.max(0, ms), sequence: this.#sequence++, run };
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#events[middle]!.atMs <= event.atMs) low = middle + 1;
      else high = middle;
    }
    this.#events.splice(low, 0, event);
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => reject(new PageliteError('cancelled', 'sleep cancelled'));
      if (signal?.aborted) {
        abort();
        return;
      }
      signal?.addEventListener('abort', abort, { once: true });
      this.after(ms, () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      });
    });
  }

  /** Runs events until `done` or until `limitMs`; false if time ran out or nothing is left to happen. */
  async run(limitMs: number, done: () => boolean = () => false): Promise<boolean> {
    const endMs = this.#nowMs + limitMs;
    await settle();
    while (!done()) {
      const event = this.#events[0];
      if (event === undefined || event.atMs > endMs) {
        this.#nowMs = endMs;
        return done();
      }
      this.#events.shift();
      this.#nowMs = event.atMs;
      event.run();
      await settle();
    }
    return true;
  }
}

/** Lets all promises that can settle do so. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
