/**
 * Where records end in the WAL that is held and not committed: what a proposer says of such a place is compared with it.
 *
 * Filled by the acceptor's RecordScan, and at open by that of the log; the acceptor drops what is committed or cut off. Numbers in a typed array: it gets one
 * for each record that is written.
 *
 * Invariant: LSNs go up.
 */
import { assert } from '../assert.ts';
import type { Lsn } from '../model/lsn.ts';

export class RecordBoundaries {
  #lsns = new Float64Array(64);
  #first = 0;
  #end = 0;

  /** The end of a record after all others. */
  push(lsn: Lsn): void {
    assert(this.#first === this.#end || lsn > this.#lsns[this.#end - 1]!, 'records end one after another');
    if (this.#end === this.#lsns.length) this.#makeRoom();
    this.#lsns[this.#end++] = lsn;
  }

  has(lsn: Lsn): boolean {
    const index = this.#indexOf(lsn);
    return index < this.#end && this.#lsns[index] === lsn;
  }

  /** Forgets those before `lsn`. */
  dropBefore(lsn: Lsn): void {
    while (this.#first < this.#end && this.#lsns[this.#first]! < lsn) this.#first++;
  }

  /** Forgets those after `lsn`. */
  truncate(lsn: Lsn): void {
    while (this.#end > this.#first && this.#lsns[this.#end - 1]! > lsn) this.#end--;
  }

  #makeRoom(): void {
    const kept = this.#lsns.subarray(this.#first, this.#end);
    const lsns = kept.length * 2 > this.#lsns.length ? new Float64Array(this.#lsns.length * 2) : this.#lsns;
    lsns.set(kept);
    this.#lsns = lsns;
    this.#end -= this.#first;
    this.#first = 0;
  }

  /** Of the first that is not before `lsn`. */
  #indexOf(lsn: Lsn): number {
    let low = this.#first;
    let high = this.#end;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#lsns[middle]! < lsn) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
