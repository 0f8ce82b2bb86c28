/** What channel binding binds to is the hash of the certificate that RFC 5929 says; openssl is asked what it is. */
import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { endPointHashOf, readTlsFiles, TlsIdentity } from '../../server/compute/tls-identity.ts';
import { silentLog } from '../../server/process/node-host.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-tls-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

function certificate(...flags: string[]): Buffer {
  const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')];
  execFileSync('openssl', ['req', '-x509', '-nodes', '-days', '2', '-subj', '/CN=x', ...files, ...flags], {
    stdio: 'ignore',
  });
  return new X509Certificate(readFileSync(join(dir, 'cert.pem'))).raw;
}

const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
it.each([
  [['-newkey', 'rsa:2048', '-sha256'], 'sha256'],
  [['-newkey', 'rsa:2048', '-sha384'], 'sha384'],
  [['-newkey', 'rsa:2048', '-sha512'], 'sha512'],
  [['-newkey', 'rsa:2048', '-sha1'], 'sha256'],
  [[...ec, '-sha256'], 'sha256'],
  [[...ec, '-sha384'], 'sha384'],
  [['-newkey', 'ed25519'], null],
  [['-newkey', 'rsa:2048', '-sha256', '-sigopt', 'rsa_padding_mode:pss'], null],
])('%j: %s', (flags, hash) => {
  const der = certificate(...flags);
  expect(endPointHashOf(der)).toEqual(hash && createHash(hash).update(der).digest());
});

it('files that are not a certificate and its key are named; damaged later, they leave what was there', () => {
  certificate(...ec);
  const files = { certPath: join(dir, 'cert.pem'), keyPath: join(dir, 'key.pem') };
  const identity = new TlsIdentity(files, silentLog);
  const { context } = identity.current;
  writeFileSync(files.keyPath, 'damaged');
  expect(identity.current.context).toBe(context);
  expect(() => readTlsFiles(files)).toThrow('are not a certificate and its key in PEM form');
  rmSync(files.certPath);
  expect(identity.current.context).toBe(context);
  expect(() => readTlsFiles(files)).toThrow(`${files.certPath} cannot be read`);
});
