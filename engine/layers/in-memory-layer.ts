/**
 * W8. The open layer: takes what ingest puts, answers reads of it, is frozen and then written out as a delta layer.
 *
 * Bytes are appended to chunks, once per WAL record however many pages it changes. Every value is an entry in parallel arrays; entries of one
 * key are a list from the newest to the oldest. A key is found by its interned prefix (an array by prefix id) and its block.
 *
 * Invariants: LSNs put never go down; an entry never changes; after `freeze` nothing is put. Reads may run at any time between puts.
 *
 * Hot: `putRecord` is called once per block reference of every WAL record. Consecutive values of one block cost no map look-up.
 */
import { assert } from '../assert.ts';
import { compareKeys, type KeyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { isSelfContained, type ValueKind, valueKind } from '../model/value.ts';
import type { ValueSink } from '../services.ts';
import type { Gathered } from './gathered.ts';

const chunkBytes = 4 * 1024 * 1024;
/** An entry's position is chunk number * 2^32 + offset. */
const chunkStep = 4294967296;

/** The blocks of one prefix. `heads[slot]` is the newest entry of the block that has this slot. */
class PrefixEntries {
  readonly prefix: KeyPrefix;
  readonly slots = new Map<number, number>();
  heads = new Int32Array(8);
  counts = new Uint32Array(8);
  lastBlock = -1;
  lastSlot = -1;

  constructor(prefix: KeyPrefix) {
    this.prefix = prefix;
  }

  /** The slot of `block`, made if it has none. */
  slotOf(block: number): number {
    if (block === this.lastBlock) return this.lastSlot;
    let slot = this.slots.get(block);
    if (slot === undefined) {
      slot = this.slots.size;
      if (slot === this.heads.length) {
        this.heads = grow(this.heads, new Int32Array(slot * 2));
        this.counts = grow(this.counts, new Uint32Array(slot * 2));
      }
      this.heads[slot] = -1;
      this.counts[slot] = 0;
      this.slots.set(block, slot);
    }
    this.lastBlock = block;
    this.lastSlot = slot;
    return slot;
  }
}

function grow<T extends Int32Array | Uint32Array | Float64Array | Uint8Array>(from: T, to: T): T {
  to.set(from as never);
  return to;
}

export interface LayerEntry {
  readonly lsn: Lsn;
  readonly kind: ValueKind;
  readonly bytes: Uint8Array;
}

export class InMemoryLayer implements ValueSink {
  readonly startLsn: Lsn;
  /** End of the LSN range once frozen (exclusive of later values); null while open. */
  #endLsn: Lsn | null = null;

  #chunks: Uint8Array[] = [];
  #chunk = new Uint8Array(0);
  #used = 0;
  #byteCount = 0;

  readonly #prefixes: (PrefixEntries | undefined)[] = [];
  #last: PrefixEntries | null = null;

  #count = 0;
  #lsns = new Float64Array(1024);
  #positions = new Float64Array(1024);
  #lengths = new Uint32Array(1024);
  #previous = new Int32Array(1024);
  #kinds = new Uint8Array(1024);

  constructor(startLsn: Lsn) {
    this.startLsn = startLsn;
  }

  get endLsn(): Lsn | null {
    return this.#endLsn;
  }

  /** Bytes of values held, without the index. */
  get byteCount(): number {
    return this.#byteCount;
  }

  get entryCount(): number {
    return this.#count;
  }

  freeze(endLsn: Lsn): void {
    assert(this.#endLsn === null && endLsn > this.startLsn);
    this.#endLsn = endLsn;
  }

  // ValueSink

  addRecord(_lsn: Lsn, bytes: Uint8Array, start: number, length: number): number {
    this.#recordLength = length;
    return this.#append(bytes, start, length);
  }

  putRecord(prefix: KeyPrefix, block: number, lsn: Lsn, handle: number, willInit: boolean): void {
    this.#put(prefix, block, lsn, willInit ? valueKind.recordWillInit : valueKind.record, handle, this.#recordLength);
  }

  putImage(prefix: KeyPrefix, block: number, lsn: Lsn, image: Uint8Array): void {
    this.#put(prefix, block, lsn, valueKind.image, this.#append(image, 0, image.length), image.length);
  }

  putPatch(prefix: KeyPrefix, block: number, lsn: Lsn, patch: Uint8Array): void {
    this.#put(prefix, block, lsn, valueKind.patch, this.#append(patch, 0, patch.length), patch.length);
  }

  #recordLength = 0;
  #append(bytes: Uint8Array, start: number, length: number): number {
    assert(this.#endLsn === null, 'put into a frozen layer');
    if (this.#used + length > this.#chunk.length) {
      this.#chunk = new Uint8Array(Math.max(chunkBytes, length));
      this.#chunks.push(this.#chunk);
      this.#used = 0;
    }
    const at = this.#used;
    copyBytes(this.#chunk, at, bytes, start, length);
    this.#used += length;
    this.#byteCount += length;
    return (this.#chunks.length - 1) * chunkStep + at;
  }

  #put(prefix: KeyPrefix, block: number, lsn: Lsn, kind: ValueKind, position: number, length: number): void {
    let entries = this.#last;
    if (entries === null || entries.prefix !== prefix) {
      entries = this.#prefixes[prefix.id] ?? null;
      if (entries === null) {
        entries = new PrefixEntries(prefix);
        this.#prefixes[prefix.id] = entries;
      }
      this.#last = entries;
    }
    const slot = entries.slotOf(block);
    const index = this.#count;
    if (index === this.#lsns.length) this.#growEntries(index * 2);
    this.#lsns[index] = lsn;
    this.#positions[index] = position;
    this.#lengths[index] = length;
    this.#kinds[index] = kind;
    this.#previous[index] = entries.heads[slot]!;
    entries.heads[slot] = index;
    entries.counts[slot]!++;
    this.#count = index + 1;
  }

  #growEntries(size: number): void {
    this.#lsns = grow(this.#lsns, new Float64Array(size));
    this.#positions = grow(this.#positions, new Float64Array(size));
    this.#lengths = grow(this.#lengths, new Uint32Array(size));
    this.#previous = grow(this.#previous, new Int32Array(size));
    this.#kinds = grow(this.#kinds, new Uint8Array(size));
  }

  // Reads

  #bytesOf(index: number): Uint8Array {
    const position = this.#positions[index]!;
    const at = position % chunkStep;
    return this.#chunks[(position - at) / chunkStep]!.subarray(at, at + this.#lengths[index]!);
  }

  /** Pushes the values of a key with lsn <= `lsn`, newest first, until one needs nothing older. */
  gather(prefix: KeyPrefix, block: number, lsn: Lsn, into: Gathered): void {
    const entries = this.#prefixes[prefix.id];
    const slot = entries?.slots.get(block);
    if (entries === undefined || slot === undefined) return;
    for (let index = entries.heads[slot]!; index >= 0; index = this.#previous[index]!) {
      const at = this.#lsns[index]! as Lsn;
      if (at > lsn) continue;
      const kind = this.#kinds[index]! as ValueKind;
      into.push(at, kind, this.#bytesOf(index));
      if (isSelfContained(kind)) {
        into.complete = true;
        return;
      }
    }
  }

  /** Every key in key order with its values in LSN order: what a delta layer is written from. */
  *keysInOrder(): Generator<{ prefix: KeyPrefix; block: number; versions: LayerEntry[] }> {
    const prefixes = this.#prefixes.filter((entries) => entries !== undefined);
    prefixes.sort((a, b) => compareKeys({ prefix: a.prefix, block: 0 }, { prefix: b.prefix, block: 0 }));
    for (const entries of prefixes) {
      const blocks = [...entries.slots.keys()].sort((a, b) => a - b);
      for (const block of blocks) {
        const versions: LayerEntry[] = [];
        const slot = entries.slots.get(block)!;
        for (let index = entries.heads[slot]!; index >= 0; index = this.#previous[index]!) {
          versions.push({
            lsn: this.#lsns[index]! as Lsn,
            kind: this.#kinds[index]! as ValueKind,
            bytes: this.#bytesOf(index),
          });
        }
        yield { prefix: entries.prefix, block, versions: versions.reverse() };
      }
    }
  }

  /** Keys that have at least `count` values here, in key order. */
  keysWithManyVersions(count: number): { prefix: KeyPrefix; block: number }[] {
    const keys: { prefix: KeyPrefix; block: number }[] = [];
    for (const entries of this.#prefixes) {
      if (entries === undefined) continue;
      for (const [block, slot] of entries.slots) {
        if (entries.counts[slot]! >= count) keys.push({ prefix: entries.prefix, block });
      }
    }
    return keys.sort(compareKeys);
  }
}

/** `set(subarray)` makes an object; for the short records that WAL is made of, a loop is quicker. */
function copyBytes(to: Uint8Array, at: number, from: Uint8Array, start: number, length: number): void {
  if (length > 192) {
    to.set(from.subarray(start, start + length), at);
    return;
  }
  for (let i = 0; i < length; i++) to[at + i] = from[start + i]!;
}
