/**
 * Who may use a server: checks bearer tokens, and what they open (claims.ts). A server that has none trusts everybody (Neon's `Trust`).
 *
 * Called by the HTTP APIs (http-guard.ts) and at the handshake of every WebSocket (upgrade-guard.ts). A token is checked once for each request or
 * connection: one that expires later does not cut a connection off.
 *
 * Invariant: no token, nor a part of one, is in an error or a log line.
 */
import { errors, jwtVerify } from 'jose';
import type { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import type { Log } from '../../engine/services.ts';
import { type Claims, type PermissionRule, pageserverPermission, parseClaims, safekeeperPermission } from './claims.ts';
import { PublicKeys } from './public-keys.ts';
import { unauthorized } from './refusal.ts';

const algorithm = 'EdDSA';

export class Access {
  readonly #keys: PublicKeys;
  readonly #rule: PermissionRule;

  constructor(keys: PublicKeys, rule: PermissionRule) {
    this.#keys = keys;
    this.#rule = rule;
  }

  /** Of an `Authorization` header. Rejects with a refusal (401). */
  async authenticate(header: string | undefined): Promise<Claims> {
    if (header === undefined) {
      throw unauthorized('there is no token: send it in a header "Authorization: Bearer TOKEN"');
    }
    const token = /^Bearer +(\S+)$/i.exec(header)?.[1];
    if (token === undefined) throw unauthorized('the Authorization header is malformed: expected "Bearer TOKEN"');
    return parseClaims(await this.#verified(token));
  }

  /** Throws a refusal (403). */
  check(claims: Claims, tenant: TenantId | null): void {
    this.#rule(claims, tenant);
  }

  async #verified(token: string): Promise<unknown> {
    for (const key of this.#keys.current) {
      try {
        return (await jwtVerify(token, key, { algorithms: [algorithm] })).payload;
      } catch (error) {
        if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw refusalOf(error);
      }
    }
    throw unauthorized('the token is not signed with a key that this server knows');
  }
}

/** Which of the two servers it is decides what a token opens. No path: everybody is trusted. */
export function accessOf(server: 'pageserver' | 'safekeeper', publicKeyPath: string | null, log: Log): Access | null {
  if (publicKeyPath === null) return null;
  const rule = server === 'pageserver' ? pageserverPermission : safekeeperPermission;
  return new Access(new PublicKeys(publicKeyPath, log), rule);
}

function refusalOf(error: unknown): PageliteError {
  if (error instanceof errors.JWTExpired) {
    const { exp } = error.payload;
    return unauthorized(
      `the token has expired${exp === undefined ? '' : `, at ${new Date(exp * 1000).toISOString()}`}`,
    );
  }
  if (error instanceof errors.JWTClaimValidationFailed) {
    return unauthorized(
      error.claim === 'nbf' ? 'the token is not valid yet' : `the token's ${error.claim} does not fit`,
    );
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return unauthorized(`the token is not signed with ${algorithm}`);
  if (error instanceof errors.JOSEError) return unauthorized('the token is malformed');
  throw error;
}
