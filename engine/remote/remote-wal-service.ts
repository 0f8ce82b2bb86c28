/**
 * A WalService on the other side of Channels (W2 to W3 and W4 of the write path): a safekeeper process as a proposer and a pageserver see it.
 *
 * `connectProposer` is a Channel to the process; a reader's and a status request have a Channel each (protocol/wal-stream.ts).
 *
 * Invariants: WAL chunks are contiguous from startLsn on; a lost connection ends a read with `unavailable` (the receiver resumes where its
 * last record ended); a peer that breaks the protocol ends it with `invalid`.
 */
import { isAccessRefusal, messageOf, PageliteError } from '../errors.ts';
import { walReaderWindowBytes } from '../limits.ts';
import type { NodeId, TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import {
  decodeWalStreamResponse,
  encodeWalStreamRequest,
  type WalStreamRequest,
  type WalStreamResponse,
} from '../protocol/wal-stream.ts';
import type {
  Channel,
  PeerIntroduction,
  PeerTimelineInfo,
  RecalledTimeline,
  SafekeeperPeer,
  SafekeeperTimelineStatus,
  WalChunk,
} from '../services.ts';

export interface RemoteWalServiceOptions {
  readonly nodeId: NodeId;
  /** A new channel to one of the safekeeper's two endpoints. May return before it is open. */
  readonly connect: (endpoint: 'proposer' | 'wal') => Channel;
}

/** A reader tells how far it is after each quarter of the window. */
const consumedStepBytes = walReaderWindowBytes / 4;

export class RemoteWalService implements SafekeeperPeer {
  readonly nodeId: NodeId;
  readonly #connect: RemoteWalServiceOptions['connect'];

  constructor(options: RemoteWalServiceOptions) {
    this.nodeId = options.nodeId;
    this.#connect = options.connect;
  }

  /** The greeting says which timeline it is for. */
  connectProposer(_id: TenantTimelineId): Channel {
    return this.#connect('proposer');
  }

  async *readWal(
    id: TenantTimelineId,
    startLsn: Lsn,
    signal: AbortSignal,
    lastTerm?: number,
  ): AsyncGenerator<WalChunk, void, undefined> {
    if (signal.aborted) return;
    const request: WalStreamRequest = { kind: 'readWal', timeline: id, startLsn, lastTerm: lastTerm ?? null };
    const connection = new ReaderConnection(this.#connect('wal'), request, signal);
    let at = startLsn;
    let told = startLsn;
    try {
      for (;;) {
        const response = await connection.next();
        if (response === null) return;
        if (response.kind !== 'chunk') throw unexpected(response);
        const { chunk } = response;
        if (chunk.startLsn !== at) {
          throw new PageliteError('invalid', `WAL goes on at ${formatLsn(chunk.startLsn)}, not at ${formatLsn(at)}`);
        }
        yield chunk;
        at = (at + chunk.bytes.length) as Lsn;
        if (at - told >= consumedStepBytes) {
          told = at;
          connection.send({ kind: 'consumed', lsn: at });
        }
      }
    } finally {
      connection.close();
    }
  }

  getStatus(id: TenantTimelineId): Promise<SafekeeperTimelineStatus | null> {
    return this.#askStatus({ kind: 'getStatus', timeline: id });
  }

  async reportConsistent(id: TenantTimelineId, remoteConsistentLsn: Lsn): Promise<void> {
    await this.#askStatus({ kind: 'reportConsistent', timeline: id, lsn: remoteConsistentLsn });
  }

  describeTimelines(): Promise<readonly PeerTimelineInfo[]> {
    return this.#askAll({ kind: 'describeTimelines' }, (response) =>
      response?.kind === 'timelines' ? response.timelines : null,
    );
  }

  recall(node: NodeId): Promise<readonly RecalledTimeline[]> {
    return this.#askAll({ kind: 'recall', node }, (response) =>
      response?.kind === 'recalled' ? response.timelines : null,
    );
  }

  introduce(node: NodeId, incarnation: number): Promise<PeerIntroduction> {
    return this.#ask({ kind: 'introduce', node, incarnation }, async (connection) => {
      const response = await connection.next();
      if (response?.kind !== 'introduced') throw unexpected(response);
      return response.introduction;
    });
  }

  /** All parts of the answer, the last of which is empty. `partOf`: null if a response is none. */
  #askAll<T>(
    request: WalStreamRequest,
    partOf: (response: WalStreamResponse | null) => readonly T[] | null,
  ): Promise<readonly T[]> {
    return this.#ask(request, async (connection) => {
      const all: T[] = [];
      for (;;) {
        const response = await connection.next();
        const part = partOf(response);
        if (part === null) throw unexpected(response);
        if (part.length === 0) return all;
        all.push(...part);
      }
    });
  }

  #askStatus(request: WalStreamRequest): Promise<SafekeeperTimelineStatus | null> {
    return this.#ask(request, async (connection) => {
      const response = await connection.next();
      if (response?.kind !== 'status') throw unexpected(response);
      return response.status;
    });
  }

  async #ask<T>(request: WalStreamRequest, read: (connection: ReaderConnection) => Promise<T>): Promise<T> {
    const connection = new ReaderConnection(this.#connect('wal'), request, null);
    try {
      return await read(connection);
    } finally {
      connection.close();
    }
  }
}

function unexpected(response: WalStreamResponse | null): PageliteError {
  return new PageliteError('invalid', `the safekeeper answered ${response?.kind ?? 'nothing'}`);
}

/** One request and the responses to it, in order. */
class ReaderConnection {
  readonly #channel: Channel;
  readonly #signal: AbortSignal | null;
  readonly #responses: WalStreamResponse[] = [];
  #error: PageliteError | null = null;
  #wake: (() => void) | null = null;

  constructor(channel: Channel, request: WalStreamRequest, signal: AbortSignal | null) {
    this.#channel = channel;
    this.#signal = signal;
    channel.onMessage((bytes) => this.#receive(bytes));
    channel.onClose((error) => this.#end(lost(error)));
    signal?.addEventListener('abort', this.#aborted, { once: true });
    this.send(request);
  }

  /** The next response; null once the signal has fired. Throws what ended the connection, after the responses before it. */
  async next(): Promise<WalStreamResponse | null> {
    for (;;) {
      if (this.#signal?.aborted) return null;
      const response = this.#responses.shift();
      if (response?.kind === 'error') throw response.error;
      if (response) return response;
      if (this.#error) throw this.#error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  send(request: WalStreamRequest): void {
    if (this.#error) return;
    try {
      this.#channel.send(encodeWalStreamRequest(request));
    } catch (error) {
      this.#end(lost(error));
    }
  }

  close(): void {
    this.#signal?.removeEventListener('abort', this.#aborted);
    this.#channel.close();
  }

  readonly #aborted = (): void => {
    this.#channel.close();
    this.#wake?.();
  };

  #receive(bytes: Uint8Array): void {
    if (this.#error) return;
    try {
      this.#responses.push(decodeWalStreamResponse(bytes));
    } catch (error) {
      this.#end(error as PageliteError);
      this.#channel.close(error as PageliteError);
    }
    this.#wake?.();
  }

  #end(error: PageliteError): void {
    this.#error ??= error;
    this.#wake?.();
  }
}

function lost(error: unknown): PageliteError {
  if (isAccessRefusal(error)) return error;
  const reason = error === undefined ? 'closed by the safekeeper' : messageOf(error);
  return new PageliteError('unavailable', `connection to the safekeeper lost: ${reason}`, {}, { cause: error });
}
