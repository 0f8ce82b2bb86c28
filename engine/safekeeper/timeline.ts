/**
 * One timeline of a safekeeper (W3 of the write path): steps its acceptor, makes durable what that decides, and only then answers.
 *
 * Called by proposer-connection.ts with messages and by wal-reader.ts; calls Acceptor (decides), WalLog and TimelineStorage (act).
 *
 * Invariants
 * - steps are decided at once, in the order messages come; their effects are performed in that order, by one loop
 * - group commit: what was decided while the loop was busy is performed together and shares one fdatasync
 * - replies leave, and flushLsn and commitLsn are shown, after everything that they stand for is durable
 * - WAL is durable before a control file that counts on it; a flush mark is lowered, durably, before WAL is cut off
 * - after a failed write nothing more is accepted: connections end, and the next use opens the timeline anew from what is on disk
 */
import { AssertionError, assert } from '../assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { commitLsnLagBytesMax, safekeepersMax } from '../limits.ts';
import { formatConfiguration, type SafekeeperConfiguration } from '../model/configuration.ts';
import type { NodeId, TenantTimelineId } from '../model/ids.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import { historyUpTo, lastTerm, type Term, type TermHistory } from '../model/term.ts';
import type { AcceptorMessage, PeerIncarnation, ProposerMessage } from '../protocol/proposer-acceptor.ts';
import type { Log, SafekeeperTimelineStatus } from '../services.ts';
import {
  Acceptor,
  type AcceptorStep,
  newProposerSession,
  outdatedError,
  type PeerLog,
  type PersistEffect,
  type ProposerSession,
} from './acceptor.ts';
import {
  type ControlState,
  controlFileName,
  decodeControlFile,
  decodeFlushMark,
  encodeControlFile,
  encodeFlushMark,
  type FlushMark,
  flushMarkName,
} from './control-file.ts';
import { decodePeerMarks, encodePeerMarks, type PeerMark, peerMarksName } from './peer-memory.ts';
import type { TimelineStorage } from './storage.ts';
import { isSegmentName, WalLog } from './wal-log.ts';

/** Who gets the replies. */
export interface ReplyTarget {
  readonly session: ProposerSession;
  reply(message: AcceptorMessage): void;
  /** The connection ends. */
  end(error: PageliteError): void;
}

interface Job {
  readonly target: ReplyTarget;
  readonly step: AcceptorStep;
  /** For who waits for it to be durable. */
  readonly settle?: (error: PageliteError | null) => void;
}

/** The safekeeper that a timeline is of. */
export interface TimelineNode {
  readonly nodeId: NodeId;
  /** Of its process; 0 if it has no peers. */
  readonly incarnation: number;
  /** What it knows of its peers. */
  readonly knownPeers: readonly PeerIncarnation[];
}

export interface TimelineMetrics {
  appendedBytes: number;
  flushes: number;
  flushedAppends: number;
}

export class SafekeeperTimeline {
  readonly id: TenantTimelineId;
  readonly #node: TimelineNode;
  readonly #storage: TimelineStorage;
  readonly #wal: WalLog;
  readonly #acceptor: Acceptor;
  readonly #log: Log;
  readonly #targets = new Set<ReplyTarget>();
  readonly #watchers = new Set<() => void>();
  readonly metrics: TimelineMetrics = { appendedBytes: 0, flushes: 0, flushedAppends: 0 };

  #queue: Job[] = [];
  #queuedBytes = 0;
  readonly #settles = new Set<(error: PageliteError | null) => void>();
  #working: Promise<void> | null = null;
  #flushLsn: Lsn;
  #commitLsn: Lsn;
  /** That of the WAL below #flushLsn: what was decided may be of a log that is still to be cut. */
  #termHistory: TermHistory;
  #marked: FlushMark;
  /** What is on the disk was written by this process, or is lower than that. */
  #isMarkDurable = false;
  /** The most that each peer has shown. */
  readonly #peerMarks: Map<NodeId, PeerMark>;
  /** Writing of marks, one after another. */
  #marking: Promise<void> = Promise.resolve();
  #savedCommitLsn: Lsn;
  #savedTerm: number;
  #savedConfiguration: SafekeeperConfiguration;
  #ended: PageliteError | null = null;
  #flushFailed = false;
  #backupLsn = 0 as Lsn;
  #remoteConsistentLsn = 0 as Lsn;
  /** How far each reader is that is served now. */
  readonly #readers = new Set<{ readonly lsn: Lsn }>();
  /** Up to where WAL is to be given up; 0 if nothing is. */
  #trimLsn = 0;
  #closing: Promise<void> | null = null;

  private constructor(
    node: TimelineNode,
    storage: TimelineStorage,
    wal: WalLog,
    acceptor: Acceptor,
    options: { marked: FlushMark; peerMarks: Map<NodeId, PeerMark>; log: Log },
  ) {
    this.#node = node;
    this.id = acceptor.control.timeline;
    this.#storage = storage;
    this.#wal = wal;
    this.#acceptor = acceptor;
    this.#log = options.log;
    this.#flushLsn = acceptor.flushLsn;
    this.#commitLsn = acceptor.control.commitLsn;
    this.#termHistory = acceptor.control.termHistory;
    this.#savedCommitLsn = this.#commitLsn;
    this.#savedTerm = acceptor.control.term;
    this.#savedConfiguration = acceptor.control.configuration;
    this.#marked = options.marked;
    this.#peerMarks = options.peerMarks;
  }

  /** A timeline that no proposer has written to; its control file is durable when this resolves. */
  static async create(node: TimelineNode, control: ControlState, storage: TimelineStorage, log: Log) {
    await storage.replaceFile(controlFileName, encodeControlFile(control));
    return SafekeeperTimeline.open(node, control.timeline, storage, log);
  }

  /** Throws `corrupt`, naming the file, if what is stored is damaged, and `notFound` if nothing is. */
  static async open(node: TimelineNode, id: TenantTimelineId, storage: TimelineStorage, log: Log) {
    const file = `${storage.label}/${controlFileName}`;
    const bytes = await storage.readFile(controlFileName);
    if (bytes === null) {
      // The folder is made before the file: a crash in between leaves a timeline that was never created. With WAL in it, the file was lost.
      const files = await storage.segments.list();
      if (!files.some(({ name }) => isSegmentName(name)))
        throw new PageliteError('notFound', `no control file ${file}`);
      throw new PageliteError('corrupt', `control file ${file} is missing, but there is WAL`, { file, ...id });
    }
    const stored = decodeControlFile(bytes, id, file);
    const marked = decodeFlushMark(await storage.readFile(flushMarkName));
    const peerMarks = decodePeerMarks(await storage.readFile(peerMarksName));
    const control = { ...stored, commitLsn: Math.max(stored.commitLsn, marked.commitLsn) as Lsn };
    const wal = await WalLog.open({
      segments: storage.segments,
      label: storage.label,
      startLsn: control.startLsn,
      commitLsn: control.commitLsn,
      flushedLsn: marked.flushLsn,
      log,
    });
    const acceptor = new Acceptor(node.nodeId, control, wal.writeLsn, wal.lastRecordLsn, wal.boundaries);
    return new SafekeeperTimeline(node, storage, wal, acceptor, { marked, peerMarks, log });
  }

  get flushLsn(): Lsn {
    return this.#flushLsn;
  }

  get commitLsn(): Lsn {
    return this.#commitLsn;
  }

  get startLsn(): Lsn {
    return this.#wal.startLsn;
  }

  /** Where the log begins, held here or not; 0 if there is none yet. */
  get beginLsn(): Lsn {
    return this.#acceptor.control.termHistory[0]?.lsn ?? invalidLsn;
  }

  get term(): number {
    return this.#acceptor.control.term;
  }

  /** What a crash does not change; `term` may be about to be stored. */
  get durableTerm(): number {
    return this.#savedTerm;
  }

  /** The term of the last record, as decided: WAL is cut off, and that of another term written, only after it has changed. */
  get decidedLastTerm(): number {
    const { control, flushLsn } = this.#acceptor;
    return lastTerm(historyUpTo(control.termHistory, flushLsn));
  }

  /** WAL that was taken and is not written yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get wal(): WalLog {
    return this.#wal;
  }

  /** Why it takes nothing more; null as long as it does. */
  get ended(): PageliteError | null {
    return this.#ended;
  }

  /** A flush failed: the medium may hold less than reads of it show until the process starts again. */
  get mustStayEnded(): boolean {
    return this.#flushFailed;
  }

  status(): SafekeeperTimelineStatus {
    return {
      term: this.#acceptor.control.term,
      flushLsn: this.#flushLsn,
      commitLsn: this.#commitLsn,
      startLsn: this.#wal.startLsn,
      backupLsn: this.#backupLsn,
      remoteConsistentLsn: this.#remoteConsistentLsn,
      configuration: this.#savedConfiguration,
      termHistory: historyUpTo(this.#termHistory, this.#flushLsn).map((entry) => [entry.term, entry.lsn] as const),
    };
  }

  /** Replies to `target` until it is detached. */
  attach(target: ReplyTarget): void {
    if (this.#ended) target.end(this.#ended);
    else this.#targets.add(target);
  }

  /** The connection is gone. The last one leaves the commitLsn on disk. */
  detach(target: ReplyTarget): void {
    this.#targets.delete(target);
    if (this.#targets.size === 0) this.#work();
  }

  process(target: ReplyTarget, message: ProposerMessage): void {
    if (this.#ended) return;
    try {
      this.#queue.push({ target, step: this.#acceptor.step(target.session, message) });
      if (message.kind === 'appendRequest') this.#queuedBytes += message.bytes.length;
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#work();
  }

  /** Ends the connections of all proposers. */
  dropProposers(error: PageliteError): void {
    for (const target of [...this.#targets]) target.end(error);
  }

  /** A peer shows this. Stored in the background; lost by a power failure soon after. */
  notePeer(node: NodeId, shown: PeerMark): void {
    const known = this.#peerMarks.get(node);
    if (this.#ended || (known !== undefined && known.term >= shown.term && known.commitLsn >= shown.commitLsn)) return;
    this.#peerMarks.set(node, {
      term: Math.max(shown.term, known?.term ?? 0),
      commitLsn: Math.max(shown.commitLsn, known?.commitLsn ?? 0) as Lsn,
    });
    if (this.#peerMarks.size > safekeepersMax) this.#peerMarks.delete(this.#peerMarks.keys().next().value!);
    const bytes = encodePeerMarks(this.#peerMarks);
    this.#marking = this.#marking
      .then(() => this.#storage.overwriteFile(peerMarksName, bytes, false))
      // No WAL depends on it: it is known as long as this process lives.
      .catch((error) => this.#log.warn('what peers have shown cannot be stored', { error: messageOf(error) }));
  }

  /** The most that it has shown; null if it has shown nothing. */
  peerMark(node: NodeId): PeerMark | null {
    return this.#peerMarks.get(node) ?? null;
  }

  /** Proposers that are connected. */
  get proposerCount(): number {
    return this.#targets.size;
  }

  /** The pageserver needs no WAL below this. */
  learnConsistent(remoteConsistentLsn: Lsn): void {
    if (remoteConsistentLsn > this.#remoteConsistentLsn) this.#remoteConsistentLsn = remoteConsistentLsn;
  }

  /** WAL up to here is in the object store. */
  learnBackup(backupLsn: Lsn): void {
    if (backupLsn > this.#backupLsn) this.#backupLsn = backupLsn;
  }

  /** See Acceptor.configure. Resolves when it is durable and proposers of older configurations are gone. */
  async configure(configuration: SafekeeperConfiguration): Promise<void> {
    await this.#whenPerformed(nobody, this.#acceptor.configure(configuration));
    this.#endOutdated(configuration);
  }

  /** See Acceptor.learnConfiguration; likewise. */
  async learnConfiguration(configuration: SafekeeperConfiguration): Promise<void> {
    await this.#whenPerformed(nobody, this.#acceptor.learnConfiguration(configuration));
    this.#endOutdated(configuration);
  }

  #endOutdated(configuration: SafekeeperConfiguration): void {
    const { generation } = configuration;
    for (const target of [...this.#targets]) {
      if (target.session.generation === 0 || target.session.generation >= generation) continue;
      target.end(outdatedError(`is ${formatConfiguration(configuration)} now`, { ...this.id }));
    }
  }

  /** See Acceptor.raiseTerm. */
  async raiseTerm(term: Term): Promise<void> {
    await this.#whenPerformed(nobody, this.#acceptor.raiseTerm(term));
  }

  /** Resolves when what was decided is durable. */
  #whenPerformed(target: ReplyTarget, step: AcceptorStep): Promise<void> {
    if (this.#ended) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const settle = (error: PageliteError | null) => {
        this.#settles.delete(settle);
        if (error) reject(error);
        else resolve();
      };
      this.#settles.add(settle);
      this.#queue.push({ target, step, settle });
      this.#work();
    });
  }

  /** See Acceptor.learnCommit. */
  learnCommit(lastTermOfPeer: number, commitLsn: Lsn): void {
    if (this.#ended || commitLsn <= this.#commitLsn) return;
    const step = this.#acceptor.learnCommit(lastTermOfPeer, commitLsn);
    if (step === null) return;
    this.#queue.push({ target: nobody, step });
    this.#work();
  }

  /** Whoever reads WAL here; `reader.lsn` is where it is. To be called again when it ends. */
  addReader(reader: { readonly lsn: Lsn }): () => void {
    this.#readers.add(reader);
    return () => this.#readers.delete(reader);
  }

  /** The LSN of the reader that is furthest behind; null if there is none. */
  get slowestReaderLsn(): Lsn | null {
    let slowest: Lsn | null = null;
    for (const { lsn } of this.#readers) if (slowest === null || lsn < slowest) slowest = lsn;
    return slowest;
  }

  get backupLsn(): Lsn {
    return this.#backupLsn;
  }

  get remoteConsistentLsn(): Lsn {
    return this.#remoteConsistentLsn;
  }

  get control(): ControlState {
    return this.#acceptor.control;
  }

  /**
   * See Acceptor.adopt: a peer's WAL goes on as appends of `target` in the term that is returned, from the LSN that is. Null if there is nothing to adopt.
   * Resolves when what that changes is durable.
   */
  async adopt(target: ReplyTarget, peer: PeerLog): Promise<{ readonly term: Term; readonly lsn: Lsn } | null> {
    if (this.#ended) return null;
    const step = this.#acceptor.adopt(target.session, peer);
    if (step === null) return null;
    const taken = { term: this.#acceptor.control.term, lsn: this.#acceptor.writeLsn };
    await this.#whenPerformed(target, step);
    return step.error ? null : taken;
  }

  /**
   * Gives up the WAL segments that lie wholly below `lsn`, the end of a committed record: for an owner who knows that all readers are past it. A crash
   * leaves all of them, or a log that begins at `lsn`.
   */
  async trim(lsn: Lsn): Promise<void> {
    assert(lsn <= this.#commitLsn, 'only committed WAL is given up');
    this.#trimLsn = lsn;
    while (this.#trimLsn > 0 && !this.#ended) {
      this.#work();
      await this.#working;
    }
    if (this.#ended) throw this.#ended;
  }

  /** Resolves when flushLsn or commitLsn have moved, or the timeline has ended, or the signal fires. */
  changed(signal: AbortSignal): Promise<void> {
    if (this.#ended || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        this.#watchers.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#watchers.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }

  /** Performs what was decided, stores how far it is committed, and ends every connection. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#end(new PageliteError('closed', 'the safekeeper was closed', { ...this.id }));
    await this.#working;
    try {
      await this.#marking;
      if (this.#marked.flushLsn > 0 && this.#ended?.kind === 'closed') {
        await this.#storage.overwriteFile(flushMarkName, encodeFlushMark(this.#marked), true);
      }
    } finally {
      await this.#storage.close();
    }
  }

  #work(): void {
    this.#working ??= this.#workLoop().finally(() => {
      this.#working = null;
      // Whatever came between the loop's last look and now.
      if (this.#queue.length > 0 && !this.#ended) this.#work();
    });
  }

  async #workLoop(): Promise<void> {
    try {
      // Messages that have arrived together are performed together.
      await undefined;
      while (this.#queue.length > 0) {
        const jobs = this.#queue;
        this.#queue = [];
        this.#queuedBytes = 0;
        const performing = this.#perform(jobs);
        if (performing !== undefined) await performing;
        this.#performed(jobs);
      }
      const lag = this.#commitLsn - this.#savedCommitLsn;
      if (lag > commitLsnLagBytesMax || (lag > 0 && this.#targets.size === 0))
        await this.#saveControl(this.#acceptor.control);
      if (this.#trimLsn > 0) await this.#dropTrimmed();
    } catch (error) {
      this.#fail(error);
    }
  }

  async #dropTrimmed(): Promise<void> {
    const lsn = this.#trimLsn as Lsn;
    if (lsn > this.#wal.startLsn && this.#wal.hasSegmentBelow(lsn)) {
      await this.#saveControl(this.#acceptor.raiseStart(lsn));
      await this.#wal.dropBefore(lsn);
    }
    this.#trimLsn = 0;
  }

  /** Undefined if all of it was done within the call, as a storage does that syncs in its caller's thread: a commit has nothing to wait for then. */
  #perform(jobs: readonly Job[]): Promise<void> | undefined {
    for (let i = 0; i < jobs.length; i++) {
      const { persist } = jobs[i]!.step;
      for (let k = 0; k < persist.length; k++) {
        const pending = this.#performEffect(persist[k]!);
        if (pending !== undefined) return this.#performRest(jobs, i, k + 1, pending);
      }
    }
    return this.#flush();
  }

  async #performRest(jobs: readonly Job[], job: number, effect: number, pending: Promise<void>): Promise<void> {
    await pending;
    for (let i = job; i < jobs.length; i++) {
      for (const next of jobs[i]!.step.persist.slice(i === job ? effect : 0)) await this.#performEffect(next);
    }
    await this.#flush();
  }

  #performed(jobs: readonly Job[]): void {
    const last = jobs.at(-1)!.step;
    const moved = last.flushLsn !== this.#flushLsn || last.commitLsn !== this.#commitLsn;
    this.#flushLsn = last.flushLsn;
    this.#commitLsn = last.commitLsn;
    this.#termHistory = last.termHistory;
    this.#reply(jobs);
    for (let i = 0; i < jobs.length; i++) jobs[i]!.settle?.(null);
    if (moved) this.#wake();
    this.#mark();
  }

  #performEffect(effect: PersistEffect): Promise<void> | undefined {
    switch (effect.kind) {
      case 'writeWal':
        this.metrics.appendedBytes += effect.bytes.length;
        this.metrics.flushedAppends++;
        return this.#wal.write(effect.lsn, effect.bytes);
      case 'truncateWal':
        return this.#truncate(effect.lsn);
      case 'saveControl':
        return this.#flushAndSave(effect.control);
    }
  }

  async #truncate(lsn: Lsn): Promise<void> {
    await this.#flush();
    await this.#lowerMark(lsn);
    await this.#wal.truncate(lsn);
  }

  async #flushAndSave(control: ControlState): Promise<void> {
    await this.#flush();
    await this.#saveControl(control);
  }

  #flush(): Promise<void> | undefined {
    if (!this.#wal.isDirty) return undefined;
    this.metrics.flushes++;
    try {
      return this.#wal.sync()?.catch((error: unknown) => {
        throw this.#flushError(error);
      });
    } catch (error) {
      throw this.#flushError(error);
    }
  }

  #flushError(error: unknown): unknown {
    this.#flushFailed = !this.#storage.segments.failedSyncKeepsNothing;
    return error;
  }

  async #saveControl(control: ControlState): Promise<void> {
    // What the acceptor decided may be ahead of what is durable.
    const commitLsn = Math.min(
      control.commitLsn,
      Math.max(this.#flushLsn, this.#wal.startLsn, control.startLsn),
    ) as Lsn;
    // And it may be from before WAL was given up.
    const startLsn = Math.max(control.startLsn, this.#wal.startLsn) as Lsn;
    await this.#storage.replaceFile(controlFileName, encodeControlFile({ ...control, startLsn, commitLsn }));
    this.#savedCommitLsn = commitLsn;
    this.#savedTerm = control.term;
    this.#savedConfiguration = control.configuration;
  }

  /** Of several append responses to one connection only the last says anything. */
  #reply(jobs: readonly Job[]): void {
    for (let i = 0; i < jobs.length; i++) {
      const { target, step } = jobs[i]!;
      const { reply, error } = step;
      if (error) this.#log.warn('refused a proposer', { ...this.id, error: error.message });
      if (error) target.end(error);
      else if (reply && !(reply.kind === 'appendResponse' && hasLaterAppendResponse(jobs, i)))
        target.reply(this.#signed(reply));
    }
  }

  /** With what is known of safekeepers' processes as it leaves: later than what was made durable for it. */
  #signed(reply: AcceptorMessage): AcceptorMessage {
    const { incarnation, knownPeers } = this.#node;
    if (incarnation === 0) return reply;
    if (reply.kind === 'acceptorGreeting') return { ...reply, incarnation };
    return reply.kind === 'error' ? reply : { ...reply, peers: knownPeers };
  }

  #wake(): void {
    for (const wake of [...this.#watchers]) wake();
  }

  /** Says how far the WAL was flushed and committed; nobody waits for it. One write at a time, the newest values. */
  #mark(): void {
    if (this.#marked.flushLsn >= this.#flushLsn && this.#marked.commitLsn >= this.#commitLsn) return;
    const marked = { flushLsn: this.#flushLsn, commitLsn: this.#commitLsn };
    this.#marked = marked;
    this.#marking = this.#marking
      .then(() => {
        if (this.#marked === marked) return this.#storage.overwriteFile(flushMarkName, encodeFlushMark(marked), false);
      })
      .catch((error) => this.#fail(error));
  }

  async #lowerMark(flushLsn: Lsn): Promise<void> {
    await this.#marking;
    // An earlier process may have been killed while it did this: the disk may still have a higher one than is read.
    if (this.#marked.flushLsn <= flushLsn && this.#isMarkDurable) return;
    this.#marked = { ...this.#marked, flushLsn: Math.min(flushLsn, this.#marked.flushLsn) as Lsn };
    await this.#storage.overwriteFile(flushMarkName, encodeFlushMark(this.#marked), true);
    this.#isMarkDurable = true;
  }

  /** A bug in the acceptor or a medium that failed. What is on disk is right; what is in memory may not be. */
  #fail(error: unknown): void {
    if (this.#ended) return;
    const isBug = error instanceof AssertionError || !isPageliteError(error);
    this.#log.error('timeline stopped', { ...this.id, flushLsn: formatLsn(this.#flushLsn), error: messageOf(error) });
    this.#queue = [];
    this.#end(
      isBug
        ? new PageliteError('unavailable', `timeline stopped: ${messageOf(error)}`, { ...this.id }, { cause: error })
        : (error as PageliteError),
    );
  }

  #end(error: PageliteError): void {
    if (this.#ended) return;
    this.#ended = error;
    const targets = [...this.#targets];
    this.#targets.clear();
    for (const target of targets) target.end(error);
    // A timeline that is closed performs what was decided.
    if (error.kind !== 'closed') for (const settle of [...this.#settles]) settle(error);
    this.#wake();
    // Finishes what was decided, and stores the commitLsn.
    if (error.kind === 'closed') this.#work();
  }
}

/** Of what nobody is to be answered. */
const nobody: ReplyTarget = { session: newProposerSession(), reply: () => {}, end: () => {} };

function hasLaterAppendResponse(jobs: readonly Job[], i: number): boolean {
  const { target } = jobs[i]!;
  for (let j = i + 1; j < jobs.length; j++) {
    const later = jobs[j]!;
    if (later.target !== target) continue;
    const kind = later.step.reply?.kind;
    if (kind === 'appendResponse') return true;
    if (kind !== undefined || later.step.error) return false;
  }
  return false;
}
