/**
 * R2. Reads and writes of relation files: cache first, else the bridge.
 *
 * Called by the file system (vfs/pagelite-fs.ts) with a relation and a range of bytes in it. Decides at which LSN to ask, how much to
 * read at once, and how long a written page has to stay.
 *
 * Invariants
 * - a page that is read from afar was last written at or before the flushed LSN: whoever has newer WAL still has the page in the cache. So no
 *   read waits for WAL that the safekeepers do not have
 * - blocks past the relation's end as this compute sees it are never asked for
 */
import { pageSize } from '../../engine/limits.ts';
import type { PrewarmPages } from '../../engine/services.ts';
import { hintsPerRequestMax } from '../bridge/bridge-layout.ts';
import type { ComputeBridge, ReadHint } from '../bridge/compute-bridge.ts';
import { FlushHistory } from './flush-history.ts';
import { LastWrittenLsn } from './last-written-lsn.ts';
import { forever, PageCache } from './page-cache.ts';
import { Announced, announceLength, runBlocksMax, runLength } from './prefetch.ts';
import { type Relation, RelationTable } from './rel-size-cache.ts';
import type { SpillStore } from './spill-store.ts';

export interface PageStoreOptions {
  readonly bridge: ComputeBridge;
  readonly bootLsn: number;
  readonly readOnly: boolean;
  readonly cacheBytes: number;
  readonly spill: SpillStore;
  /** Xid of the transaction that runs now, 0 if it has none. */
  readonly currentXid: () => number;
  /** How many WAL records this compute has inserted, written or not. */
  readonly insertedRecords: () => number;
  /** Has PostgreSQL flush the WAL that it has inserted. */
  readonly flushWal: () => void;
}

export class PageStore {
  readonly #options: PageStoreOptions;
  readonly #bridge: ComputeBridge;
  readonly relations: RelationTable;
  readonly cache: PageCache;
  readonly #lastWritten: LastWrittenLsn;
  readonly #history: FlushHistory;
  readonly #announced = new Announced(hintsPerRequestMax - 2);
  readonly #runBlocksMax: number;
  #flushedLsn: number;
  #flushedRecords = 0;
  /** Whose pages must stay; 0: nobody's. */
  #xid = 0;
  /** Relations created by the transaction that runs: their floor is known when it has ended. */
  readonly #createdNow = new Set<Relation>();

  constructor(options: PageStoreOptions) {
    this.#options = options;
    this.#bridge = options.bridge;
    this.cache = new PageCache(options.cacheBytes, options.spill, (relation, block, needRecord) =>
      this.#dropped(this.relations.byId(relation), block, needRecord),
    );
    this.#history = new FlushHistory(options.bootLsn);
    this.#runBlocksMax = runBlocksMax(this.cache.capacity);
    this.#lastWritten = new LastWrittenLsn(options.bootLsn);
    this.#flushedLsn = options.bootLsn;
    this.relations = new RelationTable(
      ({ spc, db }) => options.bridge.listRels(spc, db, options.bootLsn),
      (from, to) => this.#copy(from, to),
    );
  }

  prewarm(prewarm: PrewarmPages): void {
    const relation = this.relations.prewarm(prewarm);
    const { firstBlock, pages } = prewarm;
    for (let i = 0; i * pageSize < pages.length; i++) {
      this.cache.addRead(relation.id, firstBlock + i, pages, i * pageSize);
    }
  }

  /** The quorum has all WAL up to `lsn`, which is where a record ends: the first `records` ones of this compute. */
  flushed(lsn: number, records: number): void {
    this.#flushedLsn = lsn;
    this.#flushedRecords = records;
    this.#history.add(records, lsn);
    this.cache.flushedRecords = records;
    this.#lookAtTransaction();
  }

  /** Copies [position, position + length) of the relation into `target`; returns how much of it there is. */
  read(relation: Relation, position: number, length: number, target: Uint8Array, offset: number): number {
    const size = relation.blocks * pageSize;
    const count = Math.max(0, Math.min(length, size - position));
    for (let done = 0; done < count; ) {
      const block = Math.floor((position + done) / pageSize);
      const inPage = (position + done) % pageSize;
      const take = Math.min(count - done, pageSize - inPage);
      if (!this.cache.read(relation.id, block, inPage, take, target, offset + done)) {
        this.#load(relation, block, inPage, take, target, offset + done);
      }
      done += take;
    }
    return count;
  }

  /** A copy of the page if it is here. Asks nobody. */
  peek(relation: Relation, block: number): Uint8Array | null {
    if (!this.cache.has(relation.id, block)) return null;
    const page = new Uint8Array(pageSize);
    this.cache.read(relation.id, block, 0, pageSize, page, 0);
    return page;
  }

  /** Whole pages only. A write past the end extends the relation; what lies between reads as zeros. */
  write(relation: Relation, position: number, source: Uint8Array, offset: number, length: number): void {
    this.#lookAtTransaction();
    if (this.cache.isUntidy) this.#tidy();
    for (let done = 0; done < length; done += pageSize) {
      this.#writePage(relation, (position + done) / pageSize, source, offset + done);
    }
  }

  #writePage(relation: Relation, block: number, source: Uint8Array, offset: number): void {
    if (block >= relation.blocks) relation.setSize(block + 1);
    if (relation.localOnly) {
      this.cache.write(relation.id, block, source, offset, forever, 0);
      return;
    }
    if (this.#options.readOnly) {
      // Nothing that a read-only compute writes leaves it. Hint bits alone may be lost.
      const own = lsnOfPage(source, offset) > this.#options.bootLsn || relation.created;
      this.cache.write(relation.id, block, source, offset, own ? forever : 0, 0);
      return;
    }
    this.cache.write(
      relation.id,
      block,
      source,
      offset,
      this.#epochOf(source, offset),
      this.#options.insertedRecords(),
    );
  }

  /** A written page has left: whoever reads it again needs all the WAL that there was when it was written. */
  #dropped(relation: Relation, block: number, needRecord: number): void {
    const lsn = Math.max(this.#history.lsnOf(needRecord), relation.floorLsn);
    this.#lastWritten.note(relation.id, block, lsn);
    relation.writtenLsn = Math.max(relation.writtenLsn, lsn);
  }

  /** A sequence's WAL is 32 values ahead of it: rebuilt from that it would skip, so its one page stays. */
  #epochOf(source: Uint8Array, offset: number): number {
    if (isSequencePage(source, offset)) return forever;
    return this.#xid === 0 ? 0 : this.cache.epoch;
  }

  /** Zero pages up to `blocks`, as a file made longer. */
  extend(relation: Relation, blocks: number): void {
    if (blocks <= relation.blocks) return;
    const zeros = new Uint8Array(pageSize);
    this.#lookAtTransaction();
    for (let block = relation.blocks; block < blocks; block++) this.#writePage(relation, block, zeros, 0);
  }

  truncate(relation: Relation, blocks: number): void {
    if (blocks > relation.blocks) {
      this.extend(relation, blocks);
      return;
    }
    // PostgreSQL has flushed the record of a truncation: what is written behind the new end from now on is newer than that.
    relation.floorLsn = Math.max(relation.floorLsn, this.#flushedLsn);
    relation.setSize(blocks);
    relation.nextBlock = -1;
    this.cache.drop(relation.id, blocks);
  }

  create(relation: Relation): void {
    this.#lookAtTransaction();
    this.cache.drop(relation.id, 0);
    for (const other of this.relations.create(relation, this.#flushedLsn)) this.cache.keepForever(other.id);
    if (!relation.localOnly) this.#createdNow.add(relation);
  }

  remove(relation: Relation): void {
    relation.floorLsn = Math.max(relation.floorLsn, this.#flushedLsn);
    relation.setSize(null);
    relation.nextBlock = -1;
    this.cache.drop(relation.id, 0);
  }

  /** PostgreSQL is going to read this block. */
  announce(relation: Relation, block: number): void {
    if (relation.localOnly || block >= relation.blocks || this.cache.has(relation.id, block)) return;
    this.#announced.add(relation, block);
  }

  /**
   * Reads can write WAL (pruning) that nothing flushes, and then every page with new hint bits would have to stay: it is flushed here. While a
   * transaction that writes is running, its pages stay anyway.
   */
  #tidy(): void {
    const { readOnly, insertedRecords, flushWal } = this.#options;
    if (!readOnly && this.#xid === 0 && insertedRecords() > this.#flushedRecords) flushWal();
    this.cache.tidy();
  }

  /** Notices that the transaction whose pages had to stay has ended. */
  #lookAtTransaction(): void {
    const xid = this.#options.currentXid();
    if (xid === this.#xid) return;
    const ended = this.#xid !== 0;
    this.#xid = xid;
    if (!ended) return;
    this.cache.endTransaction();
    // A database copied file by file has pages with the LSNs of the other one: here they are as new as the copy.
    for (const relation of this.#createdNow) relation.floorLsn = Math.max(relation.floorLsn, this.#flushedLsn);
    this.#createdNow.clear();
  }

  #load(relation: Relation, block: number, inPage: number, length: number, target: Uint8Array, offset: number): void {
    if (relation.localOnly) {
      // Never written: a hole that was skipped over.
      target.fill(0, offset, offset + length);
      return;
    }
    const count = this.#absent(relation, block, runLength(relation, block, this.#runBlocksMax));
    const hints: ReadHint[] = [];
    this.#announced.take((announced, first, blocks) => {
      hints.push({ rel: announced, firstBlock: first, blockCount: blocks, lsn: this.#lsnOf(announced, first, blocks) });
    });
    const next = announceLength(relation, this.#runBlocksMax);
    // Two runs ahead: one is on its way while the other is looked at.
    for (let i = 0, first = relation.nextBlock; i < 2 && next > 0; i++, first += next) {
      const blocks = Math.min(next, relation.blocks - first);
      if (blocks <= 0) break;
      hints.push({ rel: relation, firstBlock: first, blockCount: blocks, lsn: this.#lsnOf(relation, first, blocks) });
    }
    const lsn = this.#lsnOf(relation, block, count);
    const pages = this.#bridge.getPages(relation, block, count, lsn, hints);
    target.set(pages.subarray(inPage, inPage + length), offset);
    for (let i = 0; i < count; i++) this.cache.addRead(relation.id, block + i, pages, i * pageSize);
  }

  /** How many of the blocks to read before the last one that is not here: pages behind it need not travel. */
  #absent(relation: Relation, block: number, count: number): number {
    let last = count - 1;
    while (last > 0 && this.cache.has(relation.id, block + last)) last--;
    return last + 1;
  }

  #lsnOf(relation: Relation, firstBlock: number, blockCount: number): number {
    const { bootLsn } = this.#options;
    // The table's entries are shared: a relation that was not written need not wait for others that were.
    const shared = relation.writtenLsn === 0 ? 0 : this.#lastWritten.getRange(relation.id, firstBlock, blockCount);
    const written = Math.max(bootLsn, Math.min(shared, relation.writtenLsn), relation.floorLsn);
    return Math.min(this.#flushedLsn, written);
  }

  #copy(from: Relation, to: Relation): void {
    to.setSize(0);
    to.segments = 1;
    const page = new Uint8Array(pageSize);
    for (let block = 0; block < from.blocks; block++) {
      this.read(from, block * pageSize, pageSize, page, 0);
      this.#writePage(to, block, page, 0);
    }
  }
}

/** SEQ_MAGIC in the special area of eight bytes (commands/sequence.c). */
function isSequencePage(bytes: Uint8Array, offset: number): boolean {
  const special = offset + pageSize - 8;
  return (
    bytes[special] === 0x17 &&
    bytes[special + 1] === 0x17 &&
    bytes[special + 2] === 0 &&
    bytes[special + 3] === 0 &&
    bytes[offset + 16]! + bytes[offset + 17]! * 256 === pageSize - 8
  );
}

/** pd_lsn of a page: two u32, the high one first. */
function lsnOfPage(bytes: Uint8Array, offset: number): number {
  const high = bytes[offset]! | (bytes[offset + 1]! << 8) | (bytes[offset + 2]! << 16) | (bytes[offset + 3]! << 24);
  const low = bytes[offset + 4]! | (bytes[offset + 5]! << 8) | (bytes[offset + 6]! << 16) | (bytes[offset + 7]! << 24);
  return (high >>> 0) * 4294967296 + (low >>> 0);
}
