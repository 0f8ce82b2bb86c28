/**
 * The acceptor of the proposer-acceptor protocol, for one timeline: whom it promised what, and which WAL it takes (W3 of the write
 * path). Decides without I/O: `step` takes a message and says what to make durable and what to answer *after* that.
 *
 * Called by safekeeper/timeline.ts, which performs `persist` in order, flushes, and only then sends `reply` and shows the LSNs.
 *
 * Invariants (safekeeper/spec/ProposerAcceptorStatic.tla of Neon)
 * - `term` never goes down, nor up so far at once that terms could be used up; a vote in a term is given to one proposer id, and repeated only to that one
 * - WAL is taken only from a proposer whose `proposerElected` in the current term came over the same connection, or from a peer that no proposer has
 *   interrupted (`adopt`), and only where the last ended: no gap, no overwrite
 * - before WAL of a new term is taken, what is not in its proposer's history has been cut off
 * - WAL below commitLsn is never cut off
 * - a proposer of an older configuration than was stored here gets no answer but that
 * - flushLsn, commitLsn and where WAL is cut off are record boundaries, whatever a proposer says; what is not a valid record is refused before it is written
 */
import { assert, unreachable } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { termStepMax, walSegmentSize } from '../limits.ts';
import {
  formatConfiguration,
  noConfiguration,
  type SafekeeperConfiguration,
  sameMembers,
} from '../model/configuration.ts';
import type { NodeId, TenantTimelineId } from '../model/ids.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import {
  formatTermHistory,
  highestCommonLsn,
  historyUpTo,
  lastTerm,
  noTerm,
  sameHistory,
  type Term,
  type TermHistory,
} from '../model/term.ts';
import {
  type AcceptorMessage,
  type AppendRequest,
  type AppendResponse,
  noProposer,
  type ProposerElected,
  type ProposerGreeting,
  type ProposerId,
  type ProposerMessage,
  type VoteRequest,
} from '../protocol/proposer-acceptor.ts';
import { RecordScan } from '../wal/record-scan.ts';
import type { ControlState } from './control-file.ts';
import { RecordBoundaries } from './record-boundaries.ts';

/** Something to make durable. In the order given; all of it, and all WAL written before, is durable before the step's reply leaves. */
export type PersistEffect =
  | { readonly kind: 'saveControl'; readonly control: ControlState }
  /** Cut the WAL off at this LSN. On an empty log it sets where the log begins. */
  | { readonly kind: 'truncateWal'; readonly lsn: Lsn }
  /** Goes where the last write ended. */
  | { readonly kind: 'writeWal'; readonly lsn: Lsn; readonly bytes: Uint8Array };

export interface AcceptorStep {
  readonly persist: readonly PersistEffect[];
  /** Must not leave before `persist` is durable. What is said of safekeepers' processes is filled in then (timeline.ts). */
  readonly reply: AcceptorMessage | null;
  /** The message broke the protocol: the connection ends with this error. The timeline is as good as before. */
  readonly error: PageliteError | null;
  /** What may be shown to others once `persist` is durable. */
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  /** Of the WAL below flushLsn, and what a proposer then has written on top of it. */
  readonly termHistory: TermHistory;
}

/** What the acceptor knows of one connection. Kept by the connection, changed by `step`. */
export interface ProposerSession {
  greeted: boolean;
  proposerId: ProposerId;
  /** Of the configuration that the proposer knows; 0 if it knows none. */
  generation: number;
  /** The term of the last `proposerElected` accepted on this connection; 0 before. */
  electedTerm: number;
}

/** What a peer says of its log. */
export interface PeerLog {
  readonly term: Term;
  /** First LSN that the peer holds. */
  readonly startLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  /** Of the WAL below flushLsn. */
  readonly termHistory: TermHistory;
}

export const newProposerSession = (): ProposerSession => ({
  greeted: false,
  proposerId: noProposer,
  generation: 0,
  electedTerm: 0,
});

export class Acceptor {
  readonly #nodeId: NodeId;
  #control: ControlState;
  #scan: RecordScan;
  /** Those from commitLsn on. */
  readonly #boundaries: RecordBoundaries;
  /** The session over which a peer's WAL comes. */
  #adopting: ProposerSession | null = null;

  /** `flushLsn` is where the valid WAL on disk ends, `prevLsn` its last record if known, `boundaries` are those of records after commitLsn. */
  constructor(
    nodeId: NodeId,
    control: ControlState,
    flushLsn: Lsn,
    prevLsn: Lsn = invalidLsn,
    boundaries: RecordBoundaries = new RecordBoundaries(),
  ) {
    this.#nodeId = nodeId;
    this.#control = control;
    this.#boundaries = boundaries;
    this.#scan = new RecordScan(flushLsn, prevLsn, boundaries);
  }

  /** Whether a record ends at `lsn`, which is in what is held and not below commitLsn. */
  #isBoundary(lsn: Lsn): boolean {
    return lsn === this.flushLsn || lsn === this.#control.commitLsn || this.#boundaries.has(lsn);
  }

  /** WAL goes on at `lsn`, a boundary. */
  #scanFrom(lsn: Lsn): void {
    const prevLsn = lsn === this.flushLsn ? this.#scan.lastRecordLsn : invalidLsn;
    this.#boundaries.truncate(lsn);
    this.#scan = new RecordScan(lsn, prevLsn, this.#boundaries);
  }

  /** As decided: on disk once the steps up to now are durable. */
  get control(): ControlState {
    return this.#control;
  }

  get flushLsn(): Lsn {
    return this.#scan.boundaryLsn;
  }

  /** Where the next append must begin: flushLsn and the beginning of a record that is not whole yet. */
  get writeLsn(): Lsn {
    return this.#scan.position;
  }

  /** WAL below `lsn`, the end of a committed record, is held no longer. */
  raiseStart(lsn: Lsn): ControlState {
    assert(lsn >= this.#control.startLsn && lsn <= this.#control.commitLsn, 'only committed WAL is given up');
    this.#setControl({ startLsn: lsn });
    return this.#control;
  }

  step(session: ProposerSession, message: ProposerMessage): AcceptorStep {
    if (!session.greeted && message.kind !== 'proposerGreeting') {
      return this.#refuse(`${message.kind} before the greeting`);
    }
    if (message.kind === 'voteRequest' || message.kind === 'proposerElected') {
      const { term } = this.#control;
      if (message.term > term + termStepMax)
        return this.#refuse(`term ${message.term} is out of reach of term ${term}`);
    }
    switch (message.kind) {
      case 'proposerGreeting':
        return this.#greet(session, message);
      case 'voteRequest':
        return this.#vote(message);
      case 'proposerElected':
        return this.#elected(session, message);
      case 'appendRequest':
        return this.#append(session, message);
      default:
        return unreachable(message);
    }
  }

  /**
   * Goes on with the log of a peer that is ahead of this one; its WAL follows as append requests of the same session, in `control.term`, until a proposer
   * asks for a vote or is elected here. Null if there is nothing to go on with.
   *
   * Safe in any term: it is what the proposer that wrote this WAL would have sent here itself, had it been able to; nobody counts it as an acknowledgement,
   * and no vote changes by it. What is cut off was not committed: the peer has WAL of a later term. Nobody can have been elected with it who would look for
   * it here, as that WAL is committed, or nobody of a later term than its was voted for here.
   */
  adopt(session: ProposerSession, peer: PeerLog): AcceptorStep | null {
    const { term, startLsn, commitLsn } = this.#control;
    const held = historyUpTo(this.#control.termHistory, this.flushLsn);
    const lastTermOfPeer = lastTerm(peer.termHistory);
    const ahead = lastTermOfPeer - lastTerm(held) || peer.flushLsn - this.flushLsn;
    if (ahead <= 0 || lastTermOfPeer === noTerm) return null;
    const isFirst = startLsn === invalidLsn;
    let common: Lsn;
    try {
      common = isFirst
        ? peer.startLsn
        : (highestCommonLsn(peer.termHistory, held, this.flushLsn) ?? peer.termHistory[0]!.lsn);
    } catch (error) {
      return this.#refuse((error as Error).message);
    }
    const isDiverged = !isFirst && common < this.flushLsn;
    if (isDiverged && peer.commitLsn <= common && term > lastTermOfPeer) return null;
    if (isDiverged && common > commitLsn && !this.#isBoundary(common))
      return this.#refuseInside('the log of a peer parts', common);
    if (!isFirst && common < Math.max(commitLsn, startLsn)) {
      return this.#refuse(
        `the log of a peer parts at ${formatLsn(common)}: here WAL is committed up to ${formatLsn(commitLsn)}`,
      );
    }
    const persist: PersistEffect[] = [];
    // First the cut, then the history: at any moment the WAL that is held is of the history that is stored.
    if (isFirst || this.writeLsn !== common) persist.push({ kind: 'truncateWal', lsn: common });
    const newTerm = Math.max(term, peer.term, lastTermOfPeer) as Term;
    persist.push(
      this.#setControl({
        term: newTerm,
        ...(newTerm > term && { ruler: noProposer }),
        termHistory: peer.termHistory,
        ...(isFirst && { startLsn: common, commitLsn: common }),
      }),
    );
    if (this.writeLsn !== common) this.#scanFrom(common);
    this.#endAdoption();
    session.greeted = true;
    session.electedTerm = newTerm;
    this.#adopting = session;
    return this.#answer(persist, null);
  }

  /** A peer whose last record is of the same term knows more of what is committed: its log and this one are the same up to where the shorter ends. */
  learnCommit(lastTermOfPeer: number, commitLsn: Lsn): AcceptorStep | null {
    if (this.#control.startLsn === invalidLsn) return null;
    const held = historyUpTo(this.#control.termHistory, this.flushLsn);
    const known = Math.min(commitLsn, this.flushLsn) as Lsn;
    if (lastTerm(held) !== lastTermOfPeer || known <= this.#control.commitLsn) return null;
    if (!this.#isBoundary(known)) return null;
    this.#committed(known);
    return this.#answer([], null);
  }

  /** From now on a proposer says what the log is. */
  #endAdoption(): void {
    if (this.#adopting === null) return;
    this.#adopting.electedTerm = noTerm;
    this.#adopting = null;
  }

  #greet(session: ProposerSession, message: ProposerGreeting): AcceptorStep {
    const { timeline, systemIdentifier, pgVersion } = this.#control;
    const { tenantId, timelineId } = message.timeline;
    if (session.greeted) return this.#refuse('a second greeting');
    if (tenantId !== timeline.tenantId || timelineId !== timeline.timelineId) {
      return this.#refuse(`greeting for timeline ${tenantId}/${timelineId}`);
    }
    if (message.walSegmentBytes !== walSegmentSize) {
      return this.#refuse(`WAL segments of ${message.walSegmentBytes} bytes: this build has ${walSegmentSize}`);
    }
    if (pgVersion !== 0 && majorVersion(message.pgVersion) !== majorVersion(pgVersion)) {
      return this.#refuse(`PostgreSQL ${message.pgVersion}: the WAL here is of ${pgVersion}`);
    }
    // A proposer that only synchronises safekeepers need not know the identifier: 0.
    if (systemIdentifier !== 0n && message.systemIdentifier !== 0n && systemIdentifier !== message.systemIdentifier) {
      return this.#refuse(
        `system identifier ${message.systemIdentifier}: the WAL here is of system ${systemIdentifier}`,
      );
    }
    const outdated = this.#outdated(message.configuration);
    if (outdated) return this.#end(outdated);
    session.greeted = true;
    session.proposerId = message.proposerId;
    session.generation = message.configuration.generation;
    const persist: PersistEffect[] = [];
    if (message.configuration.generation > this.#control.configuration.generation) {
      persist.push(this.#setControl({ configuration: message.configuration }));
    }
    if ((systemIdentifier === 0n && message.systemIdentifier !== 0n) || pgVersion === 0) {
      const known = systemIdentifier || message.systemIdentifier;
      persist.push(this.#setControl({ systemIdentifier: known, pgVersion: message.pgVersion }));
    }
    const { term, ruler } = this.#control;
    return this.#answer(persist, { kind: 'acceptorGreeting', nodeId: this.#nodeId, incarnation: 0, term, ruler });
  }

  /** What is wrong with the configuration that somebody comes with; null if nothing is. */
  #outdated(configuration: SafekeeperConfiguration): PageliteError | null {
    const { configuration: own, timeline } = this.#control;
    const data = { ...timeline, node: this.#nodeId };
    const texts = `${formatConfiguration(configuration)}, here it is ${formatConfiguration(own)}`;
    if (configuration.generation === 0) return null;
    if (configuration.generation < own.generation) return outdatedError(texts, data);
    if (!configuration.members.includes(this.#nodeId)) {
      return new PageliteError('invalid', `safekeeper ${this.#nodeId} is no member of configuration ${texts}`, data);
    }
    if (configuration.generation === own.generation && !sameMembers(configuration, own)) {
      return new PageliteError('invalid', `two configurations of one generation: ${texts}`, data);
    }
    return null;
  }

  /**
   * From now on only proposers of this configuration or a newer one are heard: the connections of others are to be ended once this is durable. Throws
   * `fenced` if a newer one is known, `invalid` if this one cannot be.
   */
  configure(configuration: SafekeeperConfiguration): AcceptorStep {
    const wrong = this.#outdated(configuration);
    if (wrong) throw wrong;
    return this.learnConfiguration(configuration);
  }

  /** What a peer has stored holds here, too, whether this safekeeper is a member of it or not. An older one changes nothing. */
  learnConfiguration(configuration: SafekeeperConfiguration): AcceptorStep {
    const isNew = configuration.generation > this.#control.configuration.generation;
    return this.#answer(isNew ? [this.#setControl({ configuration })] : [], null);
  }

  /** Nothing is promised to proposers of terms up to this one any more. */
  raiseTerm(term: Term): AcceptorStep {
    this.#endAdoption();
    return this.#answer(term > this.#control.term ? [this.#setControl({ term, ruler: noProposer })] : [], null);
  }

  #vote(message: VoteRequest): AcceptorStep {
    this.#endAdoption();
    const persist: PersistEffect[] = [];
    if (message.term > this.#control.term) {
      persist.push(this.#setControl({ term: message.term, ruler: message.proposerId }));
    }
    const { term, ruler, commitLsn, startLsn, termHistory } = this.#control;
    // Once more to the same proposer: its connection may have been lost with the first answer.
    const voteGiven = term === message.term && ruler === message.proposerId;
    const { flushLsn } = this;
    return this.#answer(persist, {
      kind: 'voteResponse',
      term,
      ruler,
      voteGiven,
      flushLsn,
      commitLsn,
      startLsn,
      termHistory: historyUpTo(termHistory, flushLsn),
      peers: [],
    });
  }

  #elected(session: ProposerSession, message: ProposerElected): AcceptorStep {
    const { term, startLsn, commitLsn } = this.#control;
    // Superseded; the proposer hears it in the answer to its first append.
    if (message.term < term) return this.#answer([], null);
    const { startStreamingAt, termHistory } = message;
    const held = historyUpTo(this.#control.termHistory, this.flushLsn);
    let common: Lsn;
    try {
      common = highestCommonLsn(termHistory, held, this.flushLsn) ?? termHistory[0]!.lsn;
    } catch (error) {
      return this.#refuse((error as Error).message);
    }
    // Possible when another connection of the same proposer wrote after this one's vote: it reconnects and computes it anew.
    if (startStreamingAt !== common) {
      return this.#refuse(
        `streaming would start at ${formatLsn(startStreamingAt)}, but the logs part at ${formatLsn(common)}: here ` +
          `${formatTermHistory(held)} up to ${formatLsn(this.flushLsn)}, the proposer has ${formatTermHistory(termHistory)}`,
      );
    }
    if (startStreamingAt < commitLsn) {
      return this.#refuse(
        `streaming from ${formatLsn(startStreamingAt)} would cut off WAL that is committed up to ${formatLsn(commitLsn)}`,
      );
    }
    if (startLsn !== invalidLsn && startStreamingAt > this.flushLsn) {
      return this.#refuse(
        `streaming from ${formatLsn(startStreamingAt)} would leave a gap after ${formatLsn(this.flushLsn)}`,
      );
    }
    if (startLsn !== invalidLsn && !this.#isBoundary(startStreamingAt)) {
      return this.#refuseInside('streaming would start', startStreamingAt);
    }
    this.#endAdoption();
    session.electedTerm = message.term;
    // First the cut, then the history: WAL must never be held under the history of a term that did not write it.
    const persist: PersistEffect[] = [];
    if (this.writeLsn !== startStreamingAt) {
      persist.push({ kind: 'truncateWal', lsn: startStreamingAt });
      this.#scanFrom(startStreamingAt);
    }
    if (message.term > term || startLsn === invalidLsn || !sameHistory(this.#control.termHistory, termHistory)) {
      const isFirst = startLsn === invalidLsn;
      persist.push(
        this.#setControl({
          term: message.term,
          ruler: session.proposerId,
          termHistory,
          ...(isFirst ? { startLsn: startStreamingAt, commitLsn: startStreamingAt } : {}),
        }),
      );
    }
    return this.#answer(persist, null);
  }

  #append(session: ProposerSession, message: AppendRequest): AcceptorStep {
    const { term } = this.#control;
    if (message.term < term) return this.#answer([], this.#appendResponse(invalidLsn, invalidLsn, invalidLsn));
    if (message.term > term || session.electedTerm !== term) {
      return this.#refuse(`an append in term ${message.term} before its proposerElected`);
    }
    const { writeLsn, flushLsn } = this;
    const { bytes, beginLsn } = message;
    if (beginLsn !== writeLsn) {
      return this.#refuse(
        beginLsn > writeLsn
          ? `an append at ${formatLsn(beginLsn)} would leave a gap after ${formatLsn(writeLsn)}`
          : `an append at ${formatLsn(beginLsn)} would overwrite WAL up to ${formatLsn(writeLsn)}`,
        { lsn: formatLsn(beginLsn) },
      );
    }
    if (
      message.commitLsn > this.#control.commitLsn &&
      message.commitLsn < flushLsn &&
      !this.#isBoundary(message.commitLsn)
    ) {
      return this.#refuseInside('WAL would be committed up to', message.commitLsn);
    }
    if (!this.#scan.feed(bytes)) {
      const { problem, problemLsn } = this.#scan;
      return this.#refuseWal(
        session,
        flushLsn,
        `the WAL stream is garbage at ${formatLsn(problemLsn)}: ${problem}`,
        problemLsn,
      );
    }
    const commitLsn = Math.max(this.#control.commitLsn, Math.min(message.commitLsn, this.flushLsn)) as Lsn;
    if (commitLsn > flushLsn && !this.#isBoundary(commitLsn)) {
      return this.#refuseWal(session, flushLsn, inside('WAL would be committed up to', commitLsn), commitLsn);
    }
    if (commitLsn !== this.#control.commitLsn) this.#committed(commitLsn);
    const persist: PersistEffect[] = bytes.length > 0 ? [{ kind: 'writeWal', lsn: beginLsn, bytes }] : [];
    const wantsReply = bytes.length > 0 || message.mustReply;
    return this.#answer(persist, wantsReply ? this.#appendResponse(this.flushLsn, this.writeLsn, commitLsn) : null);
  }

  #appendResponse(flushLsn: Lsn, writeLsn: Lsn, commitLsn: Lsn): AppendResponse {
    const { term, ruler } = this.#control;
    return { kind: 'appendResponse', term, ruler, flushLsn, writeLsn, commitLsn, peers: [] };
  }

  #committed(commitLsn: Lsn): void {
    this.#control = { ...this.#control, commitLsn };
    this.#boundaries.dropBefore(commitLsn);
  }

  /** Nothing of the message is written, and the log goes back to its last boundary; the proposer has to be elected here again. */
  #refuseWal(session: ProposerSession, boundaryLsn: Lsn, problem: string, at: Lsn): AcceptorStep {
    this.#boundaries.truncate(boundaryLsn);
    this.#scan = new RecordScan(boundaryLsn, invalidLsn, this.#boundaries);
    session.electedTerm = 0;
    return {
      ...this.#refuse(problem, { lsn: formatLsn(at) }),
      persist: [{ kind: 'truncateWal', lsn: boundaryLsn }],
    };
  }

  /** Whoever has this WAL knows where its records end. */
  #refuseInside(what: string, lsn: Lsn): AcceptorStep {
    return this.#refuse(inside(what, lsn), { lsn: formatLsn(lsn) });
  }

  #setControl(change: Partial<ControlState>): PersistEffect {
    this.#control = { ...this.#control, ...change };
    return { kind: 'saveControl', control: this.#control };
  }

  #answer(persist: readonly PersistEffect[], reply: AcceptorMessage | null): AcceptorStep {
    return { persist, reply, error: null, ...this.#shown };
  }

  #refuse(problem: string, data: { lsn?: string } = {}): AcceptorStep {
    return this.#end(new PageliteError('invalid', problem, { ...this.#control.timeline, node: this.#nodeId, ...data }));
  }

  #end(error: PageliteError): AcceptorStep {
    return { persist: [], reply: null, error, ...this.#shown };
  }

  get #shown(): Pick<AcceptorStep, 'flushLsn' | 'commitLsn' | 'termHistory'> {
    const { commitLsn, termHistory } = this.#control;
    return { flushLsn: this.flushLsn, commitLsn, termHistory };
  }
}

const inside = (what: string, lsn: Lsn): string => `${what} ${formatLsn(lsn)}, where no record ends here`;

const majorVersion = (pgVersion: number): number => Math.floor(pgVersion / 10000);

/** The state of a timeline that no proposer has written to. What is not known yet a proposer's greeting tells. */
export function newControlState(
  timeline: TenantTimelineId,
  { systemIdentifier, pgVersion }: { readonly systemIdentifier: bigint; readonly pgVersion: number } = unknownSystem,
): ControlState {
  return {
    timeline,
    systemIdentifier,
    pgVersion,
    walSegmentBytes: walSegmentSize,
    term: noTerm,
    ruler: noProposer,
    startLsn: invalidLsn,
    commitLsn: invalidLsn,
    termHistory: [],
    configuration: noConfiguration,
  };
}

/** Told to a proposer whose safekeepers are not the ones any more. */
export function outdatedError(texts: string, data: object): PageliteError {
  const text = `the safekeepers are others now: configuration ${texts}. Start the endpoint again`;
  return new PageliteError('fenced', text, { ...data, outdatedConfiguration: true });
}

const unknownSystem = { systemIdentifier: 0n, pgVersion: 0 };
