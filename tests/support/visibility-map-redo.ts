/**
 * A second, independent account of what the values of a visibility map page amount to: a few lines in place of Postgres's redo, for tests
 * that look at the bits only. Knows the records that write such pages: HEAP2_VISIBLE, which sets bits, and heap records that clear them.
 */
import { applyPatches, heapBlocksPerVmPage } from '../../engine/ingest/patch.ts';
import { pageSize } from '../../engine/limits.ts';
import type { KeyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { valueKind } from '../../engine/model/value.ts';
import { parseRecord } from '../../engine/wal/parse-record.ts';
import { rmgr, WalRecord } from '../../engine/wal/wal-record.ts';
import type { ValueMap } from './value-map.ts';

const visible = 0x40;
const mapHeaderBytes = 24;

/**
 * `bitsLost`: a full-page image had a hole where the bits were, and so has none. CREATE DATABASE by WAL logs map pages as if they were standard ones, so that
 * redo anywhere finds no bit set there: fewer bits than the original, which is safe.
 */
export interface VisibilityMapPage {
  readonly page: Uint8Array;
  readonly bitsLost: boolean;
}

export function visibilityMapRedo(values: ValueMap, prefix: KeyPrefix, block: number, lsn: Lsn): VisibilityMapPage {
  let page: Uint8Array = new Uint8Array(pageSize);
  let bitsLost = false;
  for (const { lsn: at, kind, bytes } of values.versions(prefix, block)) {
    if (at > lsn) break;
    if (kind === valueKind.image) {
      page = bytes.length === 0 ? new Uint8Array(pageSize) : bytes.slice();
      bitsLost ||= bytes.length > 0 && bytes.every((byte, i) => i < mapHeaderBytes || byte === 0);
    } else if (kind === valueKind.patch || kind === valueKind.patchWillInit) {
      page = applyPatches(prefix, block, page, [bytes]);
    } else applyRecord(page, bytes, block);
  }
  return { page, bitsLost };
}

function applyRecord(page: Uint8Array, bytes: Uint8Array, block: number): void {
  const record = new WalRecord();
  record.bytes = bytes;
  record.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  parseRecord(record);
  if (record.rmid === rmgr.heap2 && (record.info & 0x70) === visible) {
    setBits(page, record.blocks[1]!.block, bytes[record.mainOffset + 4]! & 3);
    return;
  }
  const flags = bytes[record.mainOffset + flagsOffset(record)]!;
  const heap = record.blocks.slice(0, record.blockCount).filter((one) => one.fork === 0);
  const same = (one: { block: number }) => Math.floor(one.block / heapBlocksPerVmPage) === block;
  if (isUpdate(record)) {
    const old = heap.find((one) => one.id === 1) ?? heap[0]!;
    if (flags & 1 && same(old)) clearBits(page, old.block, 3);
    if (flags & 2 && same(heap[0]!)) clearBits(page, heap[0]!.block, 3);
  } else if (flags & 1) clearBits(page, heap[0]!.block, isLock(record) ? 2 : 3);
}

const isUpdate = (record: WalRecord) => record.rmid === rmgr.heap && [0x20, 0x40].includes(record.info & 0x70);
const isLock = (record: WalRecord) => (record.info & 0x70) === 0x60;

/** Where the flags of a record that clears bits are. */
function flagsOffset(record: WalRecord): number {
  const op = record.info & 0x70;
  if (record.rmid === rmgr.heap && op === 0x00) return 2;
  if (record.rmid === rmgr.heap2 && op === 0x50) return 0;
  if (isUpdate(record) || isLock(record) || (record.rmid === rmgr.heap && op === 0x10)) return 7;
  throw new Error(`resource manager ${record.rmid}, info ${record.info} writes a visibility map`);
}

function setBits(page: Uint8Array, heapBlock: number, bits: number): void {
  const at = heapBlock % heapBlocksPerVmPage;
  page[24 + (at >> 2)]! |= bits << ((at & 3) * 2);
}

function clearBits(page: Uint8Array, heapBlock: number, bits: number): void {
  const at = heapBlock % heapBlocksPerVmPage;
  page[24 + (at >> 2)]! &= ~(bits << ((at & 3) * 2));
}
