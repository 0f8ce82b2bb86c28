/**
 * What a safekeeper does at its start, before it answers proposers: it tells its peers that it has begun anew, hears what they have and what they remember of
 * it, and catches up with that. Then it does not matter whether its disk was put back to an older state meanwhile: nothing that it acknowledged or promised is
 * missing. Owned by upkeep.ts; the gate of safekeeper.ts.
 *
 * Why that is enough (a minority of disks was put back, and their peers answer). Whatever was committed or promised with an answer that this disk has forgotten
 * needed an answer of another member whose disk is its own. If that one had answered before it heard of this process, what it had is caught up with here, and
 * its term and its configuration taken over; if after, its answer tells of this process, and the proposer no longer counts what an earlier one had said (wal-proposer.ts).
 *
 * A peer that does not answer in time is gone on without, as it must be if it is lost: a disk that is put back while a peer is away is a second fault. Unless
 * another peer remembers more than there is here: then proposers are refused until all peers have been heard.
 *
 * Invariants
 * - no proposer is answered before the peers were asked, and none of a timeline that a peer was heard to have more of before that is here
 * - the number of a process is above that of any earlier one that a peer which was heard knows of
 * - a peer is asked what it has only after it has made durable that this process has begun
 */
import { isPageliteError, PageliteError } from '../errors.ts';
import {
  readmissionAttemptsMax,
  safekeeperPeerTimeoutMs,
  safekeeperRecallPauseMs,
  safekeeperRecallTimeoutMs,
} from '../limits.ts';
import type { SafekeeperConfiguration } from '../model/configuration.ts';
import { type NodeId, type TenantTimelineId, timelineKey } from '../model/ids.ts';
import { formatLsn } from '../model/lsn.ts';
import type { Term } from '../model/term.ts';
import type { Clock, Log, PeerTimelineInfo, RecalledTimeline, SafekeeperPeer } from '../services.ts';
import { chooseDonor } from './peer-recovery.ts';
import type { ProposerGate, Safekeeper } from './safekeeper.ts';
import type { SafekeeperTimeline } from './timeline.ts';

export interface ReadmissionOptions {
  readonly safekeeper: Safekeeper;
  readonly peers: readonly SafekeeperPeer[];
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Takes over the log of a peer that is ahead, as far as that goes (recoverFrom). */
  readonly catchUp: (timeline: SafekeeperTimeline, donor: SafekeeperPeer) => Promise<void>;
}

/** What a peer said when it was first heard. */
interface Heard {
  readonly peer: SafekeeperPeer;
  readonly had: ReadonlyMap<string, PeerTimelineInfo>;
  /** Of this safekeeper. */
  readonly recalled: ReadonlyMap<string, RecalledTimeline>;
}

type PeerLogEnd = PeerTimelineInfo & { readonly peer: SafekeeperPeer };

export class Readmission implements ProposerGate {
  readonly #options: ReadmissionOptions;
  readonly #heard = new Map<NodeId, Heard>();
  /** That each timeline had before anything of peers was taken over; 0 if it was not here. */
  readonly #firstTerms = new Map<string, number>();
  readonly #admitted = new Set<string>();
  readonly #admitting = new Map<string, Promise<void>>();
  readonly #refusals = new Map<string, PageliteError>();
  #incarnation = 0;
  #begun: Promise<void> = Promise.resolve();

  constructor(options: ReadmissionOptions) {
    this.#options = options;
  }

  get incarnation(): number {
    return this.#incarnation;
  }

  /** Peers were asked. Does not reject. */
  get begun(): Promise<void> {
    return this.#begun;
  }

  start(): void {
    const { safekeeper, clock, peers } = this.#options;
    if (peers.length === 0) return;
    this.#incarnation = Math.max(1, Math.floor(clock.now()));
    safekeeper.setGate(this);
    this.#begun = this.#begin();
  }

  /** Nothing is taken over from peers but by this, as long as proposers are not answered. */
  isHolding(id: TenantTimelineId): boolean {
    return this.#incarnation > 0 && !this.#admitted.has(timelineKey(id));
  }

  isComplete(id: TenantTimelineId): boolean {
    return this.#heard.size === this.#options.peers.length && this.#admitted.has(timelineKey(id));
  }

  refusalOf(id: TenantTimelineId): PageliteError | null {
    return this.#refusals.get(timelineKey(id)) ?? null;
  }

  async admit(id: TenantTimelineId): Promise<void> {
    await this.#begun;
    const key = timelineKey(id);
    if (this.#admitted.has(key)) return;
    let admitting = this.#admitting.get(key);
    if (admitting === undefined) {
      admitting = this.#readmit(id).finally(() => this.#admitting.delete(key));
      this.#admitting.set(key, admitting);
    }
    await admitting;
  }

  /** Asks peers that were not heard yet, and catches up with what they have of these timelines, without waiting for a proposer to come. */
  async round(timelines: readonly TenantTimelineId[]): Promise<void> {
    if (this.#incarnation === 0) return;
    await this.#askAll(safekeeperPeerTimeoutMs);
    const { log, signal } = this.#options;
    for (const id of timelines) {
      if (signal.aborted) return;
      if (this.#admitted.has(timelineKey(id))) continue;
      try {
        await this.admit(id);
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        log.debug('proposers are not answered yet', { ...id, error: error.message });
      }
    }
  }

  async #begin(): Promise<void> {
    const { safekeeper, peers, clock, log, signal } = this.#options;
    await safekeeper.peerMemory.load();
    const endMs = clock.now() + safekeeperRecallTimeoutMs;
    for (let leftMs = safekeeperRecallTimeoutMs; leftMs > 0 && !signal.aborted; leftMs = endMs - clock.now()) {
      await this.#askAll(leftMs);
      if (this.#heard.size === peers.length) return;
      await clock.sleep(Math.max(1, Math.min(safekeeperRecallPauseMs, endMs - clock.now())), signal).catch(() => {});
    }
    if (signal.aborted) return;
    const away = peers.flatMap(({ nodeId }) => (this.#heard.has(nodeId) ? [] : [nodeId]));
    log.warn(answersWithout, { away });
  }

  async #askAll(timeoutMs: number): Promise<void> {
    const unheard = this.#options.peers.filter(({ nodeId }) => !this.#heard.has(nodeId));
    if (unheard.length > 0) await Promise.all(unheard.map((peer) => this.#ask(peer, timeoutMs)));
  }

  async #ask(peer: SafekeeperPeer, timeoutMs: number): Promise<void> {
    const { clock, log, signal } = this.#options;
    const timer = new AbortController();
    const stop = () => timer.abort();
    signal.addEventListener('abort', stop, { once: true });
    const late = clock.sleep(timeoutMs, timer.signal).catch(() => {});
    try {
      await Promise.race([this.#hear(peer, timer.signal), late]);
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      // It is away.
      log.debug('a peer does not say what it remembers', { node: peer.nodeId, error: error.message });
    } finally {
      signal.removeEventListener('abort', stop);
      timer.abort();
    }
  }

  /** `signal`: nobody waits any more; what comes after that is asked for again. */
  async #hear(peer: SafekeeperPeer, signal: AbortSignal): Promise<void> {
    const { safekeeper } = this.#options;
    const incarnation = this.#incarnation;
    const { incarnation: theirs, known } = await peer.introduce(safekeeper.nodeId, incarnation);
    if (theirs > 0) await safekeeper.peerMemory.meet(peer.nodeId, theirs);
    // Its clock went back, or the answer to the same question was lost.
    if (known >= incarnation) this.#begunAfter(known);
    const recalled = await peer.recall(safekeeper.nodeId);
    const had = await peer.describeTimelines();
    // Told a number that is not the one any more: to be asked again.
    if (signal.aborted || incarnation !== this.#incarnation) return;
    const heard = { peer, had: byTimeline(had), recalled: byTimeline(recalled) };
    this.#heard.set(peer.nodeId, heard);
    await this.#compareWith(heard);
  }

  /** All peers are to hear of a number above this one. */
  #begunAfter(incarnation: number): void {
    if (incarnation < this.#incarnation) return;
    this.#incarnation = incarnation + 1;
    this.#heard.clear();
  }

  /** Where proposers were let in while this peer was away, and something was forgotten, they are sent away. */
  async #compareWith({ recalled }: Heard): Promise<void> {
    const { safekeeper } = this.#options;
    for (const [key, shown] of recalled) {
      if (!this.#admitted.has(key)) continue;
      try {
        const timeline = await safekeeper.find(shown.id);
        const refusal = this.#refuseIfForgotten(timeline, shown);
        if (refusal !== null && this.#admitted.delete(key)) timeline?.dropProposers(refusal);
      } catch (error) {
        // It cannot be opened, which proposers hear.
        if (!isPageliteError(error)) throw error;
      }
    }
  }

  async #readmit(id: TenantTimelineId): Promise<void> {
    const { safekeeper, peers, log } = this.#options;
    const key = timelineKey(id);
    const heard = [...this.#heard.values()];
    const had = heard.flatMap(({ peer, had }) => {
      const info = had.get(key);
      return info === undefined ? [] : [{ ...info, peer }];
    });
    const shown = heard.flatMap(({ recalled }) => recalled.get(key) ?? []);
    const found = await safekeeper.find(id);
    if (!this.#firstTerms.has(key)) this.#firstTerms.set(key, found?.durableTerm ?? 0);
    for (const one of shown) this.#refuseIfForgotten(found, one);
    if (had.length > 0) {
      const timeline = found ?? (await safekeeper.createFromPeers(id));
      // Null: it was deleted here, and proposers hear that.
      if (timeline !== null) {
        await timeline.learnConfiguration(newestConfiguration(had));
        const isWhole = await this.#catchUp(timeline, had);
        const refusal = this.#refusals.get(key);
        if (refusal !== undefined && (!isWhole || heard.length < peers.length)) throw refusal;
        if (!isWhole) log.warn(answersWithout, { ...id });
        await timeline.raiseTerm(Math.max(...[...had, ...shown].map(({ term }) => term)) as Term);
      }
    }
    this.#admitted.add(key);
    if (this.#refusals.delete(key)) log.info('caught up with all peers: proposers are answered again', { ...id });
  }

  /** False if the WAL of a peer did not come. */
  async #catchUp(timeline: SafekeeperTimeline, had: readonly PeerLogEnd[]): Promise<boolean> {
    const { clock, log, signal, catchUp } = this.#options;
    const firstTerm = this.#firstTerms.get(timelineKey(timeline.id)) ?? 0;
    let ahead = had;
    for (let attempt = 0; ; attempt++) {
      const donor = chooseDonor(endOf(timeline), ahead);
      if (donor === null) return true;
      try {
        await catchUp(timeline, donor.peer);
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        log.info('catching up from a peer ended early', {
          ...timeline.id,
          donor: donor.peer.nodeId,
          error: error.message,
        });
      }
      if (chooseDonor(endOf(timeline), [donor]) === null) continue;
      // That log was written in terms in which this disk took nothing any more: all that was acknowledged of it here is here.
      if (firstTerm > donor.lastTerm) {
        ahead = ahead.filter((other) => other !== donor);
        continue;
      }
      if (attempt >= readmissionAttemptsMax || signal.aborted) return false;
      await clock.sleep(safekeeperRecallPauseMs, signal).catch(() => {});
    }
  }

  /** What proposers hear of a timeline that has less than was shown of it, as long as it is not as good as all others; null if that is not so. */
  #refuseIfForgotten(timeline: SafekeeperTimeline | null, shown: RecalledTimeline): PageliteError | null {
    const { id, term, commitLsn } = shown;
    if (timeline !== null && timeline.durableTerm >= term && timeline.flushLsn >= commitLsn) return null;
    const before = this.#refusals.get(timelineKey(id));
    if (before !== undefined) return before;
    const { safekeeper, log } = this.#options;
    const had = `term ${term} and WAL up to ${formatLsn(commitLsn)}`;
    const has =
      timeline === null
        ? 'nothing of it'
        : `term ${timeline.durableTerm} and WAL up to ${formatLsn(timeline.flushLsn)}`;
    const text = `safekeeper ${safekeeper.nodeId} had ${had} and has ${has}: its disk was put back to an older state. It answers again when it has caught up with all others; if one of those is lost, replace this one (pagelite safekeeper replace)`;
    log.error('the disk of this safekeeper is older than what it has shown', { ...id, had, has });
    const refusal = new PageliteError('unavailable', text, { ...id, node: safekeeper.nodeId, oldDisk: true });
    this.#refusals.set(timelineKey(id), refusal);
    return refusal;
  }
}

/** Logged where a peer that is away, or its WAL, is gone on without. */
const answersWithout = 'answers proposers without having caught up with all peers';

const newestConfiguration = (had: readonly PeerLogEnd[]): SafekeeperConfiguration =>
  had
    .map(({ configuration }) => configuration)
    .reduce((newest, one) => (one.generation > newest.generation ? one : newest));

const endOf = (timeline: SafekeeperTimeline) => ({
  lastTerm: timeline.decidedLastTerm,
  flushLsn: timeline.flushLsn,
});

function byTimeline<T extends { readonly id: TenantTimelineId }>(all: readonly T[]): ReadonlyMap<string, T> {
  return new Map(all.map((one) => [timelineKey(one.id), one]));
}
