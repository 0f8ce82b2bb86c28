/**
 * What a Node process gives the engine: time and randomness. The one place in which these are taken from the host.
 */
import { getRandomValues, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { PageliteError } from '../../engine/errors.ts';
import type { Clock, Log, Random } from '../../engine/services.ts';

export const nodeClock: Clock = {
  now: () => Date.now(),
  async sleep(ms, signal) {
    try {
      await sleep(ms, undefined, signal ? { signal } : {});
    } catch (cause) {
      if (!signal?.aborted) throw cause;
      const { reason } = signal;
      throw reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'sleep cancelled', {}, { cause });
    }
  },
};

export const nodeRandom: Random = {
  next: () => randomBytes(6).readUIntBE(0, 6) / 2 ** 48,
  fill: (bytes) => {
    getRandomValues(bytes);
  },
};

/** For those whose errors are told by the call that fails. */
export const silentLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
