/**
 * One TCP connection of a client: its startup, its bytes that wait for the backend, its way out.
 *
 * Step on the path: socket -> FrontendBuffer -> session-multiplexer.ts -> in ring; out ring -> multiplexer -> `send`.
 * States: `startup` (nothing known) -> [`identifying` (its role is looked up, which takes a turn of the backend) -> `authenticating` (it proves its
 * password, which takes none) ->] `opening` (a session is asked for) -> `serving` -> `closed`. Those in brackets where passwords are asked for.
 *
 * Invariants
 * - no byte of a client reaches the backend before it is `serving`
 * - what a client hears of a failed proof is the same whether there is no such role, it has no password, an expired or an unusable one, or another
 * - the socket is paused while more than clientBufferBytesMax wait, unless the present message alone is larger than that
 *   and the client has the backend (it then streams through).
 */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { isPageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import type { Admission } from './admission.ts';
import {
  authenticationSasl,
  authenticationSaslContinue,
  authenticationSaslFinal,
  type ErrorFields,
  errorResponse,
  FrontendBuffer,
  negotiateVersion,
  parseCommandLineOptions,
  parsePasswordMessage,
  parseSaslInitialResponse,
  parseStartupRequest,
  type StartupRequest,
} from './pg-frames.ts';
import {
  mockScramSecret,
  parseScramSecret,
  ScramExchange,
  ScramProtocolError,
  scramMechanism,
  scramPlusMechanism,
} from './scram.ts';
import type { IdentifiedMessage, OpenMessage } from './session-protocol.ts';
import { clientBufferBytesMax } from './wire-limits.ts';

/** How it goes on with a client whose role is known. */
interface Proof {
  readonly identified: IdentifiedMessage;
  exchange: ScramExchange | null;
  readonly timeout: NodeJS.Timeout;
}

const tlsAlpn = 'postgresql';
/** Of a TLS handshake: what a client with direct TLS begins with. */
const tlsHandshakeByte = 0x16;

export interface ConnectionEvents {
  /** A turn of the backend is wanted: to look up the role (`identifying`), or for a session (`opening`). */
  opened(connection: ClientConnection): void;
  /** New bytes for the backend. */
  input(connection: ClientConnection): void;
  /** The socket takes more bytes again. */
  drained(connection: ClientConnection): void;
  cancel(processId: number, secret: number): void;
  /** Called once. */
  closed(connection: ClientConnection): void;
}

export interface ClientConnectionOptions {
  readonly id: number;
  readonly secret: number;
  readonly socket: Socket;
  readonly events: ConnectionEvents;
  readonly admission: Admission;
  readonly authenticationTimeoutMs: number;
  readonly log: Log;
}

export class ClientConnection {
  readonly id: number;
  readonly secret: number;
  readonly input = new FrontendBuffer();
  state: 'startup' | 'identifying' | 'authenticating' | 'opening' | 'serving' | 'closed' = 'startup';
  openMessage: OpenMessage | null = null;
  /** Parse messages that were answered before the backend had them. */
  readonly promisedParses: Buffer[] = [];
  /** The TLS socket, once there is one. */
  #socket: Socket;
  readonly #options: ClientConnectionOptions;
  readonly #events: ConnectionEvents;
  #endPointHash: Buffer | null = null;
  #isEncrypted = false;
  #proof: Proof | null = null;

  constructor(options: ClientConnectionOptions) {
    this.id = options.id;
    this.secret = options.secret;
    this.#socket = options.socket;
    this.#options = options;
    this.#events = options.events;
    this.#socket.setNoDelay(true);
    this.#attend(this.#socket);
  }

  readonly #onChunk = (chunk: Buffer): void => this.#onData(chunk);
  readonly #onDrain = (): void => this.#events.drained(this);
  readonly #onEnd = (): void => this.destroy();
  readonly #onSocketClose = (): void => this.#onClose();

  #attend(socket: Socket): void {
    socket.on('data', this.#onChunk);
    socket.on('drain', this.#onDrain);
    // An error is always followed by 'close'; the client is gone either way.
    socket.on('error', () => {});
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onSocketClose);
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
    if (this.#isDirectTls(chunk)) {
      this.#encrypt(chunk);
      return;
    }
    this.input.append(chunk);
    this.#advance();
  }

  /** Goes on with the bytes that are here. */
  #advance(): void {
    try {
      if (this.state === 'startup') this.#startup();
      else if (this.state === 'authenticating') this.#authenticate();
      else this.#events.input(this);
    } catch (error) {
      if (!isPageliteError(error, 'invalid')) throw error;
      this.fail({ code: error instanceof ScramProtocolError ? error.code : '08P01', message: error.message });
    }
    this.throttle();
  }

  /** PostgreSQL 17's clients may begin TLS without asking. */
  #isDirectTls(chunk: Buffer): boolean {
    const isFirst = this.state === 'startup' && !this.#isEncrypted && this.input.size === 0;
    return isFirst && chunk[0] === tlsHandshakeByte && this.#options.admission.tls !== null;
  }

  /** `begun`: what the client has sent of its handshake, without having asked; null if it has asked. */
  #encrypt(begun: Buffer | null): void {
    const { context, endPointHash } = this.#options.admission.tls!.current;
    const plain = this.#socket;
    plain
      .off('data', this.#onChunk)
      .off('drain', this.#onDrain)
      .off('end', this.#onEnd)
      .off('close', this.#onSocketClose);
    // The TLS socket takes from it what was read already; one that flows would have dropped it by then.
    if (begun !== null) plain.pause().unshift(begun);
    const secure = new TLSSocket(plain, { isServer: true, secureContext: context, ALPNProtocols: [tlsAlpn] });
    this.#isEncrypted = true;
    this.#endPointHash = endPointHash;
    this.#socket = secure;
    this.#attend(secure);
    // Without ALPN a client of another protocol could be led here: PostgreSQL asks for it, too.
    if (begun !== null) secure.once('secure', () => secure.alpnProtocol !== tlsAlpn && this.destroy());
  }

  #startup(): void {
    while (this.state === 'startup') {
      const request = parseStartupRequest(this.input.peekAll());
      if (request === null) return;
      this.input.skip(request.bytes);
      if (request.kind === 'encryption') {
        this.#answerEncryption(request.by);
      } else if (request.kind === 'cancel') {
        this.#events.cancel(request.processId, request.secret);
        this.destroy();
      } else this.#ask(request);
    }
  }

  #answerEncryption(by: 'tls' | 'gss'): void {
    // Bytes already sent behind the request would have been meant for the encrypted stream.
    if (this.input.size > 0) this.destroy();
    else if (by === 'gss' || this.#options.admission.tls === null || this.#isEncrypted) this.#socket.write('N');
    else {
      this.#socket.write('S');
      this.#encrypt(null);
    }
  }

  #ask(request: Extract<StartupRequest, { kind: 'startup' }>): void {
    const { parameters } = request;
    const { admission } = this.#options;
    if (admission.requiresTls && !this.#isEncrypted) {
      const hint = 'Connect with sslmode=require, or verify-full.';
      this.fail({ code: '28000', message: 'this endpoint takes encrypted connections only', hint });
      return;
    }
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
    this.state = admission.method === 'trust' ? 'opening' : 'identifying';
    this.#events.opened(this);
  }

  /** What is known of its role is here: asks the client for its proof. */
  challenge(identified: IdentifiedMessage): void {
    if (this.state !== 'identifying') return;
    this.state = 'authenticating';
    const timedOut = () => this.fail({ code: '57014', message: 'canceling authentication due to timeout' });
    const timeout = setTimeout(timedOut, this.#options.authenticationTimeoutMs).unref();
    this.#proof = { identified, exchange: null, timeout };
    this.send(authenticationSasl(this.#mechanisms));
    // A client may have sent more than it was asked for.
    this.#advance();
  }

  get #mechanisms(): string[] {
    return this.#endPointHash === null ? [scramMechanism] : [scramPlusMechanism, scramMechanism];
  }

  #authenticate(): void {
    const proof = this.#proof!;
    while (this.state === 'authenticating') {
      const response = parsePasswordMessage(this.input.peekAll());
      if (response === null) return;
      const body = Buffer.from(response.body);
      this.input.skip(response.bytes);
      if (proof.exchange === null) {
        const { mechanism, message } = parseSaslInitialResponse(body);
        proof.exchange = this.#exchange(mechanism, proof.identified);
        this.send(authenticationSaslContinue(proof.exchange.begin(message)));
      } else this.#finish(proof.exchange.finish(body.toString('utf8')));
    }
  }

  #exchange(mechanism: string, { password, expired }: IdentifiedMessage): ScramExchange {
    if (!this.#mechanisms.includes(mechanism)) {
      throw new ScramProtocolError('client selected an invalid SASL authentication mechanism');
    }
    const stored = password === null ? null : parseScramSecret(password);
    const secret = stored ?? mockScramSecret(this.#options.admission.mockNonce, this.openMessage!.user);
    return new ScramExchange({
      secret,
      doomed: stored === null || expired,
      mechanism,
      endPointHash: this.#endPointHash,
    });
  }

  #finish(serverFinal: string | null): void {
    const { identified, timeout } = this.#proof!;
    clearTimeout(timeout);
    this.#proof = null;
    if (serverFinal === null) {
      const { user } = this.openMessage!;
      this.#options.log.warn('password authentication failed', { user, reason: whyRefused(identified) });
      this.fail({ code: '28P01', message: `password authentication failed for user "${user}"` });
      return;
    }
    this.send(authenticationSaslFinal(serverFinal));
    this.state = 'opening';
    this.#events.opened(this);
  }

  #onClose(): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    if (this.#proof) clearTimeout(this.#proof.timeout);
    this.input.clear();
    this.#events.closed(this);
  }
}

/** For the log only: the client must not learn it. */
function whyRefused({ password, expired }: IdentifiedMessage): string {
  if (password === null) return 'there is no such role, or it has no password';
  if (expired) return 'the password is past its VALID UNTIL';
  if (parseScramSecret(password) !== null) return 'another password';
  return 'the password is stored as an MD5 hash, which is not taken: set it again with password_encryption = scram-sha-256';
}
