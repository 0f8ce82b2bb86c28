/**
 * A byte budget over things that can be made again: blocks of layer files, rebuilt pages. CLOCK: an entry that was used since the hand
 * last went by is spared once.
 *
 * The owner finds its entries by itself (an array, a map): a hit costs setting `used`, no look-up here.
 */
export interface CacheEntry {
  /** What it counts for; fixed. */
  readonly cachedBytes: number;
  /** Set by the owner at every use. */
  used: boolean;
  /** The owner forgets the entry. */
  evict(): void;
}

export class ClockCache {
  readonly bytesMax: number;
  /** Counted by the owners: how often something was looked for here, and was here. */
  lookups = 0;
  hits = 0;
  #bytes = 0;
  #entries: CacheEntry[] = [];
  #hand = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Adds an entry and evicts others until the budget holds. One larger than the whole budget stays until the next insert. */
  insert(entry: CacheEntry): void {
    this.#bytes += entry.cachedBytes;
    while (this.#bytes > this.bytesMax && this.#entries.length > 0) this.#evictOne();
    this.#entries.push(entry);
  }

  /** Removes the entries for which `gone` holds, without telling their owner. */
  forget(gone: (entry: CacheEntry) => boolean): void {
    this.#entries = this.#entries.filter((entry) => {
      if (!gone(entry)) return true;
      this.#bytes -= entry.cachedBytes;
      return false;
    });
    this.#hand = 0;
  }

  #evictOne(): void {
    const entries = this.#entries;
    for (;;) {
      if (this.#hand >= entries.length) this.#hand = 0;
      const entry = entries[this.#hand]!;
      if (entry.used) {
        entry.used = false;
        this.#hand++;
        continue;
      }
      const last = entries.pop()!;
      if (last !== entry) entries[this.#hand] = last;
      this.#hand++;
      this.#bytes -= entry.cachedBytes;
      entry.evict();
      return;
    }
  }
}
