/**
 * The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: decisions only, messages in and out as text.
 *
 *   client-first   n,,n=,r=<client nonce>                       server-first   r=<both nonces>,s=<salt>,i=<iterations>
 *   client-final   c=<binding>,r=<both nonces>,p=<proof>        server-final   v=<signature>
 *
 * The secret is what PostgreSQL keeps in pg_authid.rolpassword: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. The server never
 * learns the password. A role that does not exist, or cannot log in with a password, gets an exchange all the same, with a salt that stays the
 * same, so that nobody learns by asking which roles there are.
 *
 * Invariant: whatever the client sends, it costs this exchange only; proofs are compared in constant time.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';
import { saslprep } from '@mongodb-js/saslprep';
import { PageliteError } from '../../engine/errors.ts';

export const scramMechanism = 'SCRAM-SHA-256';
/** With channel binding: the client proves that it sees this server's certificate. */
export const scramPlusMechanism = 'SCRAM-SHA-256-PLUS';
const bindingName = 'tls-server-end-point';
/** As PostgreSQL. */
const iterationsDefault = 4096;
const saltBytes = 16;
const nonceBytes = 18;
const keyBytes = 32;

export interface ScramSecret {
  readonly iterations: number;
  readonly salt: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

/** Null for what is no SCRAM secret: an MD5 hash, for one. */
export function parseScramSecret(text: string): ScramSecret | null {
  const match = /^SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/.exec(text);
  if (!match) return null;
  const [salt, storedKey, serverKey] = match.slice(2).map((part) => Buffer.from(part, 'base64'));
  const iterations = Number(match[1]);
  if (iterations < 1 || storedKey!.length !== keyBytes || serverKey!.length !== keyBytes) return null;
  return { iterations, salt: salt!, storedKey: storedKey!, serverKey: serverKey! };
}

/** What PostgreSQL would keep of this password: for setting one without sending it. */
export function makeScramSecret(
  password: string,
  salt: Buffer = randomBytes(saltBytes),
  iterations = iterationsDefault,
): string {
  const salted = pbkdf2Sync(prepared(password), salt, iterations, keyBytes, 'sha256');
  const storedKey = sha256(hmac(salted, 'Client Key'));
  const serverKey = hmac(salted, 'Server Key');
  const keys = `${storedKey.toString('base64')}:${serverKey.toString('base64')}`;
  return `${scramMechanism}$${iterations}:${salt.toString('base64')}$${keys}`;
}

/** As PostgreSQL does: what SASLprep forbids is taken as it is. */
function prepared(password: string): string {
  try {
    return saslprep(password);
  } catch {
    return password;
  }
}

/** A secret that no password fits, the same for the same name. */
export function mockScramSecret(mockNonce: Uint8Array, user: string): ScramSecret {
  const salt = createHash('sha256').update(user).update(mockNonce).digest().subarray(0, saltBytes);
  return { iterations: iterationsDefault, salt, storedKey: randomBytes(keyBytes), serverKey: randomBytes(keyBytes) };
}

/** The client does not keep the protocol, or wants what the server does not have: it is told, with this SQLSTATE. */
export class ScramProtocolError extends PageliteError {
  readonly code: string;

  constructor(message: string, code = '08P01') {
    super('invalid', message);
    this.code = code;
  }
}

export interface ScramExchangeOptions {
  readonly secret: ScramSecret;
  /** Whatever the proof: it fails. */
  readonly doomed: boolean;
  /** Hash of this connection's certificate; null: channel binding is not offered. */
  readonly endPointHash: Buffer | null;
  /** The client's choice of those offered. */
  readonly mechanism: string;
  /** The server's part; for tests. */
  readonly nonce?: string;
}

export class ScramExchange {
  readonly #options: ScramExchangeOptions;
  readonly #nonce: string;
  #gs2Header = '';
  #usesBinding = false;
  #clientFirstBare = '';
  #serverFirst = '';
  #bothNonces = '';

  constructor(options: ScramExchangeOptions) {
    this.#options = options;
    this.#nonce = options.nonce ?? randomBytes(nonceBytes).toString('base64');
  }

  /** Takes the client's first message; returns the server's. */
  begin(clientFirst: string): string {
    const match = /^((n|y|p=([^,]*)),(a=[^,]*)?,)(.*)$/s.exec(clientFirst);
    if (!match) throw new ScramProtocolError('malformed SCRAM message: expected a channel-binding flag');
    const [, gs2Header, flag, binding, authorization, bare] = match;
    if (authorization)
      throw new ScramProtocolError('client uses authorization identity, but it is not supported', '0A000');
    this.#checkBinding(flag![0]!, binding);
    this.#gs2Header = gs2Header!;
    this.#clientFirstBare = bare!;
    if (bare!.startsWith('m=')) {
      throw new ScramProtocolError('client requires an unsupported SCRAM extension', '0A000');
    }
    // The name is PostgreSQL's to know: it was in the startup packet.
    const clientNonce = /^n=[^,]*,r=([\x21-\x2b\x2d-\x7e]+)(,|$)/.exec(bare!)?.[1];
    if (clientNonce === undefined) throw new ScramProtocolError('malformed SCRAM message: expected a name and a nonce');
    const { salt, iterations } = this.#options.secret;
    this.#bothNonces = clientNonce + this.#nonce;
    this.#serverFirst = `r=${this.#bothNonces},s=${salt.toString('base64')},i=${iterations}`;
    return this.#serverFirst;
  }

  /** Takes the client's last message; returns the server's, or null if the password is not the role's. */
  finish(clientFinal: string): string | null {
    const match = /^(c=([^,]+),r=([^,]+)(?:,.*)?),p=([^,]+)$/s.exec(clientFinal);
    if (!match) throw new ScramProtocolError('malformed SCRAM message: expected a binding, a nonce and a proof');
    const [, withoutProof, binding, nonce, proofText] = match;
    if (binding !== this.#expectedBinding())
      throw new ScramProtocolError('SCRAM channel binding check failed', '28000');
    if (nonce !== this.#bothNonces) throw new ScramProtocolError('invalid SCRAM response: nonce does not match');
    const proof = Buffer.from(proofText!, 'base64');
    if (proof.length !== keyBytes) throw new ScramProtocolError('malformed SCRAM message: malformed proof');
    const { secret, doomed } = this.#options;
    const authMessage = `${this.#clientFirstBare},${this.#serverFirst},${withoutProof}`;
    const signature = hmac(secret.storedKey, authMessage);
    const clientKey = proof.map((byte, i) => byte ^ signature[i]!);
    const fits = timingSafeEqual(sha256(clientKey), secret.storedKey);
    if (!fits || doomed) return null;
    return `v=${hmac(secret.serverKey, authMessage).toString('base64')}`;
  }

  #checkBinding(flag: string, binding: string | undefined): void {
    const { mechanism, endPointHash } = this.#options;
    const isPlus = mechanism === scramPlusMechanism;
    this.#usesBinding = flag === 'p';
    if (isPlus !== this.#usesBinding) {
      throw new ScramProtocolError('malformed SCRAM message: the channel-binding flag does not fit the mechanism');
    }
    if (this.#usesBinding && binding !== bindingName) {
      throw new ScramProtocolError(`unsupported SCRAM channel-binding type "${binding}"`);
    }
    if (flag === 'y' && endPointHash !== null) {
      const text = 'SCRAM channel binding negotiation error: the client thinks that the server does not support it';
      throw new ScramProtocolError(text, '28000');
    }
  }

  #expectedBinding(): string {
    const header = Buffer.from(this.#gs2Header);
    const parts = this.#usesBinding ? [header, this.#options.endPointHash!] : [header];
    return Buffer.concat(parts).toString('base64');
  }
}

function hmac(key: Uint8Array, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}
