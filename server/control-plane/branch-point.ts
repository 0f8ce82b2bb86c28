/**
 * Where a branch begins, or a read-only endpoint stands: an LSN that somebody typed, or that a time means, checked against what the branch has.
 *
 * Pure, and the same for the command line and the library: the pageserver would refuse the same, but knows no names.
 */
import { PageliteError } from '../../engine/errors.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { formatTimestamp } from '../../engine/model/timestamp.ts';

export interface BranchExtent {
  /** The branch's name, for messages. */
  readonly branch: string;
  /** The branch point, or the first LSN of a branch without an ancestor. */
  readonly startLsn: Lsn;
  /** Up to where everything that was acknowledged is. */
  readonly endLsn: Lsn;
  /** The ancestor's name or id. */
  readonly ancestor: string | null;
}

/** Throws `invalid` unless the branch can be read at this LSN. */
export function checkLsn(extent: BranchExtent, lsn: Lsn): void {
  const { branch, startLsn, endLsn, ancestor } = extent;
  const data = { branch, lsn: formatLsn(lsn), startLsn: formatLsn(startLsn), endLsn: formatLsn(endLsn) };
  if (lsn < startLsn) {
    const hint = ancestor === null ? 'It has nothing before that' : `What is older is on its ancestor "${ancestor}"`;
    const text = `LSN ${formatLsn(lsn)} is before the start of branch "${branch}" at ${formatLsn(startLsn)}. ${hint}`;
    throw new PageliteError('invalid', text, data);
  }
  if (lsn > endLsn) {
    const text = `LSN ${formatLsn(lsn)} is past the end of branch "${branch}" at ${formatLsn(endLsn)}. Use an LSN up to that: SELECT pg_current_wal_flush_lsn() tells it, pg_current_wal_lsn() may be ahead`;
    throw new PageliteError('invalid', text, data);
  }
}

/** What a timeline has to say about a time; Neon's LsnForTimestamp. */
export interface TimestampAnswer {
  readonly kind: 'present' | 'future' | 'past' | 'nodata';
  readonly lsn: Lsn;
}

/** The LSN at which the branch held everything committed until `timestampMs` and nothing later. Throws `invalid` where there is none. */
export function lsnOfTimestamp(
  { branch, startLsn, ancestor }: BranchExtent,
  answer: TimestampAnswer,
  timestampMs: number,
): Lsn {
  if (answer.kind === 'present' || answer.kind === 'future') return answer.lsn;
  const when = formatTimestamp(timestampMs);
  const older = ancestor === null ? '' : `; what is older is on its ancestor "${ancestor}"`;
  const why =
    answer.kind === 'nodata' ? 'has no commits with a time' : `has no commits that are as old as that${older}`;
  const hint = `Use a later time, or an LSN from ${formatLsn(startLsn)} on`;
  throw new PageliteError('invalid', `branch "${branch}" ${why} (${when}). ${hint}`, { branch, timestamp: when });
}

/** Throws `invalid` for a time that has not come: what will be committed by then is not known. */
export function checkNotInFuture(timestampMs: number, nowMs: number): void {
  if (timestampMs <= nowMs) return;
  const text = `${formatTimestamp(timestampMs)} is in the future (now is ${formatTimestamp(nowMs)})`;
  throw new PageliteError('invalid', text, { timestamp: formatTimestamp(timestampMs) });
}
