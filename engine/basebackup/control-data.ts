/**
 * pg_control, and the WAL that a compute boots from.
 *
 * A data directory with no WAL but one shutdown checkpoint record at LSN X boots at X without recovery. PostgreSQL rewrites that record's
 * page with its next flush, so the record becomes the first of the compute's WAL. Formats: src/include/catalog/pg_control.h.
 *
 *   pg_control: system identifier u64 0 | version 8 | catalog 12 | state 16 | time 24 | checkPoint 32 | checkPointCopy (88) 40 | ... | crc 292
 */
import { assert } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import { checkpointBytes } from '../ingest/checkpoint-state.ts';
import { pageSize } from '../limits.ts';
import { type Lsn, writeLsn } from '../model/lsn.ts';
import { recordHeaderBytes } from '../wal/parse-record.ts';
import { headerBytesAt, nextRecordStart, pageStart, segmentStart, writePageHeader } from '../wal/wal-page.ts';
import { rmgr } from '../wal/wal-record.ts';

export const controlFileBytes = 8192;
export const controlVersion = 1800;
const stateOffset = 16;
const checkPointOffset = 32;
const checkPointCopyOffset = 40;
const crcOffset = 292;
/** DB_SHUTDOWNED */
const stateShutdown = 1;

function checked(control: Uint8Array): DataView {
  const view = new DataView(control.buffer, control.byteOffset, control.byteLength);
  if (control.length < crcOffset + 4) throw new PageliteError('corrupt', `pg_control of ${control.length} bytes`);
  if (view.getUint32(crcOffset, true) !== crc32c(control, 0, crcOffset)) {
    throw new PageliteError('corrupt', 'pg_control fails its CRC');
  }
  const version = view.getUint32(8, true);
  if (version !== controlVersion) throw new PageliteError('corrupt', `pg_control of version ${version}`);
  return view;
}

export const systemIdentifierOf = (control: Uint8Array): bigint => checked(control).getBigUint64(0, true);

/** The CheckPoint struct in a pg_control (a copy). */
export function checkpointOf(control: Uint8Array): Uint8Array {
  checked(control);
  return control.slice(checkPointCopyOffset, checkPointCopyOffset + checkpointBytes);
}

/** The template's pg_control, shut down at `lsn` with this checkpoint. */
export function controlFileAt(template: Uint8Array, checkpoint: Uint8Array, lsn: Lsn): Uint8Array {
  checked(template);
  const control = template.slice();
  const view = new DataView(control.buffer);
  const record = nextRecordStart(lsn);
  view.setUint32(stateOffset, stateShutdown, true);
  writeLsn(view, checkPointOffset, record);
  control.set(bootCheckpoint(checkpoint, record), checkPointCopyOffset);
  view.setUint32(crcOffset, crc32c(control, 0, crcOffset), true);
  return control;
}

/** A shutdown checkpoint's copy: redo is the record itself, full-page writes are off, no transaction is active. */
function bootCheckpoint(checkpoint: Uint8Array, record: Lsn): Uint8Array {
  const copy = checkpoint.slice();
  const view = new DataView(copy.buffer);
  writeLsn(view, 0, record);
  view.setUint32(8, 1, true);
  view.setUint32(12, 1, true);
  copy[16] = 0;
  view.setUint32(80, 0, true);
  return copy;
}

export interface WalPiece {
  /** A page boundary. */
  readonly lsn: Lsn;
  /** Whole pages. */
  readonly bytes: Uint8Array;
}

/**
 * The WAL pages that a compute at `lsn` needs: the page that starts its segment, and those that hold the checkpoint record, which is taken
 * from `control` (as made by `controlFileAt`). `prevLsn` becomes the record's xl_prev.
 */
export function bootWal(control: Uint8Array, lsn: Lsn, prevLsn: Lsn): WalPiece[] {
  const systemIdentifier = systemIdentifierOf(control);
  const record = checkpointRecord(checkpointOf(control), prevLsn);
  const pages = new Map<Lsn, Uint8Array>();
  const page = (at: Lsn, remLen: number): Uint8Array => {
    let bytes = pages.get(at);
    if (bytes === undefined) {
      bytes = new Uint8Array(pageSize);
      writePageHeader(new DataView(bytes.buffer), 0, at, systemIdentifier, remLen);
      pages.set(at, bytes);
    }
    return bytes;
  };
  let at = nextRecordStart(lsn) as number;
  page(segmentStart(at), 0);
  for (let done = 0; done < record.length; ) {
    if (at % pageSize === 0) {
      page(segmentStart(at), segmentStart(at) === at ? record.length - done : 0);
      page(at as Lsn, record.length - done);
      at += headerBytesAt(at);
    }
    const take = Math.min(record.length - done, pageSize - (at % pageSize));
    page(pageStart(at), 0).set(record.subarray(done, done + take), at % pageSize);
    done += take;
    at += take;
  }
  return [...pages].sort(([a], [b]) => a - b).map(([pageLsn, bytes]) => ({ lsn: pageLsn, bytes }));
}

function checkpointRecord(checkpoint: Uint8Array, prevLsn: Lsn): Uint8Array {
  assert(checkpoint.length === checkpointBytes);
  const record = new Uint8Array(recordHeaderBytes + 2 + checkpointBytes);
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  writeLsn(view, 8, prevLsn);
  record[16] = 0x00; // XLOG_CHECKPOINT_SHUTDOWN
  record[17] = rmgr.xlog;
  record[recordHeaderBytes] = 255; // XLR_BLOCK_ID_DATA_SHORT
  record[recordHeaderBytes + 1] = checkpointBytes;
  record.set(checkpoint, recordHeaderBytes + 2);
  view.setUint32(20, crc32c(record, 0, 20, crc32c(record, recordHeaderBytes)), true);
  return record;
}
