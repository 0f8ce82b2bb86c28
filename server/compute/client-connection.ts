/**
 * One TCP connection of a client: its startup, its bytes that wait for the backend, its way out.
 *
 * Step on the path: socket -> FrontendBuffer -> session-multiplexer.ts -> in ring; out ring -> multiplexer -> `send`.
 * States: `startup` (nothing known) -> `opening` (a session is asked for) -> `serving` -> `closed`.
 *
 * Invariant: the socket is paused while more than clientBufferBytesMax wait, unless the present message alone is larger than that
 * and the client has the backend (it then streams through).
 */
import type { Socket } from 'node:net';
import { isPageliteError } from '../../engine/errors.ts';
import {
  type ErrorFields,
  errorResponse,
  FrontendBuffer,
  negotiateVersion,
  parseCommandLineOptions,
  parseStartupRequest,
  type StartupRequest,
} from './pg-frames.ts';
import type { OpenMessage } from './session-protocol.ts';
import { clientBufferBytesMax } from './wire-limits.ts';

export interface ConnectionEvents {
  /** The startup packet is there: a session is wanted. */
  opened(connection: ClientConnection): void;
  /** New bytes for the backend. */
  input(connection: ClientConnection): void;
  /** The socket takes more bytes again. */
  drained(connection: ClientConnection): void;
  cancel(processId: number, secret: number): void;
  /** Called once. */
  closed(connection: ClientConnection): void;
}

export class ClientConnection {
  readonly id: number;
  readonly secret: number;
  readonly input = new FrontendBuffer();
  state: 'startup' | 'opening' | 'serving' | 'closed' = 'startup';
  openMessage: OpenMessage | null = null;
  /** Parse messages that were answered before the backend had them. */
  readonly promisedParses: Buffer[] = [];
  readonly #socket: Socket;
  readonly #events: ConnectionEvents;

  constructor(id: number, secret: number, socket: Socket, events: ConnectionEvents) {
    this.id = id;
    this.secret = secret;
    this.#socket = socket;
    this.#events = events;
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#onData(chunk));
    socket.on('drain', () => events.drained(this));
    // An error is always followed by 'close'; the client is gone either way.
    socket.on('error', () => {});
    socket.on('end', () => this.destroy());
    socket.on('close', () => this.#onClose());
  }

  get unsentBytes(): number {
    return this.#socket.writableLength;
  }

  send(bytes: Uint8Array): void {
    if (this.state !== 'closed' && !this.#socket.destroyed) this.#socket.write(bytes);
  }

  /** Ends the connection with a FATAL error that the client can read. */
  fail(fields: Omit<ErrorFields, 'severity'>): void {
    if (this.state === 'closed') return;
    this.#socket.end(errorResponse({ severity: 'FATAL', ...fields }));
    // A client that does not read must not hold the connection: what is not taken by then is dropped.
    setTimeout(() => this.#socket.destroy(), 1000).unref();
    this.#onClose();
  }

  destroy(): void {
    this.#socket.destroy();
    this.#onClose();
  }

  /** Pauses or resumes the socket by what waits here. */
  throttle(): void {
    if (this.input.size >= clientBufferBytesMax) this.#socket.pause();
    else if (this.#socket.isPaused()) this.#socket.resume();
  }

  #onData(chunk: Buffer): void {
    if (this.state === 'closed') return;
    this.input.append(chunk);
    try {
      if (this.state === 'startup') this.#startup();
      else this.#events.input(this);
    } catch (error) {
      if (!isPageliteError(error, 'invalid')) throw error;
      this.fail({ code: '08P01', message: error.message });
    }
    this.throttle();
  }

  #startup(): void {
    while (this.state === 'startup') {
      const request = parseStartupRequest(this.input.peekAll());
      if (request === null) return;
      this.input.skip(request.bytes);
      if (request.kind === 'encryption') {
        // Bytes already sent behind the request would have been meant for the encrypted stream.
        if (this.input.size > 0) this.destroy();
        else this.#socket.write('N');
      } else if (request.kind === 'cancel') {
        this.#events.cancel(request.processId, request.secret);
        this.destroy();
      } else this.#ask(request);
    }
  }

  #ask(request: Extract<StartupRequest, { kind: 'startup' }>): void {
    const { parameters } = request;
    const user = parameters.get('user');
    if (user === undefined || user === '') {
      this.fail({ code: '28000', message: 'no PostgreSQL user name specified in startup packet' });
      return;
    }
    if (parameters.has('replication') && !/^(false|off|no|0)$/.test(parameters.get('replication')!)) {
      this.fail({ code: '0A000', message: 'this endpoint does not serve replication connections' });
      return;
    }
    const settings: [string, string][] = [];
    const unknownOptions: string[] = [];
    for (const [name, value] of parameters) {
      if (name.startsWith('_pq_.')) unknownOptions.push(name);
      else if (name === 'options') settings.unshift(...parseCommandLineOptions(value));
      else if (name !== 'user' && name !== 'database' && name !== 'replication') settings.push([name, value]);
    }
    if (request.minorVersion > 0 || unknownOptions.length > 0) this.#socket.write(negotiateVersion(unknownOptions));
    this.openMessage = { client: this.id, user, database: parameters.get('database') || user, settings };
    this.state = 'opening';
    this.#events.opened(this);
  }

  #onClose(): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.input.clear();
    this.#events.closed(this);
  }
}
