/**
 * Runs a WalProposer over real channels (W2 of the write path): connects to every safekeeper, carries messages both ways, reconnects, and
 * turns commitLsn into promises. Called by the compute's I/O host (wal/wal-tap.ts hands it the WAL); host-free.
 *
 * Life: `elect` resolves when this proposer has won a term and a quorum holds all WAL up to `startLsn` (Neon's sync-safekeepers); the
 * compute boots exactly there and appends from there. Later a lost safekeeper makes commits wait, not fail; a newer term fences, for good.
 *
 * Invariants
 * - the WAL that is appended is contiguous, and valid records: garbage is refused here, before it is sent
 * - `waitCommit(lsn)` resolves once every whole record appended up to `lsn` is durable on a quorum, and not before
 * - a connection that ends, breaks the protocol or falls silent is made anew, with growing pauses; after a fence none is
 */
import { assert } from '../../engine/assert.ts';
import { isPageliteError, isStorageFull, messageOf, PageliteError } from '../../engine/errors.ts';
import {
  proposerHeartbeatMs,
  reconnectPauseMaxMs,
  reconnectPauseMinMs,
  safekeeperSilenceMaxMs,
  walInFlightBytesMax,
} from '../../engine/limits.ts';
import { noConfiguration, type SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import { newTenantId, type TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import type { Term } from '../../engine/model/term.ts';
import {
  type AcceptorMessage,
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerId,
  type ProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import type { Channel, Clock, Log, Random, WalService } from '../../engine/services.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { CommitWaiters, type Settle } from './commit-waiters.ts';
import { type ProposerEvent, type Recovery, WalProposer } from './wal-proposer.ts';

export interface ProposerDriverOptions {
  readonly id: TenantTimelineId;
  readonly services: readonly WalService[];
  /** Where WAL begins if no safekeeper has any: where the pageserver's history ends. A function is called once the vote is won. */
  readonly startLsnIfEmpty: Lsn | (() => Promise<Lsn>);
  /** 0n if not known yet; else a safekeeper that holds another system's WAL refuses. */
  readonly systemIdentifier: bigint;
  /** Default: not known. */
  readonly configuration?: SafekeeperConfiguration;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Gives up the election. Without effect afterwards. */
  readonly signal?: AbortSignal;
}

/** A lost election is tried again after half to the whole of this: two rivals rarely meet again. */
const campaignPauseMs = 200;

/** Only before the election can a refusal be for good: later it is waited for like any other outage. */
const isRefusal = (error: unknown): error is PageliteError =>
  isPageliteError(error, 'corrupt') || isPageliteError(error, 'invalid');

/** The safekeeper has deleted the timeline under this proposer. */
const isDeleted = (error: unknown): error is PageliteError =>
  isPageliteError(error, 'notFound') && error.data.deleted === true;

/** The safekeepers are others now: what this proposer writes to is no quorum any more. */
const isOutdated = (error: unknown): error is PageliteError =>
  isPageliteError(error, 'fenced') && error.data.outdatedConfiguration === true;

function isSameAppend(a: ProposerMessage, b: ProposerMessage): boolean {
  if (a.kind !== 'appendRequest' || b.kind !== 'appendRequest') return false;
  return (
    a.term === b.term &&
    a.beginLsn === b.beginLsn &&
    a.commitLsn === b.commitLsn &&
    a.mustReply === b.mustReply &&
    a.bytes.buffer === b.bytes.buffer &&
    a.bytes.byteOffset === b.bytes.byteOffset &&
    a.bytes.length === b.bytes.length
  );
}

/** One connection; a new one is a new object, so that events of an old one are told apart. */
interface Link {
  readonly channel: Channel;
  lastHeardMs: number;
  /** It has greeted: what ends it later is not about the timeline as such. */
  answered: boolean;
}

export class ProposerDriver {
  readonly #options: ProposerDriverOptions;
  readonly #proposer: WalProposer;
  readonly #links: (Link | null)[];
  readonly #attempts: number[];
  /** What each safekeeper refused its greeting, or everything, with; null once it has not. */
  readonly #refusals: (PageliteError | null)[];
  readonly #closing = new AbortController();
  readonly #waiters = new CommitWaiters();
  /** Wakes the recovery of an acceptor when it has made something durable. */
  readonly #recoveryWakes: ((() => void) | null)[];
  #scan = new RecordScan(0 as Lsn);
  #elected: { resolve: () => void; reject: (error: PageliteError) => void } | null = null;
  #fencedHandler: ((error: PageliteError) => void) | null = null;
  #ended: PageliteError | null = null;
  /** The last term in which it was asked where WAL begins. */
  #askedTerm = 0;

  private constructor(options: ProposerDriverOptions) {
    const { id, services, startLsnIfEmpty, systemIdentifier, random } = options;
    assert(services.length > 0, 'a proposer needs a safekeeper');
    this.#options = options;
    this.#proposer = new WalProposer({
      id,
      // 16 random bytes as hex, like any id.
      proposerId: newTenantId(random) as string as ProposerId,
      acceptorCount: services.length,
      startLsnIfEmpty: typeof startLsnIfEmpty === 'function' ? null : startLsnIfEmpty,
      systemIdentifier,
      configuration: options.configuration ?? noConfiguration,
    });
    this.#links = services.map(() => null);
    this.#attempts = services.map(() => 0);
    this.#refusals = services.map(() => null);
    this.#recoveryWakes = services.map(() => null);
  }

  /**
   * Wins a term. Rejects `cancelled` when the signal fires, and with the safekeepers' own error (`corrupt`, `invalid`) if so many refuse
   * that there can be no quorum. Without a quorum it waits.
   */
  static async elect(options: ProposerDriverOptions): Promise<ProposerDriver> {
    const driver = new ProposerDriver(options);
    await driver.#elect();
    return driver;
  }

  get term(): Term {
    return this.#proposer.term;
  }

  /** The agreed end of WAL: a record boundary, where the compute boots and the first append begins. */
  get startLsn(): Lsn {
    return this.#proposer.startLsn;
  }

  /** All WAL below is durable on a quorum, for good. */
  get commitLsn(): Lsn {
    return this.#proposer.commitLsn;
  }

  /** End of what was appended. */
  get endLsn(): Lsn {
    return this.#proposer.endLsn;
  }

  /** Appended and not committed: the writer should wait above `walInFlightBytesMax`. */
  get inFlightBytes(): number {
    return this.#proposer.endLsn - this.#proposer.commitLsn;
  }

  /** Takes WAL over that begins at endLsn, cut anywhere. Throws `fenced` or `closed` after the end, `invalid` if it is no WAL. */
  append(lsn: Lsn, bytes: Uint8Array): void {
    if (this.#ended) throw this.#ended;
    if (lsn !== this.endLsn) {
      throw new PageliteError('invalid', `append at ${formatLsn(lsn)}, the WAL ends at ${formatLsn(this.endLsn)}`);
    }
    if (!this.#scan.feed(bytes)) {
      const at = formatLsn(this.#scan.problemLsn);
      throw new PageliteError('invalid', `the compute's WAL is garbage at ${at}: ${this.#scan.problem}`, { lsn: at });
    }
    this.#step({ kind: 'append', lsn, bytes });
  }

  /**
   * Resolves when every whole record appended up to `lsn` is on a quorum. A record that is not whole yet is not waited for: PostgreSQL
   * flushes at the end of a segment in the middle of one. Rejects `fenced`, `closed` or `cancelled`.
   */
  waitCommit(lsn: Lsn, signal?: AbortSignal): Promise<void> {
    if (this.#ended) return Promise.reject(this.#ended);
    const target = Math.min(lsn, this.#scan.boundaryLsn);
    return target <= this.commitLsn ? Promise.resolve() : this.#waiters.wait(target, signal);
  }

  /** The same with a callback, which is called at once or as soon as the quorum's answer is here. */
  onCommitted(lsn: Lsn, settle: Settle): void {
    const target = Math.min(lsn, this.#scan.boundaryLsn);
    if (this.#ended) settle(this.#ended);
    else if (target <= this.commitLsn) settle(null);
    else this.#waiters.add(target, settle);
  }

  /** Called once when a newer term rules; later appends and waits are `fenced`. Called soon if it already has happened. */
  onFenced(handler: (error: PageliteError) => void): void {
    this.#fencedHandler = handler;
    const error = this.#ended;
    if (error?.kind === 'fenced') queueMicrotask(() => handler(error));
  }

  /** Ends the connections. What is not committed may or may not survive. */
  close(): void {
    this.#end(new PageliteError('closed', 'the proposer was closed', { ...this.#options.id }));
  }

  async #elect(): Promise<void> {
    const { signal, services } = this.#options;
    const cancel = () =>
      this.#end(new PageliteError('cancelled', 'the election was cancelled', { ...this.#options.id }));
    const elected = new Promise<void>((resolve, reject) => {
      this.#elected = { resolve, reject };
    });
    if (signal?.aborted) cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    for (let acceptor = 0; acceptor < services.length; acceptor++) this.#connect(acceptor);
    void this.#beat();
    try {
      await elected;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
    this.#options.log.info('elected', {
      ...this.#options.id,
      term: this.term,
      startLsn: formatLsn(this.startLsn),
      commitLsn: formatLsn(this.commitLsn),
    });
  }

  // Events

  #step(event: ProposerEvent): void {
    const { state, commitLsn } = this.#proposer;
    const { messages, recoveries, broken } = this.#proposer.step(event);
    let before: ProposerMessage | null = null;
    let encoded!: Uint8Array;
    for (const { acceptor, message } of messages) {
      // Safekeepers that keep up get the same appends, copied and checksummed once: a Channel does not change what it sends.
      if (before === null || !isSameAppend(before, message)) encoded = encodeProposerMessage(message);
      before = message;
      this.#send(acceptor, encoded);
    }
    for (const recovery of recoveries) void this.#recover(recovery);
    for (const { acceptor, error } of broken) this.#drop(acceptor, error);
    if (this.#proposer.commitLsn !== commitLsn) this.#waiters.reached(this.#proposer.commitLsn);
    if (this.#proposer.state !== state) this.#stateChanged();
    if (this.#proposer.wantsStart && this.#askedTerm !== this.term) void this.#askStart();
    if (this.#elected && this.#proposer.isSynced) {
      this.#elected.resolve();
      this.#elected = null;
    }
  }

  #stateChanged(): void {
    const { state, fencedBy, term, startLsn } = this.#proposer;
    if (state === 'elected') this.#scan = new RecordScan(startLsn);
    if (state === 'lost') void this.#campaignAgain();
    if (state !== 'fenced' || fencedBy === null) return;
    const nodeId = this.#options.services[fencedBy.acceptor]!.nodeId;
    this.#end(
      new PageliteError(
        'fenced',
        `another compute has taken over: term ${fencedBy.term} of proposer ${fencedBy.proposerId} rules at safekeeper ${nodeId}, ` +
          `this is term ${term}`,
        { ...this.#options.id, term, newerTerm: fencedBy.term, proposer: fencedBy.proposerId, node: nodeId },
      ),
    );
  }

  async #askStart(): Promise<void> {
    const { startLsnIfEmpty } = this.#options;
    const { term } = this;
    this.#askedTerm = term;
    assert(typeof startLsnIfEmpty === 'function');
    try {
      const lsn = await startLsnIfEmpty();
      if (!this.#ended) this.#step({ kind: 'start', term, lsn });
    } catch (error) {
      this.#end(isPageliteError(error) ? error : new PageliteError('unavailable', messageOf(error)));
    }
  }

  async #campaignAgain(): Promise<void> {
    const { clock, random } = this.#options;
    if (!(await this.#pause(clock, campaignPauseMs * (0.5 + 0.5 * random.next())))) return;
    if (this.#proposer.state === 'lost') this.#step({ kind: 'campaign' });
  }

  #end(error: PageliteError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#closing.abort(error);
    for (const link of this.#links) link?.channel.close();
    for (const wake of this.#recoveryWakes) wake?.();
    this.#waiters.fail(error);
    this.#elected?.reject(error);
    this.#elected = null;
    if (error.kind !== 'fenced') return;
    this.#options.log.error('fenced', { ...error.data, error: error.message });
    this.#fencedHandler?.(error);
  }

  // Connections

  #connect(acceptor: number): void {
    if (this.#ended) return;
    const { services, id, clock } = this.#options;
    let channel: Channel;
    try {
      channel = services[acceptor]!.connectProposer(id);
    } catch (error) {
      void this.#reconnect(acceptor, error);
      return;
    }
    const link: Link = { channel, lastHeardMs: clock.now(), answered: false };
    this.#links[acceptor] = link;
    channel.onMessage((bytes) => this.#receive(acceptor, link, bytes));
    channel.onClose((error) => this.#lost(acceptor, link, error));
    this.#step({ kind: 'connected', acceptor });
  }

  #receive(acceptor: number, link: Link, bytes: Uint8Array): void {
    if (this.#links[acceptor] !== link || this.#ended) return;
    link.lastHeardMs = this.#options.clock.now();
    let message: AcceptorMessage;
    try {
      message = decodeAcceptorMessage(bytes);
      this.#checkNode(acceptor, message);
    } catch (error) {
      this.#drop(acceptor, error as PageliteError);
      return;
    }
    if (message.kind !== 'error') {
      link.answered = true;
      this.#attempts[acceptor] = 0;
      this.#refusals[acceptor] = null;
    }
    this.#step({ kind: 'message', acceptor, message });
    this.#recoveryWakes[acceptor]?.();
  }

  /** Two addresses of one safekeeper would be two votes of one voter. */
  #checkNode(acceptor: number, message: AcceptorMessage): void {
    if (message.kind !== 'acceptorGreeting') return;
    const expected = this.#options.services[acceptor]!.nodeId;
    if (message.nodeId === expected) return;
    throw new PageliteError('invalid', `safekeeper ${message.nodeId} answers where safekeeper ${expected} was asked`);
  }

  #send(acceptor: number, message: Uint8Array): void {
    try {
      this.#links[acceptor]?.channel.send(message);
    } catch (error) {
      // Its close event follows.
      if (!isPageliteError(error, 'closed')) throw error;
    }
  }

  #drop(acceptor: number, error: PageliteError): void {
    const link = this.#links[acceptor];
    if (!link) return;
    this.#lost(acceptor, link, error);
    link.channel.close(error);
  }

  #lost(acceptor: number, link: Link, error: unknown): void {
    if (this.#links[acceptor] !== link) return;
    this.#links[acceptor] = null;
    this.#step({ kind: 'disconnected', acceptor });
    this.#recoveryWakes[acceptor]?.();
    if (this.#ended) return;
    if (
      // Whoever could make room is waiting for this commit, so it must not wait for room. What is not acknowledged is given up, and the next compute goes on from
      // what is.
      isStorageFull(error) ||
      isDeleted(error) ||
      isOutdated(error) ||
      (this.#elected && !link.answered && isRefusal(error))
    ) {
      this.#refusals[acceptor] = error;
      if (this.#giveUp(error)) return;
    }
    void this.#reconnect(acceptor, error);
  }

  #giveUp(error: PageliteError): boolean {
    const refused = this.#refusals.filter((refusal) => refusal !== null).length;
    if (this.#refusals.length - refused >= quorumOf(this.#refusals.length)) return false;
    this.#end(error);
    return true;
  }

  async #reconnect(acceptor: number, error: unknown): Promise<void> {
    const { clock, random, log, services, id } = this.#options;
    const attempt = this.#attempts[acceptor]!++;
    const reason = error === undefined ? 'closed by the safekeeper' : messageOf(error);
    log.warn('no connection to a safekeeper', { ...id, node: services[acceptor]!.nodeId, attempt, error: reason });
    const wholeMs = Math.min(reconnectPauseMaxMs, reconnectPauseMinMs * 2 ** Math.min(attempt, 20));
    if (await this.#pause(clock, wholeMs * (0.5 + 0.5 * random.next()))) this.#connect(acceptor);
  }

  /** False if the proposer has ended in the meantime. */
  async #pause(clock: Clock, ms: number): Promise<boolean> {
    try {
      await clock.sleep(ms, this.#closing.signal);
    } catch (error) {
      if (!this.#ended) throw error;
    }
    return this.#ended === null;
  }

  async #beat(): Promise<void> {
    const { clock } = this.#options;
    while (await this.#pause(clock, proposerHeartbeatMs)) {
      for (const [acceptor, link] of this.#links.entries()) {
        if (!link || !this.#proposer.owesAnswer(acceptor)) continue;
        const silentMs = clock.now() - link.lastHeardMs;
        if (silentMs > safekeeperSilenceMaxMs) {
          this.#drop(acceptor, new PageliteError('unavailable', `no answer for ${silentMs} ms`));
        }
      }
      this.#step({ kind: 'heartbeat' });
    }
  }

  // Recovery of a safekeeper that lags

  async #recover(recovery: Recovery): Promise<void> {
    const { acceptor, donor, startLsn, endLsn } = recovery;
    const { services, id, log } = this.#options;
    const nodes = { node: services[acceptor]!.nodeId, donor: services[donor]!.nodeId };
    log.info('bringing a safekeeper up to date', {
      ...id,
      ...nodes,
      startLsn: formatLsn(startLsn),
      endLsn: formatLsn(endLsn),
    });
    const link = this.#links[acceptor];
    const reading = new AbortController();
    const stop = () => reading.abort();
    this.#closing.signal.addEventListener('abort', stop, { once: true });
    let at = startLsn;
    try {
      for await (const chunk of services[donor]!.readWal(id, startLsn, reading.signal, this.term)) {
        const bytes = chunk.bytes.subarray(0, endLsn - at);
        this.#step({ kind: 'recovered', acceptor, lsn: at, bytes });
        at = (at + bytes.length) as Lsn;
        if (at >= endLsn) break;
        while (this.#links[acceptor] === link && this.#proposer.unacknowledgedBytes(acceptor) >= walInFlightBytesMax) {
          await this.#acknowledgement(acceptor);
        }
        if (this.#links[acceptor] !== link || this.#ended) break;
      }
    } catch (error) {
      log.warn('a safekeeper could not be brought up to date', { ...id, ...nodes, error: messageOf(error) });
    } finally {
      this.#closing.signal.removeEventListener('abort', stop);
      reading.abort();
    }
    if (!this.#ended && this.#links[acceptor] === link)
      this.#step({ kind: 'recoveryEnded', acceptor, failed: at < endLsn });
  }

  #acknowledgement(acceptor: number): Promise<void> {
    return new Promise((resolve) => {
      this.#recoveryWakes[acceptor] = () => {
        this.#recoveryWakes[acceptor] = null;
        resolve();
      };
    });
  }
}
