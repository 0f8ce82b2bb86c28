/**
 * W7. One WAL record in, (key, LSN, value)s out.
 *
 * Called by the WAL receiver for every record, in order. Two things happen for each: what the record does to state that is not a page
 * (records/<rmgr>.ts: clog, sizes, directories, ...), and every block that it names is put as "this page is changed by this record".
 * Redo of pages is Postgres's own and happens when a page is read (redo/).
 *
 * Invariants:
 * - every (resource manager, info) of PostgreSQL 18 is listed in records/ or page-records.ts; anything else stops the timeline (`invalid`)
 * - `ingest` returns a promise only when a size or a directory had to be read; the caller awaits it before the next record
 * - the checkpoint state is stored with the record that changes it, so it is right at every LSN
 * - a full-page image that redo would restore is put as that page; other blocks as "changed by this record"
 * - a block past the end extends the relation; blocks between are tombstones (zero pages), and so is that block itself unless the record
 *   begins it anew: nothing from before a truncation shines through
 *
 * Hot: one record with one block costs an array look-up for the size and two calls of the sink.
 */
import { PageliteError } from '../errors.ts';
import { checkpointKey, type KeyPrefix, keyKind, keyPrefix } from '../model/key.ts';
import { vmFork } from '../model/rel.ts';
import type { ValueReader, ValueSink } from '../services.ts';
import { restoreImage } from '../wal/block-image.ts';
import { corruptRecord } from '../wal/parse-record.ts';
import { rmgr, type WalRecord } from '../wal/wal-record.ts';
import { IngestContext } from './ingest-context.ts';
import { checkPageRecord } from './page-records.ts';
import { heapBlocksPerVmPage, vmClearPatch } from './patch.ts';
import { recordRel } from './record-rel.ts';
import { ingestDatabase } from './records/database.ts';
import { heapVmClears, noVmClears } from './records/heap.ts';
import { ingestClog, ingestMultixact } from './records/multixact.ts';
import { ingestRelMap } from './records/rel-map.ts';
import { ingestReplicationOrigin } from './records/replication-origin.ts';
import { ingestStorage } from './records/storage.ts';
import { ingestTransaction } from './records/transaction.ts';
import { ingestXlog } from './records/xlog.ts';
import { noRel } from './rel-sizes.ts';
import { unknownRecord } from './unknown-record.ts';

const tombstone = new Uint8Array(0);
/** How far past a relation's end a record may write: hash indexes grow by a quarter at once; more than this (8 GB) is damage. */
const gapBlocksMax = 1024 * 1024;

export class WalIngest {
  readonly #context: IngestContext;
  /** The relations of the block references of the record under way, by index. */
  readonly #prefixes: KeyPrefix[] = [];

  private constructor(context: IngestContext) {
    this.#context = context;
  }

  /** Loads the state at the end of what `reader` sees. Throws `corrupt` if there is no checkpoint state. */
  static async open(reader: ValueReader, sink: ValueSink): Promise<WalIngest> {
    const checkpoint = await reader.getImage(checkpointKey.prefix, checkpointKey.block);
    if (checkpoint === null) throw new PageliteError('corrupt', 'the timeline has no checkpoint state');
    return new WalIngest(await IngestContext.open(reader, sink, checkpoint));
  }

  /** By how many blocks the records so far have grown relations. */
  get blocksAdded(): number {
    return this.#context.sizes.blocksAdded;
  }

  ingest(record: WalRecord): void | Promise<void> {
    const context = this.#context;
    context.checkpoint.sawXid(record.xid);
    if (record.topLevelXid !== 0) context.checkpoint.sawXid(record.topLevelXid);
    const pending = this.#state(record);
    if (pending !== undefined) return pending.then(() => this.#pages(record));
    return this.#pages(record);
  }

  /** What the record does beside pages. */
  #state(record: WalRecord): void | Promise<void> {
    const context = this.#context;
    switch (record.rmid) {
      case rmgr.xlog:
        return ingestXlog(context, record);
      case rmgr.transaction:
        return ingestTransaction(context, record);
      case rmgr.storage:
        return ingestStorage(context, record);
      case rmgr.clog:
        return ingestClog(context, record);
      case rmgr.database:
        return ingestDatabase(context, record);
      case rmgr.multixact:
        return ingestMultixact(context, record);
      case rmgr.relMap:
        return ingestRelMap(context, record);
      case rmgr.replicationOrigin:
        return ingestReplicationOrigin(context, record);
      case rmgr.tablespace:
        throw unknownRecord(record, 'tablespaces are not supported');
      case rmgr.commitTs:
        throw unknownRecord(record, 'track_commit_timestamp is not supported');
      case rmgr.heap2:
      case rmgr.heap:
      case rmgr.btree:
      case rmgr.hash:
      case rmgr.gin:
      case rmgr.gist:
      case rmgr.sequence:
      case rmgr.spgist:
      case rmgr.brin:
      case rmgr.generic:
      case rmgr.standby:
      case rmgr.logicalMessage:
        return checkPageRecord(record);
      default:
        throw unknownRecord(record, 'unknown resource manager');
    }
  }

  #pages(record: WalRecord): void | Promise<void> {
    const context = this.#context;
    if (record.blockCount > 0) {
      const clears = record.rmid === rmgr.heap || record.rmid === rmgr.heap2 ? heapVmClears(record) : noVmClears;
      const missing = this.#missing(record, clears);
      if (missing !== null) return this.#load(missing).then(() => this.#pages(record));
      const created = this.#putPages(record);
      if (clears !== noVmClears) this.#putVmClears(record, clears);
      if (created !== null) return Promise.all(created).then(() => this.#storeCheckpoint(record));
    }
    if (context.checkpoint.dirty) this.#storeCheckpoint(record);
  }

  #storeCheckpoint(record: WalRecord): void {
    const { checkpoint, sink } = this.#context;
    if (!checkpoint.dirty) return;
    sink.putImage(checkpointKey.prefix, checkpointKey.block, record.endLsn, checkpoint.bytes);
    checkpoint.dirty = false;
  }

  /** Relations of this record whose size is not in memory yet, or null. */
  #missing(record: WalRecord, clears: number): KeyPrefix[] | null {
    const { sizes } = this.#context;
    let missing: KeyPrefix[] | null = null;
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i]!;
      const prefix = recordRel(record, block.spc, block.db, block.rel, block.fork);
      this.#prefixes[i] = prefix;
      if (sizes.get(prefix) === undefined) {
        missing ??= [];
        missing.push(prefix);
      }
      if (clears !== noVmClears) {
        const vm = keyPrefix(keyKind.rel, block.spc, block.db, block.rel, vmFork);
        if (sizes.get(vm) === undefined) {
          missing ??= [];
          missing.push(vm);
        }
      }
    }
    return missing;
  }

  async #load(prefixes: readonly KeyPrefix[]): Promise<void> {
    for (const prefix of prefixes) await this.#context.sizes.load(prefix);
  }

  /** All sizes are known. Returns the promises of directory changes that could not be made at once, or null. */
  #putPages(record: WalRecord): Promise<void>[] | null {
    const { sizes, sink } = this.#context;
    const lsn = record.endLsn;
    let waits: Promise<void>[] | null = null;
    let handle = -1;
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i]!;
      const prefix = this.#prefixes[i]!;
      const willInit = block.willInit || block.applyImage;
      const size = sizes.get(prefix)!;
      if (block.block >= size) {
        if (size === noRel) {
          const wait = this.#context.createRel(prefix, lsn);
          if (wait !== undefined) {
            waits ??= [];
            waits.push(wait);
          }
        }
        this.#extend(record, prefix, Math.max(0, size), block.block, willInit);
      }
      if (block.applyImage) {
        // Redo would restore the image and do no more to this page. A record may have 32 of them: with the pages it is not kept 32 times.
        sink.putImage(prefix, block.block, lsn, restoreImage(record, block));
        continue;
      }
      if (handle < 0) handle = sink.addRecord(lsn, record.bytes, record.start, record.totalLength);
      sink.putRecord(prefix, block.block, lsn, handle, willInit);
    }
    return waits;
  }

  /** `block` is past the end: what the relation may have had there before it was cut is gone, unless the record begins the page anew. */
  #extend(record: WalRecord, prefix: KeyPrefix, size: number, block: number, willInit: boolean): void {
    const { sizes, sink } = this.#context;
    const end = willInit ? block : block + 1;
    if (end - size > gapBlocksMax) throw corruptRecord(record, `block ${block} of a relation of ${size} blocks`);
    for (let gap = size; gap < end; gap++) sink.putImage(prefix, gap, record.endLsn, tombstone);
    sizes.set(prefix, record.endLsn, block + 1);
  }

  /** `clears`: bits of heapVmClears. The visibility map block is not in the record; a map that does not reach it holds no bit to clear. */
  #putVmClears(record: WalRecord, clears: number): void {
    const { sizes, sink } = this.#context;
    for (let i = 0; i < record.blockCount && i < 2; i++) {
      const bits = (clears >> (i * 2)) & 3;
      if (bits === 0) continue;
      const block = record.blocks[i]!;
      const vm = keyPrefix(keyKind.rel, block.spc, block.db, block.rel, vmFork);
      const page = Math.floor(block.block / heapBlocksPerVmPage);
      if (page < sizes.get(vm)!) sink.putPatch(vm, page, record.endLsn, vmClearPatch(block.block, bits));
    }
  }
}
