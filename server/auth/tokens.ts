/**
 * Keys and tokens of a repository, as neon_local has them: `auth_private_key.pem` signs, `auth_public_key.pem` is what servers check with.
 *
 * A token is a JWT in its compact form. It is signed here, and not by the library that checks it (access.ts), as that signs asynchronously, and a
 * channel is made synchronously.
 *
 * Invariant: private keys and tokens are only in files that nobody but their owner can read.
 */
import { createPrivateKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { chmodSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import type { Scope } from './claims.ts';

/** A token for the next connection or request; null where none is needed. */
export type TokenSource = () => string | null;

export const noToken: TokenSource = () => null;

export interface TokenRequest {
  readonly scope: Scope;
  readonly tenantId?: TenantId;
  /** Absent: it does not expire. */
  readonly expiresAtMs?: number;
}

/** Writes both files; there must be none yet. */
export function generateKeyFiles(privateKeyPath: string, publicKeyPath: string): void {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(privateKeyPath, pem, { mode: 0o600, flag: 'wx' });
  writeFileSync(publicKeyPath, publicKey.export({ type: 'spki', format: 'pem' }), { flag: 'wx' });
}

/** Throws `invalid`, naming the file. */
export function readPrivateKey(path: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(readFileSync(path));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const why = code === 'ENOENT' ? 'it is not there' : code === 'EACCES' ? 'no permission' : 'it is not in PEM form';
    throw new PageliteError('invalid', `the private key ${path} cannot be read: ${why}`, { file: path }, { cause });
  }
  if (key.asymmetricKeyType === 'ed25519') return key;
  throw new PageliteError('invalid', `${path} holds a key of type ${key.asymmetricKeyType}, not Ed25519`, {
    file: path,
  });
}

export function signToken(key: KeyObject, { scope, tenantId, expiresAtMs }: TokenRequest): string {
  const claims = {
    scope,
    ...(tenantId !== undefined && { tenant_id: tenantId }),
    ...(expiresAtMs !== undefined && { exp: Math.floor(expiresAtMs / 1000) }),
  };
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'EdDSA', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${sign(null, Buffer.from(signed), key).toString('base64url')}`;
}

/** The file is the old one or this one. */
export function writeTokenFile(path: string, token: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, `${token}\n`, { mode: 0o600 });
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

export function removeTokenFile(path: string): void {
  rmSync(path, { force: true });
}

/** Reads the file for each connection: a token that is replaced there is used from the next one on. */
export function tokenFile(path: string | null): TokenSource {
  if (path === null) return noToken;
  return () => {
    try {
      return readFileSync(path, 'utf8').trim();
    } catch (cause) {
      throw new PageliteError('invalid', `the token file ${path} cannot be read`, { file: path }, { cause });
    }
  };
}
