/**
 * The newest WAL of a timeline in memory, so that readers who follow it cost no disk reads. Holds the chunks as they came, oldest first
 * and contiguous; the oldest leave when there are more than `bytesMax`.
 */
import type { Lsn } from '../model/lsn.ts';

const noChunk = { lsn: 0, bytes: new Uint8Array(0) };

export class TailCache {
  readonly #bytesMax: number;
  #chunks: { readonly lsn: number; readonly bytes: Uint8Array }[] = [];
  #head = 0;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  add(lsn: Lsn, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    // A small view would keep the whole buffer that the network read alive.
    const kept = bytes.buffer.byteLength > 2 * bytes.length ? bytes.slice() : bytes;
    this.#chunks.push({ lsn, bytes: kept });
    this.#bytes += kept.length;
    while (this.#bytes > this.#bytesMax && this.#head < this.#chunks.length - 1) {
      this.#bytes -= this.#chunks[this.#head]!.bytes.length;
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
      const last = this.#chunks.at(-1)!;
      if (last.lsn + last.bytes.length <= lsn) return;
      this.#chunks.pop();
      this.#bytes -= last.bytes.length;
      if (last.lsn < lsn) {
        const bytes = last.bytes.subarray(0, lsn - last.lsn);
        this.#chunks.push({ lsn: last.lsn, bytes });
        this.#bytes += bytes.length;
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
