/** Waiting for something, but not for ever. */
import { PageliteError } from './errors.ts';
import type { Clock } from './services.ts';

export function cancelled(signal: AbortSignal): PageliteError {
  const { reason } = signal;
  return reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'the request was cancelled');
}

export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}

/** What `answer` gives; null if it is late: it goes on then, and what becomes of it is nobody's business. Rejects as `answer` does, and `cancelled`. */
export async function inTime<T>(
  answer: Promise<T>,
  clock: Clock,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<T | null> {
  throwIfCancelled(signal);
  const timer = new AbortController();
  const abort = () => timer.abort();
  signal?.addEventListener('abort', abort, { once: true });
  const late = clock.sleep(timeoutMs, timer.signal).then(
    () => null,
    () => {
      // It was given up, or the answer came first.
      throwIfCancelled(signal);
      return null;
    },
  );
  try {
    return await Promise.race([answer, late]);
  } finally {
    timer.abort();
    signal?.removeEventListener('abort', abort);
  }
}
