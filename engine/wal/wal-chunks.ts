/**
 * WAL bytes in memory, as chunks that follow one another, oldest first: what a safekeeper keeps for the readers that follow it, and what
 * a proposer keeps until it is acknowledged.
 *
 * Invariants: the chunks are contiguous, from `startLsn` to `endLsn`; a chunk's bytes never change.
 */
import { assert } from '../assert.ts';
import type { Lsn } from '../model/lsn.ts';

const noChunk = { lsn: 0, bytes: new Uint8Array(0) };

export class WalChunks {
  #chunks: { readonly lsn: number; readonly bytes: Uint8Array }[] = [];
  #head = 0;
  #endLsn: Lsn;
  #byteCount = 0;

  constructor(startLsn: Lsn) {
    this.#endLsn = startLsn;
  }

  get startLsn(): Lsn {
    return (this.#chunks[this.#head]?.lsn ?? this.#endLsn) as Lsn;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get byteCount(): number {
    return this.#byteCount;
  }

  /** At `lsn`, which is endLsn unless there are no chunks. */
  add(lsn: Lsn, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    assert(this.#byteCount === 0 || lsn === this.#endLsn, 'WAL chunks must follow one another');
    // A small view would keep the whole buffer that the network read alive.
    const kept = bytes.buffer.byteLength > 2 * bytes.length ? bytes.slice() : bytes;
    this.#chunks.push({ lsn, bytes: kept });
    this.#byteCount += kept.length;
    this.#endLsn = (lsn + kept.length) as Lsn;
  }

  /** Forgets the oldest chunks that end at or before `lsn`, as long as there are more than `bytesMax` bytes. */
  dropBefore(lsn: number, bytesMax = 0): void {
    while (this.#head < this.#chunks.length && this.#byteCount > bytesMax) {
      const { lsn: start, bytes } = this.#chunks[this.#head]!;
      if (start + bytes.length > lsn) break;
      this.#byteCount -= bytes.length;
      this.#chunks[this.#head++] = noChunk;
    }
    if (this.#head > 1024 && this.#head * 2 > this.#chunks.length) {
      this.#chunks = this.#chunks.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Up to `lengthMax` bytes at `lsn`, or null if they are not here. One chunk is returned as a view, several as a copy. */
  read(lsn: Lsn, lengthMax: number): Uint8Array | null {
    let i = this.#find(lsn);
    if (i < 0) return null;
    const first = this.#chunks[i]!;
    const offset = lsn - first.lsn;
    const available = first.bytes.length - offset;
    if (available >= lengthMax || i === this.#chunks.length - 1) {
      return first.bytes.subarray(offset, offset + Math.min(available, lengthMax));
    }
    const last = this.#chunks.at(-1)!;
    const out = new Uint8Array(Math.min(lengthMax, last.lsn + last.bytes.length - lsn));
    for (let at = 0; at < out.length; i++) {
      const chunk = this.#chunks[i]!;
      const from = lsn + at - chunk.lsn;
      const part = chunk.bytes.subarray(from, from + out.length - at);
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  /** Forgets what is at `lsn` and after it. */
  truncate(lsn: Lsn): void {
    while (this.#chunks.length > this.#head) {
      const { lsn: start, bytes } = this.#chunks.at(-1)!;
      if (start + bytes.length <= lsn) return;
      this.#chunks.pop();
      this.#byteCount -= bytes.length;
      this.#endLsn = start as Lsn;
      if (start < lsn) {
        this.add(start as Lsn, bytes.subarray(0, lsn - start));
        return;
      }
    }
  }

  /** Index of the chunk that holds `lsn`, or -1. */
  #find(lsn: number): number {
    let low = this.#head;
    let high = this.#chunks.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const { lsn: start, bytes } = this.#chunks[middle]!;
      if (lsn < start) high = middle - 1;
      else if (lsn >= start + bytes.length) low = middle + 1;
      else return middle;
    }
    return -1;
  }
}
