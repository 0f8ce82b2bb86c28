/**
 * A record's header and block references, from its bytes into the fields of a WalRecord.
 *
 * Called by the decoder for every record of the stream, and by redo for the records of one page. Reads no byte outside
 * `[start, start + totalLength)`; whatever PostgreSQL's DecodeXLogRecord refuses is refused here as `corrupt`, naming the LSN.
 * Layout: src/include/access/xlogrecord.h, src/backend/access/transam/xlogreader.c.
 *
 *   header (24): xl_tot_len u32, xl_xid u32, xl_prev u64, xl_info u8, xl_rmid u8, 2 unused, xl_crc u32
 *   then, in any number: block headers (id 0..32), origin (253), top-level xid (252), main data (255 short, 254 long; last)
 *   then the images and data of the blocks in order, then the main data
 */
import { PageliteError } from '../errors.ts';
import { pageSize, walRecordBlocksMax } from '../limits.ts';
import { formatLsn, readLsn } from '../model/lsn.ts';
import type { WalRecord } from './wal-record.ts';

export const recordHeaderBytes = 24;

const forkMask = 0x0f;
const hasImageFlag = 0x10;
const hasDataFlag = 0x20;
const willInitFlag = 0x40;
const sameRelFlag = 0x80;

const imageHasHole = 0x01;
const imageApply = 0x02;
const imageCompressedPglz = 0x04;
const imageCompressedLz4 = 0x08;
const imageCompressedZstd = 0x10;
const imageCompressed = imageCompressedPglz | imageCompressedLz4 | imageCompressedZstd;

const idDataShort = 255;
const idDataLong = 254;
const idOrigin = 253;
const idTopLevelXid = 252;

export function corruptRecord(record: WalRecord, reason: string): PageliteError {
  return new PageliteError('corrupt', `invalid WAL record at ${formatLsn(record.lsn)}: ${reason}`, {
    lsn: formatLsn(record.lsn),
    rmid: record.rmid,
  });
}

/**
 * Fills `record` from `record.bytes` at `record.start`. `bytes`, `view`, `start`, `lsn`, `endLsn` are set by the caller, who knows that
 * `xl_tot_len` bytes are there and has checked the CRC if it wants to. Throws `corrupt`.
 */
export function parseRecord(record: WalRecord): void {
  const { view, bytes, start } = record;
  const total = view.getUint32(start, true);
  record.totalLength = total;
  record.xid = view.getUint32(start + 4, true);
  record.prevLsn = readLsn(view, start + 8);
  record.info = bytes[start + 16]!;
  record.rmid = bytes[start + 17]!;
  record.origin = 0;
  record.topLevelXid = 0;
  record.mainOffset = 0;
  record.mainLength = 0;
  record.blockCount = 0;

  let at = recordHeaderBytes;
  let remaining = total - recordHeaderBytes;
  let dataTotal = 0;
  let count = 0;
  let lastId = -1;
  let spc = 0;
  let db = 0;
  let rel = 0;
  let haveRel = false;

  while (remaining > dataTotal) {
    const id = bytes[start + at]!;
    if (id < walRecordBlocksMax) {
      if (remaining < 4) throw corruptRecord(record, 'block header is cut short');
      if (id <= lastId) throw corruptRecord(record, `out-of-order block id ${id}`);
      lastId = id;
      const block = record.blocks[count++]!;
      const flags = bytes[start + at + 1]!;
      const dataLength = bytes[start + at + 2]! | (bytes[start + at + 3]! << 8);
      at += 4;
      remaining -= 4;
      block.id = id;
      block.flags = flags;
      block.fork = flags & forkMask;
      block.willInit = (flags & willInitFlag) !== 0;
      block.hasData = (flags & hasDataFlag) !== 0;
      block.dataLength = dataLength;
      if (block.hasData !== dataLength > 0)
        throw corruptRecord(record, `block ${id} has a wrong data length ${dataLength}`);
      if (block.fork > 3) throw corruptRecord(record, `block ${id} names fork ${block.fork}`);
      dataTotal += dataLength;

      block.hasImage = (flags & hasImageFlag) !== 0;
      block.applyImage = false;
      block.imageLength = 0;
      block.imageInfo = 0;
      block.holeOffset = 0;
      block.holeLength = 0;
      if (block.hasImage) {
        if (remaining < 5) throw corruptRecord(record, 'image header is cut short');
        const imageLength = bytes[start + at]! | (bytes[start + at + 1]! << 8);
        const holeOffset = bytes[start + at + 2]! | (bytes[start + at + 3]! << 8);
        const info = bytes[start + at + 4]!;
        at += 5;
        remaining -= 5;
        let holeLength = 0;
        if (info & imageCompressed) {
          if (info & imageHasHole) {
            if (remaining < 2) throw corruptRecord(record, 'image header is cut short');
            holeLength = bytes[start + at]! | (bytes[start + at + 1]! << 8);
            at += 2;
            remaining -= 2;
          }
          if (imageLength === pageSize)
            throw corruptRecord(record, `compressed image of block ${id} has the length of a page`);
        } else {
          holeLength = pageSize - imageLength;
        }
        const hole = (info & imageHasHole) !== 0;
        if (
          hole &&
          (holeOffset === 0 || holeLength <= 0 || imageLength === pageSize || holeOffset + holeLength > pageSize)
        ) {
          throw corruptRecord(record, `image of block ${id} has a wrong hole`);
        }
        if (!hole && (holeOffset !== 0 || holeLength !== 0))
          throw corruptRecord(record, `image of block ${id} has a wrong hole`);
        if (imageLength > pageSize) throw corruptRecord(record, `image of block ${id} is too long`);
        block.imageLength = imageLength;
        block.imageInfo = info;
        block.applyImage = (info & imageApply) !== 0;
        block.holeOffset = holeOffset;
        block.holeLength = holeLength;
        dataTotal += imageLength;
      }
      if ((flags & sameRelFlag) === 0) {
        if (remaining < 12) throw corruptRecord(record, 'block header is cut short');
        spc = view.getUint32(start + at, true);
        db = view.getUint32(start + at + 4, true);
        rel = view.getUint32(start + at + 8, true);
        haveRel = true;
        at += 12;
        remaining -= 12;
      } else if (!haveRel) {
        throw corruptRecord(record, `block ${id} refers to a relation before it that is not there`);
      }
      if (remaining < 4) throw corruptRecord(record, 'block header is cut short');
      block.spc = spc;
      block.db = db;
      block.rel = rel;
      block.block = view.getUint32(start + at, true);
      at += 4;
      remaining -= 4;
    } else if (id === idDataShort) {
      if (remaining < 2) throw corruptRecord(record, 'main data header is cut short');
      record.mainLength = bytes[start + at + 1]!;
      dataTotal += record.mainLength;
      at += 2;
      remaining -= 2;
      break;
    } else if (id === idDataLong) {
      if (remaining < 5) throw corruptRecord(record, 'main data header is cut short');
      record.mainLength = view.getUint32(start + at + 1, true);
      dataTotal += record.mainLength;
      at += 5;
      remaining -= 5;
      break;
    } else if (id === idOrigin) {
      if (remaining < 3) throw corruptRecord(record, 'origin is cut short');
      record.origin = bytes[start + at + 1]! | (bytes[start + at + 2]! << 8);
      at += 3;
      remaining -= 3;
    } else if (id === idTopLevelXid) {
      if (remaining < 5) throw corruptRecord(record, 'top-level xid is cut short');
      record.topLevelXid = view.getUint32(start + at + 1, true);
      at += 5;
      remaining -= 5;
    } else {
      throw corruptRecord(record, `invalid block id ${id}`);
    }
  }
  if (remaining !== dataTotal)
    throw corruptRecord(record, `${remaining} bytes of data where ${dataTotal} are announced`);

  for (let i = 0; i < count; i++) {
    const block = record.blocks[i]!;
    block.imageOffset = at;
    at += block.imageLength;
    block.dataOffset = at;
    at += block.dataLength;
  }
  record.mainOffset = at;
  record.blockCount = count;
}
