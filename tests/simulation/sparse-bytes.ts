/** Bytes of a file of which few parts were ever written: zeros elsewhere, and beyond its end. A copy costs next to nothing. */

const blockBytes = 4096;
const zeros = new Uint8Array(blockBytes);

export class SparseBytes {
  /** By offset, those that are not all zeros. Never changed, only replaced: copies have them in common. */
  readonly #blocks: Map<number, Uint8Array>;

  constructor(blocks: ReadonlyMap<number, Uint8Array> = new Map()) {
    this.#blocks = new Map(blocks);
  }

  write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const inBlock = (offset + done) % blockBytes;
      const part = bytes.subarray(done, done + blockBytes - inBlock);
      this.#writeBlock(offset + done - inBlock, inBlock, part);
      done += part.length;
    }
  }

  read(offset: number, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const inBlock = (offset + done) % blockBytes;
      const part = Math.min(blockBytes - inBlock, length - done);
      const block = this.#blocks.get(offset + done - inBlock);
      if (block !== undefined) out.set(block.subarray(inBlock, inBlock + part), done);
      done += part;
    }
    return out;
  }

  zeroFrom(offset: number): void {
    for (const [at, block] of [...this.#blocks]) {
      if (at >= offset) this.#blocks.delete(at);
      else if (at + blockBytes > offset) this.#blocks.set(at, block.slice().fill(0, offset - at));
    }
  }

  clone(): SparseBytes {
    return new SparseBytes(this.#blocks);
  }

  /** What was written, by offset. */
  *blocks(): Generator<readonly [offset: number, bytes: Uint8Array]> {
    for (const at of [...this.#blocks.keys()].sort((a, b) => a - b)) yield [at, this.#blocks.get(at)!];
  }

  #writeBlock(at: number, inBlock: number, bytes: Uint8Array): void {
    const before = this.#blocks.get(at);
    if (before === undefined && Buffer.compare(bytes, zeros.subarray(0, bytes.length)) === 0) return;
    const block = before?.slice() ?? new Uint8Array(blockBytes);
    block.set(bytes, inBlock);
    this.#blocks.set(at, block);
  }
}
