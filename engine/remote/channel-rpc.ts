/**
 * Pipelined requests over one Channel: numbers them, hands each answer to the request it belongs to, and fails them all when the
 * channel is lost (R4 of the read path, under remote-page-service.ts).
 *
 * Invariants
 * - every call settles exactly once: by its last answer, by its signal, or by the end of the channel
 * - at most `inFlightMax` requests are unanswered at the peer; further calls wait their turn here, in order
 * - every request gets exactly one last answer, cancelled ones too: until then the peer may be working on it
 * - a call that was cancelled sends one cancel message; late answers to it are dropped
 * - a peer that breaks the protocol, or says nothing for `silenceMaxMs` while it owes an answer, loses the channel
 *
 * `ChannelLost` is what calls reject with when the channel ended under them: a read may be asked again over a new channel. Errors that
 * the peer *answered* are rejected as they are.
 */
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import type { Channel, Clock } from '../services.ts';

/** The connection ended before the answer came; nothing is known about the request. */
export class ChannelLost extends PageliteError {
  constructor(reason: string, cause?: unknown) {
    super('unavailable', `connection lost: ${reason}`, {}, { cause });
  }
}

/** What the protocol on top has to provide. */
export interface RpcProtocol<Response> {
  /** Throws a PageliteError on a message that is not one. */
  decode(message: Uint8Array): Response;
  idOf(response: Response): number;
  /** False for the parts of a streamed answer that are followed by more. */
  isLast(response: Response): boolean;
  /** The error that this response is, if it is one. With id 0 it is about the connection. */
  errorOf(response: Response): PageliteError | undefined;
  encodeCancel(id: number): Uint8Array;
}

export interface RpcLimits {
  readonly inFlightMax: number;
  readonly silenceMaxMs: number;
}

interface Call<Response> {
  /** May throw: that is the call's error, and the peer has broken the protocol. */
  take(response: Response): void;
  fail(error: unknown): void;
}

export class ChannelRpc<Response> {
  readonly #channel: Channel;
  readonly #protocol: RpcProtocol<Response>;
  readonly #limits: RpcLimits;
  readonly #clock: Clock;
  readonly #calls = new Map<number, Call<Response>>();
  /** Ids whose cancel was sent and whose answer may still come. */
  readonly #cancelled = new Set<number>();
  #waiting: (() => void)[] = [];
  #nextId = 1;
  #ended: PageliteError | undefined;
  #watching: AbortController | undefined;
  #lastHeard = 0;

  constructor(channel: Channel, protocol: RpcProtocol<Response>, limits: RpcLimits, clock: Clock) {
    this.#channel = channel;
    this.#protocol = protocol;
    this.#limits = limits;
    this.#clock = clock;
    channel.onMessage((message) => this.#receive(message));
    channel.onClose((error) => this.#end(new ChannelLost(error ? messageOf(error) : 'closed by the peer', error)));
  }

  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /**
   * Sends the request that `encode` makes for an id. `take` is called with each part of the answer, and returns the result with the last.
   * Id 0 may be given for the one request of a connection that has no number.
   */
  call<T>(
    encode: (id: number) => Uint8Array,
    take: (response: Response) => T | undefined,
    signal?: AbortSignal,
    fixedId?: 0,
  ): Promise<T> {
    if (signal?.aborted) return Promise.reject(cancelled(signal));
    if (this.#ended) return Promise.reject(this.#ended);
    return new Promise<T>((resolve, reject) => {
      let id = -1;
      const start = () => {
        if (this.#ended) reject(this.#ended);
        if (this.#ended || signal?.aborted) {
          signal?.removeEventListener('abort', abort);
          return;
        }
        id = fixedId ?? this.#newId();
        this.#noteStart();
        this.#calls.set(id, {
          take: (response) => {
            const value = take(response);
            if (value === undefined) return;
            signal?.removeEventListener('abort', abort);
            resolve(value);
          },
          fail: (error) => {
            signal?.removeEventListener('abort', abort);
            reject(error);
          },
        });
        try {
          this.#channel.send(encode(id));
        } catch (error) {
          this.#settle(id)?.fail(isPageliteError(error, 'closed') ? new ChannelLost('already closed') : error);
        }
      };
      const abort = () => {
        if (this.#settle(id)) this.#cancel(id);
        reject(cancelled(signal));
      };
      signal?.addEventListener('abort', abort, { once: true });
      if (this.#outstanding < this.#limits.inFlightMax) start();
      else this.#waiting.push(start);
    });
  }

  /** Ends the channel; calls under way reject with `error`. */
  close(error: PageliteError): void {
    this.#end(error);
    this.#channel.close();
  }

  /** What the peer may still be working on. */
  get #outstanding(): number {
    return this.#calls.size + this.#cancelled.size;
  }

  #newId(): number {
    do {
      this.#nextId = this.#nextId === 0xffffffff ? 1 : this.#nextId + 1;
    } while (this.#calls.has(this.#nextId) || this.#cancelled.has(this.#nextId));
    return this.#nextId;
  }

  #receive(message: Uint8Array): void {
    if (this.#ended) return;
    this.#lastHeard = this.#clock.now();
    let response: Response;
    try {
      response = this.#protocol.decode(message);
    } catch (error) {
      this.#broken(error);
      return;
    }
    const id = this.#protocol.idOf(response);
    const error = this.#protocol.errorOf(response);
    const call = this.#calls.get(id);
    if (error !== undefined) {
      if (id === 0) {
        // The peer's last message. A hello is rejected with it as it is; other calls may try again elsewhere.
        this.#settle(0)?.fail(error);
        this.#lose(new ChannelLost(error.message, error));
      } else if (call) this.#settle(id)?.fail(error);
      else this.#late(id, true);
      return;
    }
    const last = this.#protocol.isLast(response);
    if (call === undefined) {
      this.#late(id, last);
      return;
    }
    try {
      call.take(response);
      if (last) this.#settle(id);
    } catch (problem) {
      this.#settle(id)?.fail(problem);
      this.#broken(problem);
    }
  }

  /** An answer that nobody waits for: fine after a cancel, a broken protocol otherwise. */
  #late(id: number, last: boolean): void {
    if (!this.#cancelled.has(id)) {
      this.#broken(new PageliteError('invalid', `answer to request ${id}, which was never asked`));
      return;
    }
    if (!last) return;
    this.#cancelled.delete(id);
    this.#startNext();
  }

  #cancel(id: number): void {
    this.#cancelled.add(id);
    try {
      this.#channel.send(this.#protocol.encodeCancel(id));
    } catch {
      // The channel is closed: its close event ends everything.
    }
  }

  #settle(id: number): Call<Response> | undefined {
    const call = this.#calls.get(id);
    if (call === undefined) return undefined;
    this.#calls.delete(id);
    this.#startNext();
    return call;
  }

  #startNext(): void {
    while (this.#waiting.length > 0 && this.#outstanding < this.#limits.inFlightMax) this.#waiting.shift()?.();
  }

  #broken(error: unknown): void {
    // A checksum failure on the wire is the answer to the request it names; the rest is asked again over a new channel.
    if (isPageliteError(error, 'corrupt')) this.#settle(Number(error.data.id))?.fail(error);
    this.#lose(new ChannelLost(`the peer broke the protocol: ${messageOf(error)}`, error));
  }

  #lose(error: ChannelLost): void {
    this.#end(error);
    this.#channel.close(error);
  }

  #end(error: PageliteError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#watching?.abort();
    const calls = [...this.#calls.values()];
    const waiting = this.#waiting;
    this.#calls.clear();
    this.#cancelled.clear();
    this.#waiting = [];
    for (const call of calls) call.fail(error);
    for (const wake of waiting) wake();
  }

  #noteStart(): void {
    // Silence counts from when an answer was first owed.
    if (this.#outstanding === 0) this.#lastHeard = this.#clock.now();
    if (this.#watching) return;
    this.#watching = new AbortController();
    void this.#watchSilence(this.#watching.signal);
  }

  /** One timer for all requests, and not a new one for each: it ends when it finds nothing under way. */
  async #watchSilence(signal: AbortSignal): Promise<void> {
    const { silenceMaxMs } = this.#limits;
    for (let quietMs = 0; ; quietMs = this.#clock.now() - this.#lastHeard) {
      if (quietMs >= silenceMaxMs) {
        this.#lose(new ChannelLost(`no answer for ${quietMs} ms`));
        return;
      }
      try {
        await this.#clock.sleep(Math.max(1, silenceMaxMs - quietMs), signal);
      } catch {
        return; // The channel has ended.
      }
      if (this.#outstanding === 0) {
        this.#watching = undefined;
        return;
      }
    }
  }
}

export function cancelled(signal?: AbortSignal): PageliteError {
  const { reason } = signal ?? {};
  if (isPageliteError(reason)) return reason;
  return new PageliteError('cancelled', 'the caller cancelled the request', {}, { cause: reason });
}
