/**
 * The proposer of the proposer-acceptor protocol: wins a term, finds the agreed end of WAL, and streams WAL to every acceptor (W2 of the
 * write path). Decides without I/O: `step` takes an event and says what to send, what to read from a donor, and how far is committed.
 *
 * Called by wal/proposer-driver.ts, which owns the channels; calls wal/quorum.ts.
 *
 *   collectingTerms --quorum of greetings--> campaign --quorum of votes--> elected --higher term seen--> fenced
 *                                              ^  |
 *                                    campaign  |  | refused
 *                                              lost
 *
 * Invariants (safekeeper/spec/ProposerAcceptorStatic.tla of Neon)
 * - a campaign's term is above every term seen; a proposer id asks for votes in a term once per acceptor and connection
 * - the proposer's history is that of the most advanced voter (term of its last record, then flushLsn: the donor), then its own term at
 *   the donor's flushLsn, `startLsn`: that is where its WAL begins
 * - WAL goes to an acceptor only after its `proposerElected`, from where their logs part, without gaps
 * - `commitLsn` counts only acknowledgements of this term that reached `startLsn`, and never goes down
 * - a vote or an acknowledgement counts no more once another acceptor's answer tells that the process which gave it has been followed by another: its disk
 *   may have been put back to an older state
 * - WAL that a quorum has not made durable is in `buffer`; older WAL for an acceptor that lags is read from a donor
 */
import { assert, unreachable } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import { pgVersionNumber, walInFlightBytesMax, walMessageBytesMax, walSegmentSize } from '../../engine/limits.ts';
import type { SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import type { NodeId, TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import { committedLsn, quorumOf } from '../../engine/model/quorum.ts';
import { highestCommonLsn, lastTerm, noTerm, type Term, type TermHistory } from '../../engine/model/term.ts';
import type {
  AcceptorGreeting,
  AcceptorMessage,
  AppendResponse,
  PeerIncarnation,
  ProposerId,
  ProposerMessage,
  VoteResponse,
} from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../../engine/protocol/version.ts';
import { WalChunks } from '../../engine/wal/wal-chunks.ts';

export type ProposerEvent =
  | { readonly kind: 'connected'; readonly acceptor: number }
  | { readonly kind: 'disconnected'; readonly acceptor: number }
  | { readonly kind: 'message'; readonly acceptor: number; readonly message: AcceptorMessage }
  /** Try again after a lost election. */
  | { readonly kind: 'campaign' }
  /** Where WAL begins: what was asked for in this term (`wantsStart`). */
  | { readonly kind: 'start'; readonly term: Term; readonly lsn: Lsn }
  /** WAL of this proposer; it belongs to the proposer from now on. */
  | { readonly kind: 'append'; readonly lsn: Lsn; readonly bytes: Uint8Array }
  /** WAL that was read for an acceptor that lags. */
  | { readonly kind: 'recovered'; readonly acceptor: number; readonly lsn: Lsn; readonly bytes: Uint8Array }
  | { readonly kind: 'recoveryEnded'; readonly acceptor: number; readonly failed: boolean }
  /** Ask everybody for a sign of life. */
  | { readonly kind: 'heartbeat' };

/** WAL [startLsn, endLsn) is to be read from the acceptor `donor` and given back as `recovered`, then `recoveryEnded`. */
export interface Recovery {
  readonly acceptor: number;
  readonly donor: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface ProposerStep {
  readonly messages: { readonly acceptor: number; readonly message: ProposerMessage }[];
  readonly recoveries: Recovery[];
  /** Connections that end because the acceptor broke the protocol. */
  readonly broken: { readonly acceptor: number; readonly error: PageliteError }[];
}

export type ProposerState = 'collectingTerms' | 'campaign' | 'lost' | 'elected' | 'fenced';

/** Who rules now. */
export interface FencedBy {
  readonly term: Term;
  readonly proposerId: ProposerId;
  /** Index of the acceptor that said so. */
  readonly acceptor: number;
}

export interface WalProposerOptions {
  readonly id: TenantTimelineId;
  readonly proposerId: ProposerId;
  readonly acceptorCount: number;
  /**
   * Where WAL begins if no acceptor has any. Null: it is asked for once a quorum has voted. Whoever moves that place takes a higher term first
   * (engine/transfer/wal-fence.ts), so that what is heard then holds, or this term has lost.
   */
  readonly startLsnIfEmpty: Lsn | null;
  /** 0n if not known yet. */
  readonly systemIdentifier: bigint;
  readonly configuration: SafekeeperConfiguration;
}

/** What the proposer knows of one acceptor. */
interface AcceptorView {
  phase: 'offline' | 'greeting' | 'greeted' | 'voting' | 'voted' | 'streaming';
  /** As its last greeting said; null before. */
  nodeId: NodeId | null;
  /** The process that has acknowledged what is counted here; 0: not told. */
  incarnation: number;
  vote: VoteResponse | null;
  refused: boolean;
  /** The next append begins here. */
  nextLsn: Lsn;
  /** Of what was sent on this connection, durable there. */
  writtenLsn: Lsn;
  /** Acknowledged in this term, on any connection to this process of it. */
  flushLsn: Lsn;
  sentCommitLsn: Lsn;
  recovering: boolean;
  recoveryCount: number;
}

export class WalProposer {
  readonly #options: WalProposerOptions;
  readonly #acceptors: AcceptorView[];
  #state: ProposerState = 'collectingTerms';
  #term: Term = noTerm;
  #seenTerm: Term = noTerm;
  #history: TermHistory = [];
  #startLsn: Lsn = invalidLsn;
  #startLsnIfEmpty: Lsn | null = null;
  #wantsStart = false;
  #commitLsn: Lsn = invalidLsn;
  #isSynced = false;
  #buffer = new WalChunks(invalidLsn);
  #fencedBy: FencedBy | null = null;
  #out: ProposerStep = { messages: [], recoveries: [], broken: [] };

  constructor(options: WalProposerOptions) {
    this.#options = options;
    this.#acceptors = Array.from({ length: options.acceptorCount }, newView);
  }

  get state(): ProposerState {
    return this.#state;
  }

  get term(): Term {
    return this.#term;
  }

  /** A quorum has voted and no acceptor has WAL: a `start` event of this term is to come. */
  get wantsStart(): boolean {
    return this.#wantsStart && this.#state === 'campaign';
  }

  /** The agreed end of WAL at the election; meaningful once elected. */
  get startLsn(): Lsn {
    return this.#startLsn;
  }

  /** End of the WAL that was appended. */
  get endLsn(): Lsn {
    return this.#buffer.endLsn;
  }

  get commitLsn(): Lsn {
    return this.#commitLsn;
  }

  /** A quorum holds everything up to startLsn, under this term's history: nothing before it can change any more. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  get fencedBy(): FencedBy | null {
    return this.#fencedBy;
  }

  /** Bytes sent to an acceptor that it has not made durable. */
  unacknowledgedBytes(acceptor: number): number {
    const view = this.#acceptors[acceptor]!;
    return view.nextLsn - view.writtenLsn;
  }

  /** Whether silence of this acceptor means that it is gone. */
  owesAnswer(acceptor: number): boolean {
    const { phase } = this.#acceptors[acceptor]!;
    return phase === 'greeting' || phase === 'voting' || phase === 'streaming';
  }

  step(event: ProposerEvent): ProposerStep {
    this.#out = { messages: [], recoveries: [], broken: [] };
    if (this.#state !== 'fenced') this.#take(event);
    return this.#out;
  }

  #take(event: ProposerEvent): void {
    switch (event.kind) {
      case 'connected':
        this.#greet(event.acceptor);
        break;
      case 'disconnected':
        this.#acceptors[event.acceptor]!.phase = 'offline';
        break;
      case 'message':
        this.#receive(event.acceptor, event.message);
        break;
      case 'campaign':
        assert(this.#state === 'lost', `campaign in state ${this.#state}`);
        this.#state = 'collectingTerms';
        this.#campaignIfPossible();
        break;
      case 'start':
        if (event.term !== this.#term || !this.wantsStart) break;
        this.#startLsnIfEmpty = event.lsn;
        this.#electIfPossible();
        break;
      case 'append':
        this.#append(event.lsn, event.bytes);
        break;
      case 'recovered':
        this.#recovered(event.acceptor, event.lsn, event.bytes);
        break;
      case 'recoveryEnded':
        this.#acceptors[event.acceptor]!.recovering = false;
        // After a failure the next heartbeat tries again, at another donor.
        if (!event.failed) this.#pump(event.acceptor);
        break;
      case 'heartbeat':
        this.#heartbeat();
        break;
      default:
        unreachable(event);
    }
  }

  #greet(acceptor: number): void {
    const { id, proposerId, systemIdentifier, configuration } = this.#options;
    const view = this.#acceptors[acceptor]!;
    assert(view.phase === 'offline', 'connected twice');
    view.phase = 'greeting';
    view.vote = null;
    view.refused = false;
    this.#send(acceptor, {
      kind: 'proposerGreeting',
      version: proposerAcceptorVersion,
      timeline: id,
      proposerId,
      systemIdentifier,
      pgVersion: pgVersionNumber,
      walSegmentBytes: walSegmentSize,
      configuration,
    });
  }

  #receive(acceptor: number, message: AcceptorMessage): void {
    const { phase } = this.#acceptors[acceptor]!;
    switch (message.kind) {
      case 'acceptorGreeting':
        if (phase === 'greeting') this.#greeted(acceptor, message);
        else this.#broken(acceptor, 'a second greeting');
        break;
      case 'voteResponse':
        if (phase === 'voting') this.#voted(acceptor, message);
        else this.#lateVote(acceptor, message);
        break;
      case 'appendResponse':
        if (phase === 'streaming') this.#appended(acceptor, message);
        else this.#broken(acceptor, 'an append response before proposerElected');
        break;
      case 'error':
        this.#broken(acceptor, message.error.message, message.error);
        break;
      default:
        unreachable(message);
    }
  }

  // Election

  #greeted(acceptor: number, message: AcceptorGreeting): void {
    const view = this.#acceptors[acceptor]!;
    view.phase = 'greeted';
    view.nodeId = message.nodeId;
    if (message.incarnation !== view.incarnation) this.#beginsAnew(view, message.incarnation);
    if (this.#sawTerm(acceptor, message.term, message.ruler)) return;
    if (this.#state === 'collectingTerms') this.#campaignIfPossible();
    else if (this.#state !== 'lost') this.#requestVote(acceptor);
  }

  /** What an earlier process has acknowledged may be forgotten. */
  #beginsAnew(view: AcceptorView, incarnation: number): void {
    view.incarnation = incarnation;
    view.flushLsn = invalidLsn;
  }

  /** An acceptor knows of these processes: what it answers counts only together with what they have said, and not with what earlier ones have. */
  #heardOf(peers: readonly PeerIncarnation[]): void {
    for (let i = 0; i < peers.length; i++) {
      const { node, incarnation } = peers[i]!;
      for (let acceptor = 0; acceptor < this.#acceptors.length; acceptor++) {
        const view = this.#acceptors[acceptor]!;
        if (view.nodeId !== node || view.incarnation === 0 || incarnation <= view.incarnation) continue;
        this.#beginsAnew(view, 0);
        if (view.phase !== 'offline') this.#broken(acceptor, '', new PageliteError('unavailable', 'it has begun anew'));
      }
    }
  }

  /** Notes a term that was seen. True if it ends this proposer's campaign or rule. */
  #sawTerm(acceptor: number, term: Term, proposerId: ProposerId): boolean {
    if (term > this.#seenTerm) this.#seenTerm = term;
    if (this.#state === 'collectingTerms' || this.#state === 'lost' || term <= this.#term) return false;
    if (this.#state === 'elected') {
      this.#state = 'fenced';
      this.#fencedBy = { term, proposerId, acceptor };
    } else {
      this.#state = 'lost';
    }
    return true;
  }

  #campaignIfPossible(): void {
    const connected = this.#acceptors.filter(({ phase }) => phase !== 'offline' && phase !== 'greeting');
    if (connected.length < quorumOf(this.#acceptors.length)) return;
    this.#state = 'campaign';
    this.#term = (Math.max(this.#seenTerm, this.#term) + 1) as Term;
    this.#startLsnIfEmpty = this.#options.startLsnIfEmpty;
    this.#wantsStart = false;
    for (const [acceptor, view] of this.#acceptors.entries()) {
      view.vote = null;
      view.refused = false;
      if (view.phase !== 'offline' && view.phase !== 'greeting') this.#requestVote(acceptor);
    }
  }

  #requestVote(acceptor: number): void {
    this.#acceptors[acceptor]!.phase = 'voting';
    this.#send(acceptor, { kind: 'voteRequest', term: this.#term, proposerId: this.#options.proposerId });
  }

  #voted(acceptor: number, message: VoteResponse): void {
    const view = this.#acceptors[acceptor]!;
    // The answer to the vote request of a campaign that was lost.
    if (message.term < this.#term) return;
    this.#heardOf(message.peers);
    if (this.#sawTerm(acceptor, message.term, message.ruler) || this.#state === 'lost') return;
    view.vote = message;
    if (this.#state === 'elected') {
      // Its vote is not needed; its history is.
      this.#announce(acceptor);
      return;
    }
    if (message.voteGiven) {
      view.phase = 'voted';
      this.#electIfPossible();
    } else {
      view.refused = true;
      const refused = this.#acceptors.filter((other) => other.refused).length;
      if (this.#acceptors.length - refused < quorumOf(this.#acceptors.length)) this.#state = 'lost';
    }
  }

  #lateVote(acceptor: number, message: VoteResponse): void {
    const { phase } = this.#acceptors[acceptor]!;
    if (phase === 'voted' || phase === 'greeted' || message.term < this.#term) return;
    this.#broken(acceptor, 'a vote that was not asked for');
  }

  #electIfPossible(): void {
    const votes = this.#acceptors.filter(({ phase }) => phase === 'voted').length;
    if (votes < quorumOf(this.#acceptors.length)) return;
    const { vote } = this.#acceptors[this.#mostAdvanced()]!;
    assert(vote !== null);
    const startLsn = vote.flushLsn === invalidLsn ? this.#startLsnIfEmpty : vote.flushLsn;
    this.#wantsStart = startLsn === null;
    if (startLsn === null) return;
    this.#startLsn = startLsn;
    this.#history = [...vote.termHistory, { term: this.#term, lsn: this.#startLsn }];
    this.#commitLsn = vote.commitLsn;
    this.#buffer = new WalChunks(this.#startLsn);
    this.#state = 'elected';
    for (const [acceptor, view] of this.#acceptors.entries()) {
      if (view.phase === 'voted' || (view.phase === 'voting' && view.refused)) this.#announce(acceptor);
    }
  }

  #mostAdvanced(): number {
    let best = -1;
    for (const [acceptor, { phase, vote }] of this.#acceptors.entries()) {
      if (phase !== 'voted' || vote === null) continue;
      const other = best < 0 ? null : this.#acceptors[best]!.vote!;
      const ahead =
        other === null ? 1 : lastTerm(vote.termHistory) - lastTerm(other.termHistory) || vote.flushLsn - other.flushLsn;
      if (ahead > 0) best = acceptor;
    }
    return best;
  }

  /** Tells an acceptor who rules and from where, and begins to stream. */
  #announce(acceptor: number): void {
    const view = this.#acceptors[acceptor]!;
    const { termHistory, flushLsn } = view.vote!;
    let startLsn: Lsn;
    try {
      startLsn = highestCommonLsn(this.#history, termHistory, flushLsn) ?? this.#history[0]!.lsn;
    } catch (error) {
      this.#broken(acceptor, (error as Error).message);
      return;
    }
    if (startLsn > this.#buffer.endLsn) {
      this.#broken(
        acceptor,
        `it claims WAL of term ${this.#term} up to ${formatLsn(startLsn)}, which was never written`,
      );
      return;
    }
    view.phase = 'streaming';
    view.nextLsn = startLsn;
    view.writtenLsn = startLsn;
    view.sentCommitLsn = invalidLsn;
    view.recovering = false;
    this.#send(acceptor, {
      kind: 'proposerElected',
      term: this.#term,
      startStreamingAt: startLsn,
      termHistory: this.#history,
    });
    this.#pump(acceptor);
    // Even with nothing to send: its answer counts for the commit of what came before.
    if (view.nextLsn === startLsn) this.#sendEmpty(acceptor, true);
  }

  // Streaming

  #append(lsn: Lsn, bytes: Uint8Array): void {
    assert(this.#state === 'elected', `append in state ${this.#state}`);
    assert(lsn === this.endLsn, `append at ${formatLsn(lsn)}, the WAL ends at ${formatLsn(this.endLsn)}`);
    this.#buffer.add(lsn, bytes);
    for (let acceptor = 0; acceptor < this.#acceptors.length; acceptor++) this.#pump(acceptor);
  }

  /** Sends what is there, as far as the acceptor keeps up. */
  #pump(acceptor: number): void {
    const view = this.#acceptors[acceptor]!;
    if (view.phase !== 'streaming' || view.recovering) return;
    while (view.nextLsn < this.#buffer.endLsn && view.nextLsn - view.writtenLsn < walInFlightBytesMax) {
      const bytes = this.#buffer.read(view.nextLsn, walMessageBytesMax);
      if (bytes === null) {
        this.#recover(acceptor);
        return;
      }
      this.#sendWal(acceptor, bytes);
    }
  }

  #sendWal(acceptor: number, bytes: Uint8Array): void {
    const view = this.#acceptors[acceptor]!;
    const beginLsn = view.nextLsn;
    view.nextLsn = (beginLsn + bytes.length) as Lsn;
    view.sentCommitLsn = this.#commitLsn;
    this.#send(acceptor, {
      kind: 'appendRequest',
      term: this.#term,
      beginLsn,
      commitLsn: this.#commitLsn,
      mustReply: false,
      bytes,
    });
  }

  #sendEmpty(acceptor: number, mustReply: boolean): void {
    const view = this.#acceptors[acceptor]!;
    view.sentCommitLsn = this.#commitLsn;
    this.#send(acceptor, {
      kind: 'appendRequest',
      term: this.#term,
      beginLsn: view.nextLsn,
      commitLsn: this.#commitLsn,
      mustReply,
      bytes: noBytes,
    });
  }

  #appended(acceptor: number, message: AppendResponse): void {
    this.#heardOf(message.peers);
    if (this.#sawTerm(acceptor, message.term, message.ruler)) return;
    const view = this.#acceptors[acceptor]!;
    if (message.term < this.#term || message.writeLsn > view.nextLsn || message.flushLsn > message.writeLsn) {
      this.#broken(acceptor, `it claims WAL up to ${formatLsn(message.writeLsn)}, sent was ${formatLsn(view.nextLsn)}`);
      return;
    }
    const isNewDonor = view.flushLsn < this.#buffer.startLsn && message.flushLsn >= this.#buffer.startLsn;
    if (message.flushLsn > view.flushLsn) view.flushLsn = message.flushLsn;
    if (message.writeLsn > view.writtenLsn) view.writtenLsn = message.writeLsn;
    this.#commit();
    // Those that lag behind what is in memory may have waited for one that does not.
    if (isNewDonor) for (let other = 0; other < this.#acceptors.length; other++) this.#pump(other);
    else this.#pump(acceptor);
  }

  #commit(): void {
    const reached = committedLsn(
      this.#acceptors.map(({ flushLsn }) => flushLsn),
      this.#startLsn,
    );
    if (reached >= this.#startLsn) this.#isSynced = true;
    if (reached > this.#commitLsn) {
      this.#commitLsn = reached;
      for (const [acceptor, view] of this.#acceptors.entries()) {
        if (view.phase === 'streaming' && view.sentCommitLsn < reached) this.#sendEmpty(acceptor, false);
      }
    }
    this.#trim();
  }

  /** Forgets what nobody needs from here: acknowledged by all, or, beyond the limit, committed. */
  #trim(): void {
    let lowest: number = this.#commitLsn;
    for (const { flushLsn } of this.#acceptors) lowest = Math.min(lowest, flushLsn);
    this.#buffer.dropBefore(lowest);
    this.#buffer.dropBefore(this.#commitLsn, walInFlightBytesMax);
  }

  #heartbeat(): void {
    for (const [acceptor, view] of this.#acceptors.entries()) {
      if (view.phase !== 'streaming') continue;
      this.#sendEmpty(acceptor, true);
      this.#pump(acceptor);
    }
  }

  // Recovery of an acceptor that lags behind what is in memory

  #recover(acceptor: number): void {
    const view = this.#acceptors[acceptor]!;
    const endLsn = this.#buffer.startLsn;
    const donors: number[] = [];
    for (const [other, { flushLsn }] of this.#acceptors.entries()) {
      // Acknowledged in this term, so cut to this history.
      if (other !== acceptor && flushLsn >= endLsn) donors.push(other);
    }
    if (donors.length === 0) return; // Tried again when there is one.
    view.recovering = true;
    const donor = donors[view.recoveryCount++ % donors.length]!;
    this.#out.recoveries.push({ acceptor, donor, startLsn: view.nextLsn, endLsn });
  }

  #recovered(acceptor: number, lsn: Lsn, bytes: Uint8Array): void {
    const view = this.#acceptors[acceptor]!;
    if (view.phase !== 'streaming' || !view.recovering || view.nextLsn !== lsn) return;
    this.#sendWal(acceptor, bytes);
  }

  #broken(acceptor: number, problem: string, cause?: PageliteError): void {
    this.#acceptors[acceptor]!.phase = 'offline';
    const error = cause ?? new PageliteError('invalid', `safekeeper broke the protocol: ${problem}`, { acceptor });
    this.#out.broken.push({ acceptor, error });
  }

  #send(acceptor: number, message: ProposerMessage): void {
    this.#out.messages.push({ acceptor, message });
  }
}

const noBytes = new Uint8Array(0);

function newView(): AcceptorView {
  return {
    phase: 'offline',
    nodeId: null,
    incarnation: 0,
    vote: null,
    refused: false,
    nextLsn: invalidLsn,
    writtenLsn: invalidLsn,
    flushLsn: invalidLsn,
    sentCommitLsn: invalidLsn,
    recovering: false,
    recoveryCount: 0,
  };
}
