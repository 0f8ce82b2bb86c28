/** Who is let in at an endpoint's port, and how: what client-connection.ts needs to know before there is a session. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '../../engine/services.ts';
import type { EndpointConfig } from '../control-plane/endpoints.ts';
import { TlsIdentity } from './tls-identity.ts';

export type AuthMethod = 'trust' | 'scram-sha-256';

export interface Admission {
  readonly method: AuthMethod;
  /** Null: TLS is not offered. */
  readonly tls: TlsIdentity | null;
  readonly requiresTls: boolean;
  /** Secret, and the same at every start: the salts of roles that have no password are made of it. */
  readonly mockNonce: Uint8Array;
}

/** Of a port that only this machine reaches. */
export const trustAll: Admission = { method: 'trust', tls: null, requiresTls: false, mockNonce: new Uint8Array(0) };

/** Where an endpoint listens. */
export interface EndpointDoors {
  readonly host: string;
  readonly admission: Admission;
  /** A Unix socket that asks for no password: who may open it owns the endpoint's files. */
  readonly localSocketPath: string | null;
}

/** `sun_path` holds 108 bytes, and on some systems 104. */
const socketPathBytesMax = 103;

/** As PostgreSQL names it, so that `psql -h FOLDER -p PORT` finds it. */
export const localSocketPath = (dir: string, port: number): string => join(dir, `.s.PGSQL.${port}`);

/** Throws `invalid` if the certificate cannot be read. */
export function endpointDoors(dir: string, config: EndpointConfig, port: number, log: Log): EndpointDoors {
  const { host, auth, tls } = config;
  const admission: Admission = {
    method: auth,
    tls: tls === null ? null : new TlsIdentity(tls, log),
    requiresTls: tls?.required ?? false,
    mockNonce: auth === 'trust' ? trustAll.mockNonce : mockNonceOf(dir),
  };
  const path = localSocketPath(dir, port);
  const hasSocket = auth !== 'trust' && process.platform !== 'win32' && Buffer.byteLength(path) <= socketPathBytesMax;
  return { host, admission, localSocketPath: hasSocket ? path : null };
}

/** Kept beside the endpoint, readable by its owner. */
function mockNonceOf(dir: string): Uint8Array {
  const file = join(dir, 'mock_authentication_nonce');
  try {
    writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return Buffer.from(readFileSync(file, 'utf8'), 'hex');
}
