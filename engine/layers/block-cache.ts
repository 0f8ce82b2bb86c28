/** Blocks of layer files in memory, all timelines together under one byte budget. */
import { type CacheEntry, ClockCache } from './clock-cache.ts';
import type { DataBlock } from './data-block.ts';

interface BlockOwner {
  evict(index: number): void;
}

/** Parsed columns and objects beside a block's bytes, roughly. */
const blockOverheadBytes = 500;

export class CachedBlock implements CacheEntry {
  readonly owner: BlockOwner;
  readonly index: number;
  readonly block: DataBlock;
  readonly cachedBytes: number;
  used = false;

  constructor(owner: BlockOwner, index: number, block: DataBlock) {
    this.owner = owner;
    this.index = index;
    this.block = block;
    this.cachedBytes = block.bytes.length + blockOverheadBytes;
  }

  evict(): void {
    this.owner.evict(this.index);
  }
}

export class BlockCache extends ClockCache {
  forgetFile(owner: BlockOwner): void {
    this.forget((entry) => entry instanceof CachedBlock && entry.owner === owner);
  }
}
