/**
 * Writes a layer file (format: layer-file.ts, docs/formats.md) in one pass over its sorted values.
 *
 * Called by DeltaLayer and ImageLayer writers (W9). Values go straight to where they stand in the file; only the columns of the current
 * block and the index are kept beside it. The file is in memory once: an object store takes it whole.
 *
 * Invariant: `add` is called in ascending order of (key, LSN); values of one key with the same LSN in the order in which they apply.
 */
import { assert, must } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { deltaBlockBytes, imageBlockBytes } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { type Key, type KeyPrefix, writeKey } from '../model/key.ts';
import { type Lsn, writeLsn } from '../model/lsn.ts';
import type { ValueKind } from '../model/value.ts';
import { align8, compareEntries, dataBlockHeaderBytes, prefixEntryBytes } from './data-block.ts';
import { footerBytes, footerMagic, formatVersion, headerBytes, headerMagic, writeIds } from './layer-format.ts';
import { formatLayerName, type KeyRange, keyAfter, type LayerDesc, rangeContains } from './layer-name.ts';

export interface WrittenLayer {
  readonly desc: LayerDesc;
  readonly name: string;
  readonly bytes: Uint8Array;
}

export class LayerWriter {
  readonly #kind: 'delta' | 'image';
  readonly #id: TenantTimelineId;
  readonly #blockBytes: number;
  #out: Uint8Array;
  #view: DataView;
  #length = headerBytes;
  #entryTotal = 0;

  // The block under way.
  #blockStart = headerBytes;
  #count = 0;
  #blocks = new Uint32Array(1024);
  #ends = new Uint32Array(1024);
  #lsns = new Float64Array(1024);
  #kinds = new Uint8Array(1024);
  #prefixes: KeyPrefix[] = [];
  #prefixFirst: number[] = [];

  // The index.
  readonly #indexPrefixes: KeyPrefix[] = [];
  readonly #indexPrefixFirst: number[] = [];
  readonly #firstBlocks: number[] = [];
  readonly #firstLsns: number[] = [];
  readonly #lengths: number[] = [];
  readonly #counts: number[] = [];

  #firstPrefix: KeyPrefix | null = null;
  #firstBlock = 0;
  #lastPrefix: KeyPrefix | null = null;
  #lastBlock = 0;
  #lastLsn = 0;

  /** `bytesExpected`: about how long the file is going to be. */
  constructor(kind: 'delta' | 'image', id: TenantTimelineId, bytesExpected: number) {
    this.#kind = kind;
    this.#id = id;
    this.#blockBytes = kind === 'delta' ? deltaBlockBytes : imageBlockBytes;
    this.#out = new Uint8Array(Math.max(4096, bytesExpected));
    this.#view = new DataView(this.#out.buffer);
  }

  get entryCount(): number {
    return this.#entryTotal + this.#count;
  }

  get length(): number {
    return this.#length;
  }

  /** Copies `bytes[start, start + length)`. */
  add(
    prefix: KeyPrefix,
    block: number,
    lsn: number,
    kind: ValueKind,
    bytes: Uint8Array,
    start: number,
    length: number,
  ): void {
    const last = this.#lastPrefix;
    if (last === null) {
      this.#firstPrefix = prefix;
      this.#firstBlock = block;
    } else {
      assert(compareEntries(last, this.#lastBlock, this.#lastLsn, prefix, block, lsn) <= 0, 'values ascend in a layer');
    }
    this.#lastPrefix = prefix;
    this.#lastBlock = block;
    this.#lastLsn = lsn;
    // A large value has a block of its own, so that a page of an image layer is read and found missing without its neighbours.
    const large = length >= this.#blockBytes / 2;
    if (this.#count > 0 && (large || this.#length - this.#blockStart >= this.#blockBytes)) this.#closeBlock();
    if (this.#count === 0) this.#openBlock(prefix, block, lsn);
    this.#reserve(length);
    for (let i = 0, to = this.#length; length < 16 && i < length; i++) this.#out[to + i] = bytes[start + i]!;
    if (length >= 16) this.#out.set(bytes.subarray(start, start + length), this.#length);
    this.#length += length;
    this.#addColumns(prefix, block, lsn, kind);
    if (large && this.#kind === 'image') this.#closeBlock();
  }

  /**
   * The finished file. The writer is done with. Null if nothing was added. `keys`: the range that the layer stands for, if that is more than from its
   * first key to its last.
   */
  finish(lsnStart: Lsn, lsnEnd: Lsn, keys?: KeyRange): WrittenLayer | null {
    if (this.#firstPrefix === null) return null;
    if (this.#count > 0) this.#closeBlock();
    const first: Key = { prefix: this.#firstPrefix, block: this.#firstBlock };
    const last: Key = { prefix: must(this.#lastPrefix), block: this.#lastBlock };
    assert(keys === undefined || (rangeContains(keys, first) && rangeContains(keys, last)));
    const desc: LayerDesc = {
      kind: this.#kind,
      keys: keys ?? { start: first, end: keyAfter(last) },
      lsnStart,
      lsnEnd,
    };
    this.#writeIndexAndFooter();
    this.#writeHeader(desc);
    return { desc, name: formatLayerName(desc), bytes: this.#out.subarray(0, this.#length) };
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#out.length) return;
    const bigger = new Uint8Array(Math.max(Math.ceil(this.#out.length * 1.5), this.#length + more));
    bigger.set(this.#out.subarray(0, this.#length));
    this.#out = bigger;
    this.#view = new DataView(bigger.buffer);
  }

  #openBlock(prefix: KeyPrefix, block: number, lsn: number): void {
    this.#reserve(dataBlockHeaderBytes);
    this.#blockStart = this.#length;
    this.#length += dataBlockHeaderBytes;
    this.#prefixes = [];
    this.#prefixFirst = [];
    if (this.#indexPrefixes.at(-1) !== prefix) {
      this.#indexPrefixes.push(prefix);
      this.#indexPrefixFirst.push(this.#firstBlocks.length);
    }
    this.#firstBlocks.push(block);
    this.#firstLsns.push(lsn);
  }

  #addColumns(prefix: KeyPrefix, block: number, lsn: number, kind: ValueKind): void {
    const n = this.#count++;
    if (n === this.#blocks.length) this.#growColumns();
    if (this.#prefixes.at(-1) !== prefix) {
      this.#prefixes.push(prefix);
      this.#prefixFirst.push(n);
    }
    this.#blocks[n] = block;
    this.#ends[n] = this.#length - this.#blockStart - dataBlockHeaderBytes;
    this.#lsns[n] = lsn;
    this.#kinds[n] = kind;
  }

  #growColumns(): void {
    const size = this.#blocks.length * 2;
    const grow = <T extends Uint32Array | Float64Array | Uint8Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#blocks = grow(new Uint32Array(size), this.#blocks);
    this.#ends = grow(new Uint32Array(size), this.#ends);
    this.#lsns = grow(new Float64Array(size), this.#lsns);
    this.#kinds = grow(new Uint8Array(size), this.#kinds);
  }

  #closeBlock(): void {
    const start = this.#blockStart;
    const n = this.#count;
    const values = this.#length - start - dataBlockHeaderBytes;
    const columns = start + dataBlockHeaderBytes + align8(values);
    const end = start + align8(columns - start + this.#prefixes.length * prefixEntryBytes + n * 17);
    this.#reserve(end - this.#length);
    const view = this.#view;
    view.setUint16(start + 6, this.#prefixes.length, true);
    view.setUint32(start + 8, n, true);
    view.setUint32(start + 12, values, true);
    let at = columns;
    for (let p = 0; p < this.#prefixes.length; p++, at += prefixEntryBytes) {
      writePrefix(view, at, this.#prefixes[p]!, this.#prefixFirst[p]!);
    }
    for (let i = 0; i < n; i++) {
      view.setUint32(at + 4 * i, this.#blocks[i]!, true);
      view.setUint32(at + 4 * (n + i), this.#ends[i]!, true);
      writeLsn(view, at + 8 * (n + i), this.#lsns[i]!);
    }
    this.#out.set(this.#kinds.subarray(0, n), at + 16 * n);
    view.setUint32(start, crc32c(this.#out, start + 4, end), true);
    this.#lengths.push(end - start);
    this.#counts.push(n);
    this.#length = end;
    this.#entryTotal += n;
    this.#count = 0;
  }

  #writeIndexAndFooter(): void {
    const start = this.#length;
    const blockCount = this.#lengths.length;
    const columns = start + align8(16 + this.#indexPrefixes.length * prefixEntryBytes);
    const end = columns + blockCount * 20 + (blockCount % 2) * 4;
    this.#reserve(end + footerBytes - start);
    const view = this.#view;
    view.setUint32(start + 4, this.#indexPrefixes.length, true);
    view.setUint32(start + 8, blockCount, true);
    for (const [i, prefix] of this.#indexPrefixes.entries()) {
      writePrefix(view, start + 16 + i * prefixEntryBytes, prefix, this.#indexPrefixFirst[i]!);
    }
    for (let i = 0; i < blockCount; i++) {
      writeLsn(view, columns + 8 * i, this.#firstLsns[i]!);
      view.setUint32(columns + 8 * blockCount + 4 * i, this.#firstBlocks[i]!, true);
      view.setUint32(columns + 12 * blockCount + 4 * i, this.#lengths[i]!, true);
      view.setUint32(columns + 16 * blockCount + 4 * i, this.#counts[i]!, true);
    }
    view.setUint32(start, crc32c(this.#out, start + 4, end), true);
    writeLsn(view, end, start);
    view.setUint32(end + 8, end - start, true);
    view.setUint32(end + 12, this.#entryTotal, true);
    this.#out.set(footerMagic, end + 16);
    view.setUint32(end + 28, crc32c(this.#out, end, end + 28), true);
    this.#length = end + footerBytes;
  }

  #writeHeader(desc: LayerDesc): void {
    const view = this.#view;
    this.#out.set(headerMagic, 0);
    view.setUint16(8, formatVersion, true);
    view.setUint8(10, desc.kind === 'delta' ? 0 : 1);
    writeIds(this.#out, 16, this.#id);
    writeKey(view, 48, desc.keys.start.prefix, desc.keys.start.block);
    writeKey(view, 66, desc.keys.end.prefix, desc.keys.end.block);
    writeLsn(view, 88, desc.lsnStart);
    writeLsn(view, 96, desc.lsnEnd);
    view.setUint32(124, crc32c(this.#out, 0, 124), true);
  }
}

function writePrefix(view: DataView, at: number, prefix: KeyPrefix, first: number): void {
  // The key's last four bytes are its block number: their place holds two zeros and the first entry.
  writeKey(view, at, prefix, 0);
  view.setUint32(at + 16, first, true);
}
