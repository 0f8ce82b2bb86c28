/**
 * WAL page and segment headers, and arithmetic over them.
 *
 * The WAL is 8 kB pages in 16 MB segment files. Every page begins with a header; a segment's first page has a long one. Records lie
 * between the headers, 8-byte aligned, and continue over them. Format: PostgreSQL src/include/access/xlog_internal.h.
 *
 *   | bytes | field        |                                                            |
 *   |-------|--------------|------------------------------------------------------------|
 *   | 0-1   | xlp_magic    | 0xD118 for PostgreSQL 18                                   |
 *   | 2-3   | xlp_info     | flags below                                                |
 *   | 4-7   | xlp_tli      | PostgreSQL timeline, always 1 here                         |
 *   | 8-15  | xlp_pageaddr | LSN of the page                                            |
 *   | 16-19 | xlp_rem_len  | bytes of the record that continues from the page before    |
 *   | 24-31 | xlp_sysid    | long header only: system identifier of pg_control          |
 *   | 32-35 | xlp_seg_size | long header only                                           |
 *   | 36-39 | xlp_xlog_blcksz | long header only                                        |
 */
import { pageSize, walSegmentSize } from '../limits.ts';
import { type Lsn, writeLsn } from '../model/lsn.ts';

export const walPageMagic = 0xd118;
export const shortHeaderBytes = 24;
export const longHeaderBytes = 40;

/** The page starts with the rest of a record from the page before. */
export const firstIsContrecord = 0x0001;
export const longHeader = 0x0002;
/** Later backup blocks are missing; no effect on decoding. */
export const bkpRemovable = 0x0004;
/** The record that was to continue here was abandoned: a new record starts instead. */
export const firstIsOverwriteContrecord = 0x0008;
export const allHeaderFlags = 0x000f;

/** Bytes of the header at page start `lsn`. */
export function headerBytesAt(lsn: number): number {
  return lsn % walSegmentSize === 0 ? longHeaderBytes : shortHeaderBytes;
}

/** Where a record that follows position `lsn` starts: aligned, and past the page header if that is where it falls. */
export function nextRecordStart(lsn: number): Lsn {
  const rest = lsn % 8;
  const aligned = rest === 0 ? lsn : lsn + 8 - rest;
  return (aligned % pageSize === 0 ? aligned + headerBytesAt(aligned) : aligned) as Lsn;
}

/**
 * PostgreSQL tells the position right behind a page header as the place of the next record; the record before ends at the page's start. The
 * end of the WAL before `lsn` in our sense (EndRecPtr).
 */
export function recordEnd(lsn: Lsn): Lsn {
  const inPage = lsn % pageSize;
  return inPage > 0 && inPage === headerBytesAt(lsn - inPage) ? ((lsn - inPage) as Lsn) : lsn;
}

export const pageStart = (lsn: number): Lsn => (lsn - (lsn % pageSize)) as Lsn;
export const segmentStart = (lsn: number): Lsn => (lsn - (lsn % walSegmentSize)) as Lsn;

/** Where the record ends that continues at the start of this segment, `remLen` bytes of it: the first record boundary there. */
export function firstBoundaryOf(segment: Lsn, remLen: number): Lsn {
  if (remLen === 0) return segment;
  let at = segment + longHeaderBytes;
  for (let left = remLen; ; ) {
    const room = at - (at % pageSize) + pageSize - at;
    if (left <= room) {
      const end = at + left;
      return (end % 8 === 0 ? end : end + 8 - (end % 8)) as Lsn;
    }
    left -= room;
    at += room;
    at += headerBytesAt(at);
  }
}

/** The same from the segment's first `longHeaderBytes` bytes. */
export function firstBoundaryIn(segment: Lsn, header: Uint8Array): Lsn {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const isContinued = (view.getUint16(2, true) & firstIsContrecord) !== 0;
  return firstBoundaryOf(segment, isContinued ? view.getUint32(16, true) : 0);
}

/** File name of the segment that holds `lsn`, on PostgreSQL timeline 1. */
export function segmentFileName(lsn: number): string {
  const number = Math.floor(lsn / walSegmentSize);
  const perId = 4294967296 / walSegmentSize;
  const hex = (n: number) => n.toString(16).toUpperCase().padStart(8, '0');
  return `00000001${hex(Math.floor(number / perId))}${hex(number % perId)}`;
}

/** The first LSN of the segment that a file name stands for, or null if it is no segment's name. */
export function parseSegmentFileName(name: string): Lsn | null {
  const match = /^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})$/.exec(name);
  if (!match) return null;
  const perId = 4294967296 / walSegmentSize;
  const low = Number.parseInt(match[2]!, 16);
  if (low >= perId) return null;
  return ((Number.parseInt(match[1]!, 16) * perId + low) * walSegmentSize) as Lsn;
}

/** Writes the header of the page at `lsn` into `view` at `offset`; returns its length. */
export function writePageHeader(
  view: DataView,
  offset: number,
  lsn: Lsn,
  systemIdentifier: bigint,
  remLen = 0,
): number {
  const long = lsn % walSegmentSize === 0;
  view.setUint16(offset, walPageMagic, true);
  view.setUint16(offset + 2, (long ? longHeader : 0) | (remLen > 0 ? firstIsContrecord : 0), true);
  view.setUint32(offset + 4, 1, true);
  writeLsn(view, offset + 8, lsn);
  view.setUint32(offset + 16, remLen, true);
  view.setUint32(offset + 20, 0, true);
  if (!long) return shortHeaderBytes;
  view.setBigUint64(offset + 24, systemIdentifier, true);
  view.setUint32(offset + 32, walSegmentSize, true);
  view.setUint32(offset + 36, pageSize, true);
  return longHeaderBytes;
}
