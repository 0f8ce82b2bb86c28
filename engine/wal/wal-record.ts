/**
 * A decoded WAL record: a view over the record's bytes that is filled again for each record, so that decoding allocates nothing.
 *
 * Offsets count from the first byte of the record (its 24-byte header) in `bytes`. The record is contiguous: page headers are gone.
 * Layout: PostgreSQL src/include/access/xlogrecord.h.
 */
import { walRecordBlocksMax } from '../limits.ts';
import { invalidLsn, type Lsn } from '../model/lsn.ts';

/** One block reference of a record. Plain fields, filled again for each record. */
export class BlockReference {
  /** Number of the reference in the record, 0 to 32; they ascend but may have gaps. */
  id = 0;
  /** BKPBLOCK flags byte: fork in the low 4 bits. */
  flags = 0;
  spc = 0;
  db = 0;
  rel = 0;
  fork = 0;
  block = 0;
  willInit = false;
  hasImage = false;
  /** The image is to be restored by redo (not only for consistency checks). */
  applyImage = false;
  /** bimg_info byte: hole, apply and compression bits. */
  imageInfo = 0;
  imageOffset = 0;
  imageLength = 0;
  holeOffset = 0;
  holeLength = 0;
  hasData = false;
  dataOffset = 0;
  dataLength = 0;
}

export class WalRecord {
  /** Where the record starts and where it ends (8-byte aligned, PostgreSQL's EndRecPtr). Values made from it carry `endLsn`. */
  lsn: Lsn = invalidLsn;
  endLsn: Lsn = invalidLsn;

  /** The record's bytes are `bytes[start, start + totalLength)`; offsets below are relative to `start`. */
  bytes: Uint8Array = new Uint8Array(0);
  view: DataView = new DataView(new ArrayBuffer(0));
  start = 0;

  totalLength = 0;
  xid = 0;
  prevLsn: Lsn = invalidLsn;
  /** xl_info; the resource manager's own bits are `info & 0xf0`. */
  info = 0;
  rmid = 0;
  /** RepOriginId, 0 if none. */
  origin = 0;
  topLevelXid = 0;
  mainOffset = 0;
  mainLength = 0;
  /** The first `blockCount` entries of `blocks` are valid. */
  blockCount = 0;
  readonly blocks: readonly BlockReference[] = Array.from({ length: walRecordBlocksMax }, () => new BlockReference());
}

/** Resource manager ids (src/include/access/rmgrlist.h, PostgreSQL 18). */
export const rmgr = {
  xlog: 0,
  transaction: 1,
  storage: 2,
  clog: 3,
  database: 4,
  tablespace: 5,
  multixact: 6,
  relMap: 7,
  standby: 8,
  heap2: 9,
  heap: 10,
  btree: 11,
  hash: 12,
  gin: 13,
  gist: 14,
  sequence: 15,
  spgist: 16,
  brin: 17,
  commitTs: 18,
  replicationOrigin: 19,
  generic: 20,
  logicalMessage: 21,
} as const;
