/**
 * R2. The LSN since which a page has not changed: what a read has to ask the pageserver to wait for.
 *
 * Exact would be a number for each page that was ever written; this is a table of fixed size in which pages share entries, so that an entry
 * is the newest of its pages (as Neon's last-written cache, which is an upper bound as well). Too new costs a wait, too old would be a stale page.
 *
 * Invariant: `get(page)` is never below an LSN noted for that page.
 */
import { hash } from './page-index.ts';

/** 512 KB. A compute that wrote this many pages since boot waits for a pageserver that lags a little more often than it must. */
const entryCount = 65536;

export class LastWrittenLsn {
  readonly #lsns: Float64Array;
  readonly #floor: number;

  /** Pages not written since boot have not changed since the compute's boot LSN. */
  constructor(bootLsn: number) {
    this.#lsns = new Float64Array(entryCount);
    this.#floor = bootLsn;
  }

  note(relation: number, block: number, lsn: number): void {
    const at = hash(relation, block) % entryCount;
    if (lsn > this.#lsns[at]!) this.#lsns[at] = lsn;
  }

  get(relation: number, block: number): number {
    return Math.max(this.#floor, this.#lsns[hash(relation, block) % entryCount]!);
  }

  /** The newest of a range. */
  getRange(relation: number, firstBlock: number, blockCount: number): number {
    let newest = this.#floor;
    for (let block = firstBlock; block < firstBlock + blockCount; block++) {
      newest = Math.max(newest, this.#lsns[hash(relation, block) % entryCount]!);
    }
    return newest;
  }
}
