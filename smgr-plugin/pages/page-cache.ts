/**
 * R2. Pages in the compute: what PostgreSQL read lately, and every page that it wrote and that must not be lost yet.
 *
 * Called by pages/page-store.ts. One big array of pages, a clock hand over it, and a spill store behind it for pages that must stay.
 *
 * Which pages must stay (`mustStay`):
 * - written in the transaction that still runs (`epoch`): WAL does not carry command ids, and some index builds write without WAL
 * - written when a record was inserted that is not committed yet (`needRecord` > flushed records): nobody could rebuild it
 * - of relations that only exist here (unlogged, temporary, or all of a read-only compute's own): `forever`
 *
 * Invariants
 * - a page is in the cache or in the spill store, never in both
 * - a page that must stay is never dropped, only moved between the two
 * - bytes given to the caller are copies into memory it names; the cache's own memory is never lent
 */
import { assert } from '../../engine/assert.ts';
import { pageSize } from '../../engine/limits.ts';
import { PageIndex } from './page-index.ts';
import type { SpillStore } from './spill-store.ts';

/** Pages below which a sequential read and the pages it displaces would get in each other's way. */
export const cachePagesMin = 64;
/** The epoch of pages that must stay as long as the compute lives. */
export const forever = 0x7fffffff;
/** The epoch of pages that were only read, or whose writer has ended. */
const noEpoch = 0;

/** A page that was only read. */
const onlyRead = -1;

/** `needRecord`: how many records had been inserted when the page was written. */
export type OnDropped = (relation: number, block: number, needRecord: number) => void;

/** 2 MiB a slab. */
const slabBits = 8;
const slabPages = 1 << slabBits;
const slabOffset = (slot: number): number => (slot & (slabPages - 1)) * pageSize;

export interface CacheCounters {
  hits: number;
  misses: number;
  spilled: number;
  unspilled: number;
}

export class PageCache {
  readonly capacity: number;
  /** The pages' memory, `slabPages` slots each, made when the first of them is used: a boot does not pay for all of the budget. */
  readonly #slabs: Uint8Array[] = [];
  readonly #spill: SpillStore;
  readonly #onDropped: OnDropped;
  readonly #index: PageIndex;
  readonly #relations: Int32Array;
  readonly #blocks: Uint32Array;
  readonly #referenced: Uint8Array;
  readonly #used: Uint8Array;
  readonly #epochs: Int32Array;
  readonly #needRecords: Float64Array;
  #hand = 0;
  #fresh = 0;

  readonly #spilled = new PageIndex();
  #spillEpochs = new Int32Array(64);
  #spillNeedRecords = new Float64Array(64);
  readonly #freeSpillSlots: number[] = [];
  #spillSlots = 0;
  /** Spilled pages from which on it pays to look for those that may go. */
  #tidyAt: number;

  /** The transaction that runs now; pages of an older one may go. */
  #epoch = 1;
  #flushedRecords = 0;
  readonly counters: CacheCounters = { hits: 0, misses: 0, spilled: 0, unspilled: 0 };

  /** `onDropped` hears of every written page that leaves. */
  constructor(bytes: number, spill: SpillStore, onDropped: OnDropped) {
    this.#onDropped = onDropped;
    this.capacity = Math.max(cachePagesMin, Math.floor(bytes / pageSize));
    this.#tidyAt = this.capacity;
    this.#spill = spill;
    this.#index = new PageIndex(this.capacity);
    this.#relations = new Int32Array(this.capacity);
    this.#blocks = new Uint32Array(this.capacity);
    this.#referenced = new Uint8Array(this.capacity);
    this.#used = new Uint8Array(this.capacity);
    this.#epochs = new Int32Array(this.capacity);
    this.#needRecords = new Float64Array(this.capacity);
  }

  /** So many of the WAL records of this compute are committed. */
  set flushedRecords(records: number) {
    this.#flushedRecords = records;
  }

  get spilledCount(): number {
    return this.#spilled.count;
  }

  /** The epoch to write pages with while this transaction runs. */
  get epoch(): number {
    return this.#epoch;
  }

  /** The transaction has ended: the pages that it wrote may be dropped. */
  endTransaction(): void {
    this.#epoch++;
    if (this.#spilled.count > 0) this.tidy();
    else this.#tidyAt = this.capacity;
  }

  /** Much has been spilled since it was last looked through. */
  get isUntidy(): boolean {
    return this.#spilled.count >= this.#tidyAt;
  }

  /** Drops what was spilled and need not stay any more. */
  tidy(): void {
    this.#dropSpilled();
    this.#tidyAt = Math.max(this.capacity, this.#spilled.count * 2);
  }

  has(relation: number, block: number): boolean {
    return this.#index.get(relation, block) >= 0 || this.#spilled.get(relation, block) >= 0;
  }

  /** Copies [from, from + length) of the page into `target`. False if it is not here. */
  read(relation: number, block: number, from: number, length: number, target: Uint8Array, offset: number): boolean {
    let slot = this.#index.get(relation, block);
    if (slot < 0) slot = this.#unspill(relation, block);
    if (slot < 0) {
      this.counters.misses++;
      return false;
    }
    this.counters.hits++;
    this.#referenced[slot] = 1;
    const at = slabOffset(slot) + from;
    target.set(this.#slab(slot).subarray(at, at + length), offset);
    return true;
  }

  /** A page as it was read from afar. Ignored if the page is here: what is here is never older. */
  addRead(relation: number, block: number, source: Uint8Array, offset: number): void {
    if (this.has(relation, block)) return;
    const slot = this.#place(relation, block);
    this.#slab(slot).set(source.subarray(offset, offset + pageSize), slabOffset(slot));
    this.#epochs[slot] = noEpoch;
    this.#needRecords[slot] = onlyRead;
    // Not referenced yet: read ahead for nothing, it goes first.
    this.#referenced[slot] = 0;
  }

  /** A page as PostgreSQL wrote it; it stays as long as `epoch` and `needRecord` say. */
  write(relation: number, block: number, source: Uint8Array, offset: number, epoch: number, needRecord: number): void {
    let slot = this.#index.get(relation, block);
    if (slot < 0) {
      this.#forgetSpilled(relation, block);
      slot = this.#place(relation, block);
    }
    this.#slab(slot).set(source.subarray(offset, offset + pageSize), slabOffset(slot));
    this.#referenced[slot] = 1;
    this.#epochs[slot] = epoch;
    this.#needRecords[slot] = needRecord;
  }

  /** The relation only exists here: all its pages stay. */
  keepForever(relation: number): void {
    for (let slot = 0; slot < this.#fresh; slot++) {
      if (this.#used[slot] !== 0 && this.#relations[slot] === relation) this.#epochs[slot] = forever;
    }
    this.#spilled.forEach((spilledRelation, _block, slot) => {
      if (spilledRelation === relation) this.#spillEpochs[slot] = forever;
    });
  }

  /** Forgets the relation's pages from `firstBlock` on. */
  drop(relation: number, firstBlock: number): void {
    for (let slot = 0; slot < this.#fresh; slot++) {
      if (this.#used[slot] === 0 || this.#relations[slot] !== relation || this.#blocks[slot]! < firstBlock) continue;
      this.#index.delete(relation, this.#blocks[slot]!);
      this.#used[slot] = 0;
    }
    if (this.#spilled.count === 0) return;
    const blocks: number[] = [];
    this.#spilled.forEach((spilledRelation, block) => {
      if (spilledRelation === relation && block >= firstBlock) blocks.push(block);
    });
    for (const block of blocks) this.#forgetSpilled(relation, block);
  }

  #slab(slot: number): Uint8Array {
    const index = slot >>> slabBits;
    const slab = this.#slabs[index];
    if (slab !== undefined) return slab;
    const slots = Math.min(slabPages, this.capacity - index * slabPages);
    const made = new Uint8Array(slots * pageSize);
    this.#slabs[index] = made;
    return made;
  }

  /** A slot for a page that is not here; its owner until now is dropped or spilled. */
  #place(relation: number, block: number): number {
    const slot = this.#fresh < this.capacity ? this.#fresh++ : this.#evict();
    this.#relations[slot] = relation;
    this.#blocks[slot] = block;
    this.#used[slot] = 1;
    this.#index.set(relation, block, slot);
    return slot;
  }

  #evict(): number {
    const limit = this.capacity * 2;
    for (let step = 0; step < limit; step++) {
      const slot = this.#turn();
      if (this.#used[slot] === 0) return slot;
      if (this.#referenced[slot] !== 0) {
        this.#referenced[slot] = 0;
        continue;
      }
      this.#giveUp(slot);
      this.#index.delete(this.#relations[slot]!, this.#blocks[slot]!);
      return slot;
    }
    throw new Error('the clock hand found no page');
  }

  #giveUp(slot: number): void {
    const needRecord = this.#needRecords[slot]!;
    if (this.#mustStay(this.#epochs[slot]!, needRecord)) this.#spillOut(slot);
    else if (needRecord !== onlyRead) this.#onDropped(this.#relations[slot]!, this.#blocks[slot]!, needRecord);
  }

  #turn(): number {
    const slot = this.#hand;
    this.#hand = slot + 1 === this.capacity ? 0 : slot + 1;
    return slot;
  }

  #mustStay(epoch: number, needRecord: number): boolean {
    return epoch >= this.#epoch || needRecord > this.#flushedRecords;
  }

  // What has no room

  #spillOut(slot: number): void {
    const place = this.#freeSpillSlots.pop() ?? this.#spillSlots++;
    if (place >= this.#spillEpochs.length) this.#growSpill();
    this.#spill.write(place, this.#slab(slot), slabOffset(slot));
    this.#spillEpochs[place] = this.#epochs[slot]!;
    this.#spillNeedRecords[place] = this.#needRecords[slot]!;
    this.#spilled.set(this.#relations[slot]!, this.#blocks[slot]!, place);
    this.counters.spilled++;
  }

  #unspill(relation: number, block: number): number {
    if (this.#spilled.count === 0) return -1;
    const place = this.#spilled.delete(relation, block);
    if (place < 0) return -1;
    const epoch = this.#spillEpochs[place]!;
    const needRecord = this.#spillNeedRecords[place]!;
    // The page being evicted for it may take the place, so the bytes are fetched before the place is free.
    const slot = this.#place(relation, block);
    this.#spill.read(place, this.#slab(slot), slabOffset(slot));
    this.#freeSpillSlots.push(place);
    this.#epochs[slot] = epoch;
    this.#needRecords[slot] = needRecord;
    this.counters.unspilled++;
    return slot;
  }

  #forgetSpilled(relation: number, block: number): void {
    if (this.#spilled.count === 0) return;
    const place = this.#spilled.delete(relation, block);
    if (place >= 0) this.#freeSpillSlots.push(place);
  }

  #dropSpilled(): void {
    const gone: number[] = [];
    this.#spilled.forEach((relation, block, place) => {
      const needRecord = this.#spillNeedRecords[place]!;
      if (this.#mustStay(this.#spillEpochs[place]!, needRecord)) return;
      gone.push(relation, block);
      this.#onDropped(relation, block, needRecord);
    });
    for (let i = 0; i < gone.length; i += 2) this.#forgetSpilled(gone[i]!, gone[i + 1]!);
    assert(this.#spilled.count >= 0);
  }

  #growSpill(): void {
    const epochs = new Int32Array(this.#spillEpochs.length * 2);
    epochs.set(this.#spillEpochs);
    this.#spillEpochs = epochs;
    const needRecords = new Float64Array(epochs.length);
    needRecords.set(this.#spillNeedRecords);
    this.#spillNeedRecords = needRecords;
  }
}
