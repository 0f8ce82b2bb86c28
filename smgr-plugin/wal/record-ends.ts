/**
 * W1. Where the valid WAL of a compute ends, by arithmetic over record lengths.
 *
 * PostgreSQL writes whole WAL pages; behind the last record of a flush they hold zeros. A record starts behind the one before, aligned, and
 * its length is in its first four bytes, so the end is found by hopping from record to record; nothing else of the WAL is looked at.
 *
 * Invariants
 * - `recordEnd` is the aligned end of the last record whose last byte was written
 * - `validEnd` is where meaningful bytes end: `recordEnd`, or the end of what was written if a record goes on behind it
 */
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import { alignLsn, type Lsn } from '../../engine/model/lsn.ts';
import { headerBytesAt, nextRecordStart, segmentStart } from '../../engine/wal/wal-page.ts';

const recordHeaderBytes = 24;
const infoOffset = 16;
const switchInfo = 0x40;

/** The u32 at an LSN; `lsn` is a multiple of 4 and inside what was written. */
export type ReadWord = (lsn: number) => number;

export class RecordEnds {
  recordEnd: Lsn;
  validEnd: Lsn;
  /** Whole records so far. */
  count = 0;

  constructor(start: Lsn) {
    this.recordEnd = start;
    this.validEnd = start;
  }

  /** WAL up to `writtenEnd` has been written. */
  advance(writtenEnd: number, readWord: ReadWord): void {
    for (;;) {
      const start = nextRecordStart(this.recordEnd);
      if (start + 4 > writtenEnd) break;
      const length = readWord(start);
      if (length === 0) break;
      let end = recordEndOf(start, length);
      if (end > writtenEnd) {
        this.validEnd = writtenEnd as Lsn;
        return;
      }
      if (length === recordHeaderBytes && isSwitch(start, readWord)) end = segmentEnd(end);
      if (end > writtenEnd) {
        // The rest of a segment that was switched from is zeros; it is sent once it is written.
        this.validEnd = writtenEnd as Lsn;
        return;
      }
      this.recordEnd = alignLsn(end);
      this.count++;
    }
    this.validEnd = this.recordEnd;
  }
}

/** Where a record of `length` bytes that starts at `start` ends, page headers in between counted. */
export function recordEndOf(start: number, length: number): number {
  let at = start;
  let left = length;
  for (;;) {
    const inPage = pageSize - (at % pageSize);
    if (left <= inPage) return at + left;
    left -= inPage;
    at += inPage;
    at += headerBytesAt(at);
  }
}

/** XLOG_SWITCH: rmgr 0, info 0x40, at bytes 16 and 17 of the record. */
function isSwitch(start: number, readWord: ReadWord): boolean {
  const at = recordEndOf(start, infoOffset);
  const word = readWord(at % pageSize === 0 ? at + headerBytesAt(at) : at);
  return (word & 0xf0) === switchInfo && ((word >>> 8) & 0xff) === 0;
}

function segmentEnd(lsn: number): number {
  return lsn % walSegmentSize === 0 ? lsn : segmentStart(lsn) + walSegmentSize;
}
