/**
 * Follows the records of a WAL stream without assembling them: where the last whole, valid record ends (W3 of the write path).
 *
 * The acceptor feeds it what a proposer sends, so that garbage is refused before it is written and flushLsn is always a record boundary;
 * wal-log.ts feeds it the tail of a log at open, to find where the log ends; the WAL reader feeds it what it reads from disk.
 *
 * Invariants
 * - `boundaryLsn` is the 8-byte aligned end of the last whole record whose CRC32C, xl_prev and page headers are right; at first, the start
 * - what is refused by the pageserver's decoder (wal-decoder.ts) is refused here, so that no record is acknowledged that cannot be ingested;
 *   only the system identifier is compared elsewhere, in the greeting
 * - bytes may be cut anywhere; after a problem nothing more is taken, and `boundaryLsn` still stands
 * - nothing is allocated or copied but record headers (24 bytes) and page headers: CRC32C runs over the bytes where they are.
 *   Measured: 1.9 GB/s for records of 8 kB, 0.9 GB/s for records of 100 bytes.
 *
 * Layouts: PostgreSQL 18, src/include/access/xlog_internal.h and xlogrecord.h.
 */
import { crc32c } from '../crc32c.ts';
import { pageSize, walRecordBytesMax, walSegmentSize } from '../limits.ts';
import { formatLsn, invalidLsn, type Lsn, readLsn } from '../model/lsn.ts';
import {
  bkpRemovable,
  firstIsContrecord,
  headerBytesAt,
  longHeader,
  longHeaderBytes,
  walPageMagic,
} from './wal-page.ts';
import { rmgr } from './wal-record.ts';

const recordHeaderBytes = 24;
const recordCrcOffset = 20;
const switchInfo = 0x40;
const shutdownCheckpointInfo = 0x00;
/** Extensions with resource managers of their own are not part of this build. */
const rmgrIdMax = rmgr.logicalMessage;

/** A compute never recovers, so it never abandons a record (firstIsOverwriteContrecord): such a page is refused here. */
const followedFlags = firstIsContrecord | longHeader | bkpRemovable;

/** What the next bytes of the stream are. */
const part = { recordHeader: 0, recordBody: 1, padding: 2, restOfSegment: 3 } as const;

export class RecordScan {
  #boundaryLsn: Lsn;
  /** Start of the last whole record; 0 while none was seen. */
  #lastRecordLsn: Lsn;
  #position: Lsn;
  readonly #boundaries: { push(lsn: Lsn): void } | null;
  #problem: string | null = null;
  #problemLsn: Lsn = invalidLsn;

  #part: number = part.recordHeader;
  /** Bytes that the part still takes. */
  #partLeft = recordHeaderBytes;
  #recordLsn: Lsn = invalidLsn;
  #recordBytes = 0;
  #crc = 0;
  #pageHeaderLeft: number;
  readonly #header = new Uint8Array(recordHeaderBytes);
  readonly #headerView = new DataView(this.#header.buffer);
  readonly #pageHeader = new Uint8Array(longHeaderBytes);
  readonly #pageHeaderView = new DataView(this.#pageHeader.buffer);

  /**
   * `startLsn` is a record boundary; `prevLsn` the start of the record that ends there, 0 if unknown (its xl_prev is then not checked). `boundaries` gets
   * each boundary after that.
   */
  constructor(startLsn: Lsn, prevLsn: Lsn = invalidLsn, boundaries: { push(lsn: Lsn): void } | null = null) {
    this.#boundaries = boundaries;
    this.#position = startLsn;
    this.#boundaryLsn = startLsn;
    this.#lastRecordLsn = prevLsn;
    this.#pageHeaderLeft = pageHeaderBytesAt(startLsn);
  }

  get boundaryLsn(): Lsn {
    return this.#boundaryLsn;
  }

  get lastRecordLsn(): Lsn {
    return this.#lastRecordLsn;
  }

  /** Where the next bytes belong. */
  get position(): Lsn {
    return this.#position;
  }

  /** Why the stream is not WAL from `problemLsn` on; null as long as it is. */
  get problem(): string | null {
    return this.#problem;
  }

  get problemLsn(): Lsn {
    return this.#problemLsn;
  }

  /** Takes the bytes at `position`. Returns false once there is a problem. */
  feed(bytes: Uint8Array): boolean {
    let at = 0;
    while (at < bytes.length && this.#problem === null) {
      if (this.#pageHeaderLeft > 0) {
        at += this.#takePageHeader(bytes, at);
        continue;
      }
      const pageLeft = pageSize - (this.#position % pageSize);
      const length = Math.min(bytes.length - at, pageLeft, this.#partLeft);
      this.#takePart(bytes, at, length);
      at += length;
      // A part that ended on a page's last byte ends there, before the next page's header.
      if (this.#problem === null && this.#position % pageSize === 0 && this.#part !== part.restOfSegment) {
        this.#pageHeaderLeft = pageHeaderBytesAt(this.#position);
      }
    }
    return this.#problem === null;
  }

  #takePart(bytes: Uint8Array, at: number, length: number): void {
    switch (this.#part) {
      case part.recordHeader: {
        const filled = recordHeaderBytes - this.#partLeft;
        if (filled === 0) this.#recordLsn = this.#position;
        this.#header.set(bytes.subarray(at, at + length), filled);
        // The length stands first: zeros after the last record are told from a torn one early.
        if (filled < 4 && filled + length >= 4 && !this.#checkLength()) return;
        this.#advance(length);
        if (this.#partLeft === 0) this.#beginBody();
        return;
      }
      case part.recordBody:
        this.#crc = crc32c(bytes, at, at + length, this.#crc);
        this.#advance(length);
        if (this.#partLeft === 0) this.#endBody();
        return;
      default:
        this.#advance(length);
        if (this.#partLeft === 0) this.#endRecord();
    }
  }

  #advance(length: number): void {
    this.#position = (this.#position + length) as Lsn;
    this.#partLeft -= length;
  }

  #checkLength(): boolean {
    const length = this.#headerView.getUint32(0, true);
    if (length >= recordHeaderBytes && length <= walRecordBytesMax) return true;
    this.#fail(this.#recordLsn, length === 0 ? 'a record of length zero' : `a record of ${length} bytes`);
    return false;
  }

  #beginBody(): void {
    const prevLsn = readLsn(this.#headerView, 8);
    if (this.#lastRecordLsn !== invalidLsn && prevLsn !== this.#lastRecordLsn && !this.#isBootCheckpoint(prevLsn)) {
      const expected = formatLsn(this.#lastRecordLsn);
      this.#fail(this.#recordLsn, `a record whose xl_prev is ${formatLsn(prevLsn)}, not ${expected}`);
      return;
    }
    // Garbage that looks like a length is told here, not hundreds of megabytes later by its CRC.
    if (prevLsn >= this.#recordLsn || this.#header[17]! > rmgrIdMax) {
      this.#fail(
        this.#recordLsn,
        `a record with xl_prev ${formatLsn(prevLsn)} and resource manager ${this.#header[17]}`,
      );
      return;
    }
    this.#recordBytes = this.#headerView.getUint32(0, true);
    this.#crc = 0;
    this.#part = part.recordBody;
    this.#partLeft = this.#recordBytes - recordHeaderBytes;
    if (this.#partLeft === 0) this.#endBody();
  }

  /** A compute that boots where the record before is not known writes its first checkpoint with xl_prev 0. */
  #isBootCheckpoint(prevLsn: Lsn): boolean {
    return prevLsn === 0 && this.#header[17] === rmgr.xlog && (this.#header[16]! & 0xf0) === shutdownCheckpointInfo;
  }

  #endBody(): void {
    const actual = crc32c(this.#header, 0, recordCrcOffset, this.#crc);
    if (actual !== this.#headerView.getUint32(recordCrcOffset, true)) {
      this.#fail(this.#recordLsn, `a record of ${this.#recordBytes} bytes with a wrong CRC`);
      return;
    }
    const isSwitch = this.#header[17] === rmgr.xlog && (this.#header[16]! & 0xf0) === switchInfo;
    // After XLOG_SWITCH the segment's rest is zeros, without page headers.
    const alignment = isSwitch ? walSegmentSize : 8;
    this.#part = isSwitch ? part.restOfSegment : part.padding;
    this.#partLeft = (alignment - (this.#position % alignment)) % alignment;
    if (this.#partLeft === 0) this.#endRecord();
  }

  #endRecord(): void {
    this.#boundaryLsn = this.#position;
    this.#boundaries?.push(this.#position);
    this.#lastRecordLsn = this.#recordLsn;
    this.#part = part.recordHeader;
    this.#partLeft = recordHeaderBytes;
  }

  /** Returns how many bytes it took. */
  #takePageHeader(bytes: Uint8Array, at: number): number {
    const size = headerBytesAt(this.#position - (this.#position % pageSize));
    const filled = size - this.#pageHeaderLeft;
    const length = Math.min(bytes.length - at, this.#pageHeaderLeft);
    this.#pageHeader.set(bytes.subarray(at, at + length), filled);
    this.#position = (this.#position + length) as Lsn;
    this.#pageHeaderLeft -= length;
    if (this.#pageHeaderLeft === 0) this.#checkPageHeader((this.#position - size) as Lsn, size);
    return length;
  }

  #checkPageHeader(pageLsn: Lsn, size: number): void {
    const view = this.#pageHeaderView;
    const magic = view.getUint16(0, true);
    const flags = view.getUint16(2, true);
    const address = readLsn(view, 8);
    const recordLeft = view.getUint32(16, true);
    const within =
      this.#part === part.recordBody || (this.#part === part.recordHeader && this.#partLeft < recordHeaderBytes);
    const expectedLeft = within ? this.#recordLeft() : 0;
    if (magic !== walPageMagic) {
      this.#fail(pageLsn, `a page with magic 0x${magic.toString(16).toUpperCase()}, not 0xD118`);
    } else if (address !== pageLsn) {
      this.#fail(pageLsn, `a page that says it is at ${formatLsn(address)}`);
    } else if (((flags & longHeader) !== 0) !== (size === longHeaderBytes) || (flags & ~followedFlags) !== 0) {
      this.#fail(pageLsn, `a page with flags 0x${flags.toString(16)}`);
    } else if (size === longHeaderBytes && !isSegmentLayout(view)) {
      this.#fail(pageLsn, 'a segment of another segment or page size');
    } else if (((flags & firstIsContrecord) !== 0) !== within || recordLeft !== expectedLeft) {
      this.#fail(pageLsn, `a page that continues a record of ${recordLeft} bytes where ${expectedLeft} are left`);
    }
  }

  #recordLeft(): number {
    if (this.#part === part.recordBody) return this.#partLeft;
    return this.#headerView.getUint32(0, true) - (recordHeaderBytes - this.#partLeft);
  }

  #fail(at: Lsn, problem: string): void {
    this.#problem = problem;
    this.#problemLsn = at;
  }
}

/** The sizes that a segment's first page tells: this build's. */
function isSegmentLayout(header: DataView): boolean {
  return header.getUint32(32, true) === walSegmentSize && header.getUint32(36, true) === pageSize;
}

/** Size of the page header that starts at `lsn`; 0 if none does. */
function pageHeaderBytesAt(lsn: number): number {
  return lsn % pageSize === 0 ? headerBytesAt(lsn) : 0;
}
