/**
 * A safekeeper's files on disk (W3 of the write path): `<dir>/<tenant>/<timeline>/` with the control file, the flush mark and the WAL
 * segments, laid out as Neon's safekeeper does.
 *
 * Invariants
 * - what is promised durable is: data by fdatasync, names by fsync of their directory, whole files by writing aside and renaming
 * - nobody else makes or removes timelines in the folder as long as it is open: it is looked through once
 * - a write that fits `syncWriteBytesMax` goes to the page cache within the call: a commit then costs one hop to a thread, its fdatasync
 * - errors are PageliteErrors: `notFound` for an absent file, else `unavailable` with the system's code
 */
import { fdatasyncSync, writeSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, tenantId, timelineId, timelineKey } from '../../engine/model/ids.ts';
import { controlFileName } from '../../engine/safekeeper/control-file.ts';
import type { NodeFiles, SafekeeperStorage, SegmentStorage, TimelineStorage } from '../../engine/safekeeper/storage.ts';

/** Copying so much to the page cache takes about as long as handing it to a thread: 20 to 30 microseconds. */
const syncWriteBytesMax = 64 * 1024;
/** Open files of a timeline: the one that is written, and what slow readers are at. */
const openFilesMax = 8;

export interface DiskStorageOptions {
  /**
   * fdatasync within the call, not in a thread of the pool: saves two hops, a quarter of a millisecond of each commit, and holds up
   * everything else in this thread meanwhile. For a thread that serves one process's computes.
   */
  readonly syncInThread?: boolean;
}

export class DiskSafekeeperStorage implements SafekeeperStorage {
  readonly nodeFiles: NodeFiles;
  readonly #dir: string;
  readonly #options: DiskStorageOptions;
  /** What was found, once it was looked for: safekeepers tell each other of all of them each second. */
  #found: Promise<Map<string, TenantTimelineId>> | null = null;
  /** Since this is open. */
  readonly #made = new Map<string, TenantTimelineId>();

  constructor(dir: string, options: DiskStorageOptions = {}) {
    this.#dir = dir;
    this.#options = options;
    this.nodeFiles = {
      readFile: (name) => readWhole(join(dir, name)),
      replaceFile: async (name, bytes) => {
        await translate(dir, () => mkdir(dir, { recursive: true }));
        await replaceWhole(dir, name, bytes);
      },
    };
  }

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    const dir = this.#timelineDir(id);
    return (await exists(dir)) ? new DiskTimelineStorage(dir, this.#options) : null;
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    const dir = this.#timelineDir(id);
    await translate(dir, async () => {
      await mkdir(dir, { recursive: true });
      for (const made of [dir, join(dir, '..'), this.#dir]) await syncDirectory(made);
    });
    this.#made.set(timelineKey(id), id);
    return new DiskTimelineStorage(dir, this.#options);
  }

  /** Its files go; nobody has them open. Idempotent. */
  async removeTimeline(id: TenantTimelineId): Promise<void> {
    const dir = this.#timelineDir(id);
    await translate(dir, async () => {
      await rm(dir, { recursive: true, force: true });
      if (await exists(join(dir, '..'))) await syncDirectory(join(dir, '..'));
    });
    this.#made.delete(timelineKey(id));
    (await this.#found)?.delete(timelineKey(id));
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    this.#found ??= this.#findTimelines().catch((error: unknown) => {
      this.#found = null;
      throw error;
    });
    return [...new Map([...(await this.#found), ...this.#made]).values()];
  }

  async #findTimelines(): Promise<Map<string, TenantTimelineId>> {
    const found = new Map<string, TenantTimelineId>();
    for (const tenant of await directoriesIn(this.#dir)) {
      for (const timeline of await directoriesIn(join(this.#dir, tenant))) {
        const id = parseId(tenant, timeline);
        if (id && (await exists(join(this.#timelineDir(id), controlFileName)))) found.set(timelineKey(id), id);
      }
    }
    return found;
  }

  #timelineDir(id: TenantTimelineId): string {
    return join(this.#dir, id.tenantId, id.timelineId);
  }
}

function parseId(tenant: string, timeline: string): TenantTimelineId | null {
  try {
    return { tenantId: tenantId(tenant), timelineId: timelineId(timeline) };
  } catch (error) {
    // Some other directory.
    if (isPageliteError(error, 'invalid')) return null;
    throw error;
  }
}

async function directoriesIn(dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw failure(dir, error);
  }
}

/** Null if there is none. */
async function readWhole(path: string): Promise<Uint8Array | null> {
  try {
    const bytes = await readFile(path);
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw failure(path, error);
  }
}

async function replaceWhole(dir: string, name: string, bytes: Uint8Array): Promise<void> {
  const path = join(dir, name);
  await translate(path, async () => {
    const file = await open(`${path}.new`, 'w');
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
    await syncDirectory(dir);
  });
}

class DiskTimelineStorage implements TimelineStorage {
  readonly label: string;
  readonly segments: DiskSegments;
  readonly #marks = new Map<string, FileHandle>();

  constructor(dir: string, options: DiskStorageOptions) {
    this.label = dir;
    this.segments = new DiskSegments(dir, options);
  }

  readFile(name: string): Promise<Uint8Array | null> {
    return readWhole(join(this.label, name));
  }

  replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    return replaceWhole(this.label, name, bytes);
  }

  async overwriteFile(name: string, bytes: Uint8Array, durable: boolean): Promise<void> {
    const path = join(this.label, name);
    await translate(path, async () => {
      let file = this.#marks.get(name);
      if (file === undefined) {
        file = (await exists(path)) ? await open(path, 'r+') : await open(path, 'w');
        this.#marks.set(name, file);
      }
      writeAllSync(file.fd, bytes, 0);
      if (durable) {
        await file.sync();
        await syncDirectory(this.label);
      }
    });
  }

  async close(): Promise<void> {
    for (const file of this.#marks.values()) await file.close();
    this.#marks.clear();
    await this.segments.close();
  }
}

class DiskSegments implements SegmentStorage {
  readonly #dir: string;
  readonly #syncInThread: boolean;
  /** Least recently used first. */
  readonly #open = new Map<string, Promise<FileHandle>>();
  /** Descriptor of each open file, for writes within the call. */
  readonly #descriptors = new Map<string, number>();

  constructor(dir: string, { syncInThread = false }: DiskStorageOptions) {
    this.#dir = dir;
    this.#syncInThread = syncInThread;
  }

  async list(): Promise<readonly { name: string; size: number }[]> {
    return translate(this.#dir, async () => {
      const files: { name: string; size: number }[] = [];
      for (const entry of await readdir(this.#dir, { withFileTypes: true })) {
        if (entry.isFile()) files.push({ name: entry.name, size: (await stat(this.#path(entry.name))).size });
      }
      return files;
    });
  }

  async create(name: string, size: number): Promise<void> {
    const path = this.#path(name);
    await this.#forget(name);
    await translate(path, async () => {
      const file = await open(`${path}.new`, 'w');
      try {
        await file.truncate(size);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(`${path}.new`, path);
      await syncDirectory(this.#dir);
    });
  }

  write(name: string, offset: number, bytes: Uint8Array): Promise<void> | undefined {
    const fd = this.#descriptors.get(name);
    if (fd === undefined || bytes.length > syncWriteBytesMax) return this.#write(name, offset, bytes);
    try {
      writeAllSync(fd, bytes, offset);
    } catch (error) {
      throw failure(this.#path(name), error);
    }
    return undefined;
  }

  sync(name: string): Promise<void> | undefined {
    const fd = this.#syncInThread ? this.#descriptors.get(name) : undefined;
    if (fd === undefined) return this.#sync(name);
    try {
      fdatasyncSync(fd);
    } catch (error) {
      throw failure(this.#path(name), error);
    }
    return undefined;
  }

  async #sync(name: string): Promise<void> {
    const file = await this.#file(name);
    await translate(this.#path(name), () => file.datasync());
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    for (;;) {
      const file = await this.#file(name);
      try {
        return await readFully(file, offset, length);
      } catch (error) {
        // It was closed in the meantime, by a rename or to make room.
        if ((error as NodeJS.ErrnoException).code !== 'EBADF') throw failure(this.#path(name), error);
      }
    }
  }

  async zeroFrom(name: string, offset: number): Promise<void> {
    const file = await this.#file(name);
    await translate(this.#path(name), async () => {
      const { size } = await file.stat();
      await file.truncate(offset);
      await file.truncate(size);
      await file.sync();
    });
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#forget(from);
    await this.#forget(to);
    await translate(this.#path(from), async () => {
      await rename(this.#path(from), this.#path(to));
      await syncDirectory(this.#dir);
    });
  }

  async remove(name: string): Promise<void> {
    await this.#forget(name);
    await translate(this.#path(name), async () => {
      await rm(this.#path(name), { force: true });
      await syncDirectory(this.#dir);
    });
  }

  async close(): Promise<void> {
    for (const name of [...this.#open.keys()]) await this.#forget(name);
  }

  async #write(name: string, offset: number, bytes: Uint8Array): Promise<void> {
    const file = await this.#file(name);
    await translate(this.#path(name), async () => {
      let done = 0;
      while (done < bytes.length) {
        const { bytesWritten } = await file.write(bytes, done, bytes.length - done, offset + done);
        done += bytesWritten;
      }
    });
  }

  #file(name: string): Promise<FileHandle> {
    const known = this.#open.get(name);
    if (known) {
      this.#open.delete(name);
      this.#open.set(name, known);
      return known;
    }
    const opening = this.#openFile(name);
    this.#open.set(name, opening);
    opening.catch(() => this.#open.delete(name));
    return opening;
  }

  async #openFile(name: string): Promise<FileHandle> {
    const file = await translate(this.#path(name), () => open(this.#path(name), 'r+'));
    this.#descriptors.set(name, file.fd);
    for (const other of [...this.#open.keys()]) {
      if (this.#open.size <= openFilesMax) break;
      if (other !== name) await this.#forget(other);
    }
    return file;
  }

  async #forget(name: string): Promise<void> {
    const opening = this.#open.get(name);
    this.#open.delete(name);
    this.#descriptors.delete(name);
    const file = await opening?.catch(() => undefined);
    // After what is under way with it: FileHandle.close waits for that.
    await file?.close();
  }

  #path(name: string): string {
    return join(this.#dir, name);
  }
}

async function readFully(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

function writeAllSync(fd: number, bytes: Uint8Array, offset: number): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw failure(path, error);
  }
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function translate<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw isPageliteError(error) ? error : failure(path, error);
  }
}

function failure(path: string, error: unknown): PageliteError {
  const { code, message } = error as NodeJS.ErrnoException;
  const kind = code === 'ENOENT' ? 'notFound' : 'unavailable';
  return new PageliteError(
    kind,
    `file ${path}: ${message}`,
    { file: path, ...(code ? { code } : {}) },
    { cause: error },
  );
}
