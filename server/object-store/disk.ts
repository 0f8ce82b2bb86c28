/**
 * An ObjectStore in a folder: an object is a file at its key, so that the folder looks as a Neon pageserver's does.
 *
 * `put` writes a temporary file beside the target, syncs it, renames it and syncs the folder: after a crash there is the old object or the
 * new one. Temporary files begin with a dot, which no key does; those that a crash left are removed by `open`.
 *
 * Invariants:
 * - an object's version is its file's inode, time of writing and size: a put always makes a new one
 * - puts and deletes of one key are one after another in this process
 * - `ifAbsent` holds also among processes that have the folder in common; `ifVersion` only within one
 * - the folder itself is made by `open` only: one that vanishes, as when it is not mounted any more, makes everything `unavailable`, and is neither empty nor
 *   made anew
 */
import type { Stats } from 'node:fs';
import { link, mkdir, open, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { threadId } from 'node:worker_threads';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { isLayerKey } from '../../engine/layers/layer-name.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { checkCondition, checkObjectKey } from '../../engine/stores/memory.ts';
import { forgetOpenFile, isKeptOpen, readRange, withFile, withKeptFile } from './open-files.ts';

/** With the process that writes it. */
const temporaryName = /^\.tmp-(\d+)-/;

/** What another thread opens the same objects with. */
export interface DiskFolder {
  readonly folder: string;
  readonly marker: string | null;
}

export class DiskObjectStore implements ObjectStore {
  readonly place: DiskFolder;
  readonly #folder: string;
  /** A file that is there as long as the store is. */
  readonly #marker: string;
  /** The last write under way of each key. */
  readonly #writes = new Map<string, Promise<unknown>>();
  #nextTemporary = 1;

  private constructor(place: DiskFolder) {
    this.place = place;
    this.#folder = place.folder;
    this.#marker = join(place.folder, place.marker ?? '.');
  }

  /**
   * Makes the folder if there is none. Without `sweep`: for another thread of a process that has it open. `marker`: an object without which the folder is
   * not this store, but the place where it is to be mounted.
   */
  static async open(
    folder: string,
    { sweep = true, marker = null }: { readonly sweep?: boolean; readonly marker?: string | null } = {},
  ): Promise<DiskObjectStore> {
    const store = new DiskObjectStore({ folder, marker });
    if (marker === null) await mkdir(folder, { recursive: true });
    else await store.#checkThere();
    if (!sweep) return store;
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      const pid = Number(temporaryName.exec(entry.name)?.[1]);
      if (entry.isFile() && pid > 0 && !isRunning(pid)) await rm(join(entry.parentPath, entry.name), { force: true });
    }
    return store;
  }

  /** What is not found is not there: but for when the store is away. */
  async #checkThere(): Promise<void> {
    try {
      await stat(this.#marker);
    } catch (error) {
      if (!isAbsent(error)) throw error;
      const hint = 'Is it not mounted, or was it moved?';
      throw new PageliteError('unavailable', `the folder ${this.#folder} of the object store is not there. ${hint}`);
    }
  }

  put(key: string, bytes: Uint8Array, condition?: { ifAbsent: true } | { ifVersion: string }): Promise<string> {
    return this.#exclusively(key, async () => {
      const path = this.#path(key);
      const before = await statOrNull(path);
      checkCondition(key, before && versionOf(before), condition);
      await this.#makeFolder(dirname(path));
      const temporary = join(dirname(path), `.tmp-${process.pid}-${threadId}-${this.#nextTemporary++}`);
      try {
        const file = await open(temporary, 'wx');
        try {
          await file.writeFile(bytes);
          await file.sync();
        } finally {
          await file.close();
        }
        if (condition && 'ifAbsent' in condition) await linkNew(temporary, path, key);
        else await rename(temporary, path);
        forgetOpenFile(path);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
      await syncFolder(dirname(path));
      return versionOf(await stat(path, { bigint: false }));
    });
  }

  get(
    key: string,
    range?: { start: number; end: number },
    { fresh }: { readonly fresh: boolean } = { fresh: false },
  ): Promise<{ bytes: Uint8Array; version: string } | null> {
    const path = this.#path(key);
    if (fresh) forgetOpenFile(path);
    return this.#translate(key, async () => {
      const read = async (fd: number, stats: Stats) => {
        if (!stats.isFile()) return null;
        const start = Math.min(range?.start ?? 0, stats.size);
        const end = Math.max(start, Math.min(range?.end ?? stats.size, stats.size));
        return { bytes: await readRange(fd, start, end), version: versionOf(stats) };
      };
      try {
        const staysOpen = range !== undefined && (isKeptOpen(path) || isLayerKey(key));
        return await (staysOpen ? withKeptFile(path, read) : withFile(path, read));
      } catch (error) {
        if (!isAbsent(error)) throw error;
        await this.#checkThere();
        return null;
      }
    });
  }

  head(key: string): Promise<{ size: number; version: string } | null> {
    const path = this.#path(key);
    return this.#translate(key, async () => {
      const stats = await statOrNull(path);
      if (stats === null) await this.#checkThere();
      return stats && { size: stats.size, version: versionOf(stats) };
    });
  }

  list(prefix: string): Promise<{ key: string; size: number }[]> {
    return this.#translate(prefix, async () => {
      const base = prefix.slice(0, prefix.lastIndexOf('/') + 1);
      if (base !== '') checkObjectKey(base.slice(0, -1));
      const found: { key: string; size: number }[] = [];
      await this.#walk(base, prefix, found);
      if (found.length === 0) await this.#checkThere();
      return found.sort((a, b) => (a.key < b.key ? -1 : 1));
    });
  }

  listFolders(folder: string): Promise<string[]> {
    return this.#translate(folder, async () => {
      if (folder !== '') checkObjectKey(folder.slice(0, -1));
      const entries = await readdir(join(this.#folder, folder), { withFileTypes: true }).catch((error) => {
        if (isAbsent(error)) return [];
        throw error;
      });
      const names = entries
        .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'))
        .map(({ name }) => name);
      if (names.length === 0) await this.#checkThere();
      // A crash may have left an empty one.
      const full = await Promise.all(names.map((name) => holdsFile(join(this.#folder, folder, name))));
      return names.filter((_, i) => full[i]).sort();
    });
  }

  delete(key: string): Promise<void> {
    return this.#exclusively(key, async () => {
      const path = this.#path(key);
      try {
        await rm(path);
        forgetOpenFile(path);
      } catch (error) {
        if (!isAbsent(error)) throw error;
        await this.#checkThere();
        return;
      }
      await syncFolder(dirname(path));
      await this.#removeEmptyFolders(dirname(path));
    });
  }

  #path(key: string): string {
    checkObjectKey(key);
    return join(this.#folder, key);
  }

  async #exclusively<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#writes.get(key) ?? Promise.resolve();
    const done = before.then(() => this.#translate(key, work));
    const settled = done.catch(() => {});
    this.#writes.set(key, settled);
    try {
      return await done;
    } finally {
      if (this.#writes.get(key) === settled) this.#writes.delete(key);
    }
  }

  /** Whatever the disk says becomes `unavailable`, with the key. */
  async #translate<T>(key: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      if (cause instanceof PageliteError) throw cause;
      throw new PageliteError('unavailable', `object ${key}: ${messageOf(cause)}`, { file: key }, { cause });
    }
  }

  /** Creates a folder so that it is there after a crash: each new one is synced into its parent. */
  async #makeFolder(path: string): Promise<void> {
    if (path !== this.#folder && (await isFolder(path))) return;
    await this.#checkThere();
    let folder = this.#folder;
    for (const name of relative(this.#folder, path).split(sep).filter(Boolean)) {
      const parent = folder;
      folder = join(parent, name);
      if (await makeOneFolder(folder)) await syncFolder(parent);
    }
  }

  async #removeEmptyFolders(path: string): Promise<void> {
    for (let folder = path; folder.length > this.#folder.length; folder = dirname(folder)) {
      try {
        await rmdir(folder);
      } catch {
        // Not empty, or somebody was faster.
        return;
      }
    }
  }

  /** Objects under the folder `base` whose keys begin with `prefix`, which begins with `base`: folders of other names are not entered, files not looked at. */
  async #walk(base: string, prefix: string, found: { key: string; size: number }[]): Promise<void> {
    let entries: Awaited<ReturnType<typeof readFolder>>;
    try {
      entries = await readFolder(join(this.#folder, base));
    } catch (error) {
      if (isAbsent(error)) return;
      throw error;
    }
    for (const entry of entries) {
      if (entry.name.startsWith('.')) continue;
      const key = base + entry.name;
      if (!key.startsWith(prefix)) continue;
      if (entry.isDirectory()) {
        await this.#walk(`${key}/`, `${key}/`, found);
      } else if (entry.isFile()) {
        const stats = await statOrNull(join(this.#folder, key));
        if (stats !== null) found.push({ key, size: stats.size });
      }
    }
  }
}

/** Whether an object is in the folder or below. */
async function holdsFile(path: string): Promise<boolean> {
  const entries = await readFolder(path).catch((error: unknown) => {
    if (isAbsent(error)) return [];
    throw error;
  });
  const seen = entries.filter(({ name }) => !name.startsWith('.'));
  if (seen.some((entry) => entry.isFile())) return true;
  for (const entry of seen) if (entry.isDirectory() && (await holdsFile(join(path, entry.name)))) return true;
  return false;
}

/** Whether it is new. Its parent has to be there. */
async function makeOneFolder(path: string): Promise<boolean> {
  try {
    await mkdir(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return false;
  }
}

export async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

/** The target appears whole, or is there already: rejects `invalid` then, whichever process was first. */
async function linkNew(temporary: string, path: string, key: string): Promise<void> {
  try {
    await link(temporary, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    checkCondition(key, 'there', { ifAbsent: true });
  }
  await rm(temporary);
}

function isRunning(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

const readFolder = (path: string) => readdir(path, { withFileTypes: true });

function isAbsent(error: unknown): boolean {
  const { code } = error as { code?: string };
  return code === 'ENOENT' || code === 'ENOTDIR';
}

async function statOrNull(path: string): Promise<Stats | null> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? stats : null;
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}

/** An inode number that is used again comes with another time. */
function versionOf(stats: Stats): string {
  return `${stats.ino}-${stats.mtimeMs}-${stats.size}`;
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
