/**
 * What a Node process gives the engine: time, randomness and a log. The one place in which these are taken from the host.
 */
import { getRandomValues, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DestinationStream, pino } from 'pino';
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

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/**
 * JSON lines through pino, written before the call returns: the last lines of a process that dies are the ones that matter.
 * Without a destination they go to standard output, which for a daemon is its log file (process/daemon.ts).
 */
export function createLog(name: string, options: { level?: LogLevel; destination?: DestinationStream } = {}): Log {
  const logger = pino(
    {
      name,
      level: options.level ?? 'info',
      base: { name, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    options.destination ?? pino.destination({ fd: 1, sync: true }),
  );
  return {
    debug: (message, data) => logger.debug(data ?? {}, message),
    info: (message, data) => logger.info(data ?? {}, message),
    warn: (message, data) => logger.warn(data ?? {}, message),
    error: (message, data) => logger.error(data ?? {}, message),
  };
}

export const silentLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
