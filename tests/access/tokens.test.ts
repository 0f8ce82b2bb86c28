/**
 * A token opens what its scope says, if it is signed with a key that the server knows and has not expired; everything else is refused by a name that says
 * what is wrong, and that never has the token in it. Attacked with tokens of all kinds that are not the server's, among them those whose header chooses
 * another algorithm (RFC 8725).
 */
import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isAccessRefusal } from '../../engine/errors.ts';
import { type TenantId, tenantId } from '../../engine/model/ids.ts';
import { type Access, accessOf } from '../../server/auth/access.ts';
import { pageserverPermission, parseClaims, safekeeperPermission, scopes } from '../../server/auth/claims.ts';
import {
  generateKeyFiles,
  readPrivateKey,
  signToken,
  type TokenRequest,
  tokenFile,
  writeTokenFile,
} from '../../server/auth/tokens.ts';
import { silentLog } from '../../server/process/node-host.ts';

const tenant = tenantId('11'.repeat(16));
const other = tenantId('22'.repeat(16));

let dir: string;
let privateKey: KeyObject;
let publicPath: string;
let access: Access;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-access-'));
  publicPath = join(dir, 'public.pem');
  generateKeyFiles(join(dir, 'private.pem'), publicPath);
  privateKey = readPrivateKey(join(dir, 'private.pem'));
  access = accessOf('pageserver', publicPath, silentLog)!;
});
afterEach(() => rmSync(dir, { recursive: true }));

const token = (request: TokenRequest, key = privateKey) => signToken(key, request);
const authenticate = (text: string) => access.authenticate(`Bearer ${text}`);

async function refusalOf(header: string | undefined): Promise<string> {
  const error = await access.authenticate(header).then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(isAccessRefusal(error)).toBe(true);
  expect(error).toMatchObject({ status: 401 });
  const { message } = error as Error;
  for (const part of (header ?? '').split(/[ .]/)) if (part.length > 8) expect(message).not.toContain(part);
  return message;
}

const base64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');

describe('tokens', () => {
  it('one that the repository signed says who it is for', async () => {
    expect(await authenticate(token({ scope: 'tenant', tenantId: tenant }))).toEqual({
      scope: 'tenant',
      tenantId: tenant,
    });
    const expiresAtMs = Date.now() + 60_000;
    expect(await authenticate(token({ scope: 'pageserverapi', expiresAtMs }))).toEqual({
      scope: 'pageserverapi',
      tenantId: null,
    });
  });

  it('private keys and tokens are files that only their owner reads', () => {
    writeFileSync(join(dir, 'auth_token'), 'an older one', { mode: 0o644 });
    writeTokenFile(join(dir, 'auth_token'), 'abc');
    for (const name of ['private.pem', 'auth_token']) expect(statSync(join(dir, name)).mode & 0o777).toBe(0o600);
    const read = tokenFile(join(dir, 'auth_token'));
    expect(read()).toBe('abc');
    writeTokenFile(join(dir, 'auth_token'), 'def');
    expect(read()).toBe('def');
    expect(tokenFile(null)()).toBe(null);
    expect(() => tokenFile(join(dir, 'nothing'))()).toThrow('cannot be read');
  });

  it('what is wrong with the header is said', async () => {
    expect(await refusalOf(undefined)).toContain('there is no token');
    for (const header of [
      '',
      'Bearer',
      'Bearer  ',
      'Basic dXNlcjpwYXNzd29yZA==',
      'Bearer a b',
      token({ scope: 'admin' }),
    ]) {
      expect(await refusalOf(header)).toContain('malformed');
    }
  });

  it('what is wrong with the token is said', async () => {
    for (const garbage of ['x', 'x.y.z', '..', 'e30.e30.e30', `${token({ scope: 'admin' })}.more`]) {
      expect(await refusalOf(`Bearer ${garbage}`)).toMatch(/malformed|not signed/);
    }
    const expired = token({ scope: 'pageserverapi', expiresAtMs: Date.parse('2026-01-31T12:00:00Z') });
    expect(await refusalOf(`Bearer ${expired}`)).toBe('the token has expired, at 2026-01-31T12:00:00.000Z');
    const foreign = token({ scope: 'pageserverapi' }, generateKeyPairSync('ed25519').privateKey);
    expect(await refusalOf(`Bearer ${foreign}`)).toBe('the token is not signed with a key that this server knows');
  });

  it('every changed byte of a token is noticed', async () => {
    const good = token({ scope: 'pageserverapi' });
    for (let at = 0; at < good.length - 1; at++) {
      const changed = good[at] === 'A' ? 'B' : 'A';
      await refusalOf(`Bearer ${good.slice(0, at)}${changed}${good.slice(at + 1)}`);
    }
  });

  it('the header of a token does not choose how it is checked', async () => {
    const claims = base64({ scope: 'pageserverapi' });
    expect(await refusalOf(`Bearer ${base64({ alg: 'none' })}.${claims}.`)).toBe('the token is not signed with EdDSA');
    const hmacSigned = `${base64({ alg: 'HS256', typ: 'JWT' })}.${claims}`;
    const secret = readFileSync(publicPath);
    const signature = createHmac('sha256', secret).update(hmacSigned).digest('base64url');
    expect(await refusalOf(`Bearer ${hmacSigned}.${signature}`)).toBe('the token is not signed with EdDSA');
  });

  it('claims that do not fit are named', async () => {
    const claims = [{}, { scope: 'root' }, { scope: 'tenant' }, { scope: 'tenant', tenant_id: 'x' }, null, 'text', []];
    for (const claim of claims) expect(() => parseClaims(claim)).toThrow(/do not fit|name its tenant/);
    expect(parseClaims({ scope: 'tenant', tenant_id: tenant.toUpperCase(), iss: 'us' }).tenantId).toBe(tenant);
  });
});

describe('what a scope opens', () => {
  const opens = (rule: typeof pageserverPermission, scope: (typeof scopes)[number], whose: TenantId | null) => {
    try {
      rule({ scope, tenantId: scope === 'tenant' ? tenant : null }, whose);
      return true;
    } catch (error) {
      expect(error).toMatchObject({ kind: 'invalid', status: 403 });
      return false;
    }
  };
  const rows = scopes.map((scope) => [scope] as const);

  it.each(rows)('%s on a pageserver', (scope) => {
    const seen = [tenant, other, null].map((whose) => opens(pageserverPermission, scope, whose));
    expect(seen).toEqual(scope === 'pageserverapi' ? [true, true, true] : [scope === 'tenant', false, false]);
  });

  it.each(rows)('%s on a safekeeper', (scope) => {
    const seen = [tenant, other, null].map((whose) => opens(safekeeperPermission, scope, whose));
    expect(seen).toEqual(scope === 'safekeeperdata' ? [true, true, true] : [scope === 'tenant', false, false]);
  });
});

describe('public keys', () => {
  it('a folder holds several, which come and go', async () => {
    const keys = join(dir, 'keys');
    mkdirSync(keys);
    const first = generateKeyPairSync('ed25519');
    const second = generateKeyPairSync('ed25519');
    const put = (name: string, { publicKey }: { publicKey: KeyObject }) =>
      writeFileSync(join(keys, name), publicKey.export({ type: 'spki', format: 'pem' }));
    put('first.pem', first);
    access = accessOf('safekeeper', keys, silentLog)!;
    const ofFirst = token({ scope: 'safekeeperdata' }, first.privateKey);
    const ofSecond = token({ scope: 'safekeeperdata' }, second.privateKey);
    await authenticate(ofFirst);
    await refusalOf(`Bearer ${ofSecond}`);
    put('second.pem', second);
    await authenticate(ofFirst);
    await authenticate(ofSecond);
    rmSync(join(keys, 'first.pem'));
    await refusalOf(`Bearer ${ofFirst}`);
    await authenticate(ofSecond);
    // What cannot be read leaves what was there.
    writeFileSync(join(keys, 'third.pem'), 'no key');
    await authenticate(ofSecond);
    await refusalOf(`Bearer ${ofFirst}`);
  });

  it('a path without a key of the right kind is refused at the start, and named', () => {
    const file = join(dir, 'bad.pem');
    expect(() => accessOf('pageserver', file, silentLog)).toThrow('cannot be read');
    writeFileSync(file, 'no key');
    expect(() => accessOf('pageserver', file, silentLog)).toThrow(`${file} is not a public key`);
    const { publicKey } = generateKeyPairSync('x25519');
    writeFileSync(file, publicKey.export({ type: 'spki', format: 'pem' }));
    expect(() => accessOf('pageserver', file, silentLog)).toThrow('not Ed25519');
    mkdirSync(join(dir, 'empty'));
    expect(() => accessOf('pageserver', join(dir, 'empty'), silentLog)).toThrow('holds no public key');
    expect(() => readPrivateKey(file)).toThrow('cannot be read');
  });
});
