/**
 * What must hold of a cluster, checked from outside: by what clients were told, what readers saw, and what passed over the network. None of
 * it asks the code that is tested.
 *
 * - no record that was acknowledged is lost, or overlaps another: one history
 * - a term is won once; its WAL begins at or after all that older terms have acknowledged
 * - a safekeeper votes for one proposer in a term, and then only for the one that won it; its term never goes down, whatever happens to its process (but for a
 *   disk that was put back: then its votes of before may not win a term for anybody, which is seen by who wins)
 * - a commit LSN never goes down: a proposer's, and a safekeeper's as long as its process lives
 * - what a safekeeper shows as committed is the one history, whoever shows it
 * - everything that is sent is well-formed
 */
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { decodeAcceptorMessage, decodeProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import type { SyntheticRecord } from '../support/synthetic-wal.ts';

interface Acknowledged extends SyntheticRecord {
  readonly term: number;
}

interface Acceptor {
  term: number;
  readonly votes: Map<number, string>;
  commitLsn: number;
}

export class Checkers {
  readonly violations: string[] = [];
  /** Called as a compute begins to tell safekeepers that it has won a term. */
  onAnnounced: (compute: string) => void = () => {};
  /** What was acknowledged to clients. In no order: news of a commit may be late. */
  readonly acknowledged: Acknowledged[] = [];
  readonly #startLsn: Lsn;
  readonly #say: (violation: string) => void;
  readonly #winners = new Map<number, { readonly name: string; readonly startLsn: Lsn }>();
  readonly #acceptors = new Map<string, Acceptor>();
  readonly #proposers = new Map<string, number>();
  readonly #proposerIds = new Map<string, string>();
  /** Who has told a safekeeper that it has won a term. */
  readonly #elected = new Map<number, string>();
  /** What readers have seen, from the start on. */
  #history = new Uint8Array(1 << 16);
  #historyLength = 0;

  constructor(startLsn: Lsn, say: (violation: string) => void) {
    this.#startLsn = startLsn;
    this.#say = say;
  }

  violate(what: string): void {
    // One is enough, and what follows from it is noise.
    if (this.violations.length < 10) this.violations.push(what);
    this.#say(what);
  }

  won(name: string, term: number, startLsn: Lsn): void {
    const other = this.#winners.get(term);
    if (other) this.violate(`term ${term} was won by ${other.name} and by ${name}`);
    this.#winners.set(term, { name, startLsn });
    for (const record of this.acknowledged) {
      if (record.term < term && record.endLsn > startLsn) this.#startsTooEarly(name, startLsn, record.endLsn);
    }
  }

  acknowledge(who: string, term: number, record: SyntheticRecord): void {
    const other = this.acknowledged.find(
      ({ startLsn, endLsn }) => startLsn < record.endLsn && endLsn > record.startLsn,
    );
    this.acknowledged.push({ ...record, term });
    if (other) {
      const what = `${formatLsn(record.startLsn)} of term ${term}, ${formatLsn(other.startLsn)} of term ${other.term}`;
      this.violate(`${who}: two histories: ${what}`);
    }
    for (const [winnerTerm, { name, startLsn }] of this.#winners) {
      if (winnerTerm > term && startLsn < record.endLsn) this.#startsTooEarly(name, startLsn, record.endLsn);
    }
    this.#compare(who, record.startLsn, record.bytes);
  }

  /** A proposer's commit LSN, whenever somebody looks. */
  proposerCommitted(name: string, commitLsn: Lsn): void {
    const before = this.#proposers.get(name) ?? 0;
    if (commitLsn < before)
      this.violate(`${name}: the commit LSN went from ${formatLsn(before)} to ${formatLsn(commitLsn)}`);
    this.#proposers.set(name, commitLsn);
  }

  /** A message that a proposer sends to a safekeeper. */
  sentByProposer(compute: string, bytes: Uint8Array): void {
    const message = this.#decode(compute, () => decodeProposerMessage(bytes));
    if (message === null) return;
    if (message.kind === 'proposerGreeting') this.#proposerIds.set(compute, message.proposerId);
    if (message.kind !== 'proposerElected') return;
    const isFirst = !this.#elected.has(message.term);
    this.#elected.set(message.term, this.#proposerIds.get(compute) ?? '');
    if (isFirst) this.onAnnounced(compute);
  }

  /** A message that a safekeeper sends to a proposer. */
  sentBySafekeeper(node: string, bytes: Uint8Array): void {
    const message = this.#decode(node, () => decodeAcceptorMessage(bytes));
    if (message === null) return;
    const acceptor = this.#acceptor(node);
    if (message.kind === 'error') return;
    if (message.term < acceptor.term) this.violate(`${node}: its term went from ${acceptor.term} to ${message.term}`);
    acceptor.term = message.term;
    if (message.kind === 'voteResponse' && message.voteGiven) {
      const other = acceptor.votes.get(message.term) ?? message.ruler;
      if (other !== message.ruler && this.#elected.get(message.term) !== message.ruler)
        this.violate(`${node} voted for ${other} and for ${message.ruler} in term ${message.term}`);
      acceptor.votes.set(message.term, message.ruler);
    }
    // 0: the answer to a proposer that is fenced.
    if (message.kind !== 'appendResponse' || message.flushLsn === 0) return;
    if (message.commitLsn > message.flushLsn)
      this.violate(`${node} commits ${formatLsn(message.commitLsn)}, which it does not have`);
    if (message.commitLsn < acceptor.commitLsn) {
      this.violate(
        `${node}: the commit LSN went from ${formatLsn(acceptor.commitLsn)} to ${formatLsn(message.commitLsn)}`,
      );
    }
    acceptor.commitLsn = message.commitLsn;
  }

  /** The process is gone; what it knew of commits may be. */
  restarted(node: string): void {
    this.#acceptor(node).commitLsn = 0;
  }

  /** Its disk was put back: what it promised is forgotten, and must not count. */
  putBack(node: string): void {
    this.#acceptors.delete(node);
  }

  /** Committed WAL as a reader got it. */
  read(node: string, startLsn: Lsn, bytes: Uint8Array): void {
    this.#compare(`a reader of ${node}`, startLsn, bytes);
    const from = startLsn - this.#startLsn;
    const end = from + bytes.length;
    if (from > this.#historyLength || end <= this.#historyLength) return;
    if (end > this.#history.length) {
      const bigger = new Uint8Array(2 * end);
      bigger.set(this.#history);
      this.#history = bigger;
    }
    this.#history.set(bytes, from);
    this.#historyLength = end;
  }

  /** Every acknowledged record, in the WAL [start, ...) that a safekeeper gives in the end. */
  complete(node: string, wal: Uint8Array): void {
    this.#compare(node, this.#startLsn, wal);
    for (const { startLsn, bytes } of this.acknowledged) {
      const at = startLsn - this.#startLsn;
      if (!same(wal.subarray(at, at + bytes.length), bytes)) {
        this.violate(`${node}: the acknowledged record at ${formatLsn(startLsn)} is lost`);
        return;
      }
    }
  }

  #decode<T>(who: string, decode: () => T): T | null {
    try {
      return decode();
    } catch (error) {
      this.violate(`${who} sends what is no message: ${(error as Error).message}`);
      return null;
    }
  }

  #acceptor(node: string): Acceptor {
    let acceptor = this.#acceptors.get(node);
    if (acceptor === undefined) {
      acceptor = { term: 0, votes: new Map(), commitLsn: 0 };
      this.#acceptors.set(node, acceptor);
    }
    return acceptor;
  }

  /** Against what readers have seen. */
  #compare(who: string, startLsn: Lsn, bytes: Uint8Array): void {
    const from = startLsn - this.#startLsn;
    const length = Math.min(bytes.length, this.#historyLength - from);
    if (length <= 0 || same(this.#history.subarray(from, from + length), bytes.subarray(0, length))) return;
    this.violate(`${who}: WAL from ${formatLsn(startLsn)} on is not what was committed`);
  }

  #startsTooEarly(name: string, startLsn: Lsn, acknowledgedLsn: Lsn): void {
    this.violate(
      `${name} starts at ${formatLsn(startLsn)}, an older term has acknowledged ${formatLsn(acknowledgedLsn)}`,
    );
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
