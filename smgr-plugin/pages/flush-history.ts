/**
 * R2. Record number -> LSN: at which flushed LSN the first so many records of this compute were committed.
 *
 * A page's own LSN does not tell since when it is as it is: PostgreSQL sets PD_ALL_VISIBLE and clears bits of visibility maps without
 * touching it. What does is how much WAL had been inserted when the page was written, and that is known as a count (pgWalUsage). Looking a
 * count up gives an LSN at or after its record: one entry for each flush, coarser for what is long ago.
 */
const entryCount = 1024;

export class FlushHistory {
  readonly #records = new Float64Array(entryCount);
  readonly #lsns = new Float64Array(entryCount);
  #count = 0;

  constructor(bootLsn: number) {
    this.add(0, bootLsn);
  }

  /** Records and LSNs only go up. */
  add(records: number, lsn: number): void {
    if (this.#count === entryCount) this.#thinOut();
    this.#records[this.#count] = records;
    this.#lsns[this.#count] = lsn;
    this.#count++;
  }

  /** An LSN at which the first `records` records were committed; they must be. */
  lsnOf(records: number): number {
    let low = 0;
    let high = this.#count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#records[middle]! >= records) high = middle;
      else low = middle + 1;
    }
    return this.#lsns[low]!;
  }

  /** Every other entry of the older half goes: an entry that is left stands for those before it, later than need be. */
  #thinOut(): void {
    const half = entryCount / 2;
    let kept = 0;
    for (let i = 1; i < entryCount; i += i < half ? 2 : 1) {
      this.#records[kept] = this.#records[i]!;
      this.#lsns[kept] = this.#lsns[i]!;
      kept++;
    }
    this.#count = kept;
  }
}
