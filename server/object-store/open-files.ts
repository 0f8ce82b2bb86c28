/**
 * Files that are read again and again and never change, kept open: layers. A read of one is one trip to the thread pool then, not four.
 *
 * Called by disk.ts with paths of layers. One for all stores of a thread, so that descriptors are bounded whatever is open; those of a worker are
 * closed with it.
 *
 * Invariants:
 * - a descriptor is closed when it is neither among the newest nor in use, never before
 * - who puts or deletes a file forgets it; one that another process deletes is read on: it never changed, and nobody names it any more
 */
import { close, fstat, open, read, type Stats } from 'node:fs';
import { promisify } from 'node:util';

const openFile = promisify(open);
const statFile = promisify(fstat);
const closeFile = promisify(close);
const readFile = promisify(read);

const openFilesMax = 128;

interface OpenFile {
  readonly opening: Promise<{ readonly fd: number; readonly stats: Stats }>;
  /** Reads under way, and one for being remembered. */
  uses: number;
}

/** The longest unused first. */
const files = new Map<string, OpenFile>();

type Work<T> = (fd: number, stats: Stats) => Promise<T>;

export const isKeptOpen = (path: string): boolean => files.has(path);

/** Calls `work` with the file at `path`, which stays open. Throws what `open` does, ENOENT among it. */
export async function withKeptFile<T>(path: string, work: Work<T>): Promise<T> {
  const file = files.get(path) ?? { opening: openAndStat(path), uses: 1 };
  files.delete(path);
  files.set(path, file);
  file.uses++;
  if (files.size > openFilesMax) forgetOpenFile(files.keys().next().value!);
  try {
    const { fd, stats } = await file.opening;
    return await work(fd, stats);
  } catch (error) {
    // What is wrong with it may be over when it is opened anew.
    if (files.get(path) === file) forgetOpenFile(path);
    throw error;
  } finally {
    release(file);
  }
}

/** Calls `work` with the file that is at `path` now. */
export async function withFile<T>(path: string, work: Work<T>): Promise<T> {
  const { fd, stats } = await openAndStat(path);
  try {
    return await work(fd, stats);
  } finally {
    await closeFile(fd);
  }
}

export function forgetOpenFile(path: string): void {
  const file = files.get(path);
  if (file === undefined) return;
  files.delete(path);
  release(file);
}

/** Bytes [start, end), fewer if the file ends before. */
export async function readRange(fd: number, start: number, end: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(end - start);
  for (let at = 0; at < bytes.length; ) {
    const { bytesRead } = await readFile(fd, bytes, at, bytes.length - at, start + at);
    if (bytesRead === 0) return bytes.subarray(0, at);
    at += bytesRead;
  }
  return bytes;
}

async function openAndStat(path: string): Promise<{ fd: number; stats: Stats }> {
  const fd = await openFile(path, 'r');
  try {
    return { fd, stats: await statFile(fd) };
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
}

function release(file: OpenFile): void {
  if (--file.uses > 0) return;
  // Nothing was written to it: how closing it ends says nothing.
  file.opening.then(({ fd }) => closeFile(fd)).catch(() => {});
}
