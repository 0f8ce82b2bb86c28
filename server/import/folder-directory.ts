/**
 * A data directory in a folder, as engine/import reads it, and whether somebody writes to it meanwhile.
 *
 * Nothing but regular files and folders belongs to a data directory that can be imported: a symbolic link is a tablespace or WAL elsewhere, and is
 * refused before anything is read through it.
 */
import type { BigIntStats } from 'node:fs';
import { type FileHandle, lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { PageliteError } from '../../engine/errors.ts';
import type { DataDirectory } from '../../engine/import/data-directory.ts';

export interface FoundFile {
  readonly path: string;
  readonly size: number;
  /** Changes whenever the file does. */
  readonly stamp: string;
}

export interface FoundFolder {
  readonly files: readonly FoundFile[];
  /** Every folder, also empty ones; parents before children. */
  readonly folders: readonly string[];
}

/** Throws `invalid` for what cannot be in a data directory. */
export async function scanFolder(dir: string, name: string): Promise<FoundFolder> {
  const files: FoundFile[] = [];
  const folders: string[] = [];
  const walk = async (folder: string): Promise<void> => {
    for (const entry of (await readdir(join(dir, folder))).sort()) {
      const path = folder === '' ? entry : `${folder}/${entry}`;
      const stat = await lstat(join(dir, path), { bigint: true });
      if (stat.isDirectory()) {
        folders.push(path);
        await walk(path);
      } else if (stat.isFile()) {
        files.push({ path, size: Number(stat.size), stamp: stampOf(stat) });
      } else {
        throw refused(path, name, stat.isSymbolicLink() ? 'a symbolic link' : 'no regular file');
      }
    }
  };
  await walk('');
  return { files, folders };
}

const stampOf = (stat: BigIntStats): string => `${stat.ino}/${stat.size}/${stat.mtimeNs}/${stat.ctimeNs}`;

export function refused(path: string, name: string, what: string): PageliteError {
  const hint = path.startsWith('pg_tblspc/') ? ': tablespaces are not supported' : '';
  return new PageliteError('invalid', `${path} of ${name} is ${what}, which is not imported${hint}`, { file: path });
}

/** Throws `unavailable`, naming a file that was written, made or removed since `before`. */
export async function checkUnchanged(dir: string, name: string, before: FoundFolder): Promise<void> {
  const now = await scanFolder(dir, name);
  const stamps = new Map(now.files.map(({ path, stamp }) => [path, stamp]));
  const changed = before.files.find(({ path, stamp }) => stamps.get(path) !== stamp)?.path;
  const known = new Set(before.files.map(({ path }) => path));
  const added = now.files.find(({ path }) => !known.has(path))?.path;
  const path = changed ?? added;
  if (path === undefined) return;
  const wayOut = "Close the PGlite that has it open and try again, or import what that PGlite's dumpDataDir() gives";
  throw new PageliteError('unavailable', `${name} is in use: ${path} was written meanwhile. ${wayOut}`, { file: path });
}

export class FolderDirectory implements DataDirectory {
  readonly name: string;
  readonly files: readonly FoundFile[];
  readonly #dir: string;
  readonly #buffer = new Uint8Array(1024 * 1024);
  #open: { readonly path: string; readonly file: FileHandle } | null = null;

  constructor(dir: string, name: string, files: readonly FoundFile[]) {
    this.#dir = dir;
    this.name = name;
    this.files = files;
  }

  async read(path: string, offset: number, length: number): Promise<Uint8Array> {
    const file = await this.#handle(path);
    const buffer = length <= this.#buffer.length ? this.#buffer.subarray(0, length) : new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await file.read(buffer, done, length - done, offset + done);
      if (bytesRead === 0) {
        throw new PageliteError('corrupt', `${path} of ${this.name} ends at ${offset + done}: it was cut meanwhile`, {
          file: path,
        });
      }
      done += bytesRead;
    }
    return buffer;
  }

  async close(): Promise<void> {
    const open = this.#open;
    this.#open = null;
    await open?.file.close();
  }

  /** Files are read from end to end, one after another. */
  async #handle(path: string): Promise<FileHandle> {
    if (this.#open?.path === path) return this.#open.file;
    await this.close();
    this.#open = { path, file: await open(join(this.#dir, path), 'r') };
    return this.#open.file;
  }
}
