/**
 * The tab's IndexedDB database: its stores, how they are written, and what its failures mean. Under idb-object-store.ts,
 * idb-safekeeper-storage.ts and page-cache.ts.
 *
 *   store     key                              value
 *   objects   object key                       StoredObject: size, version, number of the chunks
 *   chunks    [number, n]                      CheckedRecord: up to objectChunkBytes of an object
 *   walFiles  [timeline, file name]            WalFile: its size, and where its records are
 *   wal       [timeline, records, offset]      CheckedRecord: WAL as it was flushed
 *   walSmall  [timeline, file name]            CheckedRecord: control file, flush mark
 *   pages     [scope, prefix, extent]          CheckedRecord: pages of a server timeline
 *   pageUse   [scope, prefix, extent]          bytes and last use of such a record
 *
 * Invariants
 * - a transaction of `transact` is durable when it resolves (durability `strict`), and has happened wholly or not at all
 * - no byte that was stored is used before the CRC32C over it was checked; a record that fails it is `corrupt`, and is named
 * - every rejection is a PageliteError; a full origin is `unavailable` with `storageFull: true` and says what may be freed
 */
import { type DBSchema, type IDBPDatabase, type IDBPTransaction, openDB, type StoreNames } from 'idb';
import { crc32c } from '../../engine/crc32c.ts';
import { isPageliteError, isStorageFull, messageOf, PageliteError } from '../../engine/errors.ts';

/** Bytes with the checksum that was taken when they were stored. */
export interface CheckedRecord {
  readonly crc: number;
  readonly bytes: Uint8Array;
}

export interface StoredObject {
  readonly size: number;
  readonly version: string;
  readonly chunks: number;
}

/** A WAL segment; `records` is the name that its records have in `wal`. */
export interface WalFile {
  readonly size: number;
  readonly records: string;
}

export interface TabSchema extends DBSchema {
  objects: { key: string; value: StoredObject };
  chunks: { key: [number, number]; value: CheckedRecord };
  walFiles: { key: [string, string]; value: WalFile };
  wal: { key: [string, string, number]; value: CheckedRecord };
  walSmall: { key: [string, string]; value: CheckedRecord };
  pages: { key: [string, string, number]; value: CheckedRecord };
  pageUse: {
    key: [string, string, number];
    value: { readonly bytes: number; readonly usedAt: number; readonly pinned: boolean };
  };
}

export type TabStore = StoreNames<TabSchema>;
export type TabDatabase = IDBPDatabase<TabSchema>;
export type TabTransaction = IDBPTransaction<TabSchema, TabStore[], 'readwrite'>;

const stores: readonly TabStore[] = ['objects', 'chunks', 'walFiles', 'wal', 'walSmall', 'pages', 'pageUse'];
const schemaVersion = 1;
const quotaCode = 'QuotaExceededError';

/** The database of the repository `name`; made if it is not there. Throws `invalid` if a newer program has made it. */
export async function openTabDatabase(name: string): Promise<TabDatabase> {
  try {
    return await openDB<TabSchema>(databaseName(name), schemaVersion, {
      upgrade(database) {
        for (const store of stores) database.createObjectStore(store);
      },
      // Another tab wants to delete it or has a newer program: it is not held back by this one.
      blocking(_current, _blocked, event) {
        (event.target as IDBDatabase).close();
      },
    });
  } catch (cause) {
    if ((cause as Error).name === 'VersionError') {
      throw new PageliteError(
        'invalid',
        `the repository "${name}" of this tab was made by a newer version`,
        {},
        { cause },
      );
    }
    throw failureOf(cause, `the repository "${name}" of this tab`);
  }
}

export const databaseName = (name: string): string => `pagelite-${name}`;

/** One durable read-write transaction. What `body` throws aborts it. */
export async function transact<T>(
  database: TabDatabase,
  names: readonly TabStore[],
  what: string,
  body: (transaction: TabTransaction) => T | Promise<T>,
  durability: 'strict' | 'relaxed' = 'strict',
): Promise<T> {
  try {
    const transaction = database.transaction([...names], 'readwrite', { durability });
    // Heard of below.
    transaction.done.catch(() => {});
    let result: T;
    try {
      result = await body(transaction);
    } catch (error) {
      abort(transaction);
      // A request that fails for want of space fails its transaction, which knows why.
      throw transaction.error ?? error;
    }
    await transaction.done;
    return result;
  } catch (error) {
    throw failureOf(error, what);
  }
}

/** Gives up something that is worth less than a write which finds no room. False if there is nothing. */
export type MakeRoom = () => Promise<boolean>;

/** `transact`, which tries again as long as room is made. `body` may run more than once. */
export async function transactWithRoom(
  database: TabDatabase,
  names: readonly TabStore[],
  what: string,
  body: (transaction: TabTransaction) => void,
  makeRoom: MakeRoom,
): Promise<void> {
  for (;;) {
    try {
      return await transact(database, names, what, body);
    } catch (error) {
      if (!isStorageFull(error) || !(await makeRoom())) throw error;
    }
  }
}

/** A request of a transaction that `transact` awaits: if it fails, the transaction does, and says why. */
export function request(made: Promise<unknown>): void {
  made.catch(() => {});
}

function abort(transaction: TabTransaction): void {
  try {
    transaction.abort();
  } catch (error) {
    // It has ended by itself.
    if ((error as Error).name !== 'InvalidStateError') throw error;
  }
}

/** A read, whose failures are those of this module. */
export async function reading<T>(what: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw failureOf(error, what);
  }
}

/** What IndexedDB says, as a PageliteError. */
export function failureOf(error: unknown, what: string): PageliteError {
  if (isPageliteError(error)) return error;
  const name = (error as Error | null)?.name ?? '';
  const data = { file: what, code: name };
  const options = { cause: error };
  switch (name) {
    case quotaCode:
      return new PageliteError(
        'unavailable',
        `no room for ${what}: the storage that this browser gives to this site is full. What was acknowledged is safe. ` +
          'Delete branches, make the page cache smaller, or free space on this device',
        { ...data, storageFull: true },
        options,
      );
    case 'InvalidStateError':
      return new PageliteError('closed', `${what}: the tab's database was closed`, data, options);
    case 'NotReadableError':
    case 'DataError':
      return new PageliteError('corrupt', `${what} cannot be read: ${messageOf(error)}`, data, options);
    default:
      return new PageliteError('unavailable', `${what}: ${messageOf(error)}`, data, options);
  }
}

/** A record of a copy of these bytes. */
export function sealRecord(bytes: Uint8Array): CheckedRecord {
  // A view would be stored with the whole buffer behind it.
  const own = bytes.slice();
  return { crc: crc32c(own), bytes: own };
}

/** The bytes of a stored record. Throws `corrupt`, naming it. */
export function openRecord(record: unknown, what: () => string): Uint8Array {
  const { crc, bytes } = (record ?? {}) as Partial<CheckedRecord>;
  if (!(bytes instanceof Uint8Array) || typeof crc !== 'number')
    throw corruptRecord(what(), 'it is not there as it was written');
  if (crc32c(bytes) !== crc) throw corruptRecord(what(), 'wrong checksum');
  return bytes;
}

export function corruptRecord(file: string, problem: string): PageliteError {
  return new PageliteError('corrupt', `${file} is damaged in this tab's database: ${problem}`, { file });
}
