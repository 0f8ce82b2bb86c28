/**
 * The fixed parts of a layer file; the blocks are in data-block.ts. Little-endian, except for keys (model/key.ts) and ids.
 *
 *   header (128 bytes)                          footer (32 bytes)
 *   | 0   | magic "PLTLAYER"          |         | 0  | u64 offset of the index |
 *   | 8   | u16 version               |         | 8  | u32 its length          |
 *   | 10  | u8 0 delta, 1 image       |         | 12 | u32 number of entries   |
 *   | 16  | tenant id, timeline id    |         | 16 | magic "PLTLYEND"        |
 *   | 48  | first key, end key        |         | 28 | CRC32C of 0..27         |
 *   | 88  | u64 start LSN, end LSN    |
 *   | 124 | CRC32C of 0..123          |
 *
 *   header | data blocks, one right after another | index | footer
 *
 *   index: u32 CRC32C of what follows in it, u32 prefixes P, u32 data blocks B, u32 0, then P times (14 bytes of key, 2 zeros, u32 first
 *   data block that begins with it), zeros up to a multiple of 8, and of each data block: u64 first LSN (B times), u32 first block number
 *   (B times), u32 length (B times), u32 entries (B times); zeros up to a multiple of 8.
 */
import { crc32c } from '../crc32c.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { comparePrefixes, type KeyPrefix, readKeyBlock, readKeyPrefix } from '../model/key.ts';
import { readLsn } from '../model/lsn.ts';
import { align8, prefixEntryBytes } from './data-block.ts';
import { corruptLayer, formatLayerName, type LayerDesc } from './layer-name.ts';

export const formatVersion = 1;
export const headerBytes = 128;
export const footerBytes = 32;
export const headerMagic = new TextEncoder().encode('PLTLAYER');
export const footerMagic = new TextEncoder().encode('PLTLYEND');

export function writeIds(out: Uint8Array, at: number, id: TenantTimelineId): void {
  const hex = id.tenantId + id.timelineId;
  for (let i = 0; i < 32; i++) out[at + i] = Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16);
}

const hasMagic = (bytes: Uint8Array, at: number, magic: Uint8Array) => magic.every((byte, i) => bytes[at + i] === byte);

/** Checks the header against what the file is meant to be. Throws `corrupt`. */
export function checkHeader(bytes: Uint8Array, file: string, id: TenantTimelineId, expected: LayerDesc): void {
  const bad = (reason: string) => corruptLayer(file, `header: ${reason}`);
  if (bytes.length < headerBytes) throw bad('cut short');
  const view = new DataView(bytes.buffer, bytes.byteOffset, headerBytes);
  if (!hasMagic(bytes, 0, headerMagic)) throw bad('not a layer file');
  if (crc32c(bytes, 0, 124) !== view.getUint32(124, true)) throw bad('wrong checksum');
  const version = view.getUint16(8, true);
  if (version !== formatVersion) throw bad(`version ${version}, this program reads ${formatVersion}`);
  const ids = new Uint8Array(32);
  writeIds(ids, 0, id);
  if (ids.some((byte, i) => bytes[16 + i] !== byte)) throw bad('it is of another timeline');
  const desc: LayerDesc = {
    kind: bytes[10] === 0 ? 'delta' : 'image',
    keys: {
      start: { prefix: readKeyPrefix(view, 48), block: readKeyBlock(view, 48) },
      end: { prefix: readKeyPrefix(view, 66), block: readKeyBlock(view, 66) },
    },
    lsnStart: readLsn(view, 88),
    lsnEnd: readLsn(view, 96),
  };
  if (formatLayerName(desc) !== formatLayerName(expected)) throw bad(`it holds ${formatLayerName(desc)}`);
}

/** Where the index is in a file of `size` bytes, from its last `footerBytes`. Throws `corrupt`. */
export function readFooter(bytes: Uint8Array, file: string, size: number): { indexOffset: number; indexBytes: number } {
  const bad = (reason: string) => corruptLayer(file, `footer: ${reason}`);
  if (bytes.length !== footerBytes) throw bad('cut short');
  const view = new DataView(bytes.buffer, bytes.byteOffset, footerBytes);
  if (!hasMagic(bytes, 16, footerMagic)) throw bad('not the end of a layer file');
  if (crc32c(bytes, 0, 28) !== view.getUint32(28, true)) throw bad('wrong checksum');
  const indexOffset = readLsn(view, 0);
  const indexBytes = view.getUint32(8, true);
  if (indexOffset < headerBytes || indexOffset + indexBytes + footerBytes !== size) throw bad(`${size} bytes long`);
  return { indexOffset, indexBytes };
}

/** The first entry of each data block and where the block is. */
export class LayerIndex {
  readonly prefixes: readonly KeyPrefix[];
  /** First data block that begins with each prefix; then the number of data blocks. */
  readonly prefixFirst: readonly number[];
  readonly firstBlocks: Uint32Array;
  readonly firstLsns: Float64Array;
  /** File offset of each data block, and of their end. */
  readonly offsets: Float64Array;
  readonly counts: Uint32Array;

  /** Throws `corrupt`. */
  constructor(bytes: Uint8Array, file: string, indexOffset: number) {
    const bad = (reason: string) => corruptLayer(file, `index: ${reason}`);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 16 || crc32c(bytes, 4) !== view.getUint32(0, true)) throw bad('wrong checksum');
    const p = view.getUint32(4, true);
    const n = view.getUint32(8, true);
    const columns = align8(16 + p * prefixEntryBytes);
    if (p === 0 || n === 0 || columns + n * 20 + (n % 2) * 4 !== bytes.length) throw bad('wrong length');
    const prefixes: KeyPrefix[] = [];
    const prefixFirst: number[] = [];
    for (let i = 0, at = 16; i < p; i++, at += prefixEntryBytes) {
      prefixes.push(readKeyPrefix(view, at));
      prefixFirst.push(view.getUint32(at + 16, true));
    }
    prefixFirst.push(n);
    this.prefixes = prefixes;
    this.prefixFirst = prefixFirst;
    this.firstBlocks = new Uint32Array(n);
    this.firstLsns = new Float64Array(n);
    this.offsets = new Float64Array(n + 1);
    this.counts = new Uint32Array(n);
    let offset = headerBytes;
    for (let i = 0; i < n; i++) {
      this.firstLsns[i] = readLsn(view, columns + 8 * i);
      this.firstBlocks[i] = view.getUint32(columns + 8 * n + 4 * i, true);
      this.offsets[i] = offset;
      offset += view.getUint32(columns + 12 * n + 4 * i, true);
      this.counts[i] = view.getUint32(columns + 16 * n + 4 * i, true);
    }
    this.offsets[n] = offset;
    if (offset !== indexOffset) throw bad(`blocks end at ${offset}, the index is at ${indexOffset}`);
  }

  get blockCount(): number {
    return this.firstBlocks.length;
  }

  /** The last data block whose first entry is below (prefix, block, lsn); -1 if there is none. */
  locate(prefix: KeyPrefix, block: number, lsn: number): number {
    const { prefixes, firstBlocks, firstLsns } = this;
    let low = 0;
    let high = prefixes.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comparePrefixes(prefixes[middle]!, prefix) < 0) low = middle + 1;
      else high = middle;
    }
    const first = this.prefixFirst[low]!;
    if (prefixes[low] !== prefix) return first - 1;
    high = this.prefixFirst[low + 1]!;
    low = first;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const b = firstBlocks[middle]!;
      if (b < block || (b === block && firstLsns[middle]! < lsn)) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
