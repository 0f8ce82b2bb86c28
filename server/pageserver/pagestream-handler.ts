/**
 * Serves the pagestream protocol on one Channel (R5 of the read path): decodes what a compute's remote/remote-page-service.ts sends, asks
 * the timeline's PageService, and sends the answers as they come.
 *
 * Invariants
 * - the first message is a hello of this version for a timeline that exists; anything else ends the connection, and only it
 * - every request gets exactly one last answer, cancelled ones too
 * - at most `pagestreamInFlightMax` requests are under way on a connection; a peer that exceeds it breaks the protocol
 * - requests start in turns of the event loop (process/turns.ts), whatever connection they came from, and none while the peer leaves more than
 *   `pagestreamUnsentBytesMax` of answers unread
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { unreachable } from '../../engine/assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import {
  basebackupChunkBytes,
  pagestreamHelloTimeoutMs,
  pagestreamInFlightMax,
  pagestreamUnsentBytesMax,
} from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { basebackupChunks } from '../../engine/protocol/basebackup-codec.ts';
import {
  decodeRequest,
  encodeResponse,
  type PagestreamRequest,
  type PagestreamResponse,
  pagestreamVersion,
} from '../../engine/protocol/pagestream.ts';
import type { Channel, Log, PageService } from '../../engine/services.ts';
import type { Turns } from '../process/turns.ts';

export interface PagestreamHost {
  /** The timeline's reads. Rejections go to the peer as they are. */
  open(id: TenantTimelineId): Promise<PageService>;
  readonly turns: Turns;
  readonly log: Log;
  readonly onStarted?: (kind: PagestreamRequest['kind'], timeline: TenantTimelineId) => void;
  /** Called with every answer. */
  readonly onServed?: (
    kind: PagestreamRequest['kind'],
    timeline: TenantTimelineId,
    seconds: number,
    error: PageliteError | undefined,
  ) => void;
}

/** A peer that said hello: its timeline, and the reads of it. */
interface Greeted {
  readonly timeline: TenantTimelineId;
  readonly opening: Promise<PageService>;
}

type ReadRequest = Exclude<PagestreamRequest, { kind: 'hello' | 'cancel' }>;
type OneMessageRequest = Exclude<ReadRequest, { kind: 'getBasebackup' }>;

/** Serves until the channel closes. `peer` names it in the log. */
export function servePagestream(channel: Channel, host: PagestreamHost, peer: string): void {
  new PagestreamConnection(channel, host, peer);
}

class PagestreamConnection {
  readonly #channel: Channel;
  readonly #host: PagestreamHost;
  readonly #peer: string;
  readonly #running = new Map<number, AbortController>();
  #helloTimer: NodeJS.Timeout | undefined;
  #service: Greeted | undefined;
  #timeline: TenantTimelineId | undefined;
  /** The last of those that wait for the peer to read. */
  #drain: Promise<void> | undefined;
  #closed = false;

  constructor(channel: Channel, host: PagestreamHost, peer: string) {
    this.#channel = channel;
    this.#host = host;
    this.#peer = peer;
    this.#helloTimer = setTimeout(() => {
      this.#refuse(new PageliteError('invalid', `no hello in ${pagestreamHelloTimeoutMs} ms`));
    }, pagestreamHelloTimeoutMs);
    this.#helloTimer.unref();
    channel.onClose((error) => this.#close(error));
    channel.onMessage((message) => this.#receive(message));
  }

  #receive(message: Uint8Array): void {
    if (this.#closed) return;
    try {
      this.#accept(decodeRequest(message));
    } catch (error) {
      this.#refuse(error);
    }
  }

  #accept(request: PagestreamRequest): void {
    if (request.kind === 'hello') {
      this.#greet(request.version, request.timeline);
      return;
    }
    const service = this.#service;
    if (service === undefined) throw new PageliteError('invalid', `${request.kind} before hello`);
    if (request.kind === 'cancel') {
      this.#running.get(request.id)?.abort(new PageliteError('cancelled', 'the peer cancelled the request'));
      return;
    }
    const { id } = request;
    if (id === 0 || this.#running.has(id)) throw new PageliteError('invalid', `request id ${id} is taken`, { id });
    if (this.#running.size >= pagestreamInFlightMax) {
      throw new PageliteError('invalid', `more than ${pagestreamInFlightMax} requests are not answered yet`);
    }
    const cancel = new AbortController();
    this.#running.set(id, cancel);
    const startMs = performance.now();
    this.#host.onStarted?.(request.kind, service.timeline);
    this.#host.turns.run(() => void this.#serve(request, service, cancel.signal, startMs));
  }

  #greet(version: number, timeline: TenantTimelineId): void {
    if (this.#service !== undefined) throw new PageliteError('invalid', 'a second hello');
    clearTimeout(this.#helloTimer);
    if (version !== pagestreamVersion) {
      throw new PageliteError(
        'invalid',
        `pagestream version ${version} is not spoken here: this pageserver speaks version ${pagestreamVersion}`,
        { version, serverVersion: pagestreamVersion },
      );
    }
    this.#timeline = timeline;
    const opening = this.#host.open(timeline);
    this.#service = { opening, timeline };
    opening.then(
      () => this.#send({ kind: 'welcome', id: 0, version: pagestreamVersion }),
      (error) => this.#refuse(error),
    );
  }

  async #serve(
    request: ReadRequest,
    { opening, timeline }: Greeted,
    signal: AbortSignal,
    startMs: number,
  ): Promise<void> {
    let failure: PageliteError | undefined;
    try {
      const service = await opening;
      await this.#drained(signal);
      if (request.kind === 'getBasebackup') await this.#sendBasebackup(request, service, signal);
      else this.#send(await answer(request, service, signal));
    } catch (error) {
      failure = this.#asPageliteError(error, request.kind);
      this.#send({ kind: 'error', id: request.id, error: failure });
    }
    this.#running.delete(request.id);
    this.#host.onServed?.(request.kind, timeline, (performance.now() - startMs) / 1000, failure);
  }

  /** Chunk by chunk, as the peer reads them, so that page answers pass between. */
  async #sendBasebackup(
    { id, lsn }: Extract<ReadRequest, { kind: 'getBasebackup' }>,
    service: PageService,
    signal: AbortSignal,
  ): Promise<void> {
    const backup = await service.getBasebackup(lsn, signal);
    for (const chunk of basebackupChunks(backup, basebackupChunkBytes)) {
      await this.#drained(signal);
      this.#send({ kind: 'basebackupChunk', id, ...chunk });
    }
  }

  /** Waits while the peer does not read what it asked for, in the order of the calls. */
  async #drained(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#drain === undefined && this.#channel.bufferedBytes <= pagestreamUnsentBytesMax) return;
    const mine = this.#waitForDrain(this.#drain);
    this.#drain = mine;
    await mine;
    if (this.#drain === mine) this.#drain = undefined;
    signal.throwIfAborted();
  }

  /** A Channel has no drain event, and this is rare: it is polled. */
  async #waitForDrain(before: Promise<void> | undefined): Promise<void> {
    await before;
    while (!this.#closed && this.#channel.bufferedBytes > pagestreamUnsentBytesMax) await sleep(5);
  }

  #send(response: PagestreamResponse): void {
    if (this.#closed) return;
    const message = encodeResponse(response);
    try {
      this.#channel.send(message);
    } catch (error) {
      // The channel closed and its close event is on its way; there is nobody to tell.
      if (!isPageliteError(error, 'closed')) throw error;
    }
  }

  #asPageliteError(error: unknown, doing: string): PageliteError {
    if (isPageliteError(error)) return error;
    // A bug. The peer hears of it and so does the log, with its stack.
    const stack = error instanceof Error ? error.stack : undefined;
    this.#host.log.error('internal error', {
      peer: this.#peer,
      ...this.#timeline,
      doing,
      error: messageOf(error),
      stack,
    });
    return new PageliteError('unavailable', `internal error of the pageserver: ${messageOf(error)}`, {
      ...this.#timeline,
    });
  }

  /** Tells the peer what it did wrong and ends this connection. */
  #refuse(problem: unknown): void {
    if (this.#closed) return;
    const error = this.#asPageliteError(problem, 'connection');
    this.#host.log.warn('pagestream connection refused', { peer: this.#peer, ...this.#timeline, error: error.message });
    this.#send({ kind: 'error', id: 0, error });
    this.#close();
    this.#channel.close();
  }

  #close(error?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#helloTimer);
    if (error)
      this.#host.log.info('pagestream connection lost', { peer: this.#peer, ...this.#timeline, error: error.message });
    for (const cancel of this.#running.values()) cancel.abort(new PageliteError('cancelled', 'the peer went away'));
  }
}

async function answer(
  request: OneMessageRequest,
  service: PageService,
  signal: AbortSignal,
): Promise<PagestreamResponse> {
  const { id } = request;
  switch (request.kind) {
    case 'getPages': {
      const { at, rel, firstBlock, blockCount } = request;
      return { kind: 'pages', id, bytes: await service.getPages(at, rel, firstBlock, blockCount, signal) };
    }
    case 'getImages':
      return { kind: 'images', id, images: await service.getImages(request.at, request.keys, signal) };
    case 'getRelSize':
      return { kind: 'relSize', id, size: await service.getRelSize(request.at, request.rel, signal) };
    case 'listRels':
      return { kind: 'rels', id, rels: await service.listRels(request.at, request.spc, request.db, signal) };
    case 'leaseLsn':
      return { kind: 'lease', id, validForMs: (await service.leaseLsn(request.lsn, signal)).validForMs };
    case 'getStatus':
      return { kind: 'status', id, status: await service.getStatus(signal) };
    default:
      return unreachable(request);
  }
}
