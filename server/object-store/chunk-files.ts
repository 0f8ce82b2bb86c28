/**
 * Chunks of remote objects as files: what a pageserver keeps of its remote layers on its own disk (tiered.ts).
 *
 *   <folder>/<key>/<chunk number>      data, CRC32C of each `cacheBlockBytes` of it (u32 LE), length of the data (u32 LE)
 *
 * Invariants:
 * - a chunk that is read was checked: what is damaged or cut short is as if it were not there
 * - the folder may be wiped at any time, by whoever wants its room
 */
import { mkdir, open, readdir, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { threadId } from 'node:worker_threads';
import { crc32c } from '../../engine/crc32c.ts';
import { cacheBlockBytes, cacheChunkBytes } from '../../engine/limits.ts';

const temporaryPrefix = '.tmp-';

export class ChunkFiles {
  readonly #folder: string;
  #nextTemporary = 1;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Bytes [start, end) of a chunk, clamped to its length; null if it is not here, or damaged. */
  async read(key: string, chunk: number, start: number, end: number): Promise<Uint8Array | null> {
    try {
      const file = await open(this.#path(key, chunk), 'r');
      try {
        const { size } = await file.stat();
        const length = dataLength(size);
        const tail = Buffer.alloc(4);
        const told = await file.read(tail, 0, 4, Math.max(0, size - 4));
        if (length === null || told.bytesRead !== 4 || tail.readUInt32LE(0) !== length) return null;
        const from = Math.min(length, start);
        const to = Math.min(length, end);
        if (from >= to) return new Uint8Array(0);
        const first = Math.floor(from / cacheBlockBytes);
        const last = Math.ceil(to / cacheBlockBytes);
        const sums = Buffer.alloc(4 * (last - first));
        const bytes = Buffer.alloc(Math.min(length, last * cacheBlockBytes) - first * cacheBlockBytes);
        const reads = [
          await file.read(bytes, 0, bytes.length, first * cacheBlockBytes),
          await file.read(sums, 0, sums.length, length + 4 * first),
        ];
        if (reads.some(({ bytesRead, buffer }) => bytesRead !== buffer.length)) return null;
        for (let i = 0; i < last - first; i++) {
          const at = i * cacheBlockBytes;
          const blockEnd = Math.min(bytes.length, at + cacheBlockBytes);
          if (crc32c(bytes, at, blockEnd) !== sums.readUInt32LE(4 * i)) return null;
        }
        const skip = from - first * cacheBlockBytes;
        return new Uint8Array(bytes.buffer, bytes.byteOffset + skip, to - from);
      } finally {
        await file.close();
      }
    } catch {
      // Not here, or the disk fails: the remote storage has it.
      return null;
    }
  }

  /** Resolves with the bytes on disk. Rejects as the disk does (no room). */
  async write(key: string, chunk: number, data: Uint8Array): Promise<number> {
    const path = this.#path(key, chunk);
    const blocks = Math.ceil(data.length / cacheBlockBytes);
    const tail = Buffer.alloc(4 * blocks + 4);
    for (let i = 0; i < blocks; i++) {
      const end = Math.min(data.length, (i + 1) * cacheBlockBytes);
      tail.writeUInt32LE(crc32c(data, i * cacheBlockBytes, end), 4 * i);
    }
    tail.writeUInt32LE(data.length, 4 * blocks);
    const temporary = join(dirname(path), `${temporaryPrefix}${process.pid}-${threadId}-${this.#nextTemporary++}`);
    await mkdir(dirname(path), { recursive: true });
    try {
      await writeFile(temporary, Buffer.concat([data, tail]));
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
    return data.length + tail.length;
  }

  async remove(key: string, chunk: number): Promise<void> {
    const path = this.#path(key, chunk);
    await rm(path, { force: true });
    for (let folder = dirname(path); folder.length > this.#folder.length; folder = dirname(folder)) {
      try {
        await rmdir(folder);
      } catch {
        // Not empty.
        return;
      }
    }
  }

  /** What an earlier process has left of tenants. Removes what it has not finished. */
  async list(): Promise<{ key: string; chunk: number; bytes: number }[]> {
    const found: { key: string; chunk: number; bytes: number }[] = [];
    const entries = await readdir(join(this.#folder, 'tenants'), { recursive: true, withFileTypes: true }).catch(
      () => [],
    );
    for (const entry of entries) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      if (entry.name.startsWith(temporaryPrefix)) await rm(path, { force: true });
      if (!/^\d{1,6}$/.test(entry.name)) continue;
      const stats = await stat(path).catch(() => null);
      if (stats === null) continue;
      const key = relative(this.#folder, entry.parentPath).split(sep).join('/');
      found.push({ key, chunk: Number(entry.name), bytes: stats.size });
    }
    return found;
  }

  #path(key: string, chunk: number): string {
    return join(this.#folder, key, String(chunk));
  }
}

/** Of a chunk's file of `size` bytes; null if no chunk has that size. */
function dataLength(size: number): number | null {
  // The last block of sums may be of a shorter block: one of few lengths fits.
  const blocksMax = Math.ceil(size / (cacheBlockBytes + 4));
  for (let blocks = Math.max(0, blocksMax - 1); blocks <= blocksMax; blocks++) {
    const length = size - 4 * blocks - 4;
    if (length >= 0 && length <= cacheChunkBytes && Math.ceil(length / cacheBlockBytes) === blocks) return length;
  }
  return null;
}
