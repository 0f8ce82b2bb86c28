/**
 * A PageService on the other side of a Channel (R4 of the read path): the compute's I/O host speaks to a pageserver process through
 * it, and a timeline in a tab to its ancestor on a server.
 *
 * Connects when first asked, says hello for its one timeline, and keeps the channel. All requests are reads, so one whose channel is
 * lost is asked again over the next: until it is answered, its signal fires, or `retryTimeLimitMs` have passed since it was asked
 * (then `unavailable`). Errors that the server answers, a refused token among them, are the caller's at once, with their kind and data.
 *
 * Invariants
 * - one channel at a time; attempts to connect are shared by all callers, with growing pauses until something has been answered
 * - a page answer whose checksum fails is `corrupt` for its caller and costs the channel
 */
import { isAccessRefusal, isPageliteError, messageOf, PageliteError } from '../errors.ts';
import {
  basebackupBytesMax,
  blockNumberMax,
  channelSilenceMaxMs,
  keysPerRequestMax,
  pageSize,
  pagesPerRequestMax,
  pagestreamInFlightMax,
  reconnectPauseMaxMs,
  reconnectPauseMinMs,
  remoteRetryTimeLimitMs,
} from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Key } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { BlockNumber, RelTag } from '../model/rel.ts';
import { decodeBasebackup } from '../protocol/basebackup-codec.ts';
import {
  decodeResponse,
  encodeRequest,
  type PagestreamRequest,
  type PagestreamResponse,
  pagestreamVersion,
} from '../protocol/pagestream.ts';
import type { Basebackup, Channel, Clock, Log, PageService, Random, ReadLsn, TimelineStatus } from '../services.ts';
import { ChannelLost, ChannelRpc, cancelled, type RpcProtocol } from './channel-rpc.ts';

export interface RemotePageServiceOptions {
  readonly id: TenantTimelineId;
  /** A new channel to the pageserver. May return before it is open. Rejections and early closes are tried again. */
  readonly connect: () => Channel | Promise<Channel>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly retryTimeLimitMs?: number;
  readonly silenceMaxMs?: number;
}

/** A request without its number. */
type Unnumbered<T> = T extends unknown ? Omit<T, 'id'> : never;
type Ask = Unnumbered<Exclude<PagestreamRequest, { kind: 'hello' | 'cancel' }>>;
type Answer<K extends PagestreamResponse['kind']> = Extract<PagestreamResponse, { kind: K }>;

const protocol: RpcProtocol<PagestreamResponse> = {
  decode: decodeResponse,
  idOf: (response) => response.id,
  isLast: (response) => response.kind !== 'basebackupChunk' || response.last,
  errorOf: (response) => (response.kind === 'error' ? response.error : undefined),
  encodeCancel: (id) => encodeRequest({ kind: 'cancel', id }),
};

export class RemotePageService implements PageService {
  readonly id: TenantTimelineId;
  readonly #options: RemotePageServiceOptions;
  readonly #closing = new AbortController();
  #link: ChannelRpc<PagestreamResponse> | undefined;
  #connecting: Promise<ChannelRpc<PagestreamResponse>> | undefined;
  /** Attempts since a request was last answered. */
  #attempts = 0;

  constructor(options: RemotePageServiceOptions) {
    this.id = options.id;
    this.#options = options;
  }

  async getPages(
    at: ReadLsn,
    rel: RelTag,
    firstBlock: BlockNumber,
    blockCount: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    if (!Number.isInteger(blockCount) || blockCount < 1 || blockCount > pagesPerRequestMax) {
      throw new PageliteError('invalid', `${blockCount} blocks asked for: 1 to ${pagesPerRequestMax} are possible`);
    }
    if (!Number.isInteger(firstBlock) || firstBlock < 0 || firstBlock + blockCount - 1 > blockNumberMax) {
      throw new PageliteError('invalid', `block ${firstBlock} is out of range`);
    }
    const ask: Ask = { kind: 'getPages', at, rel, firstBlock, blockCount };
    const { bytes } = await this.#ask(ask, 'pages', signal);
    if (bytes.length !== blockCount * pageSize) {
      throw new PageliteError('invalid', `${bytes.length} bytes answered for ${blockCount} pages`);
    }
    return bytes;
  }

  async getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]> {
    if (keys.length > keysPerRequestMax) {
      throw new PageliteError('invalid', `${keys.length} keys asked for: at most ${keysPerRequestMax} are possible`);
    }
    const { images } = await this.#ask({ kind: 'getImages', at, keys }, 'images', signal);
    if (images.length !== keys.length) {
      throw new PageliteError('invalid', `${images.length} images answered for ${keys.length} keys`);
    }
    return images;
  }

  async getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null> {
    return (await this.#ask({ kind: 'getRelSize', at, rel }, 'relSize', signal)).size;
  }

  async listRels(
    at: ReadLsn,
    spc: number,
    db: number,
    signal?: AbortSignal,
  ): Promise<{ rel: RelTag; size: BlockNumber }[]> {
    return (await this.#ask({ kind: 'listRels', at, spc, db }, 'rels', signal)).rels;
  }

  getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup> {
    const ask: Ask = { kind: 'getBasebackup', lsn };
    return this.#retrying(
      (link) => link.call((id) => encodeRequest({ ...ask, id }), basebackupCollector(), signal),
      signal,
    );
  }

  async getStatus(signal?: AbortSignal): Promise<TimelineStatus> {
    return (await this.#ask({ kind: 'getStatus' }, 'status', signal)).status;
  }

  async leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }> {
    const { validForMs } = await this.#ask({ kind: 'leaseLsn', lsn }, 'lease', signal);
    return { validForMs };
  }

  /** Closes the channel. Calls under way and later ones reject `closed`. */
  close(): void {
    const closed = new PageliteError('closed', 'the remote page service was closed');
    this.#closing.abort(closed);
    this.#link?.close(closed);
  }

  /** A request with a one-message answer of kind `expected`. */
  #ask<K extends PagestreamResponse['kind']>(ask: Ask, expected: K, signal?: AbortSignal): Promise<Answer<K>> {
    return this.#retrying((link) => {
      const encode = (id: number) => encodeRequest({ ...ask, id } as PagestreamRequest);
      return link.call(encode, (response) => expectKind(response, expected), signal);
    }, signal);
  }

  async #retrying<T>(
    run: (link: ChannelRpc<PagestreamResponse>) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const { clock, retryTimeLimitMs = remoteRetryTimeLimitMs } = this.#options;
    const startMs = clock.now();
    for (;;) {
      try {
        const link = this.#link?.ended === false ? this.#link : await abortable(this.#connect(), signal);
        const answer = await run(link);
        this.#attempts = 0;
        return answer;
      } catch (error) {
        if (!(error instanceof ChannelLost)) throw error;
        if (signal?.aborted) throw cancelled(signal);
        if (this.#closing.signal.aborted) throw cancelled(this.#closing.signal);
        const passedMs = clock.now() - startMs;
        if (passedMs >= retryTimeLimitMs) {
          throw new PageliteError(
            'unavailable',
            `pageserver not reached in ${passedMs} ms: ${error.message}`,
            { ...this.id },
            { cause: error },
          );
        }
      }
    }
  }

  /** The attempt under way, or a new one. */
  #connect(): Promise<ChannelRpc<PagestreamResponse>> {
    if (this.#closing.signal.aborted) return Promise.reject(cancelled(this.#closing.signal));
    if (this.#connecting === undefined) {
      const attempt = this.#connectOnce();
      this.#connecting = attempt;
      const done = () => {
        this.#connecting = undefined;
      };
      attempt.then(done, done);
    }
    return this.#connecting;
  }

  async #connectOnce(): Promise<ChannelRpc<PagestreamResponse>> {
    const { clock, log, connect } = this.#options;
    const pauseMs = this.#pauseMs();
    this.#attempts++;
    try {
      if (pauseMs > 0) await clock.sleep(pauseMs, this.#closing.signal);
      const link = await this.#hello(await connect());
      this.#link = link;
      return link;
    } catch (error) {
      if (this.#closing.signal.aborted) throw cancelled(this.#closing.signal);
      log.info('no connection to the pageserver', { ...this.id, attempt: this.#attempts, error: messageOf(error) });
      // What `connect` throws and what ends the channel before the welcome may be over at the next attempt. What the server answers is final.
      if (error instanceof ChannelLost && isAccessRefusal(error.cause)) throw error.cause;
      const final = isPageliteError(error) && error.kind !== 'unavailable' && error.kind !== 'closed';
      if (final || error instanceof ChannelLost) throw error;
      throw new ChannelLost(messageOf(error), error);
    }
  }

  async #hello(channel: Channel): Promise<ChannelRpc<PagestreamResponse>> {
    const { clock, silenceMaxMs = channelSilenceMaxMs } = this.#options;
    const link = new ChannelRpc(channel, protocol, { inFlightMax: pagestreamInFlightMax, silenceMaxMs }, clock);
    const giveUp = () => link.close(cancelled(this.#closing.signal));
    this.#closing.signal.addEventListener('abort', giveUp, { once: true });
    try {
      if (this.#closing.signal.aborted) giveUp();
      const hello = encodeRequest({ kind: 'hello', id: 0, version: pagestreamVersion, timeline: this.id });
      await link.call(
        () => hello,
        (response) => expectKind(response, 'welcome'),
        undefined,
        0,
      );
      return link;
    } finally {
      this.#closing.signal.removeEventListener('abort', giveUp);
    }
  }

  /** None before the first attempt and after an answered request; then doubling, each between half and the whole. */
  #pauseMs(): number {
    if (this.#attempts === 0) return 0;
    const wholeMs = Math.min(reconnectPauseMaxMs, reconnectPauseMinMs * 2 ** Math.min(this.#attempts - 1, 20));
    return Math.ceil(wholeMs * (0.5 + 0.5 * this.#options.random.next()));
  }
}

function expectKind<K extends PagestreamResponse['kind']>(response: PagestreamResponse, kind: K): Answer<K> {
  if (response.kind !== kind) throw new PageliteError('invalid', `${response.kind} answered where ${kind} was asked`);
  return response as Answer<K>;
}

/** Puts the chunks of one basebackup together. */
function basebackupCollector(): (response: PagestreamResponse) => Basebackup | undefined {
  const chunks: Uint8Array[] = [];
  let size = 0;
  return (response) => {
    const { offset, bytes, last } = expectKind(response, 'basebackupChunk');
    if (offset !== size) throw new PageliteError('invalid', `basebackup goes on at ${offset}, not at ${size}`);
    if (size + bytes.length > basebackupBytesMax) throw new PageliteError('invalid', 'basebackup exceeds its limit');
    chunks.push(bytes);
    size += bytes.length;
    if (!last) return undefined;
    const whole = new Uint8Array(size);
    let at = 0;
    for (const chunk of chunks) {
      whole.set(chunk, at);
      at += chunk.length;
    }
    return decodeBasebackup(whole);
  };
}

/** The promise, or a rejection when the signal fires first. */
function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(cancelled(signal));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
