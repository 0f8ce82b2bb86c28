/**
 * A data directory as a tarball, in the form of PGlite's dumpDataDir: plain ustar, its paths relative to the directory. Streaming: what is slow to
 * take the archive slows down who makes it.
 */
import { createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Readable, Transform, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream as WebReadable } from 'node:stream/web';
import { constants, createGzip } from 'node:zlib';
import { createTarPacker } from 'modern-tar';
import { assert } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { DirectoryEntry } from '../../engine/export/data-directory-contents.ts';

export interface WriteTarballOptions {
  readonly entries: Iterable<DirectoryEntry>;
  /** Of the directory's files. */
  readonly progress: (bytes: number) => void;
  readonly isCompressed: boolean;
  readonly signal?: AbortSignal;
}

/** Bytes of the archive. The stream is ended. Rejects with what the entries, or the stream, reject with. */
export async function writeTarball(output: Writable, options: WriteTarballOptions): Promise<number> {
  const { isCompressed, signal } = options;
  const { readable, controller } = createTarPacker();
  let archiveBytes = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      archiveBytes += chunk.length;
      done(null, chunk);
    },
  });
  let failure: unknown = null;
  const packing = pack(controller, options).catch((error: unknown) => {
    failure ??= error;
    controller.error(error);
  });
  const input = Readable.fromWeb(readable as unknown as WebReadable);
  // Fast rather than small: what is packed is mostly pages, of which the fast level takes most.
  const stages = isCompressed ? [createGzip({ level: constants.Z_BEST_SPEED }), count] : [count];
  try {
    await pipeline([input, ...stages, output], { ...(signal && { signal }) });
  } catch (error) {
    failure ??= error;
  }
  await packing;
  if (signal?.aborted) throw signal.reason;
  if (failure !== null) throw failure;
  return archiveBytes;
}

async function pack(
  controller: ReturnType<typeof createTarPacker>['controller'],
  { entries, progress, signal }: WriteTarballOptions,
): Promise<void> {
  let done = 0;
  for (const entry of entries) {
    signal?.throwIfAborted();
    const isFolder = entry.kind === 'folder';
    const body = controller.add({
      name: isFolder ? `${entry.path}/` : entry.path,
      size: isFolder ? 0 : entry.size,
      type: isFolder ? 'directory' : 'file',
      mode: isFolder ? 0o700 : 0o600,
    });
    const writer = body.getWriter();
    if (!isFolder) {
      let written = 0;
      for await (const bytes of entry.bytes) {
        await writer.write(bytes);
        written += bytes.length;
        done += bytes.length;
        progress(done);
      }
      assert(written === entry.size, `${entry.path} has its size`);
    }
    await writer.close();
  }
  controller.finalize();
}

/** Writes a file under another name and renames it when it is whole and on disk; if `write` rejects there is nothing. */
export async function writeFileAtOnce<T>(path: string, write: (output: Writable) => Promise<T>): Promise<T> {
  const target = resolve(path);
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.part`);
  // The stream closes its descriptor; what is synced is the file.
  await (await openFile(temporary, 'wx', target)).close();
  try {
    const result = await write(createWriteStream(temporary));
    const file = await openFile(temporary, 'r+', target);
    await file.sync().finally(() => file.close());
    await rename(temporary, target);
    return result;
  } catch (error) {
    await rm(temporary, { force: true });
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error;
    throw new PageliteError('unavailable', `there is no room left for ${path}`, { file: path }, { cause: error });
  }
}

async function openFile(path: string, flags: string, target: string): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new PageliteError('notFound', `there is no folder ${dirname(target)}`, { file: target }, { cause: error });
  }
}
