/**
 * Starting and stopping the processes of a repository from another process (the CLI, tests).
 *
 * A daemon is a Node entry of this package, detached, with standard output and error appended to its log file. It tells its starter over Node's
 * IPC channel how it gets on (`progress`), that it serves (`ready`, with its ports) or why it does not (`failed`); then the two are
 * parted. One that ends before that is a failed start, and its last log lines are in the error. The far side is process/run-process.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { PageliteError } from '../../engine/errors.ts';
import { removeStalePidFile, runningPid } from './pid-file.ts';

/** What a starting process says to its starter. */
export type StartMessage =
  | { readonly kind: 'progress'; readonly text: string }
  | { readonly kind: 'ready'; readonly info: Readonly<Record<string, string | number>> }
  | { readonly kind: 'failed'; readonly error: unknown };

export interface DaemonOptions {
  /** For messages: "pageserver". */
  readonly name: string;
  /** The JavaScript file to run. */
  readonly entry: URL;
  readonly args: readonly string[];
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly onProgress?: (text: string) => void;
  /** Longest silence while starting; each progress message starts it again. The first start of a pageserver runs initdb. */
  readonly startTimeoutMs?: number;
}

export interface StartedDaemon {
  readonly pid: number;
  /** What the process said of itself: its ports. */
  readonly info: Readonly<Record<string, string | number>>;
}

const startTimeoutDefaultMs = 60_000;
const logTailLines = 12;

/** Resolves when the process serves. Rejects `unavailable` or what the process gave as its reason. */
export async function startDaemon(options: DaemonOptions): Promise<StartedDaemon> {
  const log = openSync(options.logFile, 'a');
  const logStart = fstatSync(log).size;
  let child: ChildProcess;
  try {
    child = spawn(process.execPath, [fileURLToPath(options.entry), ...options.args], {
      detached: true,
      stdio: ['ignore', log, log, 'ipc'],
      // A password that the command was given is not for its processes.
      env: { ...process.env, PAGELITE_PASSWORD: undefined, ...options.env },
    });
  } finally {
    closeSync(log);
  }
  try {
    const info = await readiness(child, options, logStart);
    return { pid: child.pid!, info };
  } catch (error) {
    await killed(child);
    throw error;
  } finally {
    child.removeAllListeners();
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/** A failed start leaves no process behind. */
async function killed(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

function readiness(child: ChildProcess, options: DaemonOptions, logStart: number): Promise<StartedDaemon['info']> {
  const { name, logFile, onProgress, startTimeoutMs = startTimeoutDefaultMs } = options;
  return new Promise((resolve, reject) => {
    const fail = (why: string) => {
      clearTimeout(timer);
      const tail = logTail(logFile, logStart);
      const text = `${name} did not start: ${why}${tail ? `\nlast lines of ${logFile}:\n${tail}` : ''}`;
      reject(new PageliteError('unavailable', text, { process: name, log: logFile }));
    };
    const timer = setTimeout(() => fail(`no sign of life for ${startTimeoutMs} ms`), startTimeoutMs);
    child.once('error', (error) => fail(error.message));
    child.once('exit', (code, signal) => {
      const ended = () => fail(signal ? `killed by ${signal}` : `exit code ${code}`);
      // Its reason may still be on the way.
      if (child.connected) child.once('disconnect', ended);
      else ended();
    });
    child.on('message', (message: StartMessage) => {
      timer.refresh();
      if (message.kind === 'progress') {
        onProgress?.(message.text);
        return;
      }
      clearTimeout(timer);
      if (message.kind === 'ready') resolve(message.info);
      else reject(startError(name, logFile, message.error));
    });
  });
}

/** The process's own reason, with its kind. */
function startError(name: string, log: string, json: unknown): PageliteError {
  const { kind, message, data } = PageliteError.fromJSON(json);
  return new PageliteError(kind, `${name} did not start: ${message}`, { ...data, process: name, log });
}

/** The last lines that were written to the log since `start`. */
export function logTail(path: string, start = 0): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    const { size } = fstatSync(fd);
    const from = Math.max(start, size - 16 * 1024);
    const bytes = Buffer.alloc(Math.max(0, size - from));
    const length = readSync(fd, bytes, 0, bytes.length, from);
    return bytes.toString('utf8', 0, length).trimEnd().split('\n').slice(-logTailLines).join('\n');
  } finally {
    closeSync(fd);
  }
}

/** `fast`: the process finishes what it must and exits. `immediate`: it is killed, and recovers at its next start. */
export type StopMode = 'fast' | 'immediate';

/**
 * Stops the process that has this pid file and waits until it is gone. False if none was running. Rejects `unavailable` if it does not
 * stop in time.
 */
export async function stopDaemon(
  name: string,
  pidFile: string,
  mode: StopMode = 'fast',
  timeoutMs = 30_000,
): Promise<boolean> {
  const pid = runningPid(pidFile);
  if (pid === null) {
    removeStalePidFile(pidFile);
    return false;
  }
  kill(pid, mode === 'fast' ? 'SIGTERM' : 'SIGKILL');
  for (let waitedMs = 0; runningPid(pidFile) === pid; waitedMs += 10) {
    if (waitedMs >= timeoutMs) {
      const text = `${name} (pid ${pid}) did not stop in ${timeoutMs} ms: stop it with --mode immediate`;
      throw new PageliteError('unavailable', text, { process: name, pid });
    }
    await sleep(10);
  }
  removeStalePidFile(pidFile);
  return true;
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
