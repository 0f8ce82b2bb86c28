/** Who waits for which commitLsn (W4 of the write path): a short list, as a compute has few commits under way. */
import { PageliteError } from '../../engine/errors.ts';

/** Called once, within the step that brings the news: a commit does not wait for its turn behind other work of the thread. */
export type Settle = (error: PageliteError | null) => void;

interface Waiter {
  readonly lsn: number;
  readonly settle: Settle;
}

export class CommitWaiters {
  #waiters: Waiter[] = [];

  add(lsn: number, settle: Settle): void {
    this.#waiters.push({ lsn, settle });
  }

  wait(lsn: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.#waiters = this.#waiters.filter((waiter) => waiter.settle !== settle);
        reject(new PageliteError('cancelled', 'the wait for a commit was cancelled', {}, { cause: signal?.reason }));
      };
      const settle: Settle = (error) => {
        signal?.removeEventListener('abort', abort);
        if (error) reject(error);
        else resolve();
      };
      this.add(lsn, settle);
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort, { once: true });
    });
  }

  reached(commitLsn: number): void {
    if (this.#waiters.length === 0) return;
    const done = this.#waiters.filter(({ lsn }) => lsn <= commitLsn);
    if (done.length === 0) return;
    this.#waiters = this.#waiters.filter(({ lsn }) => lsn > commitLsn);
    for (const waiter of done) waiter.settle(null);
  }

  fail(error: PageliteError): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.settle(error);
  }
}
