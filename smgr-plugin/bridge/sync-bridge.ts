/**
 * R3, W1. The compute's end of the bridge: calls that block.
 *
 * Called by pages/page-store.ts (pages, sizes) and wal/wal-tap.ts (WAL, commits); the other end is bridge/io-host.ts. Nothing here awaits:
 * the thread sleeps in `Atomics.wait` until the I/O host has answered.
 *
 * Invariants
 * - after a failure (fenced, host gone) every call throws that failure, for good
 * - bytes returned are a view of shared memory, valid until the next call
 */
import { assert } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import {
  argumentsPerHint,
  attachBridge,
  type BridgeMemory,
  hintsAt,
  hintsPerRequestMax,
  hostSilenceMaxMs,
  op,
  walRingBytes,
  word,
} from './bridge-layout.ts';
import type { ComputeBridge, ReadHint } from './compute-bridge.ts';

/** Looks before sleeping: an answer from memory comes sooner than a thread is put to sleep and woken. */
const spins = 200;
/** The same for a commit: about 0.2 ms, in which a disk nearby has synced. Going to sleep and being woken costs a quarter of that. */
const commitSpins = 100_000;
/** A sleeper looks this often whether the bridge has failed: the wake-up may come between its look and its sleep. */
const failureCheckMs = 500;

export class SyncBridge implements ComputeBridge {
  readonly #memory: BridgeMemory;
  readonly #words: Int32Array;
  #failure: PageliteError | null = null;
  #seq = 0;
  #heartbeat = -1;
  #silentMs = 0;
  #head = 0;
  /** WAL in the ring that the host was not told of. */
  #unannounced = 0;

  constructor(buffer: SharedArrayBuffer) {
    this.#memory = attachBridge(buffer);
    this.#words = this.#memory.words;
    this.#seq = Atomics.load(this.#words, word.requestSeq);
    this.#head = Atomics.load(this.#words, word.walHead);
  }

  /** Why nothing works any more; null as long as it does. */
  get failure(): PageliteError | null {
    if (this.#failure === null && Atomics.load(this.#words, word.failed) !== 0) {
      const bytes = this.#memory.failure.slice(0, Atomics.load(this.#words, word.failureBytes));
      this.#failure = PageliteError.fromJSON(JSON.parse(new TextDecoder().decode(bytes)));
    }
    return this.#failure;
  }

  /** Whole pages, one after another. `hints` are what will be wanted next; the host begins to fetch them. */
  getPages(rel: RelTag, firstBlock: number, blockCount: number, lsn: number, hints: readonly ReadHint[]): Uint8Array {
    const args = this.#memory.arguments;
    writeRange(args, 0, rel, firstBlock, blockCount, lsn);
    const hintCount = Math.min(hints.length, hintsPerRequestMax);
    args[7] = hintCount;
    for (let i = 0; i < hintCount; i++) {
      const hint = hints[i]!;
      writeRange(args, hintsAt + i * argumentsPerHint, hint.rel, hint.firstBlock, hint.blockCount, hint.lsn);
    }
    return this.#call(op.getPages);
  }

  /** In blocks; null if the relation fork does not exist. */
  getRelSize(rel: RelTag, lsn: number): number | null {
    writeRange(this.#memory.arguments, 0, rel, 0, 0, lsn);
    const answer = this.#call(op.getRelSize);
    const size = new DataView(answer.buffer, answer.byteOffset).getFloat64(0, true);
    return size < 0 ? null : size;
  }

  /** Every relation fork of a database: rel, fork, size, as consecutive u32. A copy. */
  listRels(spc: number, db: number, lsn: number): Uint32Array {
    writeRange(this.#memory.arguments, 0, { spc, db, rel: 0, fork: 0 }, 0, 0, lsn);
    const bytes = this.#callLong(op.listRels);
    return new Uint32Array(bytes.buffer, 0, bytes.length / 4);
  }

  /** Committed WAL [lsn, lsn + length) from a safekeeper, a copy. `boundary` is where a record ends, at or before `lsn`. */
  readWal(boundary: number, lsn: number, length: number): Uint8Array {
    const args = this.#memory.arguments;
    args[0] = boundary;
    args[1] = lsn;
    args[2] = length;
    return this.#callLong(op.readWal);
  }

  /** One hop and back. */
  ping(): void {
    this.#call(op.ping);
  }

  /** Tells the host that this compute has ended in order. Does not wait. */
  bye(): void {
    if (this.failure !== null) return;
    Atomics.store(this.#words, word.op, op.bye);
    this.#seq = (this.#seq + 1) | 0;
    Atomics.store(this.#words, word.requestSeq, this.#seq);
    this.#ring();
  }

  /** Streams bytes [start, end) of `source`. Blocks while the ring is full. Returns the position behind them. */
  pushWal(source: Uint8Array, start: number, end: number): number {
    const { ring } = this.#memory;
    for (let at = start; at < end; ) {
      const tail = Atomics.load(this.#words, word.walTail);
      const room = walRingBytes - ((this.#head - tail) | 0);
      if (room <= 0) {
        this.#throwIfFailed();
        this.#announce();
        this.#sleep(word.walTail, tail);
        continue;
      }
      const offset = (this.#head >>> 0) % walRingBytes;
      const count = Math.min(room, end - at, walRingBytes - offset);
      ring.set(source.subarray(at, at + count), offset);
      at += count;
      this.#head = (this.#head + count) | 0;
      this.#unannounced += count;
      Atomics.store(this.#words, word.walHead, this.#head);
    }
    // A wake-up for each page of WAL would cost more than it gains.
    if (this.#unannounced >= 256 * 1024) this.#announce();
    return this.#head;
  }

  /** A commit is likely within the next tenth of a millisecond: the host wakes up meanwhile. Does not wait. */
  expectCommit(): void {
    Atomics.store(this.#words, word.commitSoon, 1);
    this.#ring();
  }

  /** Blocks until the quorum has all WAL up to `position` (of pushWal). Throws the failure if it never will. */
  flushWal(position: number): void {
    const words = this.#words;
    this.#throwIfFailed();
    if (((position - Atomics.load(words, word.walFlushed)) | 0) <= 0) return;
    Atomics.store(words, word.walFlushTarget, position);
    this.#announce();
    for (let spin = 0; ; spin++) {
      const flushed = Atomics.load(words, word.walFlushed);
      if (((position - flushed) | 0) <= 0) return;
      if (spin < commitSpins) continue;
      this.#throwIfFailed();
      this.#sleep(word.walFlushed, flushed);
    }
  }

  /** Until the word changes, or it is time to look for a failure. Throws when the host shows no life any more. */
  #sleep(index: number, value: number): void {
    if (Atomics.wait(this.#words, index, value, failureCheckMs) !== 'timed-out') return;
    const heartbeat = Atomics.load(this.#words, word.heartbeat);
    this.#silentMs = heartbeat === this.#heartbeat ? this.#silentMs + failureCheckMs : 0;
    this.#heartbeat = heartbeat;
    if (this.#silentMs < hostSilenceMaxMs) return;
    this.#failure = new PageliteError('unavailable', `the I/O host has shown no life for ${this.#silentMs} ms`);
    throw this.#failure;
  }

  #announce(): void {
    this.#unannounced = 0;
    this.#ring();
  }

  #ring(): void {
    Atomics.add(this.#words, word.doorbell, 1);
    if (Atomics.load(this.#words, word.hostSleeps) !== 0) Atomics.notify(this.#words, word.doorbell);
  }

  #throwIfFailed(): void {
    const { failure } = this;
    if (failure !== null) throw failure;
  }

  #callLong(code: number): Uint8Array {
    let part = this.#call(code);
    const rest = Atomics.load(this.#words, word.answerRest);
    const whole = new Uint8Array(part.length + rest);
    whole.set(part);
    for (let at = part.length; at < whole.length; at += part.length) {
      part = this.#call(op.more);
      assert(part.length > 0 && at + part.length <= whole.length, 'the rest of an answer is of another length');
      whole.set(part, at);
    }
    return whole;
  }

  #call(code: number): Uint8Array {
    const words = this.#words;
    this.#throwIfFailed();
    const seq = (this.#seq + 1) | 0;
    this.#seq = seq;
    Atomics.store(words, word.op, code);
    Atomics.store(words, word.requestSeq, seq);
    this.#ring();
    for (let spin = 0; ; spin++) {
      const answered = Atomics.load(words, word.answerSeq);
      if (answered === seq) break;
      if (spin < spins) continue;
      this.#throwIfFailed();
      this.#sleep(word.answerSeq, answered);
    }
    const answer = this.#memory.answer.subarray(0, Atomics.load(words, word.answerBytes));
    if (Atomics.load(words, word.answerStatus) === 0) return answer;
    throw PageliteError.fromJSON(JSON.parse(new TextDecoder().decode(answer.slice())));
  }
}

function writeRange(args: Float64Array, at: number, rel: RelTag, first: number, count: number, lsn: number): void {
  args[at] = rel.spc;
  args[at + 1] = rel.db;
  args[at + 2] = rel.rel;
  args[at + 3] = rel.fork;
  args[at + 4] = first;
  args[at + 5] = count;
  args[at + 6] = lsn;
}
