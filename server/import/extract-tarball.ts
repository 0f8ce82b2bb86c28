/**
 * A tarball into an empty folder: what PGlite's dumpDataDir makes, or tar of a data directory. Streaming: memory does not depend on its size.
 *
 * The bytes are a stranger's. Invariants:
 * - nothing is written outside of the folder: paths with `..` are refused, a leading slash (PGlite's own have one) is the archive's root
 * - only regular files and folders are made; links and devices are refused
 * - an archive without its end, with a damaged header, or whose gzip checksum is wrong, is an error, also if every file in it looked whole
 */
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PassThrough, type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream as WebReadable } from 'node:stream/web';
import { createGunzip } from 'node:zlib';
import { createTarDecoder, type ParsedTarEntry } from 'modern-tar';
import { concatBytes } from '../../engine/bytes.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { refused } from './folder-directory.ts';

export interface ExtractOptions {
  /** A path, or a stream such as standard input. */
  readonly source: string | Readable;
  /** For messages. */
  readonly name: string;
  /** Empty. */
  readonly dir: string;
  /** Bytes of the archive that were read. */
  readonly progress?: (bytes: number) => void;
  readonly signal?: AbortSignal;
}

/** Two blocks of zeros. */
const endBytes = 1024;
/** A path that no file system takes is no data directory's. */
const pathLengthMax = 1024;
const entriesMax = 5_000_000;

/** Throws `corrupt` (damaged or cut short), `invalid` (not an archive of a data directory), and what the file system throws. */
export async function extractTarball(options: ExtractOptions): Promise<void> {
  const { source, name, dir, signal } = options;
  const input = typeof source === 'string' ? createReadStream(source, { highWaterMark: 256 * 1024 }) : source;
  const end = new EndOfArchive(name);
  const decoder = createTarDecoder({ strict: true });
  // Whichever side fails first, the other one is ended with it; the first failure is the one that is told.
  let failure: unknown = null;
  const note = (error: unknown) => {
    failure ??= error;
    throw error;
  };
  const feed = feedDecoder(options, input, end, decoder.writable).catch(note);
  const write = writeEntries(options, decoder.readable as unknown as WebReadable<ParsedTarEntry>).catch((error) => {
    input.destroy();
    return note(error);
  });
  await Promise.allSettled([feed, write]);
  if (signal?.aborted) throw signal.reason;
  if (failure !== null) throw translated(failure, name, dir);
  end.check();
}

async function feedDecoder(
  { name, progress, signal }: ExtractOptions,
  input: Readable,
  end: EndOfArchive,
  decoder: WritableStream<Uint8Array>,
): Promise<void> {
  const writer = decoder.getWriter();
  let read = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      read += chunk.length;
      progress?.(read);
      done(null, chunk);
    },
  });
  const stop = () => input.destroy(signal?.reason);
  try {
    // What never sends its first bytes is ended, too.
    signal?.addEventListener('abort', stop, { once: true });
    const unpacked = (await startsAsGzip(input, name)) ? createGunzip() : new PassThrough();
    await pipeline(
      input,
      count,
      unpacked,
      async (bytes: AsyncIterable<Buffer>) => {
        for await (const chunk of bytes) {
          end.saw(chunk);
          await writer.ready;
          await writer.write(chunk);
        }
      },
      { ...(signal && { signal }) },
    );
    await writer.close();
  } catch (error) {
    await writer.abort(error).catch(() => {});
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** By its first two bytes, not by a name. They are put back. Throws `invalid` if there is nothing. */
async function startsAsGzip(input: Readable, name: string): Promise<boolean> {
  let first = new Uint8Array(0);
  while (first.length < 2) {
    const chunk = await nextChunk(input);
    if (chunk === null) break;
    first = concatBytes([first, chunk]);
  }
  if (first.length === 0) throw new PageliteError('invalid', `${name} is empty`, { file: name });
  input.unshift(first);
  return first[0] === 0x1f && first[1] === 0x8b;
}

function nextChunk(input: Readable): Promise<Uint8Array | null> {
  return new Promise((resolve, reject) => {
    const settle = (work: () => void) => {
      input.off('readable', onReadable);
      input.off('error', onError);
      input.off('end', onEnd);
      work();
    };
    const onReadable = () => {
      const chunk = input.read() as Uint8Array | null;
      if (chunk !== null) settle(() => resolve(chunk));
    };
    const onError = (error: Error) => settle(() => reject(error));
    const onEnd = () => settle(() => resolve(null));
    input.on('readable', onReadable);
    input.on('error', onError);
    input.on('end', onEnd);
    if (input.readableEnded) onEnd();
    else onReadable();
  });
}

async function writeEntries({ name, dir }: ExtractOptions, entries: WebReadable<ParsedTarEntry>): Promise<void> {
  const made = new Set<string>();
  const makeFolder = async (path: string) => {
    if (made.has(path)) return;
    await mkdir(join(dir, path), { recursive: true });
    made.add(path);
  };
  const seen = new Set<string>();
  await makeFolder('');
  for await (const { header, body } of entries) {
    const path = checkedPath(header.name, name);
    if (header.type === 'directory') {
      await makeFolder(path);
      await body.cancel();
      continue;
    }
    if (header.type !== 'file') throw refused(path, name, `a ${header.type}`);
    if (header.pax !== undefined && Object.keys(header.pax).some((key) => key.startsWith('GNU.sparse'))) {
      throw refused(path, name, 'a sparse file');
    }
    if (path === '') throw new PageliteError('invalid', `${name} has a file without a name`);
    if (seen.has(path)) throw new PageliteError('invalid', `${name} has ${path} twice`, { file: path });
    if (seen.size === entriesMax) throw new PageliteError('invalid', `${name} has more than ${entriesMax} files`);
    seen.add(path);
    await makeFolder(dirname(path) === '.' ? '' : dirname(path));
    const file = await open(join(dir, path), 'wx', 0o600);
    try {
      await writeBody(file, body as unknown as AsyncIterable<Uint8Array>);
    } finally {
      await file.close();
    }
  }
}

async function writeBody(file: FileHandle, body: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const chunk of body) await file.writeFile(chunk);
}

/** Relative to the archive's root, without `.` parts. */
function checkedPath(path: string, name: string): string {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  const isBad = parts.includes('..') || path.includes('\0') || path.includes('\\') || path.length > pathLengthMax;
  if (isBad) {
    throw new PageliteError(
      'invalid',
      `${name} has the path ${JSON.stringify(path.slice(0, 200))}, which leads elsewhere`,
    );
  }
  return parts.join('/');
}

/** tar ends with two blocks of zeros: without them it was cut, perhaps between two files. */
class EndOfArchive {
  readonly #name: string;
  #zeros = 0;

  constructor(name: string) {
    this.#name = name;
  }

  saw(chunk: Uint8Array): void {
    let zeros = 0;
    while (zeros < chunk.length && zeros < endBytes && chunk[chunk.length - 1 - zeros] === 0) zeros++;
    this.#zeros = zeros === chunk.length ? Math.min(endBytes, this.#zeros + zeros) : zeros;
  }

  check(): void {
    if (this.#zeros < endBytes) throw cutShort(this.#name);
  }
}

const cutShort = (name: string): PageliteError =>
  new PageliteError('corrupt', `${name} is cut short: the end of the archive is missing`, { file: name });

/** What gunzip, the decoder and the file system say, in our words. */
function translated(error: unknown, name: string, dir: string): unknown {
  if (isPageliteError(error)) return error;
  const { code } = error as NodeJS.ErrnoException;
  const message = messageOf(error);
  const damaged = (what: string) => new PageliteError('corrupt', `${name} ${what}`, { file: name }, { cause: error });
  if (code === 'Z_BUF_ERROR' || /truncated/i.test(message)) return cutShort(name);
  if (typeof code === 'string' && code.startsWith('Z_')) return damaged(`is damaged: gzip says "${message}"`);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new PageliteError(
      'unavailable',
      `there is no room left in ${dir} to unpack ${name}`,
      { dir },
      { cause: error },
    );
  }
  if (code !== undefined) return error;
  return damaged(`is no tar archive, or is damaged: ${message}`);
}
