/** Reads that wait until a timeline has ingested their LSN. */
import { PageliteError } from '../errors.ts';
import { cancelled } from '../in-time.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock } from '../services.ts';

interface Waiter {
  readonly lsn: Lsn;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class LsnWaiters {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  #waiters = new Set<Waiter>();
  /** The lowest LSN that somebody waits for: `wake` costs one comparison until it is reached. */
  #lowest = Number.POSITIVE_INFINITY;

  constructor(clock: Clock, timeoutMs: number) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
  }

  get count(): number {
    return this.#waiters.size;
  }

  /** Resolves when `wake` is called with `lsn` or more. Rejects `unavailable` after the timeout, `cancelled`, or what `fail` is given. */
  wait(lsn: Lsn, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(cancelled(signal));
    return new Promise((resolve, reject) => {
      const timer = new AbortController();
      const settle = () => {
        this.#waiters.delete(waiter);
        timer.abort();
        signal?.removeEventListener('abort', abort);
      };
      const waiter: Waiter = {
        lsn,
        resolve: () => {
          settle();
          resolve();
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const abort = () => waiter.reject(cancelled(signal!));
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiters.add(waiter);
      this.#lowest = Math.min(this.#lowest, lsn);
      this.#clock.sleep(this.#timeoutMs, timer.signal).then(
        () => waiter.reject(timedOut(lsn, this.#timeoutMs)),
        // The wait was over first.
        () => {},
      );
    });
  }

  wake(lsn: Lsn): void {
    if (lsn < this.#lowest) return;
    let lowest = Number.POSITIVE_INFINITY;
    for (const waiter of [...this.#waiters]) {
      if (waiter.lsn <= lsn) waiter.resolve();
      else lowest = Math.min(lowest, waiter.lsn);
    }
    this.#lowest = lowest;
  }

  fail(error: unknown): void {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
    this.#lowest = Number.POSITIVE_INFINITY;
  }
}

function timedOut(lsn: Lsn, ms: number): PageliteError {
  return new PageliteError('unavailable', `WAL up to ${formatLsn(lsn)} did not arrive in ${ms / 1000} s`, {
    lsn: formatLsn(lsn),
  });
}
