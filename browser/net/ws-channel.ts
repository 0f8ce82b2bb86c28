/**
 * A Channel over the browser's WebSocket: pages (R4) and WAL (W2) between a tab and a server. The server's end is server/net/ws-channel.ts.
 *
 * Returned before the socket is open; one binary WebSocket message is one Channel message. The browser answers the server's pings by itself
 * and sends none: silence is noticed by who waits for answers (remote/channel-rpc.ts, the proposer's heartbeat).
 *
 * Invariants
 * - messages are whole and in order; a text message, or one above `channelMessageBytesMax`, ends the connection before it is delivered
 * - `onClose` is called once: without an error after an orderly close of the peer, with one otherwise (its kind and text travel in the close frame)
 */
import { type ErrorKind, errorKinds, isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { channelMessageBytesMax } from '../../engine/limits.ts';
import type { Channel } from '../../engine/services.ts';

/** Close codes of the private range: 4000 plus the index of the error's kind. */
const errorCodeBase = 4000;
/** A close frame's reason has at most 123 bytes. */
const reasonBytesMax = 123;
const connectTimeoutMs = 10_000;
/** What may arrive before a handler is set; one message may be as large as this. */
const inboxBytesMax = channelMessageBytesMax;

/** Bytes that came over the connections of one user. */
export interface TrafficCounter {
  bytesReceived: number;
}

export function connectWebSocket(url: string, traffic?: TrafficCounter): Channel {
  return new WebSocketChannel(url, traffic);
}

class WebSocketChannel implements Channel {
  readonly #url: string;
  readonly #socket: WebSocket;
  readonly #traffic: TrafficCounter | undefined;
  readonly #connectTimer: ReturnType<typeof setTimeout>;
  #unopened: Uint8Array[] | null = [];
  #unopenedBytes = 0;
  #inbox: Uint8Array[] = [];
  #inboxBytes = 0;
  #messageHandler: ((message: Uint8Array) => void) | undefined;
  #closeHandler: ((error?: Error) => void) | undefined;
  #closing = false;
  #failure: Error | undefined;
  #ended: { readonly error: Error | undefined } | undefined;

  constructor(url: string, traffic: TrafficCounter | undefined) {
    this.#url = url;
    this.#traffic = traffic;
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    this.#connectTimer = setTimeout(
      () => this.close(new PageliteError('unavailable', `${url} did not answer in ${connectTimeoutMs} ms`, { url })),
      connectTimeoutMs,
    );
    socket.onopen = () => this.#open();
    socket.onmessage = ({ data }: MessageEvent<unknown>) => this.#receive(data);
    // An error event says nothing, and a close event follows it.
    socket.onclose = ({ code, reason }) => this.#end(code, reason);
  }

  get bufferedBytes(): number {
    return this.#unopenedBytes + this.#socket.bufferedAmount;
  }

  send(message: Uint8Array): void {
    if (this.#closing || this.#ended) throw new PageliteError('closed', 'the channel is closed');
    if (message.length > channelMessageBytesMax) {
      const text = `a message of ${message.length} bytes: the limit is ${channelMessageBytesMax}`;
      throw new PageliteError('invalid', text);
    }
    if (this.#unopened === null) {
      this.#socket.send(message as Uint8Array<ArrayBuffer>);
    } else {
      this.#unopened.push(message);
      this.#unopenedBytes += message.length;
    }
  }

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
    this.#socket.close(error ? closeCodeOf(error) : 1000, error ? shorten(messageOf(error)) : '');
    // A peer that is gone does not answer the close frame: its caller is told now, the socket ends by itself.
    queueMicrotask(() => this.#finish(this.#failure));
  }

  #open(): void {
    clearTimeout(this.#connectTimer);
    const waiting = this.#unopened ?? [];
    this.#unopened = null;
    this.#unopenedBytes = 0;
    for (const message of waiting) this.#socket.send(message as Uint8Array<ArrayBuffer>);
  }

  #receive(data: unknown): void {
    if (this.#closing) return;
    if (!(data instanceof ArrayBuffer) || data.byteLength > channelMessageBytesMax) {
      const text = data instanceof ArrayBuffer ? `a message of ${data.byteLength} bytes` : 'a text message';
      this.close(new PageliteError('invalid', `${text} on a binary channel`));
      return;
    }
    if (this.#traffic) this.#traffic.bytesReceived += data.byteLength;
    const message = new Uint8Array(data);
    if (this.#messageHandler && this.#inbox.length === 0) {
      this.#messageHandler(message);
      return;
    }
    this.#inbox.push(message);
    this.#inboxBytes += message.length;
    // A browser cannot be told to stop reading.
    if (this.#inboxBytes > inboxBytesMax) this.close(new PageliteError('invalid', 'nobody takes what arrives'));
  }

  #deliverInbox(): void {
    while (this.#inbox.length > 0 && this.#messageHandler && !this.#closing) {
      const message = this.#inbox.shift()!;
      this.#inboxBytes -= message.length;
      this.#messageHandler(message);
    }
    if (this.#ended) this.#reportEnd();
  }

  #end(code: number, reason: string): void {
    this.#finish(this.#failure ?? (code === 1000 ? undefined : errorOfClose(code, reason, this.#url)));
  }

  #finish(error: Error | undefined): void {
    if (this.#ended) return;
    clearTimeout(this.#connectTimer);
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

/** A browser refuses the codes of the protocol itself, such as 1011. */
function closeCodeOf(error: Error): number {
  return errorCodeBase + errorKinds.indexOf(isPageliteError(error) ? error.kind : 'unavailable');
}

function errorOfClose(code: number, reason: string, url: string): PageliteError {
  const kind: ErrorKind = errorKinds[code - errorCodeBase] ?? 'unavailable';
  return new PageliteError(kind, reason || `no connection to ${url} (code ${code})`, { code, url });
}

function shorten(text: string): string {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length <= reasonBytesMax) return text;
  // Cut between characters.
  let end = reasonBytesMax;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return new TextDecoder().decode(bytes.subarray(0, end));
}
