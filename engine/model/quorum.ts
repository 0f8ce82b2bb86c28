/**
 * Quorums (W4 of the write path): how many safekeepers make a decision, and what they have decided.
 */
import type { Lsn } from './lsn.ts';

/** Any two quorums of the same members share one. */
export function quorumOf(memberCount: number): number {
  return Math.floor(memberCount / 2) + 1;
}

/**
 * How far a quorum has made the proposer's WAL durable, or 0 if it cannot tell yet. `flushLsns` has one entry for each member: what it
 * acknowledged to this proposer in this term, 0 if nothing. A member that has not reached `termStartLsn` does not count: WAL of earlier
 * terms is committed only together with the proposer's own start (Raft's figure 8).
 */
export function committedLsn(flushLsns: readonly Lsn[], termStartLsn: Lsn): Lsn {
  const counted = flushLsns.map((lsn) => (lsn >= termStartLsn ? lsn : 0)).sort((a, b) => b - a);
  return (counted[quorumOf(flushLsns.length) - 1] ?? 0) as Lsn;
}
