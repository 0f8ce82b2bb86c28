/**
 * Resource managers Heap and Heap2: which visibility map bits a record clears. Formats: src/include/access/heapam_xlog.h.
 *
 * PostgreSQL 18.6 names the visibility map's page in every record that clears bits of it (block references 1 of insert, multi insert, delete
 * and lock, 2 and 3 of update), so the map's page is rebuilt by Postgres's redo like any other. Earlier minor versions did not, and cleared
 * the bits in redo all the same; since pages are rebuilt one at a time, ingest then puts that change on the map's page (patch vmClear).
 *
 *   | record        | main data                                                                                 |
 *   |---------------|-------------------------------------------------------------------------------------------|
 *   | insert        | u16 offnum, u8 flags                                                                      |
 *   | delete        | u32 xmax, u16 offnum, u8 infobits, u8 flags                                               |
 *   | update        | u32 old xmax, u16 old offnum, u8 old infobits, u8 flags, ...; block 0 new page, 1 old page |
 *   | lock          | u32 xmax, u16 offnum, u8 infobits, u8 flags                                               |
 *   | multi insert  | u8 flags, u16 ntuples, ...                                                                |
 *   | lock updated  | u32 xmax, u16 offnum, u8 infobits, u8 flags                                               |
 */
import { vmFork } from '../../model/rel.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import { rmgr, type WalRecord } from '../../wal/wal-record.ts';
import { unknownRecord } from '../unknown-record.ts';

export const noVmClears = 0;

const allVisible = 1;
const allFrozen = 2;
const bothBits = allVisible | allFrozen;

/** XLH_*_ALL_VISIBLE_CLEARED, the same bit in insert, delete, multi insert and for the old page of an update. */
const allVisibleCleared = 1;
const newAllVisibleCleared = 2;
/** XLH_LOCK_ALL_FROZEN_CLEARED */
const allFrozenCleared = 1;

/**
 * Two bits per block reference (of index 0 and 1): which bits of its heap block to clear in a visibility map page that the record does not
 * name. Hot: called for every heap record.
 */
export function heapVmClears(record: WalRecord): number {
  // References to the map come after those to the heap.
  if (record.blockCount > 1 && record.blocks[record.blockCount - 1]!.fork === vmFork) return noVmClears;
  return record.rmid === rmgr.heap ? heapClears(record) : heap2Clears(record);
}

function flagsAt(record: WalRecord, offset: number): number {
  if (offset >= record.mainLength) throw corruptRecord(record, 'heap record is cut short');
  return record.bytes[record.start + record.mainOffset + offset]!;
}

function heapClears(record: WalRecord): number {
  switch (record.info & 0x70) {
    case 0x00: // insert
      return flagsAt(record, 2) & allVisibleCleared ? bothBits : noVmClears;
    case 0x10: // delete
      return flagsAt(record, 7) & allVisibleCleared ? bothBits : noVmClears;
    case 0x20: // update
    case 0x40: {
      // hot update
      const flags = flagsAt(record, 7);
      const onNew = flags & newAllVisibleCleared ? bothBits : 0;
      const onOld = flags & allVisibleCleared ? bothBits : 0;
      // Without a second block, old and new are the same page.
      return record.blockCount > 1 ? onNew | (onOld << 2) : onNew | onOld;
    }
    case 0x60: // lock
      return flagsAt(record, 7) & allFrozenCleared ? allFrozen : noVmClears;
    case 0x30: // truncate: for logical decoding
    case 0x50: // confirm
    case 0x70: // in place
      return noVmClears;
    default:
      throw unknownRecord(record);
  }
}

function heap2Clears(record: WalRecord): number {
  switch (record.info & 0x70) {
    case 0x50: // multi insert
      return flagsAt(record, 0) & allVisibleCleared ? bothBits : noVmClears;
    case 0x60: // lock updated
      return flagsAt(record, 7) & allFrozenCleared ? allFrozen : noVmClears;
    case 0x00: // rewrite: for logical decoding
    case 0x10: // prune on access
    case 0x20: // prune by vacuum's scan
    case 0x30: // prune by vacuum's cleanup
    case 0x40: // visible: names the map's page itself
    case 0x70: // new command id: for logical decoding
      return noVmClears;
    default:
      throw unknownRecord(record);
  }
}
