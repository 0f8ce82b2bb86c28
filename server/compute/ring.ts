/**
 * The memory that the listener's thread and the backend's thread share: two byte rings and a few control words.
 *
 * Read path of a statement: client socket -> in ring -> the backend's read callback; results: the backend's write callback -> out
 * ring -> client socket. One writer and one reader for each ring.
 *
 * Invariants
 * - `head` counts bytes ever written, `tail` bytes ever read, both modulo 2^32; 0 <= head - tail <= capacity.
 * - Bytes are written before `head` is stored, and read before `tail` is stored (Atomics order both).
 * - The backend's thread sleeps only on `word.wake`, whose value it read before it looked at what it waits for; whoever changes
 *   something that it may wait for adds one to `wake` and notifies.
 *
 * | bytes | content |
 * |---|---|
 * | 0..63 | 16 control words (Int32), see `word` |
 * | 64.. | in ring |
 * | 64 + inRingBytes.. | out ring |
 */
import { inRingBytes, outRingBytes } from './wire-limits.ts';

export const word = {
  inHead: 0,
  inTail: 1,
  outHead: 2,
  outTail: 3,
  /** Changes whenever the backend's thread has something new to look at. */
  wake: 4,
  /** Signals to the backend's thread, see `signal`. */
  signals: 5,
  /** With `signal.clientGone`: the value of `inHead` at which the gone client's bytes end. */
  goneAt: 6,
  /** What the backend's thread does, see `backendState`. */
  state: 7,
  /** 1 while a doorbell to the listener is on its way, so that one is enough. */
  doorbell: 8,
} as const;

export const signal = { cancel: 1, clientGone: 2, shutdown: 4, timer: 8 } as const;

export const backendState = { running: 0, waitsForCommand: 1, waitsForInput: 2, waitsForRoom: 3 } as const;

const controlBytes = 64;

export interface SharedWire {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly inbound: Ring;
  readonly outbound: Ring;
}

export function createSharedWire(): SharedWire {
  return attachSharedWire(new SharedArrayBuffer(controlBytes + inRingBytes + outRingBytes));
}

export function attachSharedWire(buffer: SharedArrayBuffer): SharedWire {
  const words = new Int32Array(buffer, 0, controlBytes / 4);
  return {
    buffer,
    words,
    inbound: new Ring(words, word.inHead, word.inTail, new Uint8Array(buffer, controlBytes, inRingBytes)),
    outbound: new Ring(
      words,
      word.outHead,
      word.outTail,
      new Uint8Array(buffer, controlBytes + inRingBytes, outRingBytes),
    ),
  };
}

/** Wakes the backend's thread, whatever it waits for. */
export function wakeBackend(words: Int32Array): void {
  Atomics.add(words, word.wake, 1);
  Atomics.notify(words, word.wake);
}

export class Ring {
  readonly #words: Int32Array;
  readonly #head: number;
  readonly #tail: number;
  readonly #bytes: Uint8Array;
  readonly #mask: number;

  constructor(words: Int32Array, head: number, tail: number, bytes: Uint8Array) {
    this.#words = words;
    this.#head = head;
    this.#tail = tail;
    this.#bytes = bytes;
    this.#mask = bytes.length - 1;
  }

  /** Bytes that can be read now. */
  get used(): number {
    return (Atomics.load(this.#words, this.#head) - Atomics.load(this.#words, this.#tail)) >>> 0;
  }

  /** Bytes that can be written now. */
  get room(): number {
    return this.#bytes.length - this.used;
  }

  get headPosition(): number {
    return Atomics.load(this.#words, this.#head);
  }

  get tailPosition(): number {
    return Atomics.load(this.#words, this.#tail);
  }

  /** Writes as much of source[start, end) as there is room for; returns how many bytes. */
  write(source: Uint8Array, start: number, end: number): number {
    const count = Math.min(end - start, this.room);
    if (count === 0) return 0;
    const head = Atomics.load(this.#words, this.#head);
    const offset = head & this.#mask;
    const first = Math.min(count, this.#bytes.length - offset);
    this.#bytes.set(source.subarray(start, start + first), offset);
    if (first < count) this.#bytes.set(source.subarray(start + first, start + count), 0);
    Atomics.store(this.#words, this.#head, (head + count) | 0);
    return count;
  }

  /** Reads up to `max` bytes into target at `start`; returns how many. */
  read(target: Uint8Array, start: number, max: number): number {
    const count = Math.min(max, this.used);
    if (count === 0) return 0;
    this.peek(target, start, count);
    this.skip(count);
    return count;
  }

  /** Copies `count` bytes, which must be there, without taking them. */
  peek(target: Uint8Array, start: number, count: number): void {
    const offset = Atomics.load(this.#words, this.#tail) & this.#mask;
    const first = Math.min(count, this.#bytes.length - offset);
    target.set(this.#bytes.subarray(offset, offset + first), start);
    if (first < count) target.set(this.#bytes.subarray(0, count - first), start + first);
  }

  skip(count: number): void {
    Atomics.store(this.#words, this.#tail, (Atomics.load(this.#words, this.#tail) + count) | 0);
  }
}
