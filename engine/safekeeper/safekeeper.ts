/**
 * A safekeeper: all timelines of one node (W3 of the write path). Host-free; a process wraps it (server/safekeeper), a tab or the
 * embedded server holds one.
 *
 * Called through WalService by a proposer and a WAL receiver in the same thread, and with Channels by the process's connections.
 *
 * Invariants
 * - a timeline is opened once, when it is first asked for; one that is damaged fails its own callers, with an error that names the file
 * - a timeline that stopped (its medium failed) is opened anew at its next use; only a failed flush keeps it stopped, because what the
 *   medium then holds is not known before the process has started again
 * - with a gate (readmission.ts) a proposer is answered only after it has let it in: a disk that was put back to an older state has caught up by then
 * - a proposer of a timeline that was deleted does not make it anew, empty: it is told. Known until the process ends
 */
import { isPageliteError, PageliteError } from '../errors.ts';
import type { SafekeeperConfiguration } from '../model/configuration.ts';
import { type NodeId, type TenantTimelineId, timelineKey } from '../model/ids.ts';
import { invalidLsn, type Lsn } from '../model/lsn.ts';
import type { PeerIncarnation, ProposerGreeting, ProposerId } from '../protocol/proposer-acceptor.ts';
import { createChannelPair } from '../remote/channel-pair.ts';
import type {
  Channel,
  Log,
  PeerIntroduction,
  PeerTimelineInfo,
  RecalledTimeline,
  SafekeeperPeer,
  SafekeeperTimelineStatus,
  WalChunk,
} from '../services.ts';
import { Acceptor, newControlState, newProposerSession } from './acceptor.ts';
import type { ControlState } from './control-file.ts';
import { PeerMemory } from './peer-memory.ts';
import { ProposerConnection } from './proposer-connection.ts';
import type { SafekeeperStorage } from './storage.ts';
import { SafekeeperTimeline } from './timeline.ts';
import type { OpenBackup } from './wal-backup.ts';
import { readTimelineWal } from './wal-reader.ts';

export interface SafekeeperOptions {
  readonly nodeId: NodeId;
  readonly storage: SafekeeperStorage;
  readonly log: Log;
  /** Where WAL is sent (upkeep.ts), and read that is not here any more; absent or null: it is sent nowhere. */
  readonly backup?: OpenBackup | null;
}

/** Who lets proposers in. */
export interface ProposerGate {
  /** Resolves when proposers of the timeline may be answered; rejects with what they are to hear instead. */
  admit(id: TenantTimelineId): Promise<void>;
  /** Why proposers of a timeline are refused; null if they are not. */
  refusalOf(id: TenantTimelineId): PageliteError | null;
  /** Of this process (PeerIncarnation). */
  readonly incarnation: number;
}

/** Proposers of a timeline that are remembered: those that may still live, many times over. */
const proposersMax = 16;

export class Safekeeper implements SafekeeperPeer {
  readonly nodeId: NodeId;
  readonly #storage: SafekeeperStorage;
  readonly #log: Log;
  readonly #backup: OpenBackup | null;
  readonly peerMemory: PeerMemory;
  #gate: ProposerGate | null = null;
  readonly #timelines = new Map<string, Promise<SafekeeperTimeline | null>>();
  readonly #loaded = new Set<SafekeeperTimeline>();
  /** The latest proposers of each timeline, oldest first. */
  readonly #proposers = new Map<string, Set<ProposerId>>();
  /** The same of timelines that were deleted. */
  readonly #deleted = new Map<string, ReadonlySet<ProposerId>>();
  #closed = false;

  constructor(options: SafekeeperOptions) {
    this.nodeId = options.nodeId;
    this.#storage = options.storage;
    this.#log = options.log;
    this.#backup = options.backup ?? null;
    this.peerMemory = new PeerMemory(options.storage.nodeFiles ?? null, options.log);
  }

  connectProposer(id: TenantTimelineId): Channel {
    const [near, far] = createChannelPair();
    this.acceptProposer(far, id);
    return near;
  }

  /**
   * A proposer's connection from elsewhere. Without an id its greeting says which timeline it is for; `authorize` may refuse that, by throwing
   * before anything is opened or made.
   */
  acceptProposer(
    channel: Channel,
    expected: TenantTimelineId | null = null,
    authorize: (id: TenantTimelineId) => void = () => {},
  ): void {
    new ProposerConnection({
      channel,
      expected,
      openTimeline: async (greeting) => {
        authorize(greeting.timeline);
        await this.#gate?.admit(greeting.timeline);
        return this.#openOrCreate(greeting);
      },
    });
  }

  async *readWal(
    id: TenantTimelineId,
    startLsn: Lsn,
    signal: AbortSignal,
    lastTerm?: number,
  ): AsyncGenerator<WalChunk, void, undefined> {
    const timeline = await this.#open(id);
    if (timeline === null) throw notFound(id);
    yield* readTimelineWal(timeline, startLsn, signal, this.#backup, lastTerm);
  }

  async getStatus(id: TenantTimelineId): Promise<SafekeeperTimelineStatus | null> {
    return (await this.#open(id))?.status() ?? null;
  }

  async reportConsistent(id: TenantTimelineId, remoteConsistentLsn: Lsn): Promise<void> {
    (await this.#open(id))?.learnConsistent(remoteConsistentLsn);
  }

  async describeTimelines(): Promise<readonly PeerTimelineInfo[]> {
    const all: PeerTimelineInfo[] = [];
    for (const timeline of await this.openAll()) {
      const { termHistory, ...info } = timeline.status();
      const term = timeline.durableTerm;
      all.push({ ...info, term, id: timeline.id, lastTerm: termHistory.at(-1)?.[0] ?? 0 });
    }
    return all;
  }

  async introduce(node: NodeId, incarnation: number): Promise<PeerIntroduction> {
    const known = await this.peerMemory.meet(node, incarnation);
    return { incarnation: this.incarnation, known };
  }

  async recall(node: NodeId): Promise<readonly RecalledTimeline[]> {
    const all: RecalledTimeline[] = [];
    for (const timeline of await this.openAll()) {
      const mark = timeline.peerMark(node);
      if (mark !== null) all.push({ id: timeline.id, ...mark });
    }
    return all;
  }

  /** To be set before a proposer can connect. */
  setGate(gate: ProposerGate): void {
    this.#gate = gate;
  }

  get incarnation(): number {
    return this.#gate?.incarnation ?? 0;
  }

  get knownPeers(): readonly PeerIncarnation[] {
    return this.peerMemory.known;
  }

  /** Why proposers of a timeline are refused; null if they are not. */
  refusalOf(id: TenantTimelineId): PageliteError | null {
    return this.#gate?.refusalOf(id) ?? null;
  }

  /** Null if it is not here. Rejects if it cannot be opened. */
  find(id: TenantTimelineId): Promise<SafekeeperTimeline | null> {
    return this.#open(id);
  }

  /** Null if the timeline is not here. */
  async configurationOf(id: TenantTimelineId): Promise<SafekeeperConfiguration | null> {
    return (await this.#open(id))?.control.configuration ?? null;
  }

  /** See SafekeeperTimeline.configure. By then it has what it must have to answer proposers. Rejects `notFound` if the timeline is not here. */
  async configure(id: TenantTimelineId, configuration: SafekeeperConfiguration): Promise<SafekeeperTimeline> {
    await this.#gate?.admit(id);
    const timeline = await this.#open(id);
    if (timeline === null) throw notFound(id);
    await timeline.configure(configuration);
    return timeline;
  }

  listTimelines(): Promise<readonly TenantTimelineId[]> {
    return this.#storage.listTimelines();
  }

  /** All that are stored, but for those that cannot be opened: that was logged. */
  async openAll(): Promise<readonly SafekeeperTimeline[]> {
    const all: SafekeeperTimeline[] = [];
    for (const id of await this.listTimelines()) {
      const timeline = await this.#open(id).catch((error: unknown) => {
        if (!isPageliteError(error)) throw error;
        return null;
      });
      if (timeline !== null && !timeline.ended) all.push(timeline);
    }
    return all;
  }

  /** A timeline that peers have and this safekeeper does not: as a proposer's greeting would make it. Null if it was deleted here. */
  async createFromPeers(id: TenantTimelineId): Promise<SafekeeperTimeline | null> {
    if (this.#deleted.has(timelineKey(id))) return null;
    return this.#once(id, async () => (await this.#openStored(id)) ?? this.#create(newControlState(id)));
  }

  /** Timelines that are open now, for metrics. */
  get loadedTimelines(): readonly SafekeeperTimeline[] {
    return [...this.#loaded].filter((timeline) => !timeline.ended);
  }

  /** See SafekeeperTimeline.trim. Does nothing to a timeline that is not here, or is not committed up to `lsn`. */
  async trim(id: TenantTimelineId, lsn: Lsn): Promise<void> {
    const timeline = await this.#open(id);
    if (timeline !== null && timeline.startLsn > 0 && lsn > timeline.startLsn && lsn <= timeline.commitLsn) {
      await timeline.trim(lsn);
    }
  }

  /** Ends this timeline's connections and lets go of its files, so that whoever owns them may remove them. Its next use opens it anew. */
  async release(id: TenantTimelineId): Promise<void> {
    const key = timelineKey(id);
    const timeline = await this.#timelines.get(key)?.catch(() => null);
    this.#timelines.delete(key);
    if (timeline == null) return;
    this.#loaded.delete(timeline);
    await timeline.close();
  }

  /** Ends the timeline, and its proposers for good; then `removeFiles` is to remove what was stored of it. Again: does that again. */
  async deleteTimeline(id: TenantTimelineId, removeFiles: () => Promise<void>): Promise<void> {
    const key = timelineKey(id);
    this.#deleted.set(key, new Set([...(this.#deleted.get(key) ?? []), ...(this.#proposers.get(key) ?? [])]));
    this.#proposers.delete(key);
    await this.release(id);
    await removeFiles();
  }

  /** Ends all connections; what was acknowledged, and how far it is committed, is on disk when it resolves. */
  async close(): Promise<void> {
    this.#closed = true;
    // Also those that are just being opened.
    await Promise.allSettled(this.#timelines.values());
    await Promise.all([...this.#loaded].map((timeline) => timeline.close()));
    this.#timelines.clear();
    this.#loaded.clear();
  }

  /** Null if it was never created here. */
  #open(id: TenantTimelineId): Promise<SafekeeperTimeline | null> {
    return this.#once(id, () => this.#openStored(id));
  }

  async #openOrCreate(greeting: ProposerGreeting): Promise<SafekeeperTimeline> {
    const id = greeting.timeline;
    this.#checkNotDeleted(greeting);
    const existing = await this.#open(id);
    if (existing) return existing;
    // Another greeting may have been faster.
    const created = await this.#once(id, async () => (await this.#openStored(id)) ?? this.#createFor(greeting));
    if (created === null) throw notFound(id);
    return created;
  }

  /** A timeline of the same id that is pushed again has computes of its own. */
  #checkNotDeleted({ timeline: id, proposerId }: ProposerGreeting): void {
    const key = timelineKey(id);
    if (this.#deleted.get(key)?.has(proposerId)) {
      const text = `timeline ${id.timelineId} was deleted: this compute cannot write to it any more`;
      throw new PageliteError('notFound', text, { ...id, deleted: true });
    }
    const known = [...(this.#proposers.get(key) ?? [])].filter((other) => other !== proposerId);
    this.#proposers.set(key, new Set([...known, proposerId].slice(-proposersMax)));
  }

  async #openStored(id: TenantTimelineId): Promise<SafekeeperTimeline | null> {
    const storage = await this.#storage.openTimeline(id);
    if (storage === null) return null;
    try {
      return await SafekeeperTimeline.open(this, id, storage, this.#log);
    } catch (error) {
      await storage.close();
      if (isPageliteError(error, 'notFound')) return null;
      this.#log.error('a timeline cannot be opened', { ...id, error: (error as Error).message });
      throw error;
    }
  }

  /** Who is refused leaves nothing behind. */
  async #createFor(greeting: ProposerGreeting): Promise<SafekeeperTimeline> {
    const control = newControlState(greeting.timeline, greeting);
    const { error } = new Acceptor(this.nodeId, control, invalidLsn).step(newProposerSession(), greeting);
    if (error) throw error;
    return this.#create(control);
  }

  async #create(control: ControlState): Promise<SafekeeperTimeline> {
    const storage = await this.#storage.createTimeline(control.timeline);
    this.#log.info('timeline created', { ...control.timeline });
    return SafekeeperTimeline.create(this, control, storage, this.#log);
  }

  /** The timeline as it is open now, or what `open` makes of it; failures and absence are not remembered. */
  async #once(
    id: TenantTimelineId,
    open: () => Promise<SafekeeperTimeline | null>,
  ): Promise<SafekeeperTimeline | null> {
    if (this.#closed) throw new PageliteError('closed', 'the safekeeper was closed', { ...id });
    const key = timelineKey(id);
    let stopped: SafekeeperTimeline | null = null;
    for (let opening = this.#timelines.get(key); opening !== undefined; opening = this.#timelines.get(key)) {
      const timeline = await opening;
      if (timeline !== null && (!timeline.ended || timeline.mustStayEnded)) return timeline;
      if (this.#timelines.get(key) !== opening) continue;
      stopped = timeline;
      break;
    }
    if (stopped) this.#loaded.delete(stopped);
    const opening = stopped ? stopped.close().then(open) : open();
    this.#timelines.set(key, opening);
    try {
      const timeline = await opening;
      if (timeline === null) this.#forget(key, opening);
      else this.#loaded.add(timeline);
      return timeline;
    } catch (error) {
      this.#forget(key, opening);
      throw error;
    }
  }

  #forget(key: string, opening: Promise<SafekeeperTimeline | null>): void {
    if (this.#timelines.get(key) === opening) this.#timelines.delete(key);
  }
}

function notFound(id: TenantTimelineId): PageliteError {
  return new PageliteError('notFound', `no timeline ${id.tenantId}/${id.timelineId} here`, { ...id });
}
