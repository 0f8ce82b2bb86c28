/** Time, randomness and a silent log out of what Node and a browser's worker both have: for suites that run in either. */
import { PageliteError } from '../../engine/errors.ts';
import type { Clock, Log, Random } from '../../engine/services.ts';

export const hostClock: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        const reason: unknown = signal?.reason;
        reject(reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'sleep cancelled'));
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', stop);
        resolve();
      }, ms);
      if (signal?.aborted) stop();
      else signal?.addEventListener('abort', stop, { once: true });
    }),
};

export const hostRandom: Random = {
  next: () => crypto.getRandomValues(new Uint32Array(1))[0]! / 2 ** 32,
  fill: (bytes) => {
    crypto.getRandomValues(bytes as Uint8Array<ArrayBuffer>);
  },
};

export const silentLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
