/**
 * Resource manager Transaction: clog, relations dropped with the transaction, prepared transactions.
 *
 * Formats: src/include/access/xact.h, src/backend/access/rmgrdesc/xactdesc.c (ParseCommitRecord), twophase.c.
 * After the 8-byte time, if XLOG_XACT_HAS_INFO: u32 xinfo, then each part that xinfo names, in this order: database (8), subtransactions
 * (i32 n, u32 each), relations (i32 n, 12 each), dropped statistics (i32 n, 16 each), invalidations (i32 n, 16 each; commit only),
 * prepared transaction (u32 xid, then its gid as a C string if named), origin (16).
 */
import { type Lsn, readLsn } from '../../model/lsn.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { xactStatusPatch } from '../patch.ts';
import { checkTablespace } from '../record-rel.ts';
import { unknownRecord } from '../unknown-record.ts';

const opMask = 0x70;
const hasInfo = 0x80;
const commit = 0x00;
const prepare = 0x10;
const abort = 0x20;
const commitPrepared = 0x30;
const abortPrepared = 0x40;
const assignment = 0x50;
const invalidations = 0x60;

const hasDbInfo = 1 << 0;
const hasSubxacts = 1 << 1;
const hasRels = 1 << 2;
const hasInvals = 1 << 3;
const hasTwoPhase = 1 << 4;
const hasOrigin = 1 << 5;
const hasGid = 1 << 7;
const hasDroppedStats = 1 << 8;

/** TwoPhaseFileHeader.origin_lsn (twophase.c). */
const preparedOriginOffset = 56;

const xactsPerClogPage = 32768;

export function ingestTransaction(context: IngestContext, record: WalRecord): void | Promise<void> {
  const op = record.info & opMask;
  switch (op) {
    case commit:
    case abort:
    case commitPrepared:
    case abortPrepared:
      return endTransaction(context, record, op);
    case prepare:
      return prepareTransaction(context, record);
    case assignment:
    case invalidations:
      // Nothing to store: subtransaction parents and cache invalidations matter to hot standbys only.
      return;
    default:
      throw unknownRecord(record);
  }
}

function endTransaction(context: IngestContext, record: WalRecord, op: number): void | Promise<void> {
  const committed = op === commit || op === commitPrepared;
  const base = record.start + record.mainOffset;
  const end = base + record.mainLength;
  const { view, bytes } = record;
  let at = base + 8;
  const take = (size: number) => {
    const from = at;
    if (size < 0 || from + size > end) throw corruptRecord(record, 'transaction end is cut short');
    at += size;
    return from;
  };
  const list = (entryBytes: number) => {
    const count = view.getInt32(take(4), true);
    return { count, from: take(count * entryBytes) };
  };
  if (record.mainLength < 8) throw corruptRecord(record, 'transaction end is cut short');
  const time = bytes.slice(base, base + 8);
  const xinfo = record.info & hasInfo ? view.getUint32(take(4), true) : 0;
  if (xinfo & hasDbInfo) take(8);
  let xid = record.xid;
  const xids: number[] = [];
  if (xinfo & hasSubxacts) {
    const { count, from } = list(4);
    for (let i = 0; i < count; i++) xids.push(view.getUint32(from + i * 4, true));
  }
  const rels: [spc: number, db: number, rel: number][] = [];
  if (xinfo & hasRels) {
    const { count, from } = list(12);
    for (let i = 0; i < count; i++) {
      const rel = from + i * 12;
      checkTablespace(record, view.getUint32(rel, true));
      rels.push([view.getUint32(rel, true), view.getUint32(rel + 4, true), view.getUint32(rel + 8, true)]);
    }
  }
  if (xinfo & hasDroppedStats) list(16);
  if (committed && xinfo & hasInvals) list(16);
  const isPrepared = op === commitPrepared || op === abortPrepared;
  if (isPrepared) {
    if (!(xinfo & hasTwoPhase)) throw corruptRecord(record, 'end of a prepared transaction does not name it');
    xid = view.getUint32(take(4), true);
    if (xinfo & hasGid) while (bytes[take(1)] !== 0);
  }
  const lsn = record.endLsn;
  if (xinfo & hasOrigin) context.advanceOrigin(record.origin, readLsn(view, take(16)), lsn);
  xids.push(xid);
  for (const one of xids) context.checkpoint.sawXid(one);
  const pending = xid === 0 ? [] : setStatus(context, committed ? 1 : 2, time, xids, lsn);
  if (isPrepared) context.removePrepared(context.checkpoint.fullXid(xid), lsn);
  if (rels.length > 0) pending.push(dropRels(context, rels, lsn));
  if (pending.length > 0) return Promise.all(pending).then(() => {});
}

async function dropRels(context: IngestContext, rels: readonly [number, number, number][], lsn: Lsn): Promise<void> {
  for (const [spc, db, rel] of rels) await context.dropRel(spc, db, rel, lsn);
}

/** Returns what is to be awaited. */
function setStatus(
  context: IngestContext,
  status: 1 | 2,
  time: Uint8Array,
  xids: readonly number[],
  lsn: Lsn,
): Promise<void>[] {
  const pages = new Map<number, number[]>();
  for (const xid of xids) {
    const page = Math.floor(xid / xactsPerClogPage);
    const entries = pages.get(page);
    if (entries === undefined) pages.set(page, [xid % xactsPerClogPage]);
    else entries.push(xid % xactsPerClogPage);
  }
  const pending: Promise<void>[] = [];
  for (const [page, entries] of pages) {
    const stored = context.clog.patch(page, lsn, xactStatusPatch(status, time, entries));
    if (stored !== undefined) pending.push(stored);
  }
  return pending;
}

/** The state file is the record's main data; PostgreSQL appends a CRC32C when it writes it out, and so does basebackup. */
function prepareTransaction(context: IngestContext, record: WalRecord): void {
  if (record.mainLength < 16) throw corruptRecord(record, 'prepared transaction is cut short');
  const from = record.start + record.mainOffset;
  const xid = record.view.getUint32(from + 8, true);
  context.checkpoint.sawXid(xid);
  const state = record.bytes.subarray(from, from + record.mainLength);
  context.addPrepared(context.checkpoint.fullXid(xid), state, record.endLsn);
  if (record.origin !== 0 && record.mainLength >= preparedOriginOffset + 8) {
    context.advanceOrigin(record.origin, readLsn(record.view, from + preparedOriginOffset), record.endLsn);
  }
}
