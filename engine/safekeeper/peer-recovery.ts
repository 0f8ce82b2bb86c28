/**
 * How a safekeeper that lags catches up from a peer, without a compute (beside W3 of the write path). Called by safekeeper/upkeep.ts.
 *
 * `chooseDonor` decides, `recoverFrom` acts: it lets the timeline adopt the peer's history and appends the peer's WAL, as a proposer would. Source: Neon's
 * safekeeper/src/recovery.rs.
 *
 * Invariants
 * - a proposer comes first: nothing is begun while one is connected, and what is under way ends as soon as one asks for a vote (Acceptor)
 * - WAL comes only from a peer whose last record stays of the term that it was: its log can only become longer meanwhile
 */
import { isPageliteError, PageliteError } from '../errors.ts';
import { safekeeperSilenceMaxMs } from '../limits.ts';
import type { Lsn } from '../model/lsn.ts';
import { noTerm, type Term } from '../model/term.ts';
import type { AcceptorMessage } from '../protocol/proposer-acceptor.ts';
import type { Clock, PeerTimelineInfo, WalService } from '../services.ts';
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

export interface RecoveryOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Of at least this is the term that WAL is taken over in. */
  readonly termMin?: Term;
}

/**
 * Up to where the WAL is now, if there was anything to catch up with; null if not. Rejects as the peer does, `unavailable` if that falls silent, and `cancelled`
 * if a proposer came.
 */
export async function recoverFrom(
  timeline: SafekeeperTimeline,
  donor: LogDonor,
  { clock, signal, termMin = noTerm }: RecoveryOptions,
): Promise<Lsn | null> {
  const silence = new Silence(clock, signal);
  try {
    const status = await silence.unlessFirst(donor.getStatus(timeline.id));
    if (status === null || timeline.proposerCount > 0) return null;
    const log = {
      ...status,
      term: Math.max(status.term, termMin) as Term,
      termHistory: status.termHistory.map(([term, lsn]) => ({ term: term as Term, lsn })),
    };
    const target = new RecoveryTarget();
    const adopted = await timeline.adopt(target, log);
    if (adopted === null || adopted.lsn >= status.flushLsn) return adopted?.lsn ?? null;
    const lastTerm = status.termHistory.at(-1)?.[0] ?? noTerm;
    let at = adopted.lsn;
    silence.heard();
    for await (const chunk of donor.readWal(timeline.id, at, silence.signal, lastTerm)) {
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
      silence.heard();
    }
    if (at < status.flushLsn) silence.check();
    return at;
  } finally {
    silence.end();
  }
}

/** Ends what a donor is asked for when nothing has come of it for `safekeeperSilenceMaxMs`, or the outer signal fires. */
class Silence {
  readonly #clock: Clock;
  readonly #over = new AbortController();
  readonly #outer: AbortSignal;
  #heardMs: number;
  #isSilent = false;

  constructor(clock: Clock, outer: AbortSignal) {
    this.#clock = clock;
    this.#outer = outer;
    this.#heardMs = clock.now();
    outer.addEventListener('abort', this.end, { once: true });
    void this.#watch();
  }

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  heard(): void {
    this.#heardMs = this.#clock.now();
  }

  /** Throws if there was silence. */
  check(): void {
    if (this.#isSilent) throw silent();
  }

  async unlessFirst<T>(answer: Promise<T>): Promise<T> {
    const over = new Promise<never>((_, reject) => {
      this.signal.addEventListener('abort', () => reject(this.#isSilent ? silent() : ended()), { once: true });
    });
    return Promise.race([answer, over]);
  }

  readonly end = (): void => {
    this.#outer.removeEventListener('abort', this.end);
    this.#over.abort();
  };

  async #watch(): Promise<void> {
    while (!this.signal.aborted) {
      const leftMs = this.#heardMs + safekeeperSilenceMaxMs - this.#clock.now();
      if (leftMs <= 0) {
        this.#isSilent = true;
        this.end();
      } else await this.#clock.sleep(leftMs, this.signal).catch(() => {});
    }
  }
}

const silent = (): PageliteError =>
  new PageliteError('unavailable', `the peer was silent for ${safekeeperSilenceMaxMs} ms`);
const ended = (): PageliteError => new PageliteError('cancelled', 'catching up was ended');

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
