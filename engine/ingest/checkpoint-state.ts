/**
 * The running checkpoint: what a compute that boots at an LSN must find in pg_control, kept up to date record by record.
 *
 * The value under `checkpointKey` is PostgreSQL's CheckPoint struct as this build lays it out (88 bytes, src/include/catalog/pg_control.h):
 *
 *   redo 0 | timelines 8, 12 | fullPageWrites 16 | wal_level 20 | nextXid u64 24 | nextOid 32 | nextMulti 36 | nextMultiOffset 40 |
 *   oldestXid 44 | oldestXidDB 48 | oldestMulti 52 | oldestMultiDB 56 | time 64 | oldestCommitTsXid 72 | newestCommitTsXid 76 | oldestActiveXid 80
 *
 * Invariant: at every LSN nextXid is past every xid in the WAL before it. It runs ahead in steps of 1024, so that it is stored once in 1024
 * transactions; 1024 divides a clog page's 32768 transactions, so it never steps over the first xid of a page, whose assignment creates it.
 */
import { PageliteError } from '../errors.ts';

export const checkpointBytes = 88;
const xidStep = 1024;
const firstNormalXid = 3;
const two32 = 4294967296;

export class CheckpointState {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Changed since it was last stored. */
  dirty = false;

  constructor(bytes: Uint8Array) {
    if (bytes.length !== checkpointBytes)
      throw new PageliteError('corrupt', `checkpoint state of ${bytes.length} bytes`);
    this.bytes = bytes.slice();
    this.view = new DataView(this.bytes.buffer);
  }

  /** Full (64-bit) transaction id; exact up to 2^53. */
  get nextXid(): number {
    return this.view.getUint32(28, true) * two32 + this.view.getUint32(24, true);
  }

  set nextXid(xid: number) {
    this.view.setUint32(24, xid % two32, true);
    this.view.setUint32(28, Math.floor(xid / two32), true);
    this.dirty = true;
  }

  #get(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  #set(offset: number, value: number): void {
    if (this.view.getUint32(offset, true) === value) return;
    this.view.setUint32(offset, value, true);
    this.dirty = true;
  }

  get nextOid(): number {
    return this.#get(32);
  }
  set nextOid(oid: number) {
    this.#set(32, oid);
  }
  get nextMulti(): number {
    return this.#get(36);
  }
  get nextMultiOffset(): number {
    return this.#get(40);
  }
  get oldestXid(): number {
    return this.#get(44);
  }

  /** The full id of a transaction that the WAL has just named: not more than 2^31 away from nextXid. */
  fullXid(xid: number): number {
    const next = this.nextXid;
    return next + ((xid - (next % two32)) | 0);
  }

  /** A record of `xid` went by. Hot: called for every record. */
  sawXid(xid: number): void {
    if (xid < firstNormalXid) return;
    const ahead = (xid - this.view.getUint32(24, true)) | 0;
    if (ahead < 0) return;
    const next = this.nextXid + ahead + 1;
    this.nextXid = Math.ceil(next / xidStep) * xidStep;
  }

  /** A multixact with `members` members at `offset` was created. Both counters wrap at 2^32. */
  sawMulti(multi: number, offset: number, members: number): void {
    const nextMulti = (multi + 1) % two32 || 1;
    if (((nextMulti - this.nextMulti) | 0) > 0) this.#set(36, nextMulti);
    const nextOffset = (offset + members) % two32;
    if (((nextOffset - this.nextMultiOffset) | 0) > 0) this.#set(40, nextOffset);
  }

  multisTruncated(oldestMulti: number, oldestMultiDb: number): void {
    this.#set(52, oldestMulti);
    this.#set(56, oldestMultiDb);
  }

  clogTruncated(oldestXid: number, oldestXidDb: number): void {
    this.#set(44, oldestXid);
    this.#set(48, oldestXidDb);
  }

  /** Takes what a checkpoint record says. A shutdown checkpoint is exact; an online one may be behind what came by since it began. */
  checkpoint(record: DataView, offset: number, shutdown: boolean): void {
    const xid = record.getUint32(offset + 28, true) * two32 + record.getUint32(offset + 24, true);
    if (shutdown ? xid !== this.nextXid : xid > this.nextXid) this.nextXid = xid;
    const later = (at: number) => {
      const value = record.getUint32(offset + at, true);
      if (shutdown || ((value - this.#get(at)) | 0) > 0) this.#set(at, value);
    };
    later(32);
    later(36);
    later(40);
    for (const at of [44, 48, 52, 56, 64, 68, 72, 76, 20]) this.#set(at, record.getUint32(offset + at, true));
  }
}
