/** The log of a Node process. */
import { type DestinationStream, pino } from 'pino';
import type { Log } from '../../engine/services.ts';

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
