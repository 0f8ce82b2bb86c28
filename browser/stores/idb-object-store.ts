/**
 * An ObjectStore in IndexedDB: layers and indexes of the tab's own engine (W8, W9). Objects are cut into chunks, so that a block of a large layer
 * is read without the rest of it.
 *
 * A chunk stays below the 64 KiB from which Chromium keeps a value in a file of its own: measured there, a chunk of 60 kB is read in 0.3 ms, one of
 * 1 MB in 4 to 6 ms, and 8 MB are written in 150 to 250 ms.
 *
 * Invariants
 * - an object is seen from the moment at which its entry in `objects` is stored, after all of its chunks; chunks that no entry names are what a
 *   killed tab left, and are removed by `open`
 * - entries are held in memory: one instance at a time has the database (local/repository-lock.ts)
 * - a large object is written in several transactions, so that reads get in between
 */
import type { ObjectStore } from '../../engine/services.ts';
import { checkCondition, checkObjectKey, foldersUnder } from '../../engine/stores/memory.ts';
import {
  corruptRecord,
  type MakeRoom,
  openRecord,
  reading,
  request,
  type StoredObject,
  sealRecord,
  type TabDatabase,
  type TabStore,
  type TabTransaction,
  transact,
  transactWithRoom,
} from './database.ts';

export const objectChunkBytes = 60 * 1024;
/** Chunks of one transaction: about 1 MB, 20 to 30 ms. */
const chunksPerTransaction = 16;

type Condition = { ifAbsent: true } | { ifVersion: string };

export class IdbObjectStore implements ObjectStore {
  readonly #database: TabDatabase;
  readonly #makeRoom: MakeRoom;
  readonly #objects = new Map<string, StoredObject>();
  /** Objects whose entry cannot be used. They are listed, and `corrupt` to whoever reads them; the others go on. */
  readonly #damaged = new Set<string>();
  /** The last write under way of each key. */
  readonly #writes = new Map<string, Promise<unknown>>();
  #nextChunks = 1;

  private constructor(database: TabDatabase, makeRoom: MakeRoom) {
    this.#database = database;
    this.#makeRoom = makeRoom;
  }

  static async open(database: TabDatabase, makeRoom: MakeRoom = async () => false): Promise<IdbObjectStore> {
    const store = new IdbObjectStore(database, makeRoom);
    await store.#load();
    return store;
  }

  /** Bytes of all objects. */
  get usedBytes(): number {
    let sum = 0;
    for (const { size } of this.#objects.values()) sum += size;
    return sum;
  }

  put(key: string, bytes: Uint8Array, condition?: Condition): Promise<string> {
    checkObjectKey(key);
    const own = new Uint8Array(bytes);
    return this.#exclusively(key, () => this.#put(key, own, condition));
  }

  async get(
    key: string,
    range?: { start: number; end: number },
  ): Promise<{ bytes: Uint8Array; version: string } | null> {
    checkObjectKey(key);
    for (;;) {
      const object = this.#objects.get(key);
      if (object === undefined) return this.#absent(key);
      const start = Math.min(range?.start ?? 0, object.size);
      const end = Math.max(start, Math.min(range?.end ?? object.size, object.size));
      try {
        return { bytes: await this.#read(key, object, start, end), version: object.version };
      } catch (error) {
        // Replaced while it was read.
        if (this.#objects.get(key) === object) throw error;
      }
    }
  }

  async head(key: string): Promise<{ size: number; version: string } | null> {
    checkObjectKey(key);
    const object = this.#objects.get(key);
    return object === undefined ? this.#absent(key) : { size: object.size, version: object.version };
  }

  async list(prefix: string): Promise<{ key: string; size: number }[]> {
    return [
      ...[...this.#objects].map(([key, { size }]) => ({ key, size })),
      ...[...this.#damaged].map((key) => ({ key, size: 0 })),
    ]
      .filter(({ key }) => key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async listFolders(folder: string): Promise<string[]> {
    return foldersUnder(folder, [...this.#objects.keys(), ...this.#damaged]);
  }

  delete(key: string): Promise<void> {
    checkObjectKey(key);
    return this.#exclusively(key, async () => {
      const object = this.#objects.get(key);
      if (object === undefined && !this.#damaged.has(key)) return;
      await transact(this.#database, ['objects', 'chunks'], `object ${key}`, (transaction) => {
        request(transaction.objectStore('objects').delete(key));
        if (object !== undefined) request(transaction.objectStore('chunks').delete(chunkRange(object.chunks)));
      });
      this.#objects.delete(key);
      this.#damaged.delete(key);
    });
  }

  async #put(key: string, bytes: Uint8Array, condition: Condition | undefined): Promise<string> {
    const before = this.#objects.get(key);
    checkCondition(key, before?.version ?? null, condition);
    const chunks = this.#nextChunks++;
    const count = Math.ceil(bytes.length / objectChunkBytes);
    const what = `object ${key}`;
    const object: StoredObject = { size: bytes.length, version: String(chunks), chunks };
    // What fits one transaction is stored with its entry; of a larger object the last transaction has the entry and the rest.
    let first = 0;
    try {
      for (; count - first > chunksPerTransaction; first += chunksPerTransaction) {
        const from = first;
        await this.#store(what, ['chunks'], (transaction) => {
          const store = transaction.objectStore('chunks');
          for (let n = from; n < from + chunksPerTransaction; n++) request(store.put(chunkOf(bytes, n), [chunks, n]));
        });
      }
      await this.#store(what, ['objects', 'chunks'], (transaction) => {
        const store = transaction.objectStore('chunks');
        for (let n = first; n < count; n++) request(store.put(chunkOf(bytes, n), [chunks, n]));
        request(transaction.objectStore('objects').put(object, key));
        if (before !== undefined) request(store.delete(chunkRange(before.chunks)));
      });
    } catch (error) {
      if (first > 0) await this.#drop(chunks, what);
      throw error;
    }
    this.#objects.set(key, object);
    this.#damaged.delete(key);
    return object.version;
  }

  #store(what: string, names: readonly TabStore[], body: (transaction: TabTransaction) => void): Promise<void> {
    return transactWithRoom(this.#database, names, what, body, this.#makeRoom);
  }

  #absent(key: string): null {
    if (this.#damaged.has(key)) throw corruptRecord(`the entry of object ${key}`, 'it is not there as it was written');
    return null;
  }

  /** What was stored of an object that could not be finished: it takes room. If that fails too, the next `open` does it. */
  async #drop(chunks: number, what: string): Promise<void> {
    await transact(this.#database, ['chunks'], what, (transaction) => {
      request(transaction.objectStore('chunks').delete(chunkRange(chunks)));
    }).catch(() => {});
  }

  async #read(key: string, object: StoredObject, start: number, end: number): Promise<Uint8Array> {
    const out = new Uint8Array(end - start);
    if (end === start) return out;
    const first = Math.floor(start / objectChunkBytes);
    const last = Math.floor((end - 1) / objectChunkBytes);
    const what = `object ${key}`;
    const records = await reading(what, async () =>
      first === last
        ? [await this.#database.get('chunks', [object.chunks, first])]
        : this.#database.getAll('chunks', chunkRange(object.chunks, first, last)),
    );
    if (records.length !== last - first + 1)
      throw corruptRecord(what, `${last - first + 1 - records.length} chunks are missing`);
    for (let n = first; n <= last; n++) {
      const base = n * objectChunkBytes;
      const name = () => `${what}, bytes ${base} to ${Math.min(base + objectChunkBytes, object.size)},`;
      const bytes = openRecord(records[n - first], name);
      if (bytes.length !== Math.min(objectChunkBytes, object.size - base))
        throw corruptRecord(name(), `${bytes.length} bytes long`);
      const from = Math.max(start, base);
      const to = Math.min(end, base + bytes.length);
      out.set(bytes.subarray(from - base, to - base), from - start);
    }
    return out;
  }

  /** One after another: conditions hold also when many try at once. */
  async #exclusively<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#writes.get(key) ?? Promise.resolve();
    const done = before.then(work);
    const settled = done.catch(() => {});
    this.#writes.set(key, settled);
    try {
      return await done;
    } finally {
      if (this.#writes.get(key) === settled) this.#writes.delete(key);
    }
  }

  async #load(): Promise<void> {
    const database = this.#database;
    const what = 'the list of objects';
    const [keys, objects] = await reading(what, () =>
      Promise.all([database.getAllKeys('objects'), database.getAll('objects')]),
    );
    const named = new Set<number>();
    for (const [i, key] of keys.entries()) {
      const object = objects[i]!;
      if (isStoredObject(object)) {
        this.#objects.set(key, object);
        named.add(object.chunks);
      } else {
        this.#damaged.add(key);
      }
    }
    await this.#sweep(named);
  }

  /** Removes chunks that no object names; the numbers of those that are there are skipped through, not read. */
  async #sweep(named: ReadonlySet<number>): Promise<void> {
    const left: number[] = [];
    let highest = 0;
    await reading('chunks of objects', async () => {
      let cursor = await this.#database.transaction('chunks').store.openKeyCursor();
      while (cursor !== null) {
        const [chunks] = cursor.key;
        highest = Math.max(highest, chunks);
        if (!named.has(chunks)) left.push(chunks);
        cursor = await cursor.continue([chunks + 1, 0]);
      }
    });
    this.#nextChunks = Math.max(highest, ...named) + 1;
    // Among them may be those of an object whose entry is damaged.
    if (this.#damaged.size > 0) return;
    for (const chunks of left) await this.#drop(chunks, 'chunks of objects');
  }
}

function chunkOf(bytes: Uint8Array, n: number) {
  return sealRecord(bytes.subarray(n * objectChunkBytes, (n + 1) * objectChunkBytes));
}

function chunkRange(chunks: number, first = 0, last: number = Number.MAX_SAFE_INTEGER): IDBKeyRange {
  return IDBKeyRange.bound([chunks, first], [chunks, last]);
}

function isStoredObject(value: unknown): value is StoredObject {
  const { size, version, chunks } = (value ?? {}) as Partial<StoredObject>;
  return Number.isSafeInteger(size) && size! >= 0 && typeof version === 'string' && Number.isSafeInteger(chunks);
}
