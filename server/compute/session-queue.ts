/**
 * Who has the backend. Decisions only: session-multiplexer.ts acts on them.
 *
 * A **turn** is a client's time with the backend. It begins when the client has a whole message to send, and can end whenever the
 * backend is between transactions with nothing of the client's under way. Turns are given in order of asking. A client whose turn
 * could end keeps it while nobody waits, so that a lone client never changes hands with itself.
 *
 * While others wait, a client gets no further than the message that ends in ReadyForQuery (Query, Sync, FunctionCall): what it has
 * sent beyond it waits, and the client goes to the end of the queue. The data of a COPY belongs to the statement under way.
 */
import { frontendType } from './pg-frames.ts';
import type { ReadyMessage } from './session-protocol.ts';

/** A turn's standing, as the listener knows it. */
export interface TurnState {
  /** The backend's latest word. */
  readonly ready: Pick<ReadyMessage, 'status' | 'pinned' | 'consumed'>;
  /** Client messages sent to the backend, modulo 2^32. */
  readonly sent: number;
  /** A part of a message has been sent and the rest has not. */
  readonly midMessage: boolean;
}

/** Nothing of the client's is under way: the backend waits for its next command. */
export function isSettled(turn: TurnState): boolean {
  return !turn.midMessage && turn.ready.consumed === turn.sent;
}

/** The backend could be given to another client now. */
export function canEnd(turn: TurnState): boolean {
  return isSettled(turn) && turn.ready.status === 'I' && !turn.ready.pinned;
}

/** Settled, but it cannot be taken away: a transaction, a pipeline, or a session-level lock. */
export function standing(turn: TurnState): 'running' | 'inTransaction' | 'pinned' | 'idle' {
  if (!isSettled(turn)) return 'running';
  if (turn.ready.status !== 'I') return 'inTransaction';
  return turn.ready.pinned ? 'pinned' : 'idle';
}

/** Lets a client's messages through up to the one that ends in ReadyForQuery, while others wait. */
export class TurnGate {
  #closed = false;
  #copyEnded = false;

  /** `contended`: others wait. `settled`: the backend has answered everything. */
  admits(type: number, contended: boolean, settled: boolean): boolean {
    if (settled) this.#closed = false;
    if (!contended || !this.#closed) return true;
    if (type === frontendType.copyData || type === frontendType.copyDone || type === frontendType.copyFail) return true;
    // COPY in the extended protocol ends in CopyDone and a Sync; the Sync that opened the gate's closing was ignored by the backend.
    return this.#copyEnded && type === frontendType.sync;
  }

  passed(type: number): void {
    if (type === frontendType.query || type === frontendType.sync || type === frontendType.functionCall) {
      this.#closed = true;
      this.#copyEnded = false;
    } else if (type === frontendType.copyDone || type === frontendType.copyFail) {
      this.#copyEnded = true;
    }
  }
}

/** First come, first served; nobody stands in it twice. */
export class TurnQueue<T> {
  readonly #waiting = new Set<T>();

  get length(): number {
    return this.#waiting.size;
  }

  has(item: T): boolean {
    return this.#waiting.has(item);
  }

  join(item: T): void {
    this.#waiting.add(item);
  }

  leave(item: T): void {
    this.#waiting.delete(item);
  }

  take(): T | null {
    for (const item of this.#waiting) {
      this.#waiting.delete(item);
      return item;
    }
    return null;
  }

  all(): Iterable<T> {
    return this.#waiting;
  }
}
