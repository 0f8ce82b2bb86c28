/**
 * R2. Where the page cache puts pages that it must not drop and has no room for: a file in Node (server/compute/file-spill.ts), memory elsewhere.
 *
 * Nothing here must survive the compute. Calls are synchronous: PostgreSQL waits in them.
 */
import { pageSize } from '../../engine/limits.ts';

export interface SpillStore {
  /** Keeps a copy of the page at `slot`; slots are dense from 0 and are used again. */
  write(slot: number, bytes: Uint8Array, offset: number): void;
  read(slot: number, bytes: Uint8Array, offset: number): void;
  close(): void;
}

/** 1 MiB at a time, given back when the store is closed. */
const pagesPerChunk = 128;

export class MemorySpill implements SpillStore {
  #chunks: Uint8Array[] = [];

  write(slot: number, bytes: Uint8Array, offset: number): void {
    this.#place(slot).set(bytes.subarray(offset, offset + pageSize));
  }

  read(slot: number, bytes: Uint8Array, offset: number): void {
    bytes.set(this.#place(slot), offset);
  }

  close(): void {
    this.#chunks = [];
  }

  #place(slot: number): Uint8Array {
    const chunk = Math.floor(slot / pagesPerChunk);
    while (this.#chunks.length <= chunk) this.#chunks.push(new Uint8Array(pagesPerChunk * pageSize));
    const at = (slot % pagesPerChunk) * pageSize;
    return this.#chunks[chunk]!.subarray(at, at + pageSize);
  }
}
