/**
 * Pid files: which process runs in a folder, and that it is only one.
 *
 * The file holds one line `<pid> <start time> <boot id>`; the last two are empty where there is no /proc. A pid is only a number that is used
 * again: the process is ours if it is alive *and* was started when the file says. A file whose process is gone is stale, and is taken over.
 *
 * Invariants
 * - the file appears whole (a link to a finished file), so that no reader sees half a line
 * - of several processes that claim the same file one gets it; the others fail with `invalid` and the owner's pid
 * - a process removes the file only if it is its own
 */
import { linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { PageliteError } from '../../engine/errors.ts';

export interface PidFile {
  readonly path: string;
  /** Removes the file. Safe to call twice, and in a process's exit handler. */
  release(): void;
}

/** Takes the file for this process. Throws `invalid` if a living process has it. */
export function claimPidFile(path: string): PidFile {
  const line = identityOf(process.pid);
  const own = `${path}.${process.pid}`;
  writeFileSync(own, line);
  try {
    while (!tryLink(own, path)) takeOver(path);
  } finally {
    removeIfThere(own);
  }
  return {
    path,
    release: () => {
      if (readIfThere(path) === line) removeIfThere(path);
    },
  };
}

/** The pid of the living process that has this file, or null. */
export function runningPid(path: string): number | null {
  const line = readIfThere(path);
  return line !== null && isAlive(line) ? pidOf(line) : null;
}

/** Removes the file of a process that is known to be gone. */
export function removeStalePidFile(path: string): void {
  const line = readIfThere(path);
  if (line !== null && !isAlive(line)) removeIfThere(path);
}

/** Moves a stale file out of the way. */
function takeOver(path: string): void {
  const line = readIfThere(path);
  if (line === null) return;
  if (isAlive(line)) {
    const pid = pidOf(line);
    throw new PageliteError('invalid', `already running with pid ${pid} (${path})`, { pid, file: path });
  }
  // Whoever is first to move it decides; what was moved is looked at again, as another process may have claimed the file meanwhile.
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (isCode(error, 'ENOENT')) return;
    throw error;
  }
  if (readIfThere(aside) !== line) tryLink(aside, path);
  removeIfThere(aside);
}

function identityOf(pid: number): string {
  return `${pid} ${startTimeOf(pid)} ${bootId()}\n`;
}

function pidOf(line: string): number {
  return Number.parseInt(line, 10);
}

function isAlive(line: string): boolean {
  const [, startTime, boot] = line.trim().split(' ');
  const pid = pidOf(line);
  if (!(pid > 0)) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, under another user.
    if (!isCode(error, 'EPERM')) return false;
  }
  if (startTime && boot) return startTime === startTimeOf(pid) && boot === bootId();
  return true;
}

/** Field 22 of /proc/<pid>/stat, in clock ticks since boot; empty for a zombie (it has ended) and where there is no /proc. */
function startTimeOf(pid: number): string {
  const stat = readIfThere(`/proc/${pid}/stat`);
  if (stat === null) return '';
  // The command, field 2, is in parentheses and may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' ? '' : (fields[19] ?? '');
}

function bootId(): string {
  return readIfThere('/proc/sys/kernel/random/boot_id')?.trim() ?? '';
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (isCode(error, 'EEXIST')) return false;
    throw error;
  }
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ESRCH')) return null;
    throw error;
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}
