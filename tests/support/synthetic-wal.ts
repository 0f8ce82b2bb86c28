/**
 * Well-formed WAL without a Postgres: XLOG_NOOP records with page headers, CRC and xl_prev, for tests in which what a record does is of no
 * matter. The decoder takes it as it takes Postgres's.
 */
import { crc32c } from '../../engine/crc32c.ts';
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import { alignLsn, type Lsn, writeLsn } from '../../engine/model/lsn.ts';
import { headerBytesAt, nextRecordStart, writePageHeader } from '../../engine/wal/wal-page.ts';

export const syntheticSystemIdentifier = 7_000_000_000_000_000_001n;

export interface SyntheticRecord {
  /** Where these bytes begin: the end of the record before. */
  readonly startLsn: Lsn;
  /** End of the record, 8-byte aligned. */
  readonly endLsn: Lsn;
  /** WAL bytes [startLsn, endLsn), page headers included. */
  readonly bytes: Uint8Array;
}

export class SyntheticWal {
  #endLsn: Lsn;
  #lastRecordLsn: Lsn;

  #isBoot = false;

  constructor(startLsn: Lsn, lastRecordLsn = 0 as Lsn) {
    this.#endLsn = startLsn;
    this.#lastRecordLsn = lastRecordLsn;
  }

  /** WAL that begins with a shutdown checkpoint that does not know the record before, as that of a compute that has booted. */
  static afterBoot(startLsn: Lsn): SyntheticWal {
    const wal = new SyntheticWal(startLsn);
    wal.#isBoot = true;
    return wal;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get lastRecordLsn(): Lsn {
    return this.#lastRecordLsn;
  }

  /** The next record; `payload` is its main data. */
  next(payload: Uint8Array): SyntheticRecord {
    const record = xlogRecord(this.#isBoot ? shutdownCheckpointInfo : noopInfo, payload, this.#lastRecordLsn);
    this.#isBoot = false;
    return this.#place(record);
  }

  /** A record that ends with its segment, as pg_switch_wal() writes: zeros behind it. */
  switchSegment(): SyntheticRecord {
    return this.#place(finishRecord(new Uint8Array(24), switchInfo, this.#lastRecordLsn), walSegmentSize);
  }

  #place(record: Uint8Array, alignment = 8): SyntheticRecord {
    const recordLsn = nextRecordStart(this.#endLsn);
    const startLsn = this.#endLsn;
    const placed = placeRecord(startLsn, record);
    const end = Math.ceil((startLsn + placed.length) / alignment) * alignment;
    const bytes = new Uint8Array(end - startLsn);
    bytes.set(placed);
    this.#endLsn = (startLsn + bytes.length) as Lsn;
    this.#lastRecordLsn = recordLsn;
    return { startLsn, endLsn: this.#endLsn, bytes };
  }
}

/** `count` records of `payloadBytes` from `startLsn` on, as one piece. */
export function syntheticWal(startLsn: Lsn, count: number, payloadBytes: number): Uint8Array {
  const wal = new SyntheticWal(startLsn);
  const parts = Array.from({ length: count }, (_, i) => wal.next(new Uint8Array(payloadBytes).fill(i)).bytes);
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const noopInfo = 0x20;
const shutdownCheckpointInfo = 0x00;
const switchInfo = 0x40;

function xlogRecord(info: number, payload: Uint8Array, prevLsn: Lsn): Uint8Array {
  const record = new Uint8Array(24 + 5 + payload.length);
  record[24] = 254; // XLR_BLOCK_ID_DATA_LONG
  new DataView(record.buffer).setUint32(25, payload.length, true);
  record.set(payload, 29);
  return finishRecord(record, info, prevLsn);
}

/** Its header. */
function finishRecord(record: Uint8Array, info: number, prevLsn: Lsn): Uint8Array {
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  writeLsn(view, 8, prevLsn);
  record[16] = info;
  view.setUint32(20, crc32c(record, 0, 20, crc32c(record, 24)), true);
  return record;
}

/** The record's bytes from `startLsn` on with the page headers between them, padded to its aligned end. */
function placeRecord(startLsn: Lsn, record: Uint8Array): Uint8Array {
  const out = new Uint8Array(record.length + 64 + 40 * Math.ceil(record.length / (pageSize - 40) + 1));
  const view = new DataView(out.buffer);
  let at: number = startLsn;
  let done = 0;
  while (done < record.length) {
    if (at % pageSize === 0) {
      const rest = done === 0 ? 0 : record.length - done;
      writePageHeader(view, at - startLsn, at as Lsn, syntheticSystemIdentifier, rest);
      at += headerBytesAt(at);
    }
    const length = Math.min(record.length - done, pageSize - (at % pageSize));
    out.set(record.subarray(done, done + length), at - startLsn);
    done += length;
    at += length;
  }
  return out.slice(0, alignLsn(at) - startLsn);
}
