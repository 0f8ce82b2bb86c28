/**
 * The certificate and the key with which an endpoint answers TLS: two PEM files, read again when they change, as renewed ones do.
 *
 * For channel binding (`tls-server-end-point`, RFC 5929) it has the hash of its certificate, by the hash function of the certificate's own signature,
 * where MD5 and SHA-1 become SHA-256. A certificate whose signature names no hash function (Ed25519, RSA-PSS) has none, and binding is not offered.
 *
 * Invariant: files that cannot be read leave in force what was read last.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createSecureContext, type SecureContext } from 'node:tls';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';

export interface TlsFiles {
  readonly certPath: string;
  readonly keyPath: string;
}

export interface TlsCredentials {
  readonly context: SecureContext;
  readonly endPointHash: Buffer | null;
}

export class TlsIdentity {
  readonly #files: TlsFiles;
  readonly #log: Log;
  #state: string;
  #credentials: TlsCredentials;

  /** Throws `invalid`, naming the files. */
  constructor(files: TlsFiles, log: Log) {
    this.#files = files;
    this.#log = log;
    this.#state = stateOf(files);
    this.#credentials = readTlsFiles(files);
  }

  get current(): TlsCredentials {
    const state = stateOf(this.#files);
    if (state === this.#state) return this.#credentials;
    this.#state = state;
    try {
      this.#credentials = readTlsFiles(this.#files);
      this.#log.info('the certificate was read again', { ...this.#files });
    } catch (error) {
      this.#log.error('the certificate cannot be read: the one from before stays', { error: messageOf(error) });
    }
    return this.#credentials;
  }
}

function stateOf({ certPath, keyPath }: TlsFiles): string {
  return [certPath, keyPath]
    .map((path) => {
      const found = statSync(path, { throwIfNoEntry: false });
      return found ? `${found.ino} ${found.size} ${found.mtimeMs}` : '';
    })
    .join('\n');
}

/** Throws `invalid`, naming the files. */
export function readTlsFiles({ certPath, keyPath }: TlsFiles): TlsCredentials {
  const cert = readPem(certPath);
  const key = readPem(keyPath);
  try {
    const certificate = new X509Certificate(cert);
    return { context: createSecureContext({ cert, key }), endPointHash: endPointHashOf(certificate.raw) };
  } catch (cause) {
    const text = `${certPath} and ${keyPath} are not a certificate and its key in PEM form: ${messageOf(cause)}`;
    throw new PageliteError('invalid', text, { certPath, keyPath }, { cause });
  }
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new PageliteError('invalid', `${path} cannot be read: ${messageOf(cause)}`, { file: path }, { cause });
  }
}

/** Signature algorithms by their object identifiers as DER has them, in hex; those with MD5 and SHA-1 count as SHA-256. */
const hashOfSignature: Readonly<Record<string, string>> = {
  '2a864886f70d010104': 'sha256',
  '2a864886f70d010105': 'sha256',
  '2a864886f70d01010e': 'sha224',
  '2a864886f70d01010b': 'sha256',
  '2a864886f70d01010c': 'sha384',
  '2a864886f70d01010d': 'sha512',
  '2a8648ce3d0401': 'sha256',
  '2a8648ce3d040301': 'sha224',
  '2a8648ce3d040302': 'sha256',
  '2a8648ce3d040303': 'sha384',
  '2a8648ce3d040304': 'sha512',
};

/** Null if the signature of the certificate names no hash function. */
export function endPointHashOf(der: Buffer): Buffer | null {
  // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, ... }, signature }
  const outer = element(der, 0);
  const signed = element(der, outer.start);
  const algorithm = element(der, signed.end);
  const identifier = element(der, algorithm.start);
  const hash = hashOfSignature[der.toString('hex', identifier.start, identifier.end)];
  return hash === undefined ? null : createHash(hash).update(der).digest();
}

/** Where the content of the DER element at `at` begins and ends. */
function element(der: Buffer, at: number): { readonly start: number; readonly end: number } {
  const first = der[at + 1]!;
  if (first < 0x80) return { start: at + 2, end: at + 2 + first };
  const lengthBytes = first & 0x7f;
  const start = at + 2 + lengthBytes;
  return { start, end: start + der.readUIntBE(at + 2, lengthBytes) };
}
