/**
 * Terms and term histories: which proposer wrote which part of a timeline's WAL.
 *
 * A history is a list of switches, oldest first; both numbers ascend, terms strictly. The entry `{term, lsn}` says that from `lsn` on
 * the WAL is of `term`, until the next entry. A proposer's own history is its donor's, followed by its term at its start LSN. Two logs
 * that have an entry of the same term are equal up to the end of what they share of that term: the rule that all of this rests on
 * (Neon's RFC 013 and safekeeper/spec/ProposerAcceptorStatic.tla).
 */
import { PageliteError } from '../errors.ts';
import { formatLsn, type Lsn } from './lsn.ts';

/** An election's number. 0: none was ever won. */
export type Term = number & { readonly __brand: 'Term' };

export const noTerm = 0 as Term;
/** No number of elections comes near it. What a peer says above it is nonsense, after which there could be no more terms. */
export const termMax = 2 ** 52;

export interface TermSwitch {
  readonly term: Term;
  readonly lsn: Lsn;
}

export type TermHistory = readonly TermSwitch[];

export function term(value: number): Term {
  if (!Number.isSafeInteger(value) || value < 0) throw new PageliteError('invalid', `not a term: ${value}`);
  return value as Term;
}

/** The term of the last record below `flushLsn` (Neon's last_log_term). */
export function lastTerm(history: TermHistory): Term {
  return history.at(-1)?.term ?? noTerm;
}

/** The history of the WAL below `lsn`. A switch exactly there counts: its proposer was elected with all of this WAL. */
export function historyUpTo(history: TermHistory, lsn: Lsn): TermHistory {
  return history.filter((entry) => entry.lsn <= lsn);
}

/** Throws `invalid` unless terms ascend strictly and LSNs do not descend. */
export function checkTermHistory(history: TermHistory): void {
  for (let i = 1; i < history.length; i++) {
    if (history[i]!.term <= history[i - 1]!.term || history[i]!.lsn < history[i - 1]!.lsn) {
      throw new PageliteError('invalid', `term history does not ascend: ${formatTermHistory(history)}`);
    }
  }
}

/**
 * Where an acceptor's log (its history up to its end, `acceptorEnd`) leaves the proposer's, whose own end is open. Null if they have
 * no term in common; throws `invalid` if a common term starts at two places.
 */
export function highestCommonLsn(proposer: TermHistory, acceptor: TermHistory, acceptorEnd: Lsn): Lsn | null {
  let common = -1;
  while (
    common + 1 < proposer.length &&
    common + 1 < acceptor.length &&
    proposer[common + 1]!.term === acceptor[common + 1]!.term
  ) {
    common++;
    // Same term, same proposer, same start: anything else is two proposers in one term, or a peer that lies.
    if (proposer[common]!.lsn !== acceptor[common]!.lsn) {
      throw new PageliteError(
        'invalid',
        `term ${proposer[common]!.term} starts at two LSNs: ${formatTermHistory(proposer)} and ${formatTermHistory(acceptor)}`,
      );
    }
  }
  if (common < 0) return null;
  const acceptorTermEnd = acceptor[common + 1]?.lsn ?? acceptorEnd;
  const proposerTermEnd = proposer[common + 1]?.lsn ?? acceptorEnd;
  return Math.min(acceptorTermEnd, proposerTermEnd) as Lsn;
}

export function sameHistory(a: TermHistory, b: TermHistory): boolean {
  return a.length === b.length && a.every((entry, i) => entry.term === b[i]!.term && entry.lsn === b[i]!.lsn);
}

/** `[1 0/1000, 3 0/2A28]`, for messages and logs; only the last few of a long one. */
export function formatTermHistory(history: TermHistory): string {
  const shown = history.slice(-8).map((entry) => `${entry.term} ${formatLsn(entry.lsn)}`);
  return `[${history.length > 8 ? '..., ' : ''}${shown.join(', ')}]`;
}
