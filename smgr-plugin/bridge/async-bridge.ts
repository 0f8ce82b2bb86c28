/**
 * R3, W1. The compute's end of a bridge for a thread that must not block: the same shared memory as sync-bridge.ts, with waiting that awaits.
 *
 * For an I/O host whose compute is elsewhere: server/console/bridge-sessions.ts translates what comes over HTTP. One call at a time.
 */
import { assert } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import { attachBridge, type BridgeMemory, op, walRingBytes, word } from './bridge-layout.ts';

export class AsyncBridge {
  readonly #memory: BridgeMemory;
  readonly #words: Int32Array;
  #seq: number;
  #head: number;

  constructor(buffer: SharedArrayBuffer) {
    this.#memory = attachBridge(buffer);
    this.#words = this.#memory.words;
    this.#seq = Atomics.load(this.#words, word.requestSeq);
    this.#head = Atomics.load(this.#words, word.walHead);
  }

  /** The whole answer, a copy. */
  async request(code: number, args: Float64Array): Promise<Uint8Array<ArrayBuffer>> {
    this.#memory.arguments.set(args);
    let part = await this.#call(code);
    const whole = new Uint8Array(part.length + Atomics.load(this.#words, word.answerRest));
    whole.set(part);
    for (let at = part.length; at < whole.length; at += part.length) {
      part = await this.#call(op.more);
      assert(part.length > 0 && at + part.length <= whole.length, 'the rest of an answer is of another length');
      whole.set(part, at);
    }
    return whole;
  }

  /** Streams WAL; waits while the ring is full. */
  async pushWal(bytes: Uint8Array): Promise<void> {
    const words = this.#words;
    for (let at = 0; at < bytes.length; ) {
      const tail = Atomics.load(words, word.walTail);
      const room = walRingBytes - ((this.#head - tail) | 0);
      if (room <= 0) {
        this.#ring();
        await this.#wait(word.walTail, tail);
        continue;
      }
      const offset = (this.#head >>> 0) % walRingBytes;
      const count = Math.min(room, bytes.length - at, walRingBytes - offset);
      this.#memory.ring.set(bytes.subarray(at, at + count), offset);
      at += count;
      this.#head = (this.#head + count) | 0;
      Atomics.store(words, word.walHead, this.#head);
    }
    if (bytes.length > 0) this.#ring();
  }

  /** True once the quorum has all WAL that was pushed, false if `timeoutMs` were not enough. */
  async flushWal(timeoutMs: number): Promise<boolean> {
    const words = this.#words;
    const target = this.#head;
    for (let isAnnounced = false; ; ) {
      const flushed = Atomics.load(words, word.walFlushed);
      if (((target - flushed) | 0) <= 0) return true;
      if (!isAnnounced) {
        Atomics.store(words, word.walFlushTarget, target);
        this.#ring();
        isAnnounced = true;
      }
      if ((await this.#wait(word.walFlushed, flushed, timeoutMs)) === 'timed-out') return false;
    }
  }

  /** Tells the host that the compute has ended in order. */
  bye(): void {
    Atomics.store(this.#words, word.op, op.bye);
    this.#seq = (this.#seq + 1) | 0;
    Atomics.store(this.#words, word.requestSeq, this.#seq);
    this.#ring();
  }

  async #call(code: number): Promise<Uint8Array> {
    const words = this.#words;
    this.#throwIfFailed();
    this.#seq = (this.#seq + 1) | 0;
    Atomics.store(words, word.op, code);
    Atomics.store(words, word.requestSeq, this.#seq);
    this.#ring();
    for (;;) {
      const answered = Atomics.load(words, word.answerSeq);
      if (answered === this.#seq) break;
      await this.#wait(word.answerSeq, answered);
    }
    const answer = this.#memory.answer.subarray(0, Atomics.load(words, word.answerBytes));
    if (Atomics.load(words, word.answerStatus) === 0) return answer;
    throw PageliteError.fromJSON(JSON.parse(new TextDecoder().decode(answer.slice())));
  }

  /** Until the word changes. Throws the bridge's failure. */
  async #wait(index: number, value: number, timeoutMs?: number): Promise<string> {
    this.#throwIfFailed();
    const wait = waitAsync(this.#words, index, value, timeoutMs);
    const outcome = wait.async ? await wait.value : wait.value;
    this.#throwIfFailed();
    return String(outcome);
  }

  #ring(): void {
    Atomics.add(this.#words, word.doorbell, 1);
    Atomics.notify(this.#words, word.doorbell);
  }

  #throwIfFailed(): void {
    if (Atomics.load(this.#words, word.failed) === 0) return;
    const bytes = this.#memory.failure.slice(0, Atomics.load(this.#words, word.failureBytes));
    throw PageliteError.fromJSON(JSON.parse(new TextDecoder().decode(bytes)));
  }
}

/** Atomics.waitAsync is not yet in TypeScript's es2023 library. */
type WaitAsync = (
  words: Int32Array,
  index: number,
  value: number,
  timeoutMs?: number,
) => { async: boolean; value: Promise<string> | string };
const waitAsync = (Atomics as unknown as { waitAsync: WaitAsync }).waitAsync;
