/**
 * What a user points at, as a data directory that was shut down in order: what engine/import reads.
 *
 * | source                                    | what is done                                                        |
 * |-------------------------------------------|---------------------------------------------------------------------|
 * | folder, shut down, without postmaster.pid | read where it is                                                    |
 * | any other folder                          | copied, and PostgreSQL recovers the copy                            |
 * | tarball, or standard input                | extracted; if it was not shut down PostgreSQL recovers what came out |
 *
 * PGlite's postmaster.pid names no process of the operating system: whether its PGlite runs cannot be told, only whether files change. A folder in
 * which nothing changes while it is copied is what a crash at that moment would have left, which is what recovery is for; one in which something
 * does is refused. The user's folder is never written.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { PageliteError } from '../../engine/errors.ts';
import { checkControl, postgresMajor } from '../../engine/import/check-control.ts';
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';
import { extractTarball } from './extract-tarball.ts';
import { checkUnchanged, type FoundFolder, scanFolder } from './folder-directory.ts';
import { recoverDataDirectory } from './recover.ts';

export interface PreparedDirectory {
  readonly dir: string;
  readonly name: string;
  readonly found: FoundFolder;
  /** It is a copy, which may be removed. */
  readonly isCopy: boolean;
  readonly wasRecovered: boolean;
  /** Throws `unavailable` if the user's folder was written since. */
  checkUnchanged(): Promise<void>;
}

export interface PrepareOptions {
  /** A path, or standard input. */
  readonly source: string | Readable;
  /** Where a copy is put; does not exist. */
  readonly copyDir: string;
  readonly progress: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

/** Recovery and configuration of a standby: such a server waits for WAL from elsewhere. */
const standbyFiles = ['standby.signal', 'recovery.signal', 'backup_label'];

export async function prepareDirectory(options: PrepareOptions): Promise<PreparedDirectory> {
  const { source } = options;
  if (typeof source !== 'string') return prepareTarball(options, 'standard input', null);
  const found = await stat(source).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error;
    throw new PageliteError('notFound', `there is no ${source}`, { file: source });
  });
  if (found.isDirectory()) return prepareFolder(options, resolve(source), source);
  if (found.isFile()) return prepareTarball(options, basename(source), found.size);
  throw new PageliteError('invalid', `${source} is neither a folder nor a file`, { file: source });
}

async function prepareFolder(options: PrepareOptions, dir: string, name: string): Promise<PreparedDirectory> {
  const found = await scanFolder(dir, name);
  const { isClean } = await checkDirectory(dir, name, found);
  const wasOpen = found.files.some(({ path }) => path === 'postmaster.pid');
  if (isClean && !wasOpen) {
    return {
      dir,
      name,
      found,
      isCopy: false,
      wasRecovered: false,
      checkUnchanged: () => checkUnchanged(dir, name, found),
    };
  }
  await copyFolder(options, dir, name, found);
  await checkUnchanged(dir, name, found);
  return recovered(options.copyDir, name, options);
}

async function prepareTarball(
  options: PrepareOptions,
  name: string,
  archiveBytes: number | null,
): Promise<PreparedDirectory> {
  const { source, copyDir, progress, signal } = options;
  await mkdir(copyDir);
  const total = archiveBytes ?? 0;
  await extractTarball({
    source,
    name,
    dir: copyDir,
    ...(signal && { signal }),
    progress: (done) => progress({ text: 'Unpacking', done, total: Math.max(total, done), unit: 'bytes' }),
  });
  const dir = await dataFolderIn(copyDir, name);
  const found = await scanFolder(dir, name);
  const { isClean } = await checkDirectory(dir, name, found);
  if (!isClean) return recovered(dir, name, options);
  return { dir, name, found, isCopy: true, wasRecovered: false, checkUnchanged: async () => {} };
}

/** PGlite packs what is in the folder; tar of a folder packs it with its name. */
async function dataFolderIn(dir: string, name: string): Promise<string> {
  const { files, folders } = await scanFolder(dir, name);
  const top = folders.filter((path) => !path.includes('/'));
  const isInside = !files.some(({ path }) => !path.includes('/')) && top.length === 1;
  return isInside ? join(dir, top[0]!) : dir;
}

async function recovered(dir: string, name: string, { progress, signal }: PrepareOptions): Promise<PreparedDirectory> {
  signal?.throwIfAborted();
  progress({ text: 'PostgreSQL recovers it', done: 0, total: 0, unit: 'bytes' });
  await recoverDataDirectory(dir, name);
  signal?.throwIfAborted();
  const found = await scanFolder(dir, name);
  const { isClean, state } = await checkDirectory(dir, name, found);
  if (!isClean) throw new PageliteError('corrupt', `${name} is ${state} after recovery`);
  return { dir, name, found, isCopy: true, wasRecovered: true, checkUnchanged: async () => {} };
}

/** What can be told before much is read. Throws `invalid` and `corrupt`, naming the file. */
async function checkDirectory(
  dir: string,
  name: string,
  { files, folders }: FoundFolder,
): Promise<{ isClean: boolean; state: string }> {
  const has = (path: string) => files.some((file) => file.path === path);
  if (!has('PG_VERSION') || !has('global/pg_control')) {
    const missing = has('PG_VERSION') ? 'global/pg_control' : 'PG_VERSION';
    throw new PageliteError('invalid', `${name} is not a PostgreSQL data directory: it has no ${missing}`, {
      file: missing,
    });
  }
  const version = (await readFile(join(dir, 'PG_VERSION'), 'latin1')).slice(0, 20).trim();
  if (version !== String(postgresMajor)) {
    const message = `PG_VERSION of ${name} is ${JSON.stringify(version)}: only PostgreSQL ${postgresMajor} can be imported. Use pg_dump and restore the dump instead`;
    throw new PageliteError('invalid', message, { file: 'PG_VERSION' });
  }
  const tablespace = [...folders, ...files.map(({ path }) => path)].find((path) => path.startsWith('pg_tblspc/'));
  if (tablespace !== undefined) {
    const message = `${name} has a tablespace (${tablespace}): tablespaces are not supported. Move what is in it to pg_default`;
    throw new PageliteError('invalid', message, { file: tablespace });
  }
  const standby = standbyFiles.find(has);
  if (standby !== undefined) {
    const message = `${name} has a ${standby}: it is a backup or a standby, which goes on with WAL from elsewhere. Start it until it is done, and shut it down`;
    throw new PageliteError('invalid', message, { file: standby });
  }
  return checkControl(new Uint8Array(await readFile(join(dir, 'global/pg_control'))), name);
}

async function copyFolder(
  { copyDir, progress, signal }: PrepareOptions,
  dir: string,
  name: string,
  { files, folders }: FoundFolder,
): Promise<void> {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  let done = 0;
  await mkdir(copyDir, { mode: 0o700 });
  try {
    for (const path of folders) await mkdir(join(copyDir, path));
    for (const { path, size } of files) {
      signal?.throwIfAborted();
      await pipeline(createReadStream(join(dir, path)), createWriteStream(join(copyDir, path), { flags: 'wx' }), {
        ...(signal && { signal }),
      });
      done += size;
      progress({ text: 'Copying', done, total, unit: 'bytes' });
    }
  } catch (error) {
    await rm(copyDir, { recursive: true, force: true });
    if (signal?.aborted) throw signal.reason;
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      throw new PageliteError(
        'unavailable',
        `${name} is in use: a file was removed while it was copied`,
        {},
        { cause: error },
      );
    }
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      const message = `there is no room left in ${copyDir} for a copy of ${name}, ${total} bytes`;
      throw new PageliteError('unavailable', message, { dir: copyDir }, { cause: error });
    }
    throw error;
  }
}
