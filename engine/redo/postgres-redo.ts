/**
 * R9. WAL redo by Postgres itself: one page, its records, Postgres's own rm_redo functions.
 *
 * A record is laid out in WebAssembly memory as PostgreSQL's XLogReader would have decoded it, with the target's relation replaced by
 * `scratch` and every other one by `junk` (redo-files.ts), and its resource manager's redo is called. The page is then taken from the
 * shared buffer and the buffer is emptied. As Neon's wal-redo process, without the process.
 *
 * Invariants:
 * - between calls no buffer holds `scratch`, and no junk buffer that redo has initialised: nothing leaks from page to page
 * - an image of the target restarts the page: records before it are not applied, and the image is restored here, not by Postgres
 * - an error of one page (ereport) is that call's `corrupt` error; Postgres is cleaned up and the next call works
 *
 * Hot: per record one parse and some forty stores into memory; no allocation, no file system call.
 */
import type { PGliteOptions } from '@electric-sql/pglite';
import { assert } from '../assert.ts';
import { messageOf, PageliteError } from '../errors.ts';
import { pageSize, walRecordBlocksMax } from '../limits.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { formatRel } from '../model/rel.ts';
import type { Log, RedoRequest, TenantTemplate, WalRedo } from '../services.ts';
import { restoreImage } from '../wal/block-image.ts';
import { corruptRecord, parseRecord } from '../wal/parse-record.ts';
import { type BlockReference, rmgr, WalRecord } from '../wal/wal-record.ts';
import { junkRel, RedoFiles, redoDatabase, scratchRel } from './redo-files.ts';
import { farLsn, RedoInstance } from './redo-instance.ts';
import { bufferDesc, bufferState, decodedBlock, decodedRecord, readerState, rmgrCount, rmgrData } from './rmgr-abi.ts';
import { selfCheck } from './self-check.ts';

const redoTablespace = 1663;
const dataAreaBytes = 256 * 1024;
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

export interface PostgresRedoOptions {
  readonly template: TenantTemplate;
  readonly artefacts?: Pick<PGliteOptions, 'pgliteWasmModule' | 'fsBundle'>;
  readonly log: Log;
}

export class PostgresRedo implements WalRedo {
  readonly #options: PostgresRedoOptions;
  #driver: RedoDriver | null = null;
  #booting: Promise<void> | null = null;
  #closed = false;

  private constructor(options: PostgresRedoOptions) {
    this.#options = options;
  }

  /** Boots an instance (about 0.4 s) and checks its layout. Throws `invalid` if this PGlite is not the one that the layout was read from. */
  static async create(options: PostgresRedoOptions): Promise<PostgresRedo> {
    const redo = new PostgresRedo(options);
    await redo.ready();
    return redo;
  }

  /** Resolves when `redoPage` can be called: at once, or after an instance that was lost has been replaced. */
  ready(): Promise<void> {
    if (this.#driver !== null) return Promise.resolve();
    this.#booting ??= this.#boot().finally(() => {
      this.#booting = null;
    });
    return this.#booting;
  }

  async #boot(): Promise<void> {
    const { template, artefacts, log } = this.#options;
    if (this.#closed) throw new PageliteError('closed', 'WAL redo is closed');
    const driver = new RedoDriver(await RedoInstance.boot(template, artefacts ?? {}, log));
    selfCheck((request) => driver.redoPage(request));
    if (!this.#closed) this.#driver = driver;
  }

  redoPage(request: RedoRequest): Uint8Array {
    const driver = this.#driver;
    if (driver === null) {
      if (this.#closed) throw new PageliteError('closed', 'WAL redo is closed');
      throw new PageliteError('unavailable', 'WAL redo is being restarted');
    }
    try {
      return driver.redoPage(request);
    } finally {
      if (driver.lost) this.#replace();
    }
  }

  /** Starts another instance in the background; if it does not start, the next `ready` tries again. */
  #replace(): void {
    this.#driver = null;
    this.#options.log.error('the redo instance was lost; starting another');
    this.ready().catch((error: unknown) => {
      this.#options.log.error('the redo instance does not start', { error: messageOf(error) });
    });
  }

  /** The page under Postgres's rm_mask of a resource manager: what may differ between a page and its rebuilt twin is masked out. */
  maskPage(page: Uint8Array, rmid: number, block: number): Uint8Array {
    if (this.#driver === null) throw new PageliteError('unavailable', 'WAL redo is being restarted');
    return this.#driver.maskPage(page, rmid, block);
  }

  /** Memory of the instance's module, which grows and never shrinks; 0 while there is none. */
  get memoryBytes(): number {
    return this.#driver?.memoryBytes ?? 0;
  }

  async close(): Promise<void> {
    this.#closed = true;
    // The instance has an open transaction and nothing to save: it is simply let go.
    this.#driver = null;
  }
}

class RedoDriver {
  /** The instance died (PANIC, abort): it must not be used any more. */
  lost = false;
  #checking = false;

  readonly #instance: RedoInstance;
  readonly #files: RedoFiles;
  readonly #redo: ((state: number) => number)[] = [];
  readonly #mask: (((page: number, block: number) => number) | null)[] = [];
  readonly #record = new WalRecord();

  readonly #state: number;
  readonly #decoded: number;
  #data: number;
  #dataBytes = dataAreaBytes;
  readonly #junkImage: number;
  readonly #maskArea: number;
  readonly #flag: number;

  readonly #descriptors: number;
  readonly #blocks: number;
  readonly #bufferCount: number;
  readonly #context: number;
  readonly #currentContext: number;
  readonly #currentOwner: number;
  readonly #topOwner: number;
  readonly #reset: (context: number) => number;
  readonly #evict: (buffer: number, flushed: number) => number;
  readonly #malloc: (bytes: number) => number;

  constructor(instance: RedoInstance) {
    this.#instance = instance;
    instance.checkBuffers();
    this.#files = new RedoFiles(instance.pg, farLsn - pageSize);
    this.#malloc = instance.function('malloc');
    this.#state = this.#malloc(readerState.bytes);
    this.#decoded = this.#malloc(decodedRecord.blocks + walRecordBlocksMax * decodedBlock.bytes + 16);
    this.#data = this.#malloc(this.#dataBytes);
    this.#junkImage = this.#malloc(64);
    this.#maskArea = (this.#malloc(pageSize + 8) + 7) & ~7;
    this.#flag = this.#malloc(8);
    this.#descriptors = instance.word(instance.global('BufferDescriptors'));
    this.#blocks = instance.word(instance.global('BufferBlocks'));
    this.#bufferCount = instance.word(instance.global('NBuffers'));
    this.#currentContext = instance.global('CurrentMemoryContext');
    this.#currentOwner = instance.global('CurrentResourceOwner');
    this.#topOwner = instance.global('TopTransactionResourceOwner');
    this.#reset = instance.function('MemoryContextReset');
    this.#evict = instance.function('EvictUnpinnedBuffer');
    this.#context = instance.messageContext();
    this.#loadTable();
    const { HEAPU8 } = instance.module;
    HEAPU8.fill(0, this.#state, this.#state + readerState.bytes);
    HEAPU8.fill(0, this.#decoded, this.#decoded + decodedRecord.blocks + walRecordBlocksMax * decodedBlock.bytes);
    HEAPU8.fill(0, this.#junkImage, this.#junkImage + 64);
    instance.setWord(this.#state + readerState.record, this.#decoded);
    // The image of a junk page: its header, with LSN "later than any".
    HEAPU8[this.#junkImage + 12] = 24;
    HEAPU8[this.#junkImage + 15] = pageSize >> 8;
    HEAPU8[this.#junkImage + 17] = pageSize >> 8;
    HEAPU8[this.#junkImage + 18] = 4;
    HEAPU8[this.#junkImage + 19] = pageSize >> 8;
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
    this.#dropTarget(rel.fork, block);
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
        const dirtiesJunk = this.#layOut(record, target);
        this.#redo[record.rmid]!(this.#state);
        if (dirtiesJunk) this.#dropJunk();
      }
    } catch (error) {
      throw this.#failed(error, request, lsn, stack);
    }
    const page = this.#takeTarget(rel.fork, block);
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

  /** Writes the DecodedXLogRecord. Returns true if redo will initialise or restore a junk page, which must then be dropped. */
  #layOut(record: WalRecord, target: BlockReference | null): boolean {
    const { bytes } = record;
    if (record.totalLength + 8 * (walRecordBlocksMax + 2) > this.#dataBytes) this.#growData(record.totalLength);
    const memory = this.#instance.module.HEAPU8;
    const words = this.#instance.words;
    const decoded = this.#decoded >> 2;
    const state = this.#state >> 2;
    const low = record.endLsn % 4294967296;
    const high = (record.endLsn - low) / 4294967296;
    words[state + (readerState.readRecPtr >> 2)] = low;
    words[state + (readerState.readRecPtr >> 2) + 1] = high;
    words[state + (readerState.endRecPtr >> 2)] = low;
    words[state + (readerState.endRecPtr >> 2) + 1] = high;
    words[decoded + (decodedRecord.lsn >> 2)] = low;
    words[decoded + (decodedRecord.lsn >> 2) + 1] = high;
    words[decoded + (decodedRecord.nextLsn >> 2)] = low;
    words[decoded + (decodedRecord.nextLsn >> 2) + 1] = high;
    copy(memory, this.#decoded + decodedRecord.header, bytes, 0, 24);
    words[decoded + (decodedRecord.origin >> 2)] = record.origin;
    words[decoded + (decodedRecord.topLevelXid >> 2)] = record.topLevelXid;
    let at = this.#data;
    copy(memory, at, bytes, record.mainOffset, record.mainLength);
    words[decoded + (decodedRecord.mainData >> 2)] = record.mainLength > 0 ? at : 0;
    words[decoded + (decodedRecord.mainDataLength >> 2)] = record.mainLength;
    at = (at + record.mainLength + 7) & ~7;

    const count = record.blockCount;
    const maxId = count === 0 ? -1 : record.blocks[count - 1]!.id;
    words[decoded + (decodedRecord.maxBlockId >> 2)] = maxId;
    if (maxId + 1 !== count) {
      for (let id = 0; id <= maxId; id++) memory[this.#decoded + decodedRecord.blocks + id * decodedBlock.bytes] = 0;
    }
    let dirtiesJunk = false;
    for (let i = 0; i < count; i++) {
      const block = record.blocks[i]!;
      const isTarget = block === target;
      if (!isTarget) this.#files.reach(block.block);
      const entry = (this.#decoded + decodedRecord.blocks + block.id * decodedBlock.bytes) >> 2;
      words[entry] = 1;
      words[entry + 1] = redoTablespace;
      words[entry + 2] = redoDatabase;
      words[entry + 3] = isTarget ? scratchRel : junkRel;
      words[entry + 4] = block.fork;
      words[entry + 5] = block.block;
      words[entry + 6] = 0;
      const restore = !isTarget && block.applyImage;
      if (restore) {
        words[entry + 7] = block.flags | 0x010100;
        words[entry + 8] = this.#junkImage;
        words[entry + 9] = 24 | ((pageSize - 24) << 16);
        words[entry + 10] = 24 | (0x03 << 16) | (block.hasData ? 1 << 24 : 0);
      } else {
        words[entry + 7] = block.flags;
        words[entry + 8] = 0;
        words[entry + 9] = 0;
        words[entry + 10] = block.hasData ? 1 << 24 : 0;
      }
      if (!isTarget && (restore || block.willInit)) dirtiesJunk = true;
      if (block.hasData) {
        copy(memory, at, bytes, block.dataOffset, block.dataLength);
        words[entry + 11] = at;
        at = (at + block.dataLength + 7) & ~7;
      } else {
        words[entry + 11] = 0;
      }
      words[entry + 12] = block.dataLength | (block.dataLength << 16);
    }
    return dirtiesJunk;
  }

  #growData(recordBytes: number): void {
    this.#dataBytes = recordBytes * 2 + dataAreaBytes;
    // The old area is not freed: each is at least twice as large as the one before, up to `redoRecordBytesMax`.
    this.#data = this.#malloc(this.#dataBytes);
    assert(this.#data !== 0, 'the redo instance has no memory left');
  }

  #tagIs(descriptor: number, rel: number, fork: number, block: number): boolean {
    const words = this.#instance.words;
    const at = descriptor >> 2;
    return words[at + 4] === block && words[at + 2] === rel && words[at + 3] === fork;
  }

  #indexOf(fork: number, block: number): number {
    for (let i = 0; i < this.#bufferCount; i++) {
      const descriptor = this.#descriptors + i * bufferDesc.bytes;
      if (!this.#tagIs(descriptor, scratchRel, fork, block)) continue;
      const state = this.#instance.word(descriptor + bufferDesc.state);
      if (state & bufferState.tagValid && state & bufferState.valid) return i;
    }
    return -1;
  }

  /**
   * Empties a buffer without writing it out. That fails if somebody has it pinned, which is nobody here unless a redo function forgot its pin:
   * then the page would stay and be taken for another one's, so this instance has to go.
   */
  #drop(index: number): void {
    const at = this.#descriptors + index * bufferDesc.bytes + bufferDesc.state;
    const clean = ~(bufferState.dirty | bufferState.justDirtied | bufferState.checkpointNeeded);
    this.#instance.setWord(at, (this.#instance.word(at) & clean) >>> 0);
    if (this.#evict(index + 1, this.#flag) === 0) {
      this.lost = true;
      throw new PageliteError('unavailable', 'a buffer of the redo instance stays pinned');
    }
  }

  #dropTarget(fork: number, block: number): void {
    const index = this.#indexOf(fork, block);
    if (index >= 0) this.#drop(index);
  }

  #takeTarget(fork: number, block: number): Uint8Array | null {
    const index = this.#indexOf(fork, block);
    if (index < 0) return null;
    const at = this.#blocks + index * pageSize;
    const page = this.#instance.module.HEAPU8.slice(at, at + pageSize);
    this.#drop(index);
    return page;
  }

  #dropJunk(): void {
    for (let i = 0; i < this.#bufferCount; i++) {
      const descriptor = this.#descriptors + i * bufferDesc.bytes;
      if (this.#instance.word(descriptor + bufferDesc.rel) !== junkRel) continue;
      const state = this.#instance.word(descriptor + bufferDesc.state);
      if (state & bufferState.valid && state & bufferState.dirty) this.#drop(i);
    }
  }

  #failed(error: unknown, { rel, block }: RedoRequest, lsn: Lsn, stack: number): unknown {
    if (error instanceof PageliteError) return error;
    const reason = this.#instance.lastLog() || messageOf(error);
    try {
      this.#instance.recover(error, stack);
      for (let i = 0; i < this.#bufferCount; i++) {
        const descriptor = this.#descriptors + i * bufferDesc.bytes;
        const tag = this.#instance.word(descriptor + bufferDesc.rel);
        if (tag === scratchRel || tag === junkRel) this.#drop(i);
      }
      this.#checkAfterError();
    } catch {
      // A PANIC or a trap (told below by Postgres's own last words): nothing in this instance can be trusted any more.
      this.lost = true;
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

/** `set(subarray)` makes an object and a call; records are short. */
function copy(to: Uint8Array, at: number, from: Uint8Array, start: number, length: number): void {
  if (length > 256) {
    to.set(from.subarray(start, start + length), at);
    return;
  }
  for (let i = 0; i < length; i++) to[at + i] = from[start + i]!;
}
