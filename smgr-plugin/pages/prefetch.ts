/**
 * R2. How much to read at once, and what to announce.
 *
 * A run of consecutive misses of a relation grows the request 1 -> 4 -> 16 -> 64 -> 128 pages: a hop and a round trip cost as much as several
 * pages. From 16 on, the run that will follow is announced with each request, so that it is fetched while PostgreSQL looks at this one.
 * Blocks that PostgreSQL itself announces (posix_fadvise WILLNEED before a bitmap heap scan reads them) are collected and announced with the
 * next request.
 */
import { pagesPerRequestMax } from '../../engine/limits.ts';
import type { Relation } from './rel-size-cache.ts';

const rampFactor = 4;
/** Announcing costs the pageserver a read that may be for nothing: not before the run is evident. */
const announceFrom = 16;

/** Longest request of a cache with room for `capacity` pages: what is read ahead must not displace itself before it is looked at. */
export const runBlocksMax = (capacity: number): number => Math.min(pagesPerRequestMax, Math.floor(capacity / 4));

/** How many blocks to ask for from `block` on, which is not in the cache. Notes it as the run's new end. */
export function runLength(relation: Relation, block: number, blocksMax: number): number {
  const continues = relation.nextBlock === block;
  const blocks = continues ? Math.min(blocksMax, relation.runBlocks * rampFactor) : 1;
  const count = Math.max(1, Math.min(blocks, relation.blocks - block));
  relation.nextBlock = block + count;
  relation.runBlocks = blocks;
  return count;
}

/** How many blocks behind the run will be asked for next; 0: do not announce. */
export function announceLength(relation: Relation, blocksMax: number): number {
  if (relation.runBlocks < announceFrom) return 0;
  const next = Math.min(blocksMax, relation.runBlocks * rampFactor);
  return Math.max(0, Math.min(next, relation.blocks - relation.nextBlock));
}

/** Blocks that PostgreSQL has announced, as ranges, oldest first. */
export class Announced {
  readonly #relations: Relation[] = [];
  readonly #firsts: number[] = [];
  readonly #counts: number[] = [];
  readonly #rangesMax: number;

  constructor(rangesMax: number) {
    this.#rangesMax = rangesMax;
  }

  get count(): number {
    return this.#relations.length;
  }

  add(relation: Relation, block: number): void {
    const last = this.#relations.length - 1;
    if (last >= 0 && this.#relations[last] === relation) {
      const end = this.#firsts[last]! + this.#counts[last]!;
      if (block >= this.#firsts[last]! && block < end) return;
      if (block === end && this.#counts[last]! < pagesPerRequestMax) {
        this.#counts[last]!++;
        return;
      }
    }
    if (this.#relations.length === this.#rangesMax) return;
    this.#relations.push(relation);
    this.#firsts.push(block);
    this.#counts.push(1);
  }

  /** Hands the ranges over and forgets them. */
  take(visit: (relation: Relation, firstBlock: number, blockCount: number) => void): void {
    for (let i = 0; i < this.#relations.length; i++) visit(this.#relations[i]!, this.#firsts[i]!, this.#counts[i]!);
    this.#relations.length = 0;
    this.#firsts.length = 0;
    this.#counts.length = 0;
  }
}
