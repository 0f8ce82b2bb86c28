/**
 * How a safekeeper that lags catches up from a peer, without a compute (beside W3 of the write path). Called by safekeeper/upkeep.ts.
 *
 * `chooseDonor` decides, `recoverFrom` acts: it lets the timeline adopt the peer's history and appends the peer's WAL, as a proposer would. Source: Neon's
 * safekeeper/src/recovery.rs.
 *
 * Invariants
 * - a proposer comes first: nothing is begun while one is connected, and what is under way ends as soon as one asks for a vote (Acceptor)
 * - WAL comes only from a peer whose term stays what it was, and with it the term of its last record: its log cannot change meanwhile
 */
import { isPageliteError, PageliteError } from '../errors.ts';
import type { Lsn } from '../model/lsn.ts';
import { noTerm, type Term } from '../model/term.ts';
import type { AcceptorMessage } from '../protocol/proposer-acceptor.ts';
import type { PeerTimelineInfo, SafekeeperTimelineStatus, WalService } from '../services.ts';
import { newProposerSession } from './acceptor.ts';
import type { ReplyTarget, SafekeeperTimeline } from './timeline.ts';

/** Whom WAL is taken from: a peer, or what is left of the log in the object store (archived-log.ts). */
export type LogDonor = Pick<WalService, 'getStatus' | 'readWal'>;

/** The most advanced of the peers that are ahead; null if none is. */
export function chooseDonor<P extends Pick<PeerTimelineInfo, 'lastTerm' | 'flushLsn'>>(
  own: { readonly lastTerm: number; readonly flushLsn: Lsn },
  peers: readonly P[],
): P | null {
  let best: P | null = null;
  for (const peer of peers) {
    const other = best ?? own;
    if ((peer.lastTerm - other.lastTerm || peer.flushLsn - other.flushLsn) > 0) best = peer;
  }
  return best;
}

/** Up to where the WAL is now, in a term of at least `termMin`, if there was anything to catch up with; null if not. Rejects as the peer does, and `cancelled` if a proposer came. */
export async function recoverFrom(
  timeline: SafekeeperTimeline,
  donor: LogDonor,
  signal: AbortSignal,
  termMin = noTerm,
): Promise<Lsn | null> {
  const status = await donor.getStatus(timeline.id);
  if (status === null || timeline.proposerCount > 0) return null;
  const log = {
    ...status,
    term: Math.max(status.term, termMin) as Term,
    termHistory: status.termHistory.map(([term, lsn]) => ({ term: term as Term, lsn })),
  };
  const target = new RecoveryTarget();
  const adopted = await timeline.adopt(target, log);
  if (adopted === null) return null;
  const reading = new AbortController();
  const stop = () => reading.abort();
  signal.addEventListener('abort', stop, { once: true });
  try {
    let at = adopted.lsn;
    if (at >= status.flushLsn) return at;
    for await (const chunk of donor.readWal(timeline.id, at, reading.signal, status.term)) {
      // A proposer may have been elected there meanwhile, in the term that it had voted in before: then the log is another one.
      if (!sameLog(status, await donor.getStatus(timeline.id))) return at;
      const bytes = chunk.bytes.subarray(0, status.flushLsn - chunk.startLsn);
      timeline.process(target, {
        kind: 'appendRequest',
        term: adopted.term,
        beginLsn: chunk.startLsn,
        commitLsn: chunk.commitLsn,
        mustReply: true,
        bytes,
      });
      at = (chunk.startLsn + bytes.length) as Lsn;
      // One piece at a time: memory is bounded, and what comes after a proposer is not even read.
      await target.reached(at);
      if (at >= status.flushLsn) break;
    }
    return at;
  } finally {
    signal.removeEventListener('abort', stop);
    reading.abort();
  }
}

const sameLog = (before: SafekeeperTimelineStatus, now: SafekeeperTimelineStatus | null): boolean =>
  now !== null && now.termHistory.at(-1)?.[0] === before.termHistory.at(-1)?.[0];

/** The timeline's answers to what a peer has sent. */
class RecoveryTarget implements ReplyTarget {
  readonly session = newProposerSession();
  #writeLsn = 0;
  #error: PageliteError | null = null;
  #wake = () => {};

  reply(message: AcceptorMessage): void {
    if (message.kind !== 'appendResponse') return;
    if (message.writeLsn === 0) this.end(interrupted());
    this.#writeLsn = message.writeLsn;
    this.#wake();
  }

  end(error: PageliteError): void {
    // An append that is refused because the session is over.
    this.#error ??= isPageliteError(error, 'invalid') && this.session.electedTerm === 0 ? interrupted() : error;
    this.#wake();
  }

  async reached(lsn: Lsn): Promise<void> {
    while (this.#error === null && this.#writeLsn < lsn) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#error !== null) throw this.#error;
  }
}

const interrupted = (): PageliteError => new PageliteError('cancelled', 'a proposer has come');
