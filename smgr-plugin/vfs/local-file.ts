/**
 * R1. A file that exists only in this compute: bytes in chunks, made when they are first written.
 *
 * Holes read as zeros and take no memory, so a 16 MB WAL segment of which 100 kB are written takes 128 kB.
 */
const chunkBytes = 64 * 1024;

export class LocalFile {
  #chunks: (Uint8Array | undefined)[] = [];
  #size = 0;

  static of(bytes: Uint8Array): LocalFile {
    const file = new LocalFile();
    file.write(0, bytes, 0, bytes.length);
    return file;
  }

  get size(): number {
    return this.#size;
  }

  get bytesInMemory(): number {
    return this.#chunks.reduce((sum, chunk) => sum + (chunk?.length ?? 0), 0);
  }

  /** Copies up to `length` bytes into `target` at `offset`; returns how many there were before the file's end. */
  read(position: number, target: Uint8Array, offset: number, length: number): number {
    const count = Math.max(0, Math.min(length, this.#size - position));
    for (let done = 0; done < count; ) {
      const inChunk = (position + done) % chunkBytes;
      const take = Math.min(count - done, chunkBytes - inChunk);
      const chunk = this.#chunks[Math.floor((position + done) / chunkBytes)];
      if (chunk) target.set(chunk.subarray(inChunk, inChunk + take), offset + done);
      else target.fill(0, offset + done, offset + done + take);
      done += take;
    }
    return count;
  }

  write(position: number, source: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const inChunk = (position + done) % chunkBytes;
      const take = Math.min(length - done, chunkBytes - inChunk);
      this.#chunk(Math.floor((position + done) / chunkBytes)).set(
        source.subarray(offset + done, offset + done + take),
        inChunk,
      );
      done += take;
    }
    this.#size = Math.max(this.#size, position + length);
  }

  truncate(size: number): void {
    if (size < this.#size) {
      const last = Math.floor(size / chunkBytes);
      this.#chunks[last]?.fill(0, size % chunkBytes);
      this.#chunks.length = Math.min(this.#chunks.length, size % chunkBytes === 0 ? last : last + 1);
    }
    this.#size = size;
  }

  /** Gives the memory back; the file reads as zeros from now on. */
  forgetBytes(): void {
    this.#chunks = [];
  }

  /** A little-endian u32 that does not cross a chunk. */
  readUint32(position: number): number {
    const chunk = this.#chunks[Math.floor(position / chunkBytes)];
    if (!chunk) return 0;
    const at = position % chunkBytes;
    return (chunk[at]! | (chunk[at + 1]! << 8) | (chunk[at + 2]! << 16) | (chunk[at + 3]! << 24)) >>> 0;
  }

  /** Visits [start, end) as consecutive pieces of memory. The range must have been written. */
  forEachPiece(start: number, end: number, visit: (bytes: Uint8Array, from: number, to: number) => void): void {
    for (let at = start; at < end; ) {
      const inChunk = at % chunkBytes;
      const take = Math.min(end - at, chunkBytes - inChunk);
      visit(this.#chunk(Math.floor(at / chunkBytes)), inChunk, inChunk + take);
      at += take;
    }
  }

  #chunk(index: number): Uint8Array {
    let chunk = this.#chunks[index];
    if (chunk === undefined) {
      chunk = new Uint8Array(chunkBytes);
      this.#chunks[index] = chunk;
    }
    return chunk;
  }
}
