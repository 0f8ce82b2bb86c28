/**
 * The server's side of the WAL stream protocol: one connection of a reader to a WalService (W4 of the write path). Called by
 * server/safekeeper/safekeeper-server.ts for each connection; the client is remote/remote-wal-service.ts.
 *
 * Invariants: at most `walReaderWindowBytes` are sent ahead of what the reader says it has consumed, and WAL is read only when there is
 * room; when the channel ends, reading ends; a message out of order ends the connection with an error, and nothing else.
 */
import { unreachable } from '../assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { walReaderWindowBytes } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import {
  decodeWalStreamRequest,
  encodeWalStreamResponse,
  timelinesPerMessageMax,
  type WalStreamRequest,
  type WalStreamResponse,
} from '../protocol/wal-stream.ts';
import type { Channel, SafekeeperPeer } from '../services.ts';

/** What readers, pageservers and peers need of a safekeeper. */
export type WalReadable = Omit<SafekeeperPeer, 'nodeId' | 'connectProposer'>;

export function serveWalStream(channel: Channel, service: WalReadable): void {
  new WalStreamHandler(channel, service);
}

class WalStreamHandler {
  readonly #channel: Channel;
  readonly #service: WalReadable;
  readonly #ended = new AbortController();
  #started = false;
  #sentLsn = 0;
  #consumedLsn = 0;
  #wake: (() => void) | null = null;

  constructor(channel: Channel, service: WalReadable) {
    this.#channel = channel;
    this.#service = service;
    channel.onMessage((bytes) => this.#receive(bytes));
    channel.onClose(() => this.#end());
  }

  #receive(bytes: Uint8Array): void {
    if (this.#ended.signal.aborted) return;
    try {
      this.#take(decodeWalStreamRequest(bytes));
    } catch (error) {
      this.#fail(error);
    }
  }

  #take(request: WalStreamRequest): void {
    if (request.kind === 'consumed') {
      if (request.lsn > this.#sentLsn) throw new PageliteError('invalid', 'the reader consumed more than was sent');
      this.#consumedLsn = Math.max(this.#consumedLsn, request.lsn);
      this.#wake?.();
      return;
    }
    if (this.#started) throw new PageliteError('invalid', 'a second request on the connection of a WAL reader');
    this.#started = true;
    this.#answer(request).catch((error) => this.#fail(error));
  }

  async #answer(request: Exclude<WalStreamRequest, { kind: 'consumed' }>): Promise<void> {
    switch (request.kind) {
      case 'readWal':
        return this.#read(request);
      case 'describeTimelines':
        return this.#sendAll(await this.#service.describeTimelines(), (timelines) => ({
          kind: 'timelines',
          timelines,
        }));
      case 'recall':
        return this.#sendAll(await this.#service.recall(request.node), (timelines) => ({
          kind: 'recalled',
          timelines,
        }));
      case 'introduce': {
        const introduction = await this.#service.introduce(request.node, request.incarnation);
        return this.#send({ kind: 'introduced', introduction });
      }
      case 'reportConsistent':
        await this.#service.reportConsistent(request.timeline, request.lsn);
        return this.#status(request.timeline);
      case 'getStatus':
        return this.#status(request.timeline);
      default:
        return unreachable(request);
    }
  }

  async #status(id: TenantTimelineId): Promise<void> {
    this.#send({ kind: 'status', status: await this.#service.getStatus(id) });
  }

  /** In parts; an empty one is the last. */
  #sendAll<T>(all: readonly T[], responseOf: (part: readonly T[]) => WalStreamResponse): void {
    for (let i = 0; i < all.length; i += timelinesPerMessageMax) {
      this.#send(responseOf(all.slice(i, i + timelinesPerMessageMax)));
    }
    this.#send(responseOf([]));
  }

  async #read(request: Extract<WalStreamRequest, { kind: 'readWal' }>): Promise<void> {
    const { timeline, startLsn, lastTerm } = request;
    this.#sentLsn = startLsn;
    this.#consumedLsn = startLsn;
    for await (const chunk of this.#service.readWal(timeline, startLsn, this.#ended.signal, lastTerm ?? undefined)) {
      if (this.#ended.signal.aborted) return;
      this.#sentLsn = chunk.startLsn + chunk.bytes.length;
      this.#send({ kind: 'chunk', chunk });
      while (this.#sentLsn - this.#consumedLsn >= walReaderWindowBytes) await this.#room();
    }
  }

  #room(): Promise<void> {
    if (this.#ended.signal.aborted) {
      this.#consumedLsn = this.#sentLsn as Lsn;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = null;
        resolve();
      };
    });
  }

  #send(response: WalStreamResponse): void {
    if (this.#ended.signal.aborted) return;
    try {
      this.#channel.send(encodeWalStreamResponse(response));
    } catch (error) {
      // The reader is gone, and the close event is on its way.
      if (!isPageliteError(error, 'closed')) throw error;
    }
  }

  #fail(error: unknown): void {
    const reported = isPageliteError(error) ? error : new PageliteError('unavailable', messageOf(error));
    this.#send({ kind: 'error', error: reported });
    this.#end();
    this.#channel.close(reported);
  }

  #end(): void {
    this.#ended.abort();
    this.#wake?.();
  }
}
