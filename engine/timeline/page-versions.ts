/**
 * Pages that were rebuilt by redo or patches, kept for the next read: the newest known version of each key of one timeline.
 *
 * A version is the whole value as of its LSN, the LSN of the last change in it. A read at or above that LSN starts from it and adds what came
 * after; a read below it does not see it. All timelines share one byte budget.
 */
import type { CacheEntry, ClockCache } from '../layers/clock-cache.ts';
import type { PageHolder } from '../layers/value-chain.ts';
import type { KeyPrefix } from '../model/key.ts';

export class PageVersion implements CacheEntry, PageHolder {
  readonly lsn: number;
  readonly bytes: Uint8Array;
  readonly cachedBytes: number;
  readonly #of: Map<number, PageVersion>;
  readonly #block: number;
  used = false;
  pageChecksum = -1;

  constructor(lsn: number, bytes: Uint8Array, of: Map<number, PageVersion>, block: number) {
    this.lsn = lsn;
    this.bytes = bytes;
    // The page, and the objects and map entry that it hangs on.
    this.cachedBytes = bytes.length + 300;
    this.#of = of;
    this.#block = block;
  }

  evict(): void {
    // A newer version may have taken the place.
    if (this.#of.get(this.#block) === this) this.#of.delete(this.#block);
  }
}

export class PageVersions {
  readonly #budget: ClockCache;
  readonly #pages = new Map<KeyPrefix, Map<number, PageVersion>>();

  constructor(budget: ClockCache) {
    this.#budget = budget;
  }

  /** The kept version if its LSN is below `lsnEnd`. */
  find(prefix: KeyPrefix, block: number, lsnEnd: number): PageVersion | null {
    const version = this.#pages.get(prefix)?.get(block);
    this.#budget.lookups++;
    if (version === undefined || version.lsn >= lsnEnd) return null;
    this.#budget.hits++;
    version.used = true;
    return version;
  }

  /** Takes the bytes over. */
  keep(prefix: KeyPrefix, block: number, lsn: number, bytes: Uint8Array): void {
    let pages = this.#pages.get(prefix);
    if (pages === undefined) {
      pages = new Map();
      this.#pages.set(prefix, pages);
    }
    const before = pages.get(block);
    if (before !== undefined && before.lsn >= lsn) return;
    const version = new PageVersion(lsn, bytes, pages, block);
    pages.set(block, version);
    this.#budget.insert(version);
  }
}
