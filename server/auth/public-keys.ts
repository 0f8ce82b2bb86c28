/**
 * The Ed25519 public keys that a server checks tokens with: one PEM file, or a folder of them, as Neon's `auth_validation_public_key_path`.
 *
 * Several keys are for changing them: the new one is put beside the old one, tokens are made anew, the old one is taken away.
 *
 * Invariant: what is on disk holds from the next token on. Keys that cannot be read then leave those in force that were read last.
 */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';

export class PublicKeys {
  readonly #path: string;
  readonly #log: Log;
  #keys: readonly KeyObject[];
  #state: string;

  /** Throws `invalid`, naming the file, if there is no key or one is none. */
  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
    this.#state = this.#look();
    this.#keys = readKeys(path);
  }

  get current(): readonly KeyObject[] {
    const state = this.#look();
    if (state === this.#state) return this.#keys;
    this.#state = state;
    try {
      this.#keys = readKeys(this.#path);
      this.#log.info('public keys were read again', { path: this.#path, keys: this.#keys.length });
    } catch (error) {
      this.#log.error('public keys cannot be read: those from before stay in force', { error: messageOf(error) });
    }
    return this.#keys;
  }

  /** Changes when a file does; measured, for one file: 5 microseconds. */
  #look(): string {
    try {
      return filesIn(this.#path)
        .map((file) => {
          const { ino, size, mtimeMs } = statSync(file);
          return `${file} ${ino} ${size} ${mtimeMs}`;
        })
        .join('\n');
    } catch (error) {
      return messageOf(error);
    }
  }
}

function filesIn(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  const names = readdirSync(path).sort();
  return names.map((name) => join(path, name)).filter((file) => statSync(file).isFile());
}

function readKeys(path: string): KeyObject[] {
  let files: string[];
  try {
    files = filesIn(path);
  } catch (cause) {
    throw new PageliteError('invalid', `public keys cannot be read: ${messageOf(cause)}`, { file: path }, { cause });
  }
  if (files.length === 0) {
    throw new PageliteError('invalid', `${path} holds no public key: no token could be checked`, { file: path });
  }
  return files.map(readKey);
}

function readKey(file: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey(readFileSync(file));
  } catch (cause) {
    throw new PageliteError('invalid', `${file} is not a public key in PEM form`, { file }, { cause });
  }
  if (key.asymmetricKeyType === 'ed25519') return key;
  throw new PageliteError('invalid', `${file} holds a key of type ${key.asymmetricKeyType}, not Ed25519`, { file });
}
