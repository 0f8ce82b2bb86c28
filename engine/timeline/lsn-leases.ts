/**
 * LSNs of a timeline that somebody has asked to keep readable for a while (Neon's LSN leases): read-only endpoints, and whoever asks over HTTP.
 *
 * In memory only. After a restart nothing is collected for as long as a lease lasts (`mayForgetFromMs`), by when its holders have asked again.
 */
import type { Lsn } from '../model/lsn.ts';

export interface LsnLease {
  readonly lsn: Lsn;
  /** Milliseconds since the Unix epoch. */
  readonly validUntilMs: number;
}

export class LsnLeases {
  readonly #validUntil = new Map<Lsn, number>();

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
}
