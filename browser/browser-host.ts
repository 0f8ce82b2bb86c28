/**
 * What a page or one of its workers gives the engine: time, randomness and a log. The one place in which these are taken from the browser.
 */
import { PageliteError } from '../engine/errors.ts';
import type { Clock, Log, Random } from '../engine/services.ts';

export const browserClock: Clock = {
  now: () => Date.now(),
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      const cancel = () => {
        clearTimeout(timer);
        const reason: unknown = signal?.reason;
        reject(reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'sleep cancelled'));
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', cancel);
        resolve();
      }, ms);
      if (signal?.aborted) cancel();
      else signal?.addEventListener('abort', cancel, { once: true });
    });
  },
};

const word = new Uint32Array(2);

export const browserRandom: Random = {
  next() {
    crypto.getRandomValues(word);
    return (word[0]! * 2 ** 16 + (word[1]! >>> 16)) / 2 ** 48;
  },
  fill(bytes) {
    // At most 65,536 bytes a call.
    for (let at = 0; at < bytes.length; at += 65_536) {
      crypto.getRandomValues(bytes.subarray(at, at + 65_536) as Uint8Array<ArrayBuffer>);
    }
  },
};

/** Lines in the browser's console, where `debug` lines are hidden unless they are asked for. */
export function createLog(name: string): Log {
  const write =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (message: string, data?: object): void => {
      console[level](`pagelite ${name}: ${message}`, ...(data === undefined ? [] : [JSON.stringify(data)]));
    };
  // What is worth a line in a server's log is not worth one in every page's console.
  return { debug: () => {}, info: write('debug'), warn: write('warn'), error: write('error') };
}
