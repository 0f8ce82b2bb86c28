/**
 * A value that is expensive to make, kept in a file: made once, by whichever process is first.
 *
 * Invariants
 * - the file appears whole and synced (a link to a finished file): a crash leaves a temporary file, never half of one
 * - of processes that race to make it, one wins and all return the winner's
 * - a file that `decode` refuses as `corrupt` or `invalid` is set aside under `.damaged` and made again, with a warning: nothing is only here
 */
import { randomUUID } from 'node:crypto';
import { link, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';

export interface CachedFile<T> {
  readonly path: string;
  make(): Promise<T>;
  encode(value: T): Uint8Array;
  /** Throws `corrupt` or `invalid` on bytes that `encode` did not make. */
  decode(bytes: Uint8Array): T;
}

export async function loadOrMake<T>(file: CachedFile<T>, log: Log): Promise<T> {
  const existing = await load(file, log);
  if (existing !== undefined) return existing;
  const made = await file.make();
  const temporary = `${file.path}.${randomUUID()}`;
  try {
    await writeSynced(temporary, file.encode(made));
    if (await linked(temporary, file.path)) {
      await syncFolder(dirname(file.path));
      return made;
    }
  } finally {
    await rm(temporary, { force: true });
  }
  // Another process was first, and others may already build on what it made.
  return (await load(file, log)) ?? loadOrMake(file, log);
}

async function load<T>(file: CachedFile<T>, log: Log): Promise<T | undefined> {
  let bytes: Uint8Array;
  try {
    const read = await readFile(file.path);
    bytes = new Uint8Array(read.buffer, read.byteOffset, read.byteLength);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return file.decode(bytes);
  } catch (error) {
    if (!isPageliteError(error, 'corrupt') && !isPageliteError(error, 'invalid')) throw error;
    log.warn('a cached file is damaged and is made again', { file: file.path, error: messageOf(error) });
    await rename(file.path, `${file.path}.damaged`);
    return undefined;
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, 'wx');
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
