/** An ObjectStore in memory: for tests, and for a tab that keeps nothing. */
import { PageliteError } from '../errors.ts';
import type { ObjectStore } from '../services.ts';

interface StoredObject {
  readonly bytes: Uint8Array;
  readonly version: string;
}

export class MemoryObjectStore implements ObjectStore {
  readonly #objects = new Map<string, StoredObject>();
  #nextVersion = 1;

  async put(key: string, bytes: Uint8Array, condition?: { ifAbsent: true } | { ifVersion: string }): Promise<string> {
    checkObjectKey(key);
    const before = this.#objects.get(key);
    checkCondition(key, before?.version ?? null, condition);
    const version = String(this.#nextVersion++);
    // Not `slice`: that of a Node Buffer is the same memory.
    this.#objects.set(key, { bytes: new Uint8Array(bytes), version });
    return version;
  }

  async get(
    key: string,
    range?: { start: number; end: number },
  ): Promise<{ bytes: Uint8Array; version: string } | null> {
    checkObjectKey(key);
    const found = this.#objects.get(key);
    if (found === undefined) return null;
    const { bytes, version } = found;
    return { bytes: range ? bytes.slice(range.start, Math.max(range.start, range.end)) : bytes.slice(), version };
  }

  async head(key: string): Promise<{ size: number; version: string } | null> {
    checkObjectKey(key);
    const found = this.#objects.get(key);
    return found === undefined ? null : { size: found.bytes.length, version: found.version };
  }

  async list(prefix: string): Promise<{ key: string; size: number }[]> {
    return [...this.#objects]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, { bytes }]) => ({ key, size: bytes.length }))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async listFolders(folder: string): Promise<string[]> {
    return foldersUnder(folder, this.#objects.keys());
  }

  async delete(key: string): Promise<void> {
    checkObjectKey(key);
    this.#objects.delete(key);
  }
}

/** The folders right under `folder` that these keys have, sorted. */
export function foldersUnder(folder: string, keys: Iterable<string>): string[] {
  const names = new Set<string>();
  for (const key of keys) {
    if (!key.startsWith(folder)) continue;
    const end = key.indexOf('/', folder.length);
    if (end >= 0) names.add(key.slice(folder.length, end));
  }
  return [...names].sort();
}

const keyPattern = /^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/;

/** Keys are slash-separated names of letters, digits and `._-` that do not begin with a dot: a file's path on any host. Throws `invalid`. */
export function checkObjectKey(key: string): void {
  if (!keyPattern.test(key)) throw new PageliteError('invalid', `not a key of an object: "${key}"`, { file: key });
}

/** `version`: of the object that is there, or null. Throws `invalid` or `fenced` as ObjectStore.put says. */
export function checkCondition(
  key: string,
  version: string | null,
  condition: { ifAbsent: true } | { ifVersion: string } | undefined,
): void {
  if (condition === undefined) return;
  if ('ifAbsent' in condition) {
    if (version !== null) throw new PageliteError('invalid', `object ${key} exists`, { file: key });
  } else if (version !== condition.ifVersion) {
    throw new PageliteError('fenced', `object ${key} was changed by somebody else`, { file: key });
  }
}
