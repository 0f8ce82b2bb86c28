/**
 * Life around a safekeeper's write path: it hears from its peers what they have, catches up from one that is ahead (at its start before it answers proposers:
 * readmission.ts), sends committed WAL to the object store if it is the one to do that, or ends, and removes what every consumer has. Called by whoever hosts a
 * safekeeper (server/safekeeper, the library).
 *
 * A round every `safekeeperUpkeepPauseMs`. What takes long (a recovery, sending) goes on beside the rounds, at most once for each timeline.
 *
 * Invariants
 * - no step of it is needed for a commit, or holds one up
 * - a peer or an object store that is away costs what needs it, and is asked again
 */
import { eachAtOnce } from '../at-once.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { inTime } from '../in-time.ts';
import {
  backupRetryPauseMs,
  backupTakeOverMs,
  safekeeperPeerTimeoutMs,
  safekeeperUpkeepPauseMs,
  walSegmentSize,
} from '../limits.ts';
import type { SafekeeperConfiguration } from '../model/configuration.ts';
import { type NodeId, type TenantTimelineId, timelineKey } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { quorumOf } from '../model/quorum.ts';
import type { Term } from '../model/term.ts';
import type { Clock, Log, PeerTimelineInfo, SafekeeperPeer, SafekeeperTimelineStatus } from '../services.ts';
import { segmentStart } from '../wal/wal-page.ts';
import { ArchivedLog } from './archived-log.ts';
import { chooseDonor, recoverFrom } from './peer-recovery.ts';
import { Readmission } from './readmission.ts';
import type { Safekeeper } from './safekeeper.ts';
import type { SafekeeperTimeline } from './timeline.ts';
import { type BackupTarget, chooseSender, deleteBackup, type OpenBackup, WalBackup } from './wal-backup.ts';
import { removeWal } from './wal-removal.ts';

export interface UpkeepOptions {
  readonly safekeeper: Safekeeper;
  /** The other safekeepers. */
  readonly peers: readonly SafekeeperPeer[];
  /** Opens what WAL is sent to, when it is first needed and again after a failure; null: it is sent nowhere. */
  readonly backup: OpenBackup | null;
  readonly clock: Clock;
  readonly log: Log;
}

/** Since the process began. */
export interface UpkeepCounters {
  recoveries: number;
  backedUpSegments: number;
  backupErrors: number;
}

/** What a new member has. */
export interface PulledTimeline {
  readonly flushLsn: Lsn;
  readonly term: number;
}

/** Timelines whose end is sent at the same time when a safekeeper ends. */
const lastBackupsAtOnce = 8;

interface Known {
  readonly peer: SafekeeperPeer;
  readonly info: PeerTimelineInfo;
}

export class SafekeeperUpkeep {
  readonly counters: UpkeepCounters = { recoveries: 0, backedUpSegments: 0, backupErrors: 0 };
  readonly #options: UpkeepOptions;
  readonly #abort = new AbortController();
  #running: Promise<void> | null = null;
  /** What goes on beside the rounds, by its name. */
  readonly #jobs = new Map<string, Promise<void>>();
  readonly #backups = new Map<SafekeeperTimeline, WalBackup>();
  /** Since when a full segment has waited to be sent by another one. */
  readonly #waiting = new WeakMap<SafekeeperTimeline, { readonly doneLsn: number; readonly sinceMs: number }>();
  readonly #backupPauseUntilMs = new Map<string, number>();
  readonly #away = new Set<NodeId>();
  readonly #readmission: Readmission;
  #target: Promise<BackupTarget> | null = null;

  constructor(options: UpkeepOptions) {
    this.#options = options;
    this.#readmission = new Readmission({
      ...options,
      signal: this.#abort.signal,
      catchUp: (timeline, donor) =>
        this.#alone(recoverJob(timeline.id), async () => {
          await recoverFrom(timeline, donor, this.#recovery);
        }),
    });
  }

  /** To be called before proposers can connect: they wait until this safekeeper has heard from its peers and has what they have. */
  start(): void {
    if (this.#running !== null) return;
    this.#readmission.start();
    this.#running = this.#run();
  }

  /** All peers have been heard, and a timeline that is here is as good as before its process began. */
  isReadmitted(id: TenantTimelineId): boolean {
    return this.#readmission.isComplete(id);
  }

  /**
   * Ends what is under way. Then the committed end of the WAL is sent, as far as that goes within `sendMs`: also where another one is to do that, which may
   * be ending just now, or know of no reason to.
   */
  async close(sendMs = 0): Promise<void> {
    this.#abort.abort();
    await this.#running;
    await Promise.allSettled(this.#jobs.values());
    const { backup, clock, log, safekeeper } = this.#options;
    const timelines = safekeeper.loadedTimelines.filter(({ startLsn }) => startLsn > 0);
    if (sendMs === 0 || backup === null || timelines.length === 0) return;
    const sending = this.#sendEnds(backup, timelines).catch((error: unknown) => {
      if (!isPageliteError(error)) throw error;
      log.warn('the end of the WAL was not sent', { error: error.message });
    });
    await inTime(sending, clock, sendMs);
  }

  /** Of each of them. One that cannot be sent does not keep the others from being. */
  async #sendEnds(backup: OpenBackup, timelines: readonly SafekeeperTimeline[]): Promise<void> {
    const { clock, log } = this.#options;
    const target = await (this.#target ?? backup());
    await eachAtOnce(timelines, lastBackupsAtOnce, async (timeline) => {
      try {
        await (this.#backups.get(timeline) ?? new WalBackup(target, timeline)).send(clock.now(), true);
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        log.warn('the end of the WAL was not sent', { ...timeline.id, error: error.message });
      }
    });
  }

  /**
   * A new member gets what the others have of a timeline, before it is counted: the most advanced log of `from`, and the highest of their terms, in which it
   * votes for nobody. Those are more than half of the members that there were, and have stored the new configuration (Safekeeper.configure): no committed WAL
   * can be missing, and nothing is committed meanwhile by those who only know the old one. All of them must answer, and have it still: a disk may have been put
   * back since. Again: goes on.
   */
  async pull(
    id: TenantTimelineId,
    configuration: SafekeeperConfiguration,
    from: readonly NodeId[],
  ): Promise<PulledTimeline> {
    const heard = await Promise.all(
      from.map(async (node) => {
        const peer = this.#options.peers.find(({ nodeId }) => nodeId === node);
        if (peer === undefined) throw new PageliteError('invalid', `safekeeper ${node} is no peer`, { ...id, node });
        return { peer, status: await this.#statusOf(peer, id) };
      }),
    );
    const having = heard.flatMap(({ peer, status }) => (status === null ? [] : [{ peer, status }]));
    checkStored(id, configuration, having.length === 0 ? [] : heard);
    const timeline = await this.#openOrCreate(id);
    const term = Math.max(0, ...having.map(({ status }) => status.term)) as Term;
    const logs = having.map(({ peer, status }) => ({
      peer,
      lastTerm: status.termHistory.at(-1)?.[0] ?? 0,
      flushLsn: status.flushLsn,
    }));
    await this.#alone(recoverJob(id), async () => {
      const donor = chooseDonor({ lastTerm: lastTermOf(timeline), flushLsn: timeline.flushLsn }, logs);
      if (donor !== null) await recoverFrom(timeline, donor.peer, { ...this.#recovery, termMin: term });
    });
    if (chooseDonor({ lastTerm: lastTermOf(timeline), flushLsn: timeline.flushLsn }, logs) !== null) {
      throw new PageliteError('unavailable', 'not all WAL has come: try again', { ...id });
    }
    await timeline.raiseTerm(term);
    await timeline.configure(configuration);
    return { flushLsn: timeline.flushLsn, term };
  }

  /**
   * A timeline that no disk has any more gets the WAL that is in the object store. One that has as much here, or WAL of later terms, keeps that. Again: goes
   * on. Rejects `notFound` and `corrupt` as ArchivedLog.open, `invalid` if WAL is sent nowhere.
   */
  async restore(id: TenantTimelineId): Promise<PulledTimeline> {
    const { backup } = this.#options;
    if (backup === null)
      throw new PageliteError('invalid', 'WAL is sent nowhere: there is nothing to restore', { ...id });
    const archived = await ArchivedLog.open(await backup(), id);
    const timeline = await this.#openOrCreate(id);
    await this.#alone(recoverJob(id), async () => {
      await recoverFrom(timeline, archived, this.#recovery);
    });
    if (timeline.startLsn === 0) {
      throw new PageliteError('unavailable', 'a compute is connected: stop it, and try again', { ...id });
    }
    return { flushLsn: timeline.flushLsn, term: timeline.term };
  }

  get #recovery() {
    return { clock: this.#options.clock, signal: this.#abort.signal };
  }

  async #statusOf(peer: SafekeeperPeer, id: TenantTimelineId): Promise<SafekeeperTimelineStatus | null> {
    const data = { ...id, node: peer.nodeId };
    const text = `safekeeper ${peer.nodeId} does not say what it has`;
    const answer = peer.getStatus(id).then((status) => ({ status }));
    const heard = await inTime(answer, this.#options.clock, safekeeperPeerTimeoutMs).catch((error: unknown) => {
      throw new PageliteError('unavailable', `${text}: ${messageOf(error)}`, data, { cause: error });
    });
    if (heard === null) throw new PageliteError('unavailable', text, data);
    return heard.status;
  }

  async #openOrCreate(id: TenantTimelineId): Promise<SafekeeperTimeline> {
    const timeline = await this.#options.safekeeper.createFromPeers(id);
    if (timeline === null) throw new PageliteError('notFound', 'the timeline was deleted here', { ...id });
    return timeline;
  }

  /** A timeline was deleted here: what was sent of it goes, too. */
  async forget(id: TenantTimelineId): Promise<void> {
    const { backup } = this.#options;
    if (backup === null) return;
    await this.#jobs.get(backupJob(id));
    await deleteBackup(await backup(), id);
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#abort;
    await this.#readmission.begun;
    while (!signal.aborted) {
      try {
        await this.round();
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        // `closed`: the safekeeper is, and this follows.
        if (!signal.aborted && error.kind !== 'closed') log.warn('a round of upkeep failed', { error: error.message });
      }
      await clock.sleep(safekeeperUpkeepPauseMs, signal).catch(() => {});
    }
  }

  /** What goes on beside the rounds has ended. */
  async idle(): Promise<void> {
    while (this.#jobs.size > 0) await Promise.all(this.#jobs.values());
  }

  /** Once for every timeline. Resolves when what is quick is done. */
  async round(): Promise<void> {
    const { safekeeper, peers } = this.#options;
    const lists = await Promise.all(peers.map((peer) => this.#ask(peer)));
    const known = new Map<string, { id: TenantTimelineId; peers: Known[] }>();
    for (const [i, list] of lists.entries()) {
      for (const info of list ?? []) {
        const key = timelineKey(info.id);
        const entry = known.get(key) ?? { id: info.id, peers: [] };
        entry.peers.push({ peer: peers[i]!, info });
        known.set(key, entry);
      }
    }
    const timelines = await safekeeper.openAll();
    const ids = timelines.map(({ id }) => id);
    this.#job('readmission', () => this.#readmission.round(ids));
    for (const timeline of timelines) {
      if (this.#abort.signal.aborted) return;
      const key = timelineKey(timeline.id);
      await this.#lookAfter(timeline, known.get(key)?.peers ?? []);
      known.delete(key);
    }
    this.#forgetOthers(timelines);
    // What most have, and this one never heard of.
    for (const { id, peers: having } of known.values()) {
      if (having.length < quorumOf(peers.length + 1) || this.#abort.signal.aborted) continue;
      const timeline = await safekeeper.createFromPeers(id);
      if (timeline !== null) await this.#lookAfter(timeline, having);
    }
  }

  async #lookAfter(timeline: SafekeeperTimeline, known: readonly Known[]): Promise<void> {
    for (const { peer, info } of known) {
      timeline.notePeer(peer.nodeId, info);
      timeline.learnConsistent(info.remoteConsistentLsn);
      timeline.learnBackup(info.backupLsn);
      timeline.learnCommit(info.lastTerm, info.commitLsn);
    }
    this.#recover(timeline, known);
    this.#backUp(timeline, known);
    // Where WAL is sent nowhere, one that is away for long must find it here when it is back.
    if (this.#options.backup === null && known.length < this.#options.peers.length) return;
    await removeWal(timeline, {
      commitLsn: timeline.commitLsn,
      remoteConsistentLsn: timeline.remoteConsistentLsn,
      backupLsn: this.#options.backup === null ? null : timeline.backupLsn,
      peerFlushLsns: known.map(({ info }) => info.flushLsn),
      slowestReaderLsn: timeline.slowestReaderLsn,
    });
  }

  #recover(timeline: SafekeeperTimeline, known: readonly Known[]): void {
    if (timeline.proposerCount > 0 || this.#readmission.isHolding(timeline.id)) return;
    const { flushLsn } = timeline;
    const donor = chooseDonor(
      { lastTerm: lastTermOf(timeline), flushLsn },
      known.map(({ peer, info }) => ({ peer, ...info })),
    );
    if (donor === null) return;
    const { log } = this.#options;
    const about = { ...timeline.id, donor: donor.peer.nodeId };
    this.#job(recoverJob(timeline.id), async () => {
      try {
        const lsn = await recoverFrom(timeline, donor.peer, this.#recovery);
        if (lsn === null) return;
        this.counters.recoveries++;
        log.info('caught up from a peer', { ...about, from: formatLsn(flushLsn), to: formatLsn(lsn) });
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        log.info('catching up from a peer ended early', { ...about, error: error.message });
      }
    });
  }

  #backUp(timeline: SafekeeperTimeline, known: readonly Known[]): void {
    const { backup, safekeeper, clock, log } = this.#options;
    if (backup === null || timeline.startLsn === 0) return;
    const own = { nodeId: safekeeper.nodeId, commitLsn: timeline.commitLsn };
    const others = known.map(({ peer, info }) => ({ nodeId: peer.nodeId, commitLsn: info.commitLsn }));
    const key = timelineKey(timeline.id);
    if (chooseSender(timeline.id, [own, ...others]) !== safekeeper.nodeId && !this.#isBackupLate(timeline)) {
      this.#backups.delete(timeline);
      return;
    }
    if ((this.#backupPauseUntilMs.get(key) ?? 0) > clock.now()) return;
    this.#job(backupJob(timeline.id), async () => {
      try {
        this.#target ??= backup();
        const sender = this.#backups.get(timeline) ?? new WalBackup(await this.#target, timeline);
        this.#backups.set(timeline, sender);
        this.counters.backedUpSegments += await sender.send(clock.now());
        this.#backupPauseUntilMs.delete(key);
      } catch (error) {
        if (!isPageliteError(error)) throw error;
        this.counters.backupErrors++;
        this.#backupPauseUntilMs.set(key, clock.now() + backupRetryPauseMs);
        // What is there is looked up again.
        this.#backups.delete(timeline);
        this.#target = null;
        log.warn('WAL cannot be sent to the object store', { ...timeline.id, error: error.message });
      }
    });
  }

  /** Whoever is to send WAL does not get on: its object store is away, or it has not all of what is to be sent. */
  #isBackupLate(timeline: SafekeeperTimeline): boolean {
    const doneLsn = Math.max(timeline.backupLsn, segmentStart(timeline.beginLsn));
    const before = this.#waiting.get(timeline);
    const nowMs = this.#options.clock.now();
    const isWaiting = timeline.commitLsn - doneLsn >= walSegmentSize;
    if (!isWaiting || before?.doneLsn !== doneLsn) this.#waiting.set(timeline, { doneLsn, sinceMs: nowMs });
    return isWaiting && before?.doneLsn === doneLsn && nowMs - before.sinceMs >= backupTakeOverMs;
  }

  /** After what goes on under this name. */
  async #alone(name: string, work: () => Promise<void>): Promise<void> {
    for (let other = this.#jobs.get(name); other !== undefined; other = this.#jobs.get(name)) await other;
    const done = work();
    this.#job(name, () => done.catch(() => {}));
    await done;
  }

  #job(name: string, work: () => Promise<void>): void {
    if (this.#jobs.has(name)) return;
    this.#jobs.set(
      name,
      work().finally(() => this.#jobs.delete(name)),
    );
  }

  #forgetOthers(timelines: readonly SafekeeperTimeline[]): void {
    const open = new Set(timelines);
    for (const timeline of this.#backups.keys()) if (!open.has(timeline)) this.#backups.delete(timeline);
  }

  /** What a peer has; null if it is away. */
  async #ask(peer: SafekeeperPeer): Promise<readonly PeerTimelineInfo[] | null> {
    const { clock, log } = this.#options;
    try {
      const list = await inTime(peer.describeTimelines(), clock, safekeeperPeerTimeoutMs);
      if (list !== null) this.#away.delete(peer.nodeId);
      else this.#isAway(peer, 'it does not answer');
      return list;
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      this.#isAway(peer, error.message);
      log.debug('a peer is away', { node: peer.nodeId, error: error.message });
      return null;
    }
  }

  #isAway(peer: SafekeeperPeer, reason: string): void {
    if (this.#away.has(peer.nodeId)) return;
    this.#away.add(peer.nodeId);
    this.#options.log.info('a safekeeper is away', { node: peer.nodeId, error: reason });
  }
}

const lastTermOf = (timeline: SafekeeperTimeline): number => timeline.status().termHistory.at(-1)?.[0] ?? 0;

const recoverJob = (id: TenantTimelineId): string => `recover ${timelineKey(id)}`;
const backupJob = (id: TenantTimelineId): string => `back up ${timelineKey(id)}`;

/** Throws `unavailable` if one of these has not stored the configuration, or not any more. */
function checkStored(
  id: TenantTimelineId,
  { generation }: SafekeeperConfiguration,
  heard: readonly { readonly peer: SafekeeperPeer; readonly status: SafekeeperTimelineStatus | null }[],
): void {
  for (const { peer, status } of heard) {
    if (status !== null && status.configuration.generation >= generation) continue;
    const text = `safekeeper ${peer.nodeId} does not know the new configuration (any more): try again`;
    throw new PageliteError('unavailable', text, { ...id, node: peer.nodeId });
  }
}
