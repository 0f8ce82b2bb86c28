/**
 * The life of one server process: claims its pid file, starts, tells its starter (process/daemon.ts) that it serves, stops cleanly on SIGTERM and SIGINT.
 *
 * Invariants
 * - a second signal, or `closeTimeoutMs`, ends a shutdown that hangs: everything here survives being killed
 * - an error that nobody caught is logged with its stack and ends the process with code 1
 * - exit code 0 after a clean stop, 1 after a failure, with the reason in the log and at the starter
 */
import { join } from 'node:path';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import type { StartMessage } from './daemon.ts';
import { claimPidFile, type PidFile } from './pid-file.ts';

export interface RunningProcess {
  /** Shown to the starter: ports. */
  readonly info: Readonly<Record<string, string | number>>;
  /** Rejects when the process cannot go on: it then ends with code 1 and this reason. */
  readonly failed?: Promise<never>;
  close(): Promise<void>;
}

const closeTimeoutMs = 20_000;

/** Runs `start` under `<dir>/<name>.pid` until a signal comes. `progress` is for what takes long at a start. */
export async function runProcess(
  name: string,
  dir: string,
  log: Log,
  start: (progress: (text: string) => void) => Promise<RunningProcess>,
): Promise<void> {
  let pidFile: PidFile | undefined;
  const exit = (code: number): never => {
    pidFile?.release();
    process.exit(code);
  };
  const die = (what: string) => (error: unknown) => {
    log.error(what, { error: messageOf(error), stack: error instanceof Error ? error.stack : undefined });
    exit(1);
  };
  process.on('uncaughtException', die('uncaught exception'));
  process.on('unhandledRejection', die('unhandled rejection'));
  const stopped = untilSignal(log, exit);
  try {
    pidFile = claimPidFile(join(dir, `${name}.pid`));
    const running = await start((text) => {
      log.info(text);
      tellStarter({ kind: 'progress', text });
    });
    log.info(`${name} serves`, running.info);
    tellStarter({ kind: 'ready', info: running.info });
    await Promise.race([stopped, ...(running.failed ? [running.failed] : [])]);
    await running.close();
    log.info(`${name} has stopped`);
  } catch (error) {
    const stack = isPageliteError(error) ? undefined : error instanceof Error ? error.stack : undefined;
    log.error(`${name} failed`, { error: messageOf(error), stack });
    pidFile?.release();
    await tellStarterLast(error);
    exit(1);
  }
  exit(0);
}

function untilSignal(log: Log, exit: (code: number) => never): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0;
    const onSignal = (signal: NodeJS.Signals) => {
      log.info('stopping', { signal });
      if (signals++ > 0) exit(1);
      setTimeout(() => {
        log.error(`not closed after ${closeTimeoutMs} ms: exiting`);
        exit(1);
      }, closeTimeoutMs).unref();
      resolve();
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}

function tellStarter(message: StartMessage): void {
  // The starter may be gone, or there was none: a process can be run by hand.
  if (process.connected) process.send?.(message, () => {});
  if (message.kind === 'ready' && process.connected) process.disconnect?.();
}

function tellStarterLast(error: unknown): Promise<void> {
  const reason = isPageliteError(error) ? error : new PageliteError('unavailable', messageOf(error));
  const message: StartMessage = { kind: 'failed', error: reason.toJSON() };
  return new Promise((resolve) => {
    if (process.connected) process.send?.(message, () => resolve());
    else resolve();
  });
}
