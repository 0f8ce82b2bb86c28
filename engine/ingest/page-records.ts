/**
 * The records that change nothing but the pages they name, and those that change nothing at all: by resource manager, each by its name in
 * PostgreSQL 18 (src/include/access/*_xlog.h, rmgrdesc/). The rest, records with other effects, are in records/<rmgr>.ts.
 *
 * An info that is not listed stops the timeline: a PostgreSQL that writes it is not the one this was written for.
 */
import { rmgr, type WalRecord } from '../wal/wal-record.ts';
import { unknownRecord } from './unknown-record.ts';

/** Position in the list * 0x10 is the info; an empty name is not in use. */
const btree = [
  'INSERT_LEAF',
  'INSERT_UPPER',
  'INSERT_META',
  'SPLIT_L',
  'SPLIT_R',
  'INSERT_POST',
  'DEDUP',
  'DELETE',
  'UNLINK_PAGE',
  'UNLINK_PAGE_META',
  'NEWROOT',
  'MARK_PAGE_HALFDEAD',
  'VACUUM',
  'REUSE_PAGE', // names no page: conflicts on a hot standby
  'META_CLEANUP',
];
const hash = [
  'INIT_META_PAGE',
  'INIT_BITMAP_PAGE',
  'INSERT',
  'ADD_OVFL_PAGE',
  'SPLIT_ALLOCATE_PAGE',
  'SPLIT_PAGE',
  'SPLIT_COMPLETE',
  'MOVE_PAGE_CONTENTS',
  'SQUEEZE_PAGE',
  'DELETE',
  'SPLIT_CLEANUP',
  'UPDATE_META_PAGE',
  'VACUUM_ONE_PAGE',
];
const gin = [
  '',
  'CREATE_PTREE',
  'INSERT',
  'SPLIT',
  'VACUUM_PAGE',
  'DELETE_PAGE',
  'UPDATE_META_PAGE',
  'INSERT_LISTPAGE',
  'DELETE_LISTPAGE',
  'VACUUM_DATA_LEAF_PAGE',
];
const gist = [
  'PAGE_UPDATE',
  'DELETE',
  'PAGE_REUSE', // names no page: conflicts on a hot standby
  'PAGE_SPLIT',
  '',
  '',
  'PAGE_DELETE',
  'ASSIGN_LSN', // takes up space in the WAL, so that an unlogged build gets an LSN
];
const spgist = [
  '',
  'ADD_LEAF',
  'MOVE_LEAFS',
  'ADD_NODE',
  'SPLIT_TUPLE',
  'PICKSPLIT',
  'VACUUM_LEAF',
  'VACUUM_ROOT',
  'VACUUM_REDIRECT',
];
const brinOps = ['CREATE_INDEX', 'INSERT', 'UPDATE', 'SAMEPAGE_UPDATE', 'REVMAP_EXTEND', 'DESUMMARIZE'];
/** The high bit says that the first page is begun anew. */
const brin = [...brinOps, '', '', ...brinOps.map((name) => `${name}+INIT`)];
/** As for brin. Visibility map pages that these records change without naming them: records/heap.ts. */
const heapOps = ['INSERT', 'DELETE', 'UPDATE', 'TRUNCATE', 'HOT_UPDATE', 'CONFIRM', 'LOCK', 'INPLACE'];
const heap = [...heapOps, ...heapOps.map((name) => `${name}+INIT`)];
const heap2Ops = [
  'REWRITE', // logical decoding
  'PRUNE_ON_ACCESS',
  'PRUNE_VACUUM_SCAN',
  'PRUNE_VACUUM_CLEANUP',
  'VISIBLE',
  'MULTI_INSERT',
  'LOCK_UPDATED',
  'NEW_CID', // logical decoding
];
const heap2 = [...heap2Ops, ...heap2Ops.map((name) => `${name}+INIT`)];
/** Locks and snapshots of hot standbys, of which there are none: a compute at an LSN has nobody else's transactions. */
const standby = ['LOCK', 'RUNNING_XACTS', 'INVALIDATIONS'];

export const pageRecordNames: { readonly [rmid: number]: readonly string[] } = {
  [rmgr.standby]: standby,
  [rmgr.heap2]: heap2,
  [rmgr.heap]: heap,
  [rmgr.btree]: btree,
  [rmgr.hash]: hash,
  [rmgr.gin]: gin,
  [rmgr.gist]: gist,
  [rmgr.sequence]: ['LOG'],
  [rmgr.spgist]: spgist,
  [rmgr.brin]: brin,
  [rmgr.generic]: ['GENERIC'],
  // For logical decoding; nothing here decodes.
  [rmgr.logicalMessage]: ['MESSAGE'],
};

/** One bit for each info of each resource manager. */
const known = new Uint16Array(256);
for (const [rmid, infos] of Object.entries(pageRecordNames)) {
  infos.forEach((name, i) => {
    if (name !== '') known[Number(rmid)]! |= 1 << i;
  });
}

/** Throws `invalid` unless this record is one of those above. Hot: called for every record of a page. */
export function checkPageRecord(record: WalRecord): void {
  if (((known[record.rmid]! >> (record.info >> 4)) & 1) === 0) throw unknownRecord(record);
}
