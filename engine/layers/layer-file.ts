/**
 * R8. Reads a layer file: opened when it is first needed, its index kept, its blocks loaded on demand into a shared cache.
 *
 * Called by reconstruct: `hold` the blocks that a range of keys needs, then `collect` each key's versions out of them. Both are synchronous
 * when the blocks are resident.
 *
 * Invariants:
 * - no byte is used before the checksum over it was checked; damage is `corrupt` and names the file
 * - damage on the way or in a copy that the store keeps nearby is not the file's: what is damaged is read once more, afresh, before that is said
 * - neighbouring blocks that are missing are read with one request, and no block twice at the same time
 */

import { must } from '../assert.ts';
import { isPageliteError } from '../errors.ts';
import { layerReadBytesMax } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { compareKeys, type Key, type KeyPrefix } from '../model/key.ts';
import type { ValueKind } from '../model/value.ts';
import type { ObjectStore } from '../services.ts';
import { type BlockCache, CachedBlock } from './block-cache.ts';
import { DataBlock } from './data-block.ts';
import { checkHeader, footerBytes, headerBytes, LayerIndex, readFooter } from './layer-format.ts';
import { corruptLayer, formatLayerFile, formatLayerName, type LayerDesc } from './layer-name.ts';
import type { ValueChain } from './value-chain.ts';

/** Blocks [first, first + blocks.length) of a file, kept for one use whatever the cache does. */
export interface HeldBlocks {
  readonly first: number;
  readonly blocks: readonly DataBlock[];
}

/** The end of a file is read together with its index if the index is no longer than this. */
const tailBytes = 64 * 1024;

export class LayerFile {
  readonly desc: LayerDesc;
  readonly name: string;
  /** Its key in the object store. */
  readonly key: string;
  readonly size: number;
  /** Of an image layer: the timeline itself has no older value of a key in its range that a read would need. */
  readonly isComplete: boolean;
  readonly #id: TenantTimelineId;
  readonly #store: ObjectStore;
  readonly #cache: BlockCache;
  #index: LayerIndex | null = null;
  #opening: Promise<LayerIndex> | null = null;
  #resident: (CachedBlock | undefined)[] = [];
  readonly #loading = new Map<number, Promise<DataBlock>>();

  constructor(
    id: TenantTimelineId,
    desc: LayerDesc,
    folder: string,
    size: number,
    store: ObjectStore,
    cache: BlockCache,
    { generation = 0, isComplete = false }: { generation?: number; isComplete?: boolean } = {},
  ) {
    this.desc = desc;
    this.name = formatLayerName(desc);
    this.key = folder + formatLayerFile(this.name, generation);
    this.size = size;
    this.isComplete = isComplete;
    this.#id = id;
    this.#store = store;
    this.#cache = cache;
  }

  /** Reads and checks header, footer and index, unless that is done. */
  open(): LayerIndex | Promise<LayerIndex> {
    if (this.#index !== null) return this.#index;
    this.#opening ??= this.#open(false)
      .catch(ifDamaged(() => this.#open(true)))
      .finally(() => {
        this.#opening = null;
      });
    return this.#opening;
  }

  async #open(fresh: boolean): Promise<LayerIndex> {
    if (this.size < headerBytes + footerBytes) throw corruptLayer(this.key, `${this.size} bytes long`);
    const tailStart = Math.max(0, this.size - tailBytes);
    const tail = await this.#read(tailStart, this.size, fresh);
    const header = tailStart === 0 ? tail : await this.#read(0, headerBytes, fresh);
    checkHeader(header, this.key, this.#id, this.desc);
    const { indexOffset, indexBytes } = readFooter(tail.subarray(tail.length - footerBytes), this.key, this.size);
    const inTail = indexOffset >= tailStart;
    const bytes = inTail
      ? tail.subarray(indexOffset - tailStart, indexOffset - tailStart + indexBytes)
      : await this.#read(indexOffset, indexOffset + indexBytes, fresh);
    this.#index = new LayerIndex(bytes, this.key, indexOffset);
    return this.#index;
  }

  /**
   * The blocks that may hold versions of blocks [blockFirst, blockLast] of `prefix` with LSNs [lsnStart, lsnEnd); null if there is none.
   */
  hold(
    prefix: KeyPrefix,
    blockFirst: number,
    blockLast: number,
    lsnStart: number,
    lsnEnd: number,
  ): HeldBlocks | null | Promise<HeldBlocks | null> {
    const index = this.#index;
    if (index === null) {
      return Promise.resolve(this.open()).then(() => this.hold(prefix, blockFirst, blockLast, lsnStart, lsnEnd));
    }
    const last = index.locate(prefix, blockLast, lsnEnd);
    let first = index.locate(prefix, blockFirst, lsnStart);
    // The first entry of that block is below the range; if it is the only one, the block holds nothing of it.
    if (first < 0 || index.counts[first] === 1) first++;
    return first > last ? null : this.holdBlocks(first, last);
  }

  holdBlocks(first: number, last: number): HeldBlocks | Promise<HeldBlocks> {
    const blocks: DataBlock[] = [];
    this.#cache.lookups += last - first + 1;
    for (let i = first; i <= last; i++) {
      const cached = this.#resident[i];
      if (cached === undefined) return this.#load(first, last);
      cached.used = true;
      blocks.push(cached.block);
    }
    this.#cache.hits += blocks.length;
    return { first, blocks };
  }

  /** Values in the file, which is open. */
  get entryCount(): number {
    return must(this.#index, 'the layer is open').counts.reduce((sum, count) => sum + count, 0);
  }

  /** About the bytes that the file, which is open, has of keys [start, end): whole data blocks; 0 if it has none. */
  bytesIn(start: Key, end: Key): number {
    const { keys } = this.desc;
    if (compareKeys(keys.end, start) <= 0 || compareKeys(end, keys.start) <= 0) return 0;
    const index = must(this.#index, 'the layer is open');
    const first = Math.max(0, index.locate(start.prefix, start.block, 0));
    const last = index.locate(end.prefix, end.block, 0);
    return last < first ? 0 : index.offsets[last + 1]! - index.offsets[first]!;
  }

  /** Adds the versions of chain's key with LSNs [lsnStart, lsnEnd) that `held` has, newest first, until the chain is complete. */
  collect(held: HeldBlocks, chain: ValueChain, lsnStart: number, lsnEnd: number): void {
    const { prefix, block } = chain;
    let at = this.#index!.locate(prefix, block, lsnEnd) - held.first;
    if (at < 0 || at >= held.blocks.length) return;
    let data = held.blocks[at]!;
    let entry = data.findLast(prefix, block, lsnEnd);
    while (entry >= 0) {
      const lsn = data.lsn(entry);
      if (lsn < lsnStart) return;
      const holder = data.entryCount === 1 ? data : null;
      if (chain.add(lsn, data.kinds[entry] as ValueKind, data.value(entry), holder)) return;
      entry--;
      if (entry < 0) {
        if (--at < 0) return;
        data = held.blocks[at]!;
        entry = data.entryCount - 1;
      }
      if (!data.isKey(entry, prefix, block)) return;
    }
  }

  /** Drops what is in the cache. The file is not read again. */
  forget(): void {
    this.#cache.forgetFile(this);
    this.#resident = [];
  }

  /** The cache's: a block was evicted. */
  evict(index: number): void {
    this.#resident[index] = undefined;
  }

  async #load(first: number, last: number): Promise<HeldBlocks> {
    const pending: (DataBlock | Promise<DataBlock>)[] = [];
    for (let i = first; i <= last; i++) {
      const cached = this.#resident[i];
      if (cached !== undefined) this.#cache.hits++;
      else if (!this.#loading.has(i)) this.#startRun(i, last);
      pending.push(cached?.block ?? this.#loading.get(i)!);
    }
    return { first, blocks: await Promise.all(pending) };
  }

  /** One read for block `first` and those behind it that are missing too. */
  #startRun(first: number, last: number): void {
    const { offsets } = this.#index!;
    let end = first + 1;
    while (
      end <= last &&
      this.#resident[end] === undefined &&
      !this.#loading.has(end) &&
      offsets[end + 1]! - offsets[first]! <= layerReadBytesMax
    ) {
      end++;
    }
    const base = offsets[first]!;
    const bytes = this.#read(base, offsets[end]!, false);
    let again: Promise<Uint8Array> | null = null;
    for (let i = first; i < end; i++) {
      const admit = (run: Uint8Array) => this.#admit(i, run.slice(offsets[i]! - base, offsets[i + 1]! - base));
      const readAgain = () => {
        again ??= this.#read(base, offsets[end]!, true);
        return again.then(admit);
      };
      const block = bytes.then(admit).catch(ifDamaged(readAgain));
      // Whoever waits hears of a failure; nobody may be waiting for this very block.
      block.catch(() => {}).finally(() => this.#loading.delete(i));
      this.#loading.set(i, block);
    }
  }

  #admit(index: number, bytes: Uint8Array): DataBlock {
    const block = new DataBlock(bytes, this.key, this.#index!.offsets[index]!);
    const cached = new CachedBlock(this, index, block);
    this.#resident[index] = cached;
    this.#cache.insert(cached);
    return block;
  }

  async #read(start: number, end: number, fresh: boolean): Promise<Uint8Array> {
    const found = await this.#store.get(this.key, { start, end }, { fresh });
    if (found === null) throw corruptLayer(this.key, 'the file is missing');
    if (found.bytes.length !== end - start) throw corruptLayer(this.key, `cut short, ${this.size} bytes expected`);
    return found.bytes;
  }
}

/** For `catch`: `work` if what failed is `corrupt`. */
const ifDamaged =
  <T>(work: () => Promise<T>) =>
  (error: unknown): Promise<T> => {
    if (!isPageliteError(error, 'corrupt')) throw error;
    return work();
  };
