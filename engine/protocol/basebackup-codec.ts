/**
 * A basebackup as bytes, cut into chunks: what travels in `basebackupChunk` answers of the pagestream protocol.
 *
 * The server walks `basebackupChunks` and sends one chunk at a time, so that it never holds a second copy of the whole; the client
 * puts the chunks together and decodes. Integers are little-endian. The chunks' checksums are the messages'.
 *
 *   | bytes        | field                                                          |
 *   |--------------|----------------------------------------------------------------|
 *   | 8, 8, 8      | lsn, prevLsn, systemIdentifier                                 |
 *   | 4, 4         | number of files, number of prewarm runs                        |
 *   | per file     |                                                                |
 *   |   4, 4       | bytes of the path, bytes of the file (0xFFFFFFFF: a directory) |
 *   |   ...        | path in UTF-8, then the file                                   |
 *   | per prewarm  |                                                                |
 *   |   16, 4, 4, 4| relation, its size, first block, number of pages               |
 *   |   ...        | the pages                                                      |
 *
 * Paths come from a peer and end up in a file system: absolute ones, and ones that leave the data directory, are refused.
 */
import { assert } from '../assert.ts';
import { pageSize } from '../limits.ts';
import type { Basebackup, DataFile, PrewarmPages } from '../services.ts';
import { ByteReader, ByteWriter } from './byte-codec.ts';

const directory = 0xffffffff;
const utf8 = new TextEncoder();

export interface BasebackupChunk {
  readonly offset: number;
  readonly last: boolean;
  readonly bytes: Uint8Array;
}

/** The basebackup's bytes in chunks of `chunkBytes`; only the last one is shorter. */
export function* basebackupChunks(backup: Basebackup, chunkBytes: number): Generator<BasebackupChunk> {
  let chunk = new Uint8Array(chunkBytes);
  let filled = 0;
  let offset = 0;
  for (const piece of pieces(backup)) {
    for (let at = 0; at < piece.length; ) {
      // A full chunk is sent only when there is more: the last one must be marked.
      if (filled === chunkBytes) {
        yield { offset, last: false, bytes: chunk };
        offset += filled;
        chunk = new Uint8Array(chunkBytes);
        filled = 0;
      }
      const count = Math.min(piece.length - at, chunkBytes - filled);
      chunk.set(piece.subarray(at, at + count), filled);
      filled += count;
      at += count;
    }
  }
  yield { offset, last: true, bytes: chunk.subarray(0, filled) };
}

function* pieces(backup: Basebackup): Generator<Uint8Array> {
  yield new ByteWriter(32)
    .u53(backup.lsn)
    .u53(backup.prevLsn)
    .u64(backup.systemIdentifier)
    .u32(backup.files.length)
    .u32(backup.prewarm.length)
    .finish();
  for (const file of backup.files) {
    const path = utf8.encode(file.path);
    yield new ByteWriter(8)
      .u32(path.length)
      .u32(file.bytes?.length ?? directory)
      .finish();
    yield path;
    if (file.bytes !== null) yield file.bytes;
  }
  for (const { rel, relSize, firstBlock, pages } of backup.prewarm) {
    assert(pages.length % pageSize === 0, 'prewarm pages are not whole');
    yield new ByteWriter(28)
      .rel(rel)
      .u32(relSize)
      .u32(firstBlock)
      .u32(pages.length / pageSize)
      .finish();
    yield pages;
  }
}

/** Files and pages are views of `bytes`. Throws `invalid`. */
export function decodeBasebackup(bytes: Uint8Array): Basebackup {
  const reader = new ByteReader(bytes, 'basebackup');
  const lsn = reader.lsn();
  const prevLsn = reader.lsn();
  const systemIdentifier = reader.u64();
  const fileCount = reader.u32();
  const prewarmCount = reader.u32();
  const files: DataFile[] = [];
  for (let i = 0; i < fileCount; i++) files.push(readFile(reader));
  const prewarm: PrewarmPages[] = [];
  for (let i = 0; i < prewarmCount; i++) prewarm.push(readPrewarm(reader));
  reader.end();
  return { lsn, prevLsn, systemIdentifier, files, prewarm };
}

function readFile(reader: ByteReader): DataFile {
  const pathBytes = reader.u32();
  const fileBytes = reader.u32();
  const path = reader.text(pathBytes);
  const steps = path.split('/');
  if (path.includes('\0') || steps.some((step) => step === '' || step === '.' || step === '..')) {
    throw reader.invalid(`path ${JSON.stringify(path)}`);
  }
  return { path, bytes: fileBytes === directory ? null : reader.bytes(fileBytes) };
}

function readPrewarm(reader: ByteReader): PrewarmPages {
  const rel = reader.rel();
  const relSize = reader.u32();
  const firstBlock = reader.u32();
  const pages = reader.bytes(reader.u32() * pageSize);
  return { rel, relSize, firstBlock, pages };
}
