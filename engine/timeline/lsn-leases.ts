/**
 * LSNs of a timeline that somebody has asked to keep readable for a while (Neon's LSN leases): read-only endpoints, and whoever asks over HTTP.
 *
 * A lease is promised to whoever holds it, so it is stored, in the timeline's index, before it is answered, and outlives the pageserver: after a
 * restart, or where the tenant is attached next, its holder renews it as if nothing had been. What is stored lasts longer than what was granted by the
 * length of a lease, so that most renewals write nothing: a holder that renews thrice in that time costs one index for each length of a lease.
 *
 * Invariants
 * - a lease that was answered is stored with at least its validity
 * - what the index has a lease of is there: the change of the index that removes it removes the lease (garbage-collection.ts). So one that ended while
 *   no pageserver was there is given time to be renewed.
 */
import type { Lsn } from '../model/lsn.ts';
import type { StoredLease } from './index-part.ts';

export interface LsnLease {
  readonly lsn: Lsn;
  /** Milliseconds since the Unix epoch. */
  readonly validUntilMs: number;
}

export class LsnLeases {
  readonly #validUntil = new Map<Lsn, number>();

  /** Those that were stored hold for `lengthMs` at least from now on: their holders could not renew them. */
  constructor(stored: readonly StoredLease[], nowMs: number, lengthMs: number) {
    for (const { lsn, validUntilMs } of stored) this.#validUntil.set(lsn, Math.max(validUntilMs, nowMs + lengthMs));
  }

  /** The lease ends no earlier than it would have without this call. */
  grant(lsn: Lsn, nowMs: number, lengthMs: number): LsnLease {
    const validUntilMs = Math.max(this.#validUntil.get(lsn) ?? 0, nowMs + lengthMs);
    this.#validUntil.set(lsn, validUntilMs);
    return { lsn, validUntilMs };
  }

  has(lsn: Lsn, nowMs: number): boolean {
    return (this.#validUntil.get(lsn) ?? 0) > nowMs;
  }

  /** Those that hold, by LSN. Forgets the others. */
  active(nowMs: number): LsnLease[] {
    for (const [lsn, validUntilMs] of this.#validUntil) if (validUntilMs <= nowMs) this.#validUntil.delete(lsn);
    return [...this.#validUntil].map(([lsn, validUntilMs]) => ({ lsn, validUntilMs })).sort((a, b) => a.lsn - b.lsn);
  }

  /** What is to be stored, given what is; with some time to spare. */
  toStore(stored: readonly StoredLease[], nowMs: number, lengthMs: number): StoredLease[] {
    const before = new Map(stored.map(({ lsn, validUntilMs }) => [lsn, validUntilMs]));
    return this.active(nowMs).map(({ lsn, validUntilMs }) => ({
      lsn,
      validUntilMs: Math.max(before.get(lsn) ?? 0, validUntilMs + lengthMs),
    }));
  }
}
