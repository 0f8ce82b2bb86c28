/**
 * R3, W1. The far end of a compute's bridge: runs where one may await, and answers what the compute blocks on.
 *
 * Starts a compute (`start`): wins a term, so that the safekeepers agree on where the WAL ends, and gets the basebackup there; what
 * it returns is posted to the compute's thread (compute.ts). Then it serves: pages from the PageService, WAL from the ring to the proposer,
 * commits back. Lives in any thread with an event loop: a worker of an embedded repository, the main thread of an endpoint.
 *
 * Invariants
 * - WAL leaves the ring in order and only into the proposer; above `walInFlightBytesMax` it stays in the ring, and the compute waits
 * - `walFlushed` passes a position only when the quorum has every whole record before it
 * - a fenced proposer, or a bug in here, fails the bridge for good: the compute's calls then throw the reason
 */
import { AssertionError, assert } from '../../engine/assert.ts';
import { bootWal, type WalPiece } from '../../engine/basebackup/control-data.ts';
import { type ErrorData, isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { maxReplicationWriteLagBytes, walInFlightBytesMax, walMessageBytesMax } from '../../engine/limits.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import type { ForkNumber, RelTag } from '../../engine/model/rel.ts';
import { holdLease } from '../../engine/remote/hold-lease.ts';
import type {
  Basebackup,
  Clock,
  DataFile,
  Log,
  PageService,
  PrewarmPages,
  Random,
  ReadLsn,
  WalService,
} from '../../engine/services.ts';
import { PageserverLag } from '../wal/pageserver-lag.ts';
import { ProposerDriver } from '../wal/proposer-driver.ts';
import {
  answerBytesMax,
  argumentsPerHint,
  attachBridge,
  type BridgeMemory,
  createBridgeBuffer,
  failureBytesMax,
  hintsAt,
  hostHeartbeatMs,
  op,
  walRingBytes,
  word,
} from './bridge-layout.ts';
import { ReadAhead } from './read-ahead.ts';

export interface IoHostOptions {
  readonly pages: PageService;
  readonly wal: readonly WalService[];
  /** Of the configuration that they are; absent: not known. */
  readonly safekeepersGeneration?: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** WAL ahead of the pageserver before writers wait; 0: no bound. Default: maxReplicationWriteLagBytes. */
  readonly maxWriteLagBytes?: number;
  /** `primary` writes: it takes the timeline over from whoever wrote before. Read-only sees the timeline at one LSN. */
  readonly mode: 'primary' | { readonly readOnlyAt: Lsn };
}

/** What a compute's thread needs to boot; crosses by structured clone. */
/** About 0.15 ms: being woken takes a third of it, which a commit need not wait for. */
const commitSpins = 80_000;

export interface ComputeStart {
  /** Null where the compute's host is not in this process (http-bridge.ts). */
  readonly bridge: SharedArrayBuffer | null;
  readonly id: TenantTimelineId;
  readonly readOnly: boolean;
  /** The proposer's term; 0 for a read-only compute. */
  readonly term: number;
  readonly lsn: Lsn;
  readonly systemIdentifier: bigint;
  readonly files: readonly DataFile[];
  readonly bootWal: readonly WalPiece[];
  readonly prewarm: readonly PrewarmPages[];
}

export class IoHost {
  readonly #options: IoHostOptions;
  readonly #memory: BridgeMemory;
  readonly #words: Int32Array;
  readonly #closing = new AbortController();
  readonly #readAhead: ReadAhead;
  #proposer: ProposerDriver | null = null;
  #lag: PageserverLag | null = null;
  #bootLsn = 0 as Lsn;
  #taken = 0;
  #takenLsn = 0 as Lsn;
  #flushTarget = 0;
  #seq = 0;
  #rest: Uint8Array | null = null;
  #failure: PageliteError | null = null;
  #failedHandler: ((error: PageliteError) => void) | null = null;
  #waitingForRoom = false;
  #served: Promise<void> = Promise.resolve();
  #saidBye = false;

  constructor(options: IoHostOptions) {
    this.#options = options;
    this.#memory = attachBridge(createBridgeBuffer());
    this.#words = this.#memory.words;
    this.#readAhead = new ReadAhead(options.pages, this.#requestLsn);
  }

  get #requestLsn(): Lsn {
    const { mode } = this.#options;
    return mode === 'primary' ? maxLsn : mode.readOnlyAt;
  }

  /** Why the compute cannot go on; null as long as it can. */
  get failure(): PageliteError | null {
    return this.#failure;
  }

  /** True once the compute has ended in order. */
  get computeEnded(): boolean {
    return this.#saidBye;
  }

  get commitLsn(): Lsn {
    return this.#proposer?.commitLsn ?? this.#bootLsn;
  }

  /** Called once when the bridge fails for good: a newer term rules (`fenced`), or a bug. Soon, if it already has. */
  onFailed(handler: (error: PageliteError) => void): void {
    this.#failedHandler = handler;
    const error = this.#failure;
    if (error) queueMicrotask(() => handler(error));
  }

  /** Rejects as `ProposerDriver.elect` and `PageService.getBasebackup` do. */
  async start(): Promise<ComputeStart> {
    const { mode } = this.#options;
    try {
      const basebackup = mode === 'primary' ? await this.#elect() : await this.#openAt(mode.readOnlyAt);
      this.#bootLsn = basebackup.lsn;
      this.#takenLsn = basebackup.lsn;
      this.#served = this.#serve();
      void this.#beat();
      return this.#computeStart(basebackup);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** Ends it; a compute that still blocks on it hears `closed`. Uncommitted WAL may or may not survive. */
  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) {
      this.#closing.abort(new PageliteError('closed', 'the I/O host was closed'));
      this.#fail(new PageliteError('closed', 'the I/O host was closed', { ...this.#options.pages.id }));
      this.#proposer?.close();
    }
    await this.#served;
  }

  /** Garbage collection leaves the LSN alone for as long as we are there. */
  async #openAt(lsn: Lsn): Promise<Basebackup> {
    const { pages, clock, log } = this.#options;
    const { signal } = this.#closing;
    await holdLease(pages, lsn, { clock, log, signal });
    return pages.getBasebackup(lsn, signal);
  }

  async #elect(): Promise<Basebackup> {
    const { pages, wal, safekeepersGeneration, clock, random, log } = this.#options;
    const { signal } = this.#closing;
    // The election mostly finds what the pageserver has ingested already: then this is the basebackup, and nobody has waited for it.
    const early = pages.getBasebackup(null, signal).catch(() => null);
    // A timeline that is not there is not made at the safekeepers.
    await pages.getStatus(signal);
    const proposer = await ProposerDriver.elect({
      id: pages.id,
      services: wal,
      // Past the start where the timeline's history was imported as layers, which may go on until the vote is won.
      startLsnIfEmpty: async () => (await pages.getStatus(signal)).lastRecordLsn,
      systemIdentifier: 0n,
      ...(safekeepersGeneration !== undefined && {
        configuration: configurationOf(
          safekeepersGeneration,
          wal.map(({ nodeId }) => nodeId),
        ),
      }),
      clock,
      random,
      log,
      signal,
    });
    this.#proposer = proposer;
    this.#lag = new PageserverLag(proposer.startLsn, {
      pages,
      clock,
      log,
      lagBytesMax: this.#options.maxWriteLagBytes ?? maxReplicationWriteLagBytes,
      onRoom: () => this.#wakeSelf(),
      signal,
    });
    proposer.onFenced((error) => this.#fail(fencedMessage(error, pages.id)));
    // What is ingested was committed, and the vote has found all that was committed here.
    const { lastRecordLsn } = await pages.getStatus(signal);
    if (lastRecordLsn > proposer.startLsn) throw writtenElsewhere(pages.id, lastRecordLsn, proposer.startLsn);
    const basebackup = await early;
    return basebackup?.lsn === proposer.startLsn ? basebackup : pages.getBasebackup(proposer.startLsn, signal);
  }

  #computeStart(basebackup: Basebackup): ComputeStart {
    const { lsn, prevLsn, systemIdentifier, files, prewarm } = basebackup;
    const control = files.find(({ path }) => path === 'global/pg_control')?.bytes;
    if (!control) throw new PageliteError('corrupt', 'the basebackup has no pg_control', { lsn: formatLsn(lsn) });
    return {
      bridge: this.#memory.buffer,
      id: this.#options.pages.id,
      readOnly: this.#options.mode !== 'primary',
      term: this.#proposer?.term ?? 0,
      lsn,
      systemIdentifier,
      files,
      bootWal: bootWal(control, lsn, prevLsn),
      prewarm,
    };
  }

  // Serving

  async #serve(): Promise<void> {
    const words = this.#words;
    try {
      while (this.#failure === null) {
        const seen = Atomics.load(words, word.doorbell);
        this.#takeWal();
        this.#takeFlushTarget();
        this.#takeRequest();
        if (Atomics.exchange(words, word.commitSoon, 0) !== 0) lookOut(words, seen);
        Atomics.store(words, word.hostSleeps, 1);
        const wait = waitAsync(words, word.doorbell, seen);
        if (wait.async) await wait.value;
        Atomics.store(words, word.hostSleeps, 0);
      }
    } catch (error) {
      this.#fail(asFailure(error));
    }
  }

  async #beat(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      Atomics.add(this.#words, word.heartbeat, 1);
      await clock.sleep(hostHeartbeatMs, signal).catch(() => {});
    }
  }

  #takeWal(): void {
    const words = this.#words;
    const { ring } = this.#memory;
    for (;;) {
      const available = (Atomics.load(words, word.walHead) - this.#taken) | 0;
      if (available === 0) return;
      if (this.#isFull()) return;
      const offset = (this.#taken >>> 0) % walRingBytes;
      const count = Math.min(available, walRingBytes - offset, walMessageBytesMax);
      // A copy: the proposer keeps it until every safekeeper has it.
      const bytes = ring.slice(offset, offset + count);
      this.#taken = (this.#taken + count) | 0;
      if (this.#proposer !== null) this.#proposer.append(this.#takenLsn, new Uint8Array(bytes));
      this.#takenLsn = (this.#takenLsn + count) as Lsn;
      Atomics.store(words, word.walTail, this.#taken);
      Atomics.notify(words, word.walTail);
    }
  }

  /** Back-pressure: what no quorum has acknowledged is held in memory here, and what the pageserver has not ingested keeps reads waiting. */
  #isFull(): boolean {
    const proposer = this.#proposer;
    if (proposer === null) return false;
    if (this.#lag?.mustWait(proposer.endLsn)) return true;
    if (proposer.inFlightBytes < walInFlightBytesMax) return false;
    if (this.#waitingForRoom) return true;
    this.#waitingForRoom = true;
    const target = (proposer.endLsn - walInFlightBytesMax / 2) as Lsn;
    proposer.waitCommit(target, this.#closing.signal).then(
      () => {
        this.#waitingForRoom = false;
        this.#wakeSelf();
      },
      (error) => this.#fail(asFailure(error)),
    );
    return true;
  }

  #takeFlushTarget(): void {
    const target = Atomics.load(this.#words, word.walFlushTarget);
    // What is still in the ring is waited for in a later turn.
    if (target === this.#flushTarget || ((target - this.#taken) | 0) > 0) return;
    this.#flushTarget = target;
    const lsn = (this.#takenLsn - ((this.#taken - target) | 0)) as Lsn;
    if (this.#proposer === null) this.#flushed(target);
    else
      this.#proposer.onCommitted(lsn, (error) => {
        if (error) this.#fail(error.kind === 'fenced' ? fencedMessage(error, this.#options.pages.id) : error);
        else this.#flushed(target);
      });
  }

  #flushed(target: number): void {
    Atomics.store(this.#words, word.walFlushed, target);
    Atomics.notify(this.#words, word.walFlushed);
  }

  #wakeSelf(): void {
    Atomics.add(this.#words, word.doorbell, 1);
    Atomics.notify(this.#words, word.doorbell);
  }

  #takeRequest(): void {
    const seq = Atomics.load(this.#words, word.requestSeq);
    if (seq === this.#seq) return;
    this.#seq = seq;
    const code = Atomics.load(this.#words, word.op);
    switch (code) {
      case op.getPages:
        this.#getPages(seq);
        break;
      case op.getRelSize:
        this.#answerWith(seq, this.#getRelSize());
        break;
      case op.listRels:
        this.#answerWith(seq, this.#listRels());
        break;
      case op.readWal:
        this.#answerWith(seq, this.#readWal());
        break;
      case op.more:
        this.#answer(seq, this.#rest ?? new Uint8Array(0));
        break;
      case op.ping:
        this.#answer(seq, new Uint8Array(0));
        break;
      case op.bye:
        this.#saidBye = true;
        break;
      default:
        throw new AssertionError(`request ${code}`);
    }
  }

  #getPages(seq: number): void {
    const args = this.#memory.arguments;
    const rel = readRel(args, 0);
    const firstBlock = args[4]!;
    const blockCount = args[5]!;
    const lsn = args[6]!;
    const ahead = this.#readAhead.take(rel, firstBlock, blockCount, lsn);
    const { signal } = this.#closing;
    const read = () => this.#options.pages.getPages(this.#at(lsn), rel, firstBlock, blockCount, signal);
    const hints = readHints(args);
    const begin = () => {
      for (const hint of hints) this.#readAhead.begin(hint.rel, hint.firstBlock, hint.blockCount, hint.lsn, signal);
    };
    if (ahead === null) {
      this.#answerWith(seq, read());
      begin();
    } else if (ahead.hasArrived) {
      // An engine in this thread would work on the next range before the compute gets this one.
      this.#answerWith(
        seq,
        ahead.pages.then((found) => found ?? read()),
        begin,
      );
    } else {
      begin();
      this.#answerWith(
        seq,
        ahead.pages.then((found) => found ?? read()),
      );
    }
  }

  async #getRelSize(): Promise<Uint8Array> {
    const args = this.#memory.arguments;
    const size = await this.#options.pages.getRelSize(this.#at(args[6]!), readRel(args, 0), this.#closing.signal);
    return new Uint8Array(new Float64Array([size ?? -1]).buffer);
  }

  async #listRels(): Promise<Uint8Array> {
    const args = this.#memory.arguments;
    const { spc, db } = readRel(args, 0);
    const rels = await this.#options.pages.listRels(this.#at(args[6]!), spc, db, this.#closing.signal);
    const out = new Uint32Array(rels.length * 3);
    rels.forEach(({ rel, size }, i) => {
      out[i * 3] = rel.rel;
      out[i * 3 + 1] = rel.fork;
      out[i * 3 + 2] = size;
    });
    return new Uint8Array(out.buffer);
  }

  /** From the first safekeeper that has it. */
  async #readWal(): Promise<Uint8Array> {
    const [boundary, lsn, length] = this.#memory.arguments as unknown as [number, number, number];
    const { wal, pages } = this.#options;
    let reason: unknown = new PageliteError('unavailable', 'there is no safekeeper to read WAL from');
    for (const service of wal) {
      try {
        return await readWalRange(service, pages.id, boundary, lsn, length, this.#closing.signal);
      } catch (error) {
        reason = error;
      }
    }
    throw reason;
  }

  #at(lsn: number): ReadLsn {
    const { mode } = this.#options;
    return mode === 'primary'
      ? { requestLsn: maxLsn, notModifiedSince: lsn as Lsn }
      : { requestLsn: mode.readOnlyAt, notModifiedSince: mode.readOnlyAt };
  }

  #answerWith(seq: number, answer: Promise<Uint8Array>, then?: () => void): void {
    answer
      .then(
        (bytes) => this.#answer(seq, bytes),
        (error) => this.#answerError(seq, error),
      )
      .then(then)
      .catch((error) => this.#fail(asFailure(error)));
  }

  #answer(seq: number, bytes: Uint8Array): void {
    const now = bytes.length > answerBytesMax ? bytes.subarray(0, answerBytesMax) : bytes;
    this.#rest = now === bytes ? null : bytes.subarray(answerBytesMax);
    this.#memory.answer.set(now);
    this.#reply(seq, 0, now.length, this.#rest?.length ?? 0);
  }

  #answerError(seq: number, error: unknown): void {
    const failure = asFailure(error);
    this.#options.log.warn('a request of the compute failed', { ...failure.data, error: failure.message });
    const json = new TextEncoder().encode(JSON.stringify(failure));
    this.#memory.answer.set(json.subarray(0, answerBytesMax));
    this.#reply(seq, 1, json.length, 0);
  }

  #reply(seq: number, status: number, length: number, rest: number): void {
    const words = this.#words;
    Atomics.store(words, word.answerStatus, status);
    Atomics.store(words, word.answerBytes, length);
    Atomics.store(words, word.answerRest, rest);
    Atomics.store(words, word.answerSeq, seq);
    Atomics.notify(words, word.answerSeq);
  }

  #fail(error: PageliteError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    const words = this.#words;
    let json = new TextEncoder().encode(JSON.stringify(error));
    if (json.length > failureBytesMax) {
      json = new TextEncoder().encode(JSON.stringify(new PageliteError(error.kind, error.message.slice(0, 1000))));
    }
    assert(json.length <= failureBytesMax);
    this.#memory.failure.set(json);
    Atomics.store(words, word.failureBytes, json.length);
    Atomics.store(words, word.failed, 1);
    for (const sleepsOn of [word.answerSeq, word.walTail, word.walFlushed]) Atomics.notify(words, sleepsOn);
    this.#wakeSelf();
    if (error.kind !== 'closed') {
      this.#options.log.error('the compute cannot go on', { ...error.data, error: error.message });
      this.#failedHandler?.(error);
    }
  }
}

/** Until the doorbell rings again, or a commit that was expected has not come for some tenth of a millisecond. */
function lookOut(words: Int32Array, seen: number): void {
  for (let spin = 0; spin < commitSpins && Atomics.load(words, word.doorbell) === seen; spin++);
}

function fencedMessage(error: PageliteError, id: TenantTimelineId): PageliteError {
  const data: ErrorData = { ...error.data };
  if (error.data.outdatedConfiguration === true) return error;
  const message = `this endpoint was fenced: term ${data.newerTerm ?? '?'} rules timeline ${id.timelineId}`;
  return new PageliteError('fenced', message, data, { cause: error });
}

function asFailure(error: unknown): PageliteError {
  if (isPageliteError(error)) return error;
  return new PageliteError('unavailable', `the I/O host failed: ${messageOf(error)}`, {}, { cause: error });
}

function readHints(args: Float64Array): { rel: RelTag; firstBlock: number; blockCount: number; lsn: number }[] {
  const hints = [];
  for (let i = 0; i < args[7]!; i++) {
    const at = hintsAt + i * argumentsPerHint;
    hints.push({ rel: readRel(args, at), firstBlock: args[at + 4]!, blockCount: args[at + 5]!, lsn: args[at + 6]! });
  }
  return hints;
}

function readRel(args: Float64Array, at: number): RelTag {
  return { spc: args[at]!, db: args[at + 1]!, rel: args[at + 2]!, fork: args[at + 3]! as ForkNumber };
}

function writtenElsewhere(id: TenantTimelineId, lastRecordLsn: Lsn, endLsn: Lsn): PageliteError {
  const known = `the pageserver has WAL up to ${formatLsn(lastRecordLsn)}, these safekeepers only up to ${formatLsn(endLsn)}`;
  const hint = 'To go on from what is stored: pagelite tenant detach, then pagelite tenant attach';
  return new PageliteError('invalid', `timeline ${id.timelineId} was written elsewhere: ${known}. ${hint}`, { ...id });
}

async function readWalRange(
  service: WalService,
  id: TenantTimelineId,
  boundary: number,
  lsn: number,
  length: number,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const reading = new AbortController();
  const stop = () => reading.abort();
  signal.addEventListener('abort', stop, { once: true });
  const out = new Uint8Array(length);
  try {
    for await (const { startLsn, bytes } of service.readWal(id, boundary as Lsn, reading.signal)) {
      const from = Math.max(0, lsn - startLsn);
      const at = startLsn + from - lsn;
      if (from < bytes.length && at < length) out.set(bytes.subarray(from, from + length - at), at);
      if (startLsn + bytes.length >= lsn + length) return out;
    }
  } finally {
    signal.removeEventListener('abort', stop);
    reading.abort();
  }
  throw new PageliteError('unavailable', `WAL up to ${formatLsn(lsn + length)} is not there`, { lsn: formatLsn(lsn) });
}

/** Atomics.waitAsync is not yet in TypeScript's es2023 library. */
type WaitAsync = (words: Int32Array, index: number, value: number) => { async: boolean; value: Promise<string> };
const waitAsync = (Atomics as unknown as { waitAsync: WaitAsync }).waitAsync;
