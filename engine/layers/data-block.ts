/**
 * One block of a layer file: some values, sorted by key and LSN, under one CRC32C.
 *
 * Written by LayerWriter (layer-file.ts), parsed once when it is loaded, then searched in place: keys and LSNs are columns of numbers.
 * The layout is in docs/formats.md:
 *
 *   | offset | bytes | field                                                          |
 *   |--------|-------|----------------------------------------------------------------|
 *   | 0      | 4     | CRC32C of everything behind it in the block                    |
 *   | 4      | 1     | codec: 0, not compressed                                       |
 *   | 5      | 1     | 0                                                              |
 *   | 6      | 2     | number of prefixes P                                           |
 *   | 8      | 4     | number of entries N, at least 1                                |
 *   | 12     | 4     | bytes of the values V                                          |
 *   | 16     | V     | the values, one after another; zeros up to a multiple of 8     |
 *   |        | 20 P  | prefixes in key order: 14 bytes of key, 2 zeros, u32 first entry |
 *   |        | 4 N   | block number of each entry                                     |
 *   |        | 4 N   | where each entry's value ends, from the first value's start    |
 *   |        | 8 N   | LSN of each entry                                              |
 *   |        | N     | kind of each entry (model/value.ts); zeros up to a multiple of 8 |
 *
 * Invariant: entries ascend by (key, LSN), equal ones stand in the order in which they apply; every prefix has at least one.
 */
import { assert } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { comparePrefixes, type KeyPrefix, readKeyPrefix } from '../model/key.ts';
import { corruptLayer } from './layer-name.ts';
import type { PageHolder } from './value-chain.ts';

export const dataBlockHeaderBytes = 16;
export const prefixEntryBytes = 20;

assert(
  new Uint8Array(new Uint32Array([1]).buffer)[0] === 1,
  'columns are read in place: a little-endian host is needed',
);

const two32 = 4294967296;

export function align8(bytes: number): number {
  return (bytes + 7) & ~7;
}

export class DataBlock implements PageHolder {
  readonly bytes: Uint8Array;
  readonly entryCount: number;
  readonly prefixes: readonly KeyPrefix[];
  /** First entry of each prefix, and the number of entries at the end. */
  readonly prefixFirst: readonly number[];
  readonly blocks: Uint32Array;
  readonly #ends: Uint32Array;
  /** Low and high half of each. */
  readonly #lsns: Uint32Array;
  readonly #valueBytes: number;
  readonly kinds: Uint8Array;
  /** Of its value, if it has one entry. */
  pageChecksum = -1;

  /** Checks and parses. `bytes` begins at a multiple of 8 in its buffer and belongs to the block from now on. Throws `corrupt`. */
  constructor(bytes: Uint8Array, file: string, offset: number) {
    const bad = (reason: string) => corruptLayer(file, `block at ${offset}: ${reason}`);
    if (bytes.length < dataBlockHeaderBytes) throw bad('cut short');
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (crc32c(bytes, 4) !== view.getUint32(0, true)) throw bad('wrong checksum');
    if (bytes[4] !== 0) throw bad(`unknown codec ${bytes[4]}`);
    const prefixCount = view.getUint16(6, true);
    const n = view.getUint32(8, true);
    const valueBytes = view.getUint32(12, true);
    let at = dataBlockHeaderBytes + align8(valueBytes);
    const total = align8(at + prefixCount * prefixEntryBytes + n * 17);
    if (n === 0 || prefixCount === 0 || total !== bytes.length) throw bad('wrong length');
    const prefixes: KeyPrefix[] = [];
    const prefixFirst: number[] = [];
    for (let i = 0; i < prefixCount; i++, at += prefixEntryBytes) {
      prefixes.push(readKeyPrefix(view, at));
      prefixFirst.push(view.getUint32(at + 16, true));
    }
    prefixFirst.push(n);
    const base = bytes.byteOffset + at;
    this.bytes = bytes;
    this.#valueBytes = valueBytes;
    this.entryCount = n;
    this.prefixes = prefixes;
    this.prefixFirst = prefixFirst;
    this.blocks = new Uint32Array(bytes.buffer, base, n);
    this.#ends = new Uint32Array(bytes.buffer, base + 4 * n, n);
    this.#lsns = new Uint32Array(bytes.buffer, base + 8 * n, 2 * n);
    this.kinds = new Uint8Array(bytes.buffer, base + 16 * n, n);
  }

  lsn(entry: number): number {
    return this.#lsns[entry * 2 + 1]! * two32 + this.#lsns[entry * 2]!;
  }

  /** A view of the block's bytes. */
  value(entry: number): Uint8Array {
    const start = entry === 0 ? 0 : this.#ends[entry - 1]!;
    return this.bytes.subarray(dataBlockHeaderBytes + start, dataBlockHeaderBytes + this.#ends[entry]!);
  }

  /** Where the entry's value begins in `bytes`. */
  valueStart(entry: number): number {
    return dataBlockHeaderBytes + (entry === 0 ? 0 : this.#ends[entry - 1]!);
  }

  valueLength(entry: number): number {
    return this.#ends[entry]! - (entry === 0 ? 0 : this.#ends[entry - 1]!);
  }

  /** Whether the entry's value lies where values are: what our own writer sees to, and others may not. */
  isInside(entry: number): boolean {
    return this.valueLength(entry) >= 0 && this.#ends[entry]! <= this.#valueBytes;
  }

  /** Index into `prefixes`, or -1. */
  prefixIndex(prefix: KeyPrefix): number {
    return this.prefixes.indexOf(prefix);
  }

  /** The last entry of this key with an LSN below `endLsn`, or -1. */
  findLast(prefix: KeyPrefix, block: number, endLsn: number): number {
    const p = this.prefixIndex(prefix);
    if (p < 0) return -1;
    const first = this.prefixFirst[p]!;
    let low = first;
    let high = this.prefixFirst[p + 1]!;
    // The first entry that is not below (block, endLsn).
    while (low < high) {
      const middle = (low + high) >>> 1;
      const b = this.blocks[middle]!;
      if (b < block || (b === block && this.lsn(middle) < endLsn)) low = middle + 1;
      else high = middle;
    }
    return low > first && this.blocks[low - 1] === block ? low - 1 : -1;
  }

  /** Whether the entry is of this key. */
  isKey(entry: number, prefix: KeyPrefix, block: number): boolean {
    if (this.blocks[entry] !== block) return false;
    const p = this.prefixIndex(prefix);
    return p >= 0 && entry >= this.prefixFirst[p]! && entry < this.prefixFirst[p + 1]!;
  }

  get firstPrefix(): KeyPrefix {
    return this.prefixes[0]!;
  }
}

/** Compares (prefix, block, lsn) triples. */
export function compareEntries(
  aPrefix: KeyPrefix,
  aBlock: number,
  aLsn: number,
  bPrefix: KeyPrefix,
  bBlock: number,
  bLsn: number,
): number {
  if (aPrefix !== bPrefix) return comparePrefixes(aPrefix, bPrefix);
  return aBlock - bBlock || aLsn - bLsn;
}
