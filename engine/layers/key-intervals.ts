/**
 * All keys, cut into intervals: where layers begin or end. What the layer map answers is the same for all keys of one interval.
 */
import { blockLimit, compareKeys, comparePrefixes, type Key, type KeyPrefix } from '../model/key.ts';

export class KeyIntervals {
  // The cuts ascend: those of one prefix stand together.
  readonly #prefixes: KeyPrefix[] = [];
  readonly #prefixPlace = new Map<KeyPrefix, number>();
  /** For each prefix its first cut, and behind the last one the number of cuts. */
  readonly #prefixFirst: number[] = [];
  readonly #blocks: Uint32Array;

  /** In any order, also more than once. */
  constructor(cuts: readonly Key[]) {
    const blocks: number[] = [];
    let before: Key | null = null;
    for (const key of [...cuts].sort(compareKeys)) {
      if (before !== null && compareKeys(before, key) === 0) continue;
      if (before?.prefix !== key.prefix) {
        this.#prefixPlace.set(key.prefix, this.#prefixes.length);
        this.#prefixes.push(key.prefix);
        this.#prefixFirst.push(blocks.length);
      }
      blocks.push(key.block);
      before = key;
    }
    this.#prefixFirst.push(blocks.length);
    this.#blocks = Uint32Array.from(blocks);
  }

  get count(): number {
    return this.#blocks.length + 1;
  }

  /** The interval that (prefix, block) is in. */
  locate(prefix: KeyPrefix, block: number): number {
    const place = this.#prefixPlace.get(prefix);
    if (place === undefined) return this.#prefixFirst[this.#prefixesBelow(prefix)]!;
    const blocks = this.#blocks;
    let low = this.#prefixFirst[place]!;
    let high = this.#prefixFirst[place + 1]!;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (blocks[middle]! <= block) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Exclusive: up to which block of `prefix`, which has keys in this interval, the interval goes. */
  blockEnd(interval: number, prefix: KeyPrefix): number {
    const place = this.#prefixPlace.get(prefix);
    return place !== undefined && interval < this.#prefixFirst[place + 1]! ? this.#blocks[interval]! : blockLimit;
  }

  /** Number of prefixes below this one. */
  #prefixesBelow(prefix: KeyPrefix): number {
    let low = 0;
    let high = this.#prefixes.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comparePrefixes(this.#prefixes[middle]!, prefix) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
