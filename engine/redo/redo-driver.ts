/**
 * R9. One page, its records, Postgres's own rm_redo functions, in one instance.
 *
 * A record is laid out in WebAssembly memory (decoded-record.ts) and its resource manager's redo is called. The page is then taken from the shared
 * buffer (redo-buffers.ts) and the buffer is emptied. As Neon's wal-redo process, without the process.
 *
 * Invariants:
 * - between calls no buffer holds the target, and no junk buffer that redo has initialised: nothing leaks from page to page
 * - an image of the target restarts the page: records before it are not applied, and the image is restored here, not by Postgres
 * - an error of one page (ereport) is that call's `corrupt` error; Postgres is cleaned up and the next call works, unless `lost`
 *
 * Hot: per record one parse or two; no file system call.
 */
import { messageOf, PageliteError } from '../errors.ts';
import { pageSize } from '../limits.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { formatRel } from '../model/rel.ts';
import type { RedoRequest } from '../services.ts';
import { restoreImage } from '../wal/block-image.ts';
import { corruptRecord, parseRecord } from '../wal/parse-record.ts';
import { type BlockReference, rmgr, WalRecord } from '../wal/wal-record.ts';
import { DecodedRecord } from './decoded-record.ts';
import { RedoBuffers } from './redo-buffers.ts';
import { RedoFiles } from './redo-files.ts';
import { farLsn, type RedoInstance } from './redo-instance.ts';
import { rmgrCount, rmgrData } from './rmgr-abi.ts';
import { selfCheck } from './self-check.ts';

/** A record that changes pages holds at most 33 blocks of 64 kB each, and main data about them: more is not such a record. */
const redoRecordBytesMax = 16 * 1024 * 1024;

const pageManagers: ReadonlySet<number> = new Set([
  rmgr.xlog, // whole images only
  rmgr.heap2,
  rmgr.heap,
  rmgr.btree,
  rmgr.hash,
  rmgr.gin,
  rmgr.gist,
  rmgr.sequence,
  rmgr.spgist,
  rmgr.brin,
  rmgr.generic,
]);
/** By resource manager: those whose redo changes relation pages and nothing else of the instance. */
const changesPages: readonly boolean[] = Array.from({ length: rmgrCount }, (_, id) => pageManagers.has(id));

export class RedoDriver {
  #died = false;
  #checking = false;

  readonly #instance: RedoInstance;
  readonly #files: RedoFiles;
  readonly #buffers: RedoBuffers;
  readonly #decoded: DecodedRecord;
  readonly #redo: ((state: number) => number)[] = [];
  readonly #mask: (((page: number, block: number) => number) | null)[] = [];
  readonly #record = new WalRecord();
  readonly #maskArea: number;

  readonly #context: number;
  readonly #currentContext: number;
  readonly #currentOwner: number;
  readonly #topOwner: number;
  readonly #reset: (context: number) => number;

  /** Throws `invalid` if this PGlite is not laid out as `rmgr-abi.ts` says. */
  constructor(instance: RedoInstance) {
    this.#instance = instance;
    this.#files = new RedoFiles(instance.pg, farLsn - pageSize);
    this.#buffers = new RedoBuffers(instance);
    this.#decoded = new DecodedRecord(instance, this.#files);
    this.#maskArea = (instance.function('malloc')(pageSize + 8) + 7) & ~7;
    this.#currentContext = instance.global('CurrentMemoryContext');
    this.#currentOwner = instance.global('CurrentResourceOwner');
    this.#topOwner = instance.global('TopTransactionResourceOwner');
    this.#reset = instance.function('MemoryContextReset');
    this.#context = instance.messageContext();
    this.#loadTable();
    selfCheck((request) => this.redoPage(request));
  }

  /** The instance died (PANIC, abort): it must not be used any more. */
  get lost(): boolean {
    return this.#died || this.#buffers.stuck;
  }

  get memoryBytes(): number {
    return this.#instance.module.HEAPU8.length;
  }

  #loadTable(): void {
    const instance = this.#instance;
    const table = instance.global('RmgrTable');
    const before = instance.word(this.#currentContext);
    instance.setWord(this.#currentContext, instance.word(instance.global('TopMemoryContext')));
    for (let id = 0; id < rmgrCount; id++) {
      const entry = table + id * rmgrData.bytes;
      this.#redo.push(instance.tableFunction(instance.word(entry + rmgrData.redo)));
      const mask = instance.word(entry + rmgrData.mask);
      this.#mask.push(mask === 0 ? null : instance.tableFunction(mask));
      const startup = instance.word(entry + rmgrData.startup);
      if (startup !== 0) instance.tableFunction(startup)();
    }
    instance.setWord(this.#currentContext, before);
  }

  redoPage(request: RedoRequest): Uint8Array {
    const { rel, block, records, lsns } = request;
    const record = this.#record;
    let base = request.base;
    let from = 0;
    /** Which record `record` and `target` are about. */
    let parsed = -1;
    let target: BlockReference | null = null;
    // The last image of the page makes everything before it irrelevant.
    for (let i = records.length - 1; i >= 0; i--) {
      target = this.#parse(records[i]!, lsns[i]!, request);
      parsed = i;
      if (target.applyImage) {
        base = restoreImage(record, target);
        from = i + 1;
        break;
      }
      if (target.willInit) {
        from = i;
        break;
      }
    }
    if (from === records.length) return base === null ? new Uint8Array(pageSize) : base.slice();

    this.#files.setTarget(rel.fork, block, base);
    this.#buffers.dropTarget(rel.fork, block);
    const instance = this.#instance;
    instance.setWord(this.#currentContext, this.#context);
    instance.setWord(this.#currentOwner, instance.word(this.#topOwner));
    const stack = instance.module.stackSave();
    let lsn: Lsn = lsns[from]!;
    try {
      for (let i = from; i < records.length; i++) {
        lsn = lsns[i]!;
        if (parsed !== i) target = this.#parse(records[i]!, lsn, request);
        // XLOG_FPI_FOR_HINT that found its image unnecessary changes nothing.
        if (record.rmid === rmgr.xlog) continue;
        const dirtiesJunk = this.#decoded.write(record, target);
        this.#redo[record.rmid]!(this.#decoded.state);
        if (dirtiesJunk) this.#buffers.dropJunk();
      }
    } catch (error) {
      throw this.#failed(error, request, lsn, stack);
    }
    const page = this.#buffers.takeTarget(rel.fork, block);
    this.#reset(this.#context);
    // Postgres did not touch the page: every record found it newer, or not there.
    return page ?? (base === null ? new Uint8Array(pageSize) : base.slice());
  }

  /** Parses one record; returns its reference to the target. Throws `corrupt` if it has none, or if it is not one that changes pages. */
  #parse(bytes: Uint8Array, lsn: Lsn, { rel, block }: RedoRequest): BlockReference {
    const record = this.#record;
    record.bytes = bytes;
    record.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    record.start = 0;
    record.endLsn = lsn;
    record.lsn = lsn;
    if (bytes.length < 24 || record.view.getUint32(0, true) !== bytes.length) {
      throw new PageliteError('corrupt', `WAL record of ${bytes.length} bytes has another length in its header`);
    }
    parseRecord(record);
    if (!changesPages[record.rmid]) {
      throw corruptRecord(record, `resource manager ${record.rmid} is unknown or changes no pages`);
    }
    if (bytes.length > redoRecordBytesMax) throw corruptRecord(record, `${bytes.length} bytes are too many for redo`);
    for (let i = 0; i < record.blockCount; i++) {
      const reference = record.blocks[i]!;
      if (
        reference.block === block &&
        reference.rel === rel.rel &&
        reference.fork === rel.fork &&
        reference.db === rel.db &&
        reference.spc === rel.spc
      ) {
        return reference;
      }
    }
    throw corruptRecord(record, `it does not change block ${block} of ${formatRel(rel)}`);
  }

  #failed(error: unknown, { rel, block }: RedoRequest, lsn: Lsn, stack: number): unknown {
    if (error instanceof PageliteError) return error;
    const reason = this.#instance.lastLog() || messageOf(error);
    try {
      this.#instance.recover(error, stack);
      this.#buffers.dropAll();
      this.#checkAfterError();
    } catch {
      // A PANIC or a trap (told below by Postgres's own last words): nothing in this instance can be trusted any more.
      this.#died = true;
    }
    return this.#error(reason, rel, block, lsn);
  }

  /** A record that Postgres refused may have made it write where it should not have. */
  #checkAfterError(): void {
    if (this.#checking) return;
    this.#checking = true;
    try {
      selfCheck((request) => this.redoPage(request));
    } finally {
      this.#checking = false;
    }
  }

  #error(reason: string, rel: RedoRequest['rel'], block: number, lsn: Lsn): PageliteError {
    return new PageliteError(
      'corrupt',
      `Postgres cannot redo WAL up to ${formatLsn(lsn)} on block ${block} of ${formatRel(rel)}: ${reason}`,
      { rel: formatRel(rel), block, lsn: formatLsn(lsn) },
    );
  }

  maskPage(page: Uint8Array, rmid: number, block: number): Uint8Array {
    const mask = this.#mask[rmid];
    if (!mask) return page.slice();
    this.#instance.module.HEAPU8.set(page, this.#maskArea);
    mask(this.#maskArea, block);
    return this.#instance.module.HEAPU8.slice(this.#maskArea, this.#maskArea + pageSize);
  }
}
