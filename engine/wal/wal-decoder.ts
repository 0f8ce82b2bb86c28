/**
 * W6. Bytes of WAL in, records out.
 *
 * Called by the pageserver's WAL receiver with the chunks that a safekeeper streams, cut anywhere. `feed` copies a chunk behind what
 * is left of the one before; `next` refills one WalRecord, a view into that buffer (or into an assembly buffer if the record spans pages),
 * valid until the next call of `next` or `feed`.
 *
 * Invariants:
 * - every byte between `startLsn` and the end of the last record was checked: page headers (magic, flags, address, remaining length,
 *   system identifier), record length, CRC32C, xl_prev, block references
 * - after an error the decoder is poisoned: every further call throws the same error
 * - nothing is allocated per record, except for records larger than any before
 *
 * `WalFraming` is the same walk without CRC and block references, for those who need record boundaries only.
 */
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import { pageSize, walRecordBytesMax, walSegmentSize } from '../limits.ts';
import { alignLsn, formatLsn, invalidLsn, type Lsn, readLsn } from '../model/lsn.ts';
import { corruptRecord, parseRecord, recordHeaderBytes } from './parse-record.ts';
import {
  allHeaderFlags,
  firstIsContrecord,
  firstIsOverwriteContrecord,
  headerBytesAt,
  longHeader,
  segmentStart,
  walPageMagic,
} from './wal-page.ts';
import { rmgr, WalRecord } from './wal-record.ts';

export interface WalDecoderOptions {
  /** Start of the record before `startLsn`; 0 if not known: then the first record's xl_prev is taken as it is. */
  readonly prevLsn?: Lsn;
  /** Checked against every segment header if given. */
  readonly systemIdentifier?: bigint;
  /** Record boundaries only: no CRC, no xl_prev, no block references. */
  readonly framingOnly?: boolean;
  /** A record length of zero is the end of what was written so far, not damage: `next` returns null there. */
  readonly zeroIsEnd?: boolean;
}

const switchInfo = 0x40;
const shutdownCheckpointInfo = 0x00;

export class WalDecoder {
  /** Where the next record begins (not aligned yet): the end of the last one. */
  #position: Lsn;
  #prevLsn: Lsn;
  readonly #systemIdentifier: bigint | null;
  readonly #framingOnly: boolean;
  readonly #zeroIsEnd: boolean;

  #buffer = new Uint8Array(256 * 1024);
  #view = new DataView(this.#buffer.buffer);
  /** LSN of buffer[0], and how many bytes are there. */
  #bufferLsn: Lsn;
  #length = 0;

  /** A record that spans pages: collected here; `#need` is 0 when none is. */
  #assembly = new Uint8Array(64 * 1024);
  #assemblyView = new DataView(this.#assembly.buffer);
  #need = 0;
  #got = 0;
  #recordStart: Lsn = invalidLsn;
  /** Where reading goes on inside the record that is being assembled. */
  #cursor: Lsn = invalidLsn;

  readonly #record = new WalRecord();
  #poison: Error | null = null;

  constructor(startLsn: Lsn, options: WalDecoderOptions = {}) {
    this.#position = startLsn;
    this.#bufferLsn = startLsn;
    this.#prevLsn = options.prevLsn ?? invalidLsn;
    this.#systemIdentifier = options.systemIdentifier ?? null;
    this.#framingOnly = options.framingOnly ?? false;
    this.#zeroIsEnd = options.zeroIsEnd ?? false;
  }

  /** The end of the last complete record: where a reader would resume. */
  get position(): Lsn {
    return this.#position;
  }

  /** The end of the bytes fed so far: where the next `feed` has to begin. */
  get fedTo(): Lsn {
    return (this.#bufferLsn + this.#length) as Lsn;
  }

  /** Start of the last complete record; 0 before the first, unless given. */
  get prevLsn(): Lsn {
    return this.#prevLsn;
  }

  /** Takes WAL bytes that begin at `lsn`, which must be `fedTo`: a gap is `invalid`. */
  feed(lsn: Lsn, bytes: Uint8Array): void {
    if (this.#poison !== null) throw this.#poison;
    if (lsn !== this.fedTo) {
      throw this.#fail(
        new PageliteError(
          'invalid',
          `gap in the WAL stream: expected ${formatLsn(this.fedTo)}, got ${formatLsn(lsn)}`,
          {
            expected: formatLsn(this.fedTo),
            lsn: formatLsn(lsn),
          },
        ),
      );
    }
    this.#makeRoom(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** The next complete record, or null when more bytes are needed. Throws `corrupt`. */
  next(): WalRecord | null {
    if (this.#poison !== null) throw this.#poison;
    try {
      return this.#need > 0 ? this.#assemble() : this.#begin();
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #fail(error: unknown): Error {
    this.#poison = error as Error;
    return this.#poison;
  }

  #makeRoom(more: number): void {
    // Bytes before the reading position are done with.
    const keepFrom = this.#need > 0 ? this.#cursor : this.#position;
    const drop = Math.min(this.#length, Math.max(0, keepFrom - this.#bufferLsn));
    const keep = this.#length - drop;
    if (this.#length + more > this.#buffer.length) {
      if (keep + more > this.#buffer.length) {
        const bigger = new Uint8Array(Math.max(this.#buffer.length * 2, keep + more));
        bigger.set(this.#buffer.subarray(drop, this.#length));
        this.#buffer = bigger;
        this.#view = new DataView(bigger.buffer);
      } else {
        this.#buffer.copyWithin(0, drop, this.#length);
      }
      this.#bufferLsn = (this.#bufferLsn + drop) as Lsn;
      this.#length = keep;
    } else if (keep === 0) {
      this.#bufferLsn = (this.#bufferLsn + drop) as Lsn;
      this.#length = 0;
    }
  }

  /** At a record boundary: finds where the next record starts; returns it if it lies in one page and is all there. */
  #begin(): WalRecord | null {
    let at = alignLsn(this.#position);
    const end = this.#bufferLsn + this.#length;
    if (at >= end) return null;
    if (at % pageSize === 0) {
      const headerBytes = headerBytesAt(at);
      if (at + headerBytes > end) return null;
      if (this.#zeroIsEnd && this.#view.getUint16(at - this.#bufferLsn, true) === 0) return null;
      this.#checkHeader(at, 0);
      at = (at + headerBytes) as Lsn;
    }
    const offset = at - this.#bufferLsn;
    if (offset + 4 > this.#length) return null;
    const total = this.#view.getUint32(offset, true);
    if (total === 0 && this.#zeroIsEnd) return null;
    if (total < recordHeaderBytes || total > walRecordBytesMax) {
      throw new PageliteError('corrupt', `invalid WAL record at ${formatLsn(at)}: length ${total}`, {
        lsn: formatLsn(at),
      });
    }
    const inPage = pageSize - (at % pageSize);
    if (total > inPage) {
      this.#startAssembly(at, total);
      return this.#assemble();
    }
    if (offset + total > this.#length) return null;
    return this.#complete(at, this.#buffer, this.#view, offset, total, at + total);
  }

  #startAssembly(at: Lsn, total: number): void {
    this.#need = total;
    this.#got = 0;
    this.#recordStart = at;
    this.#cursor = at;
  }

  /** Inside a record that spans pages: takes what is there, page by page. */
  #assemble(): WalRecord | null {
    const end = this.#bufferLsn + this.#length;
    while (this.#got < this.#need) {
      let at = this.#cursor;
      if (at % pageSize === 0) {
        const headerBytes = headerBytesAt(at);
        if (at + headerBytes > end) return null;
        const flags = this.#checkHeader(at, this.#need - this.#got);
        if (flags & firstIsOverwriteContrecord) {
          // The writer gave the record up; its place is void and a new record starts on this page.
          this.#need = 0;
          this.#position = at;
          return this.#begin();
        }
        at = (at + headerBytes) as Lsn;
        this.#cursor = at;
      }
      const take = Math.min(this.#need - this.#got, pageSize - (at % pageSize), end - at);
      if (take <= 0) return null;
      this.#growAssembly(this.#got + take);
      const from = at - this.#bufferLsn;
      this.#assembly.set(this.#buffer.subarray(from, from + take), this.#got);
      this.#got += take;
      this.#cursor = (at + take) as Lsn;
    }
    const total = this.#need;
    this.#need = 0;
    return this.#complete(this.#recordStart, this.#assembly, this.#assemblyView, 0, total, this.#cursor);
  }

  /** Grows with the bytes that arrived, not with the length that a damaged header may claim. */
  #growAssembly(size: number): void {
    if (size <= this.#assembly.length) return;
    const bigger = new Uint8Array(Math.max(size, this.#assembly.length * 2));
    bigger.set(this.#assembly.subarray(0, this.#got));
    this.#assembly = bigger;
    this.#assemblyView = new DataView(bigger.buffer);
  }

  #complete(at: Lsn, bytes: Uint8Array, view: DataView, start: number, total: number, end: number): WalRecord {
    const record = this.#record;
    record.lsn = at;
    record.bytes = bytes;
    record.view = view;
    record.start = start;
    record.totalLength = total;
    const isSwitch = bytes[start + 17] === rmgr.xlog && (bytes[start + 16]! & 0xf0) === switchInfo;
    // A switch record owns the rest of its segment.
    const endLsn = (isSwitch && end % walSegmentSize !== 0 ? segmentStart(end) + walSegmentSize : alignLsn(end)) as Lsn;
    record.endLsn = endLsn;
    if (this.#framingOnly) {
      record.rmid = bytes[start + 17]!;
      record.info = bytes[start + 16]!;
      record.xid = view.getUint32(start + 4, true);
      record.blockCount = 0;
    } else {
      checkCrc(record);
      parseRecord(record);
      this.#checkPrev(record);
    }
    this.#prevLsn = at;
    this.#position = endLsn;
    return record;
  }

  #checkPrev(record: WalRecord): void {
    if (this.#prevLsn === invalidLsn || record.prevLsn === this.#prevLsn) return;
    // A compute that boots where the record before is not known writes its first checkpoint with xl_prev 0.
    const boot = record.prevLsn === 0 && record.rmid === rmgr.xlog && (record.info & 0xf0) === shutdownCheckpointInfo;
    if (boot) return;
    throw corruptRecord(
      record,
      `xl_prev is ${formatLsn(record.prevLsn)}, the record before is at ${formatLsn(this.#prevLsn)}`,
    );
  }

  /** Checks the page header at `at` and returns its flags. `remaining`: bytes of a record that must continue here, 0 for none. */
  #checkHeader(at: Lsn, remaining: number): number {
    const view = this.#view;
    const offset = at - this.#bufferLsn;
    const bad = (reason: string) =>
      new PageliteError('corrupt', `invalid WAL page header at ${formatLsn(at)}: ${reason}`, { lsn: formatLsn(at) });
    const magic = view.getUint16(offset, true);
    if (magic !== walPageMagic) throw bad(`magic 0x${magic.toString(16)}`);
    const flags = view.getUint16(offset + 2, true);
    if (flags & ~allHeaderFlags) throw bad(`flags 0x${flags.toString(16)}`);
    const long = at % walSegmentSize === 0;
    if (((flags & longHeader) !== 0) !== long) throw bad('wrong header length');
    const address = readLsn(view, offset + 8);
    if (address !== at) throw bad(`page address ${formatLsn(address)}`);
    if (long) {
      if (view.getUint32(offset + 32, true) !== walSegmentSize) throw bad('wrong segment size');
      if (view.getUint32(offset + 36, true) !== pageSize) throw bad('wrong page size');
      const id = view.getBigUint64(offset + 24, true);
      if (this.#systemIdentifier !== null && id !== this.#systemIdentifier) {
        throw bad(`system identifier ${id}, expected ${this.#systemIdentifier}`);
      }
    }
    const contrecord = (flags & firstIsContrecord) !== 0;
    const remLen = view.getUint32(offset + 16, true);
    if (remaining === 0) {
      if (contrecord || remLen !== 0) throw bad('a record continues that was not begun');
    } else if (flags & firstIsOverwriteContrecord) {
      if (contrecord) throw bad(`flags 0x${flags.toString(16)}`);
    } else if (!contrecord || remLen !== remaining) {
      throw bad(`${remLen} bytes of the record continue, expected ${remaining}`);
    }
    return flags;
  }
}

function checkCrc(record: WalRecord): void {
  const { bytes, start, totalLength, view } = record;
  const stored = view.getUint32(start + 20, true);
  const body = crc32c(bytes, start + recordHeaderBytes, start + totalLength);
  const computed = crc32c(bytes, start, start + 20, body);
  if (computed !== stored) {
    throw new PageliteError('corrupt', `invalid WAL record at ${formatLsn(record.lsn)}: wrong CRC`, {
      lsn: formatLsn(record.lsn),
    });
  }
}
