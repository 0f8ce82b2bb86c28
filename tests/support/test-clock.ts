/** A clock that a test moves: sleepers wake in the order of their time, and what they start runs before the next one wakes. */
import { PageliteError } from '../../engine/errors.ts';
import type { Clock } from '../../engine/services.ts';

export class TestClock implements Clock {
  #now: number;
  #sleepers: { at: number; wake: () => void }[] = [];

  constructor(now = 0) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancelled = () => new PageliteError('cancelled', 'sleep cancelled');
      if (signal?.aborted) {
        reject(cancelled());
        return;
      }
      const wake = () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const sleeper = { at: this.#now + Math.max(0, ms), wake };
      const abort = () => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
        reject(cancelled());
      };
      this.#sleepers.push(sleeper);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Moves time from sleeper to sleeper until nobody sleeps. */
  async runUntilIdle(): Promise<void> {
    for (;;) {
      for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
      const next = this.#sleepers.sort((a, b) => a.at - b.at).shift();
      if (next === undefined) return;
      this.#now = next.at;
      next.wake();
    }
  }
}

/** A clock on which a sleep takes a turn of the event loop, however long it is. */
export class HurriedClock implements Clock {
  #now = 0;

  now(): number {
    return this.#now;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.#now += Math.max(0, ms);
    await new Promise((resolve) => setImmediate(resolve));
    if (signal?.aborted) throw new PageliteError('cancelled', 'sleep cancelled');
  }
}
