/**
 * A Channel over a WebSocket, for both ends: proposer, WAL reader and pagestream connections between processes.
 *
 * `connectWebSocket` is the client's side and returns before the socket is open; `WebSocketAcceptor` takes what an HTTP server has to
 * upgrade. One binary WebSocket message is one Channel message.
 *
 * Invariants
 * - messages are whole and in order; a text message, or one above `channelMessageBytesMax`, ends the connection before it is delivered
 * - `onClose` is called once: without an error after an orderly close of the peer, with one otherwise (its kind and text travel in the close frame)
 * - received bytes are plain Uint8Arrays, not Buffers, whose `slice` would not copy
 * - a peer that is silent for twice `pingAfterMs`, pings included, is gone: the connection ends with `unavailable`
 * - no compression (WAL and pages are latency-bound and half of them random), TCP_NODELAY (set by `ws`)
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, WebSocket, WebSocketServer } from 'ws';
import {
  accessRefused,
  type ErrorKind,
  errorKinds,
  isPageliteError,
  messageOf,
  PageliteError,
} from '../../engine/errors.ts';
import { channelMessageBytesMax } from '../../engine/limits.ts';
import type { Channel } from '../../engine/services.ts';

/** Close codes of the private range: 4000 plus the index of the error's kind. */
const errorCodeBase = 4000;
/** A close frame's reason has at most 123 bytes. */
const reasonBytesMax = 123;
/** How long a peer may take to answer a close frame before its socket is destroyed. */
const closeTimeoutMs = 2_000;
const connectTimeoutMs = 10_000;
/** After this time without a byte from the peer it is pinged; after as much again it is given up. Long enough for a busy event loop. */
const pingAfterMs = 15_000;

/**
 * RFC 6455 has a client's bytes masked so that a page's script cannot write what a careless proxy takes for a request of its own (section 10.3). Who connects
 * here is a process of ours and no page: a mask of zeros changes nothing, and neither side passes over every byte once more.
 */
const noMask = (mask: Buffer): void => {
  mask.fill(0);
};

/** Of an answer that refuses the handshake. */
const refusalBytesMax = 4096;

/** Connects to `url` (ws://...). Messages sent before it is open wait for that. A refused token ends it as `invalid`, with the server's reason. */
export function connectWebSocket(url: string, token: string | null = null): Channel {
  const socket = new WebSocket(url, {
    ...(token !== null && { headers: { authorization: `Bearer ${token}` } }),
    perMessageDeflate: false,
    generateMask: noMask,
    maxPayload: channelMessageBytesMax,
    handshakeTimeout: connectTimeoutMs,
    closeTimeout: closeTimeoutMs,
  } as ConstructorParameters<typeof WebSocket>[2]);
  return new WebSocketChannel(socket);
}

/** A server side without a port of its own: `upgrade` takes the requests that an HTTP server hands over. */
export class WebSocketAcceptor {
  readonly #server = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: channelMessageBytesMax,
    closeTimeout: closeTimeoutMs,
  } as ConstructorParameters<typeof WebSocketServer>[0]);
  readonly #channels = new Set<Channel>();

  /** Completes the handshake and hands the channel to `accept`. A malformed handshake is answered and dropped by `ws`. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Uint8Array, accept: (channel: Channel) => void): void {
    this.#server.handleUpgrade(request, socket, Buffer.from(head), (webSocket) => {
      const channel = new WebSocketChannel(webSocket, socket);
      this.#channels.add(channel);
      webSocket.once('close', () => this.#channels.delete(channel));
      accept(channel);
    });
  }

  /** Closes every connection. */
  close(error?: Error): void {
    for (const channel of this.#channels) channel.close(error);
  }
}

class WebSocketChannel implements Channel {
  readonly #socket: WebSocket;
  /** Null until the handshake. */
  #transport: Duplex | null;
  /** What was sent in this turn of the event loop. */
  #gathering: 'idle' | 'sent' | 'gathers' = 'idle';
  #unopened: Uint8Array[] | null;
  #unopenedBytes = 0;
  #inbox: Uint8Array[] = [];
  #messageHandler: ((message: Uint8Array) => void) | undefined;
  #closeHandler: ((error?: Error) => void) | undefined;
  #closing = false;
  #failure: Error | undefined;
  #ended: { readonly error: Error | undefined } | undefined;
  #heard = true;
  #pinged = false;
  readonly #watch: NodeJS.Timeout;

  /** `transport`: what an accepted socket runs over. */
  constructor(socket: WebSocket, transport: Duplex | null = null) {
    this.#socket = socket;
    this.#transport = transport;
    this.#unopened = socket.readyState === WebSocket.CONNECTING ? [] : null;
    this.#watch = setInterval(() => this.#checkSilence(), pingAfterMs).unref();
    socket.on('upgrade', (response) => {
      this.#transport = response.socket;
    });
    socket.on('open', () => this.#open());
    socket.on('pong', () => this.#hear());
    socket.on('ping', () => this.#hear());
    socket.on('message', (data, isBinary) => this.#receive(data, isBinary));
    socket.on('unexpected-response', (_request, response) => void this.#refused(response));
    // `close` follows every `error`.
    socket.on('error', (error) => {
      this.#failure ??= errorOfSocket(error);
    });
    socket.on('close', (code, reason) => this.#end(code, reason.toString()));
  }

  get bufferedBytes(): number {
    return this.#unopenedBytes + this.#socket.bufferedAmount;
  }

  send(message: Uint8Array): void {
    if (this.#closing || this.#ended) throw new PageliteError('closed', 'the channel is closed');
    if (message.length > channelMessageBytesMax) {
      throw new PageliteError(
        'invalid',
        `a message of ${message.length} bytes: the limit is ${channelMessageBytesMax}`,
      );
    }
    if (this.#unopened === null) {
      this.#gather();
      this.#socket.send(message, { binary: true }, ignoreSendError);
    } else {
      this.#unopened.push(message);
      this.#unopenedBytes += message.length;
    }
  }

  /**
   * The first message of a turn of the event loop leaves at once, what follows it in that turn together at its end: a system call each would cost more than
   * most messages say.
   */
  #gather(): void {
    const transport = this.#transport;
    if (transport === null || this.#gathering === 'gathers') return;
    if (this.#gathering === 'sent') {
      this.#gathering = 'gathers';
      transport.cork();
    } else {
      this.#gathering = 'sent';
      setImmediate(this.#endOfTurn);
    }
  }

  readonly #endOfTurn = (): void => {
    if (this.#gathering === 'gathers') this.#transport!.uncork();
    this.#gathering = 'idle';
  };

  onMessage(handler: (message: Uint8Array) => void): void {
    this.#messageHandler = handler;
    // Later, never within onMessage: the caller may still be setting itself up.
    if (this.#inbox.length > 0) queueMicrotask(() => this.#deliverInbox());
  }

  onClose(handler: (error?: Error) => void): void {
    this.#closeHandler = handler;
    if (this.#ended) queueMicrotask(() => this.#reportEnd());
  }

  close(error?: Error): void {
    if (this.#closing || this.#ended) return;
    this.#closing = true;
    this.#failure ??= error;
    this.#inbox = [];
    if (this.#socket.readyState === WebSocket.CONNECTING) {
      this.#socket.terminate();
    } else {
      this.#socket.close(error ? closeCodeOf(error) : 1000, error ? shorten(messageOf(error)) : '');
      // A peer that is gone does not answer the close frame: its caller is told now, the socket ends by itself.
      queueMicrotask(() => this.#finish(this.#failure));
    }
  }

  #open(): void {
    const waiting = this.#unopened ?? [];
    this.#unopened = null;
    this.#unopenedBytes = 0;
    for (const message of waiting) this.#socket.send(message, { binary: true }, ignoreSendError);
  }

  async #refused(response: IncomingMessage): Promise<void> {
    const text = await readStart(response).catch(() => '');
    this.#failure ??= errorOfAnswer(response.statusCode ?? 0, text);
    this.#socket.terminate();
  }

  #hear(): void {
    this.#heard = true;
  }

  /** TCP alone may take a quarter of an hour to notice that a peer is gone. */
  #checkSilence(): void {
    // A paused socket hears nothing because nobody listens here.
    if (this.#heard || this.#socket.isPaused || this.#socket.readyState !== WebSocket.OPEN) {
      this.#heard = false;
      this.#pinged = false;
    } else if (this.#pinged) {
      this.#failure ??= new PageliteError('unavailable', `the peer is silent for ${2 * pingAfterMs} ms`);
      this.#socket.terminate();
    } else {
      this.#pinged = true;
      this.#socket.ping();
    }
  }

  #receive(data: RawData, isBinary: boolean): void {
    this.#heard = true;
    if (this.#closing) return;
    if (!isBinary) {
      this.close(new PageliteError('invalid', 'a text message on a binary channel'));
      return;
    }
    const buffer = data as Buffer;
    const message = new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    if (this.#messageHandler && this.#inbox.length === 0) {
      this.#messageHandler(message);
      return;
    }
    this.#inbox.push(message);
    // Bounds what is kept: the peer's sends back up until a handler is there.
    if (!this.#socket.isPaused) this.#socket.pause();
  }

  #deliverInbox(): void {
    while (this.#inbox.length > 0 && this.#messageHandler && !this.#closing) {
      this.#messageHandler(this.#inbox.shift()!);
    }
    if (this.#socket.isPaused) this.#socket.resume();
    if (this.#ended) this.#reportEnd();
  }

  #end(code: number, reason: string): void {
    this.#finish(this.#failure ?? (code === 1000 ? undefined : errorOfClose(code, reason)));
  }

  #finish(error: Error | undefined): void {
    if (this.#ended) return;
    clearInterval(this.#watch);
    this.#ended = { error };
    this.#reportEnd();
  }

  /** After the messages that came before it. */
  #reportEnd(): void {
    if (!this.#ended || !this.#closeHandler || (this.#inbox.length > 0 && !this.#closing)) return;
    const handler = this.#closeHandler;
    this.#closeHandler = undefined;
    handler(this.#ended.error);
  }
}

async function readStart(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    parts.push(part);
    size += part.length;
    if (size >= refusalBytesMax) break;
  }
  return Buffer.concat(parts).subarray(0, refusalBytesMax).toString();
}

/** Why there is no WebSocket: the server's own reason where it is about who asks, as nobody gains by asking again. */
function errorOfAnswer(status: number, text: string): PageliteError {
  if (status !== 401 && status !== 403) {
    return new PageliteError('unavailable', `connection failed: the server answered ${status}`, { status });
  }
  let msg: unknown;
  try {
    msg = (JSON.parse(text) as { msg?: unknown }).msg;
  } catch {
    // Another kind of server: its status says enough.
  }
  const why = typeof msg === 'string' ? msg : `the server answered ${status}`;
  return new PageliteError('invalid', `access refused: ${why}`, { ...accessRefused, status });
}

/** What could not be sent is told by the close event; a callback keeps `ws` from throwing it. */
function ignoreSendError(): void {}

/** What `ws` found wrong with the peer's frames has a code of its own; the rest is the network. */
function errorOfSocket(error: Error): PageliteError {
  const broken = String((error as NodeJS.ErrnoException).code).startsWith('WS_ERR_');
  return new PageliteError(
    broken ? 'invalid' : 'unavailable',
    `connection failed: ${error.message}`,
    {},
    { cause: error },
  );
}

function closeCodeOf(error: Error): number {
  return isPageliteError(error) ? errorCodeBase + errorKinds.indexOf(error.kind) : 1011;
}

function errorOfClose(code: number, reason: string): PageliteError {
  const kind: ErrorKind = errorKinds[code - errorCodeBase] ?? 'unavailable';
  return new PageliteError(kind, reason || `connection ended without a close (code ${code})`, { code });
}

function shorten(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= reasonBytesMax) return text;
  // Cut between characters.
  let end = reasonBytesMax;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end).toString();
}
