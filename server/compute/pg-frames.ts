/**
 * Frames of PostgreSQL's frontend/backend protocol 3.0: just enough of it to cut messages apart, bound them and speak for the backend
 * when it is not this client's turn.
 *
 * | bytes | startup, SSLRequest, GSSENCRequest, CancelRequest | every other message |
 * |---|---|---|
 * | 0 | Int32 length, counts itself | Byte1 type |
 * | 1 | | Int32 length, counts itself, not the type |
 * | 4 | Int32 protocol or request code | |
 * | 5 | | body |
 *
 * Client bytes are untrusted: a length is checked against its type's bound before anything is kept for it.
 */
import { PageliteError } from '../../engine/errors.ts';
import {
  largeMessageBytesMax,
  passwordMessageBytesMax,
  smallMessageBytesMax,
  startupPacketBytesMax,
} from './wire-limits.ts';

export const requestCode = { ssl: 80877103, gssEncryption: 80877104, cancel: 80877102 } as const;

export type StartupRequest =
  | { readonly kind: 'encryption'; readonly bytes: number; readonly by: 'tls' | 'gss' }
  | { readonly kind: 'cancel'; readonly bytes: number; readonly processId: number; readonly secret: number }
  | {
      readonly kind: 'startup';
      readonly bytes: number;
      readonly minorVersion: number;
      readonly parameters: ReadonlyMap<string, string>;
    };

/** The first packet of a connection; null if it is not complete yet. Throws `invalid` for garbage. */
export function parseStartupRequest(bytes: Buffer): StartupRequest | null {
  if (bytes.length < 4) return null;
  const length = bytes.readUInt32BE(0);
  if (length < 8 || length > startupPacketBytesMax) throw invalid('invalid length of startup packet');
  if (bytes.length < length) return null;
  const code = bytes.readUInt32BE(4);
  if (code === requestCode.ssl) return { kind: 'encryption', bytes: length, by: 'tls' };
  if (code === requestCode.gssEncryption) return { kind: 'encryption', bytes: length, by: 'gss' };
  if (code === requestCode.cancel) {
    if (length !== 16) throw invalid('invalid length of cancel request');
    return { kind: 'cancel', bytes: length, processId: bytes.readUInt32BE(8), secret: bytes.readUInt32BE(12) };
  }
  const major = code >>> 16;
  if (major !== 3) throw invalid(`unsupported frontend protocol ${major}.${code & 0xffff}: server supports 3.0`);
  return {
    kind: 'startup',
    bytes: length,
    minorVersion: code & 0xffff,
    parameters: parseParameters(bytes.subarray(8, length)),
  };
}

/** Pairs of zero-terminated strings, and a zero byte at the very end. */
function parseParameters(bytes: Buffer): Map<string, string> {
  const parameters = new Map<string, string>();
  let at = 0;
  const text = () => {
    const end = bytes.indexOf(0, at);
    if (end < 0) throw invalid('invalid startup packet layout: expected terminator');
    const value = bytes.toString('utf8', at, end);
    at = end + 1;
    return value;
  };
  for (;;) {
    const name = text();
    if (name === '') break;
    parameters.set(name, text());
  }
  if (at !== bytes.length) throw invalid('invalid startup packet layout: expected terminator as last byte');
  return parameters;
}

/** The startup packet's `options`: `-c name=value`, `-cname=value`, `--name=value`; a backslash takes the next character as it is. */
export function parseCommandLineOptions(options: string): [string, string][] {
  const words: string[] = [];
  for (let at = 0; at < options.length; ) {
    if (/\s/.test(options[at]!)) {
      at++;
      continue;
    }
    let word = '';
    for (; at < options.length && !/\s/.test(options[at]!); at++) {
      if (options[at] === '\\' && at + 1 < options.length) at++;
      word += options[at];
    }
    words.push(word);
  }
  const settings: [string, string][] = [];
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    const assignment =
      word === '-c' ? words[++index] : /^(-c|--)/.test(word) ? word.replace(/^(-c|--)/, '') : undefined;
    const equals = assignment?.indexOf('=') ?? -1;
    if (assignment === undefined || equals <= 0)
      throw invalid(`invalid command-line argument for server process: ${word}`);
    settings.push([assignment.slice(0, equals).replaceAll('-', '_'), assignment.slice(equals + 1)]);
  }
  return settings;
}

const large = new Set([...'QPBdF'].map((type) => type.charCodeAt(0)));
const small = new Set([...'EDCHScfX'].map((type) => type.charCodeAt(0)));
export const frontendType = {
  query: 0x51,
  parse: 0x50,
  functionCall: 0x46,
  sync: 0x53,
  terminate: 0x58,
  copyData: 0x64,
  copyDone: 0x63,
  copyFail: 0x66,
} as const;

/** Bytes of the whole message by its header. Throws `invalid` for a type that clients do not send, or a length out of bounds. */
export function frontendMessageBytes(type: number, length: number): number {
  const max = large.has(type) ? largeMessageBytesMax : small.has(type) ? smallMessageBytesMax : -1;
  if (max < 0) throw invalid(`invalid frontend message type ${type}`);
  if (length < 4 || length > max) throw invalid('invalid message length');
  return 1 + length;
}

/** The body of the password message (SASL response) at the front, and its size; null if it is not there yet. Throws `invalid` for anything else. */
export function parsePasswordMessage(bytes: Buffer): { readonly body: Buffer; readonly bytes: number } | null {
  if (bytes.length < 5) return null;
  if (bytes[0] !== passwordType) throw invalid(`expected a password response, got message type ${bytes[0]}`);
  const length = bytes.readUInt32BE(1);
  if (length < 4 || length > passwordMessageBytesMax) throw invalid('invalid length of a password response');
  return bytes.length < 1 + length ? null : { body: bytes.subarray(5, 1 + length), bytes: 1 + length };
}

const passwordType = 0x70;

/** SASLInitialResponse: the mechanism, then the client's first message. Throws `invalid`. */
export function parseSaslInitialResponse(body: Buffer): { readonly mechanism: string; readonly message: string } {
  const end = body.indexOf(0);
  if (end < 0 || body.length < end + 5) throw invalid('malformed SASL response');
  const length = body.readInt32BE(end + 1);
  if (length < 0 || body.length !== end + 5 + length) throw invalid('malformed SASL response');
  return { mechanism: body.toString('utf8', 0, end), message: body.toString('utf8', end + 5) };
}

/** Bytes of a client that wait for the backend, cut into messages. Chunks are kept as they came. */
export class FrontendBuffer {
  readonly #chunks: Buffer[] = [];
  #offset = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  append(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#size += chunk.length;
  }

  /** Type and size of the message at the front, null if its header is not there yet. Throws `invalid` for garbage. */
  peekHeader(): { readonly type: number; readonly bytes: number } | null {
    if (this.#size < 5) return null;
    let header = this.#chunks[0]!;
    let at = this.#offset;
    if (header.length - at < 5) {
      header = this.#peek(5);
      at = 0;
    }
    const type = header[at]!;
    return { type, bytes: frontendMessageBytes(type, header.readUInt32BE(at + 1)) };
  }

  /** All bytes, without taking them. For the startup packet. */
  peekAll(): Buffer {
    return this.#peek(this.#size);
  }

  /** The first `count` bytes, which must be there, without taking them. */
  peekBytes(count: number): Buffer {
    return this.#peek(count);
  }

  /** At most `max` bytes from the front, all of one chunk; empty if there are none. */
  front(max: number): Buffer {
    const chunk = this.#chunks[0];
    return chunk === undefined ? Buffer.alloc(0) : chunk.subarray(this.#offset, this.#offset + max);
  }

  skip(count: number): void {
    this.#size -= count;
    this.#offset += count;
    while (this.#chunks.length > 0 && this.#offset >= this.#chunks[0]!.length) {
      this.#offset -= this.#chunks.shift()!.length;
    }
  }

  clear(): void {
    this.#chunks.length = 0;
    this.#offset = 0;
    this.#size = 0;
  }

  #peek(count: number): Buffer {
    return Buffer.concat(this.#chunks).subarray(this.#offset, this.#offset + count);
  }
}

export interface BackendFramesHandler {
  /** Bytes for the client, whole or parts of messages, in order. */
  forward(bytes: Buffer): void;
  /** A message for the listener: a control message, or a NotificationResponse. */
  message(type: number, body: Buffer): void;
}

const typeNotification = 0x41;

/** Cuts what comes out of the backend's thread: control messages and notifications are taken out, the rest goes on as it is. */
export class BackendFrames {
  readonly #handler: BackendFramesHandler;
  readonly #header = Buffer.alloc(5);
  #headerBytes = 0;
  #bodyLeft = 0;
  #collected: Buffer | null = null;
  #collectedBytes = 0;

  constructor(handler: BackendFramesHandler) {
    this.#handler = handler;
  }

  push(chunk: Buffer): void {
    let runStart = 0;
    let at = 0;
    const flush = (end: number) => {
      if (end > runStart) this.#handler.forward(chunk.subarray(runStart, end));
    };
    while (at < chunk.length) {
      if (this.#bodyLeft === 0 && this.#collected === null) {
        const headerStart = at;
        const split = this.#headerBytes > 0;
        const take = Math.min(5 - this.#headerBytes, chunk.length - at);
        chunk.copy(this.#header, this.#headerBytes, at, at + take);
        this.#headerBytes += take;
        at += take;
        if (this.#headerBytes < 5) {
          // The rest of the header comes with the next chunk: until then nobody knows whose message it is.
          flush(headerStart);
          return;
        }
        this.#headerBytes = 0;
        const type = this.#header[0]!;
        const body = this.#header.readUInt32BE(1) - 4;
        if (type < 0x20 || type === typeNotification) {
          flush(headerStart);
          runStart = at;
          this.#collected = Buffer.alloc(body);
          this.#collectedBytes = 0;
        } else {
          if (split) {
            this.#handler.forward(Buffer.from(this.#header));
            runStart = at;
          }
          this.#bodyLeft = body;
        }
      }
      if (this.#collected !== null) {
        const copied = chunk.copy(this.#collected, this.#collectedBytes, at);
        this.#collectedBytes += copied;
        at += copied;
        runStart = at;
        if (this.#collectedBytes === this.#collected.length) {
          const body = this.#collected;
          this.#collected = null;
          this.#handler.message(this.#header[0]!, body);
        }
      } else {
        const step = Math.min(this.#bodyLeft, chunk.length - at);
        this.#bodyLeft -= step;
        at += step;
      }
    }
    flush(chunk.length);
  }
}

export function message(type: string, ...parts: (string | Uint8Array | number)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(`${part}\0`);
      if (typeof part !== 'number') return part;
      const word = Buffer.alloc(4);
      word.writeUInt32BE(part >>> 0);
      return word;
    }),
  );
  const header = Buffer.alloc(5);
  header.write(type, 'latin1');
  header.writeUInt32BE(4 + body.length, 1);
  return Buffer.concat([header, body]);
}

export const authenticationOk = message('R', 0);
/** The mechanisms to choose from. */
export const authenticationSasl = (mechanisms: readonly string[]) => message('R', 10, ...mechanisms, new Uint8Array(1));
export const authenticationSaslContinue = (text: string) => message('R', 11, Buffer.from(text));
export const authenticationSaslFinal = (text: string) => message('R', 12, Buffer.from(text));
export const parameterStatus = (name: string, value: string) => message('S', name, value);
export const parseComplete = message('1');
export const backendKeyData = (processId: number, secret: number) => message('K', processId, secret);
export const readyForQuery = (status: string) => message('Z', Buffer.from(status));
/** NegotiateProtocolVersion: the newest minor version we speak, and the protocol options we do not know. */
export const negotiateVersion = (unknown: readonly string[]) => message('v', 0, unknown.length, ...unknown);

export interface ErrorFields {
  readonly severity: 'ERROR' | 'FATAL';
  readonly code: string;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
}

export function errorResponse(fields: ErrorFields): Buffer {
  const detail = fields.detail === undefined ? [] : [`D${fields.detail}`];
  const hint = fields.hint === undefined ? [] : [`H${fields.hint}`];
  return message(
    'E',
    `S${fields.severity}`,
    `V${fields.severity}`,
    `C${fields.code}`,
    `M${fields.message}`,
    ...detail,
    ...hint,
    new Uint8Array(1),
  );
}

function invalid(text: string): PageliteError {
  return new PageliteError('invalid', text);
}
