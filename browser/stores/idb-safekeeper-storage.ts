/**
 * A safekeeper's files in IndexedDB (W3 of the write path): WAL as it was flushed, one record a flush, in one strict transaction.
 *
 * What WalLog writes is gathered in memory; `sync` stores it. A commit is then one small record: the last one of the file is written again with
 * what is new as long as it is short, so that a file has few thousand records however small the commits are. Long writes are cut into records
 * below the 64 KiB from which Chromium keeps a value in a file of its own. Files have the size that WalLog wants and are zeros where nothing was
 * written; zeros that it writes ahead are not stored. Why not OPFS: docs/decisions/2026-11-23-wal-of-a-tab-in-indexeddb.md.
 *
 * Invariants
 * - records of a file do not overlap, and are written in the order of their offsets
 * - a `sync` that fails has stored nothing of what it was to store (`failedSyncKeepsNothing`)
 * - the flush mark goes with the next transaction, or by itself soon after: it may lag, as it may on disk
 */

import { assert } from '../../engine/assert.ts';
import { concatBytes } from '../../engine/bytes.ts';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { controlFileName } from '../../engine/safekeeper/control-file.ts';
import type { SafekeeperStorage, SegmentStorage, TimelineStorage } from '../../engine/safekeeper/storage.ts';
import {
  corruptRecord,
  type MakeRoom,
  openRecord,
  reading,
  request,
  sealRecord,
  type TabDatabase,
  type TabTransaction,
  transact,
  transactWithRoom,
  type WalFile,
} from './database.ts';

/** The last record of a file takes more until it is this long. Writing up to so much again costs nothing beside the transaction. */
const tailRecordBytes = 8 * 1024;
const recordBytesMax = 60 * 1024;
/** How long a flush mark may wait for a transaction to go with. */
const markDelayMs = 100;

export interface IdbSafekeeperOptions {
  readonly database: TabDatabase;
  readonly makeRoom?: MakeRoom;
  /** Tells of a flush mark that could not be stored: nothing is lost by that. */
  readonly onMarkFailed?: (error: unknown) => void;
}

export class IdbSafekeeperStorage implements SafekeeperStorage {
  readonly #options: IdbSafekeeperOptions;

  constructor(options: IdbSafekeeperOptions) {
    this.#options = options;
  }

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    const folder = folderOf(id);
    const { database } = this.#options;
    const known = await reading(`WAL of ${folder}`, async () => {
      const small = await database.getKey('walSmall', folderRange(folder));
      return small ?? (await database.getKey('walFiles', folderRange(folder)));
    });
    return known === undefined ? null : IdbTimelineStorage.open(folder, this.#options);
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    return IdbTimelineStorage.open(folderOf(id), this.#options);
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    const keys = await reading('the list of timelines with WAL', () => this.#options.database.getAllKeys('walSmall'));
    const ids: TenantTimelineId[] = [];
    for (const [folder, name] of keys) {
      const [tenant, timeline] = folder.split('/');
      if (name === controlFileName)
        ids.push({ tenantId: tenantId(tenant ?? ''), timelineId: timelineId(timeline ?? '') });
    }
    return ids;
  }

  /** Everything of a timeline that no safekeeper has open. */
  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    const range = folderRange(folderOf(id));
    await transact(this.#options.database, ['walSmall', 'walFiles', 'wal'], `WAL of ${folderOf(id)}`, (transaction) => {
      for (const name of ['walSmall', 'walFiles', 'wal'] as const) request(transaction.objectStore(name).delete(range));
    });
  }
}

const folderOf = (id: TenantTimelineId): string => `${id.tenantId}/${id.timelineId}`;
/** Arrays sort above strings and numbers, so this ends every key that begins so. */
const folderRange = (...start: string[]): IDBKeyRange => IDBKeyRange.bound(start, [...start, []]);

class IdbTimelineStorage implements TimelineStorage {
  readonly label: string;
  readonly segments: IdbSegments;
  readonly #database: TabDatabase;
  readonly #makeRoom: MakeRoom;
  readonly #onMarkFailed: (error: unknown) => void;
  /** Small files that are still to be stored; they go with the next transaction. */
  readonly #waiting = new Map<string, Uint8Array>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #closed = false;

  private constructor(
    folder: string,
    { database, makeRoom, onMarkFailed }: IdbSafekeeperOptions,
    segments: IdbSegments,
  ) {
    this.label = folder;
    this.segments = segments;
    this.#database = database;
    this.#makeRoom = makeRoom ?? (async () => false);
    this.#onMarkFailed = onMarkFailed ?? (() => {});
    segments.withTransaction = (transaction) => this.#putWaiting(transaction);
  }

  static async open(folder: string, options: IdbSafekeeperOptions): Promise<IdbTimelineStorage> {
    return new IdbTimelineStorage(folder, options, await IdbSegments.open(folder, options));
  }

  async readFile(name: string): Promise<Uint8Array | null> {
    const file = `${this.label}/${name}`;
    const record = await reading(file, () => this.#database.get('walSmall', [this.label, name]));
    return record === undefined ? null : openRecord(record, () => file);
  }

  async replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    this.#waiting.delete(name);
    const record = sealRecord(bytes);
    const put = (transaction: TabTransaction) =>
      request(transaction.objectStore('walSmall').put(record, [this.label, name]));
    await transactWithRoom(this.#database, ['walSmall'], `${this.label}/${name}`, put, this.#makeRoom);
  }

  async overwriteFile(name: string, bytes: Uint8Array, durable: boolean): Promise<void> {
    if (durable) return this.replaceFile(name, bytes);
    this.#waiting.set(name, bytes.slice());
    this.#timer ??= setTimeout(() => this.#storeWaiting(), markDelayMs);
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #putWaiting(transaction: TabTransaction): void {
    for (const [name, bytes] of this.#waiting) {
      request(transaction.objectStore('walSmall').put(sealRecord(bytes), [this.label, name]));
    }
    this.#waiting.clear();
  }

  #storeWaiting(): void {
    this.#timer = null;
    if (this.#waiting.size === 0 || this.#closed) return;
    const put = (transaction: TabTransaction) => this.#putWaiting(transaction);
    transact(this.#database, ['walSmall'], `flush mark of ${this.label}`, put, 'relaxed').catch((error) => {
      if (!this.#closed) this.#onMarkFailed(error);
    });
  }
}

/** One file as it is stored: where its records begin, ascending. */
interface File {
  readonly size: number;
  /** The name under which its records are: the file's first. Two files never have the same, see `create`. */
  readonly records: string;
  readonly starts: number[];
  /** End of the last record. */
  end: number;
  /** The last record's bytes; null until somebody appends to it. */
  tail: Uint8Array | null;
  /** Writes that no `sync` has stored yet. */
  pending: { readonly offset: number; readonly bytes: Uint8Array }[];
}

class IdbSegments implements SegmentStorage {
  readonly failedSyncKeepsNothing = true;
  readonly #folder: string;
  readonly #database: TabDatabase;
  readonly #makeRoom: MakeRoom;
  readonly #files = new Map<string, File>();
  /** What else is to be stored when something is. */
  withTransaction: (transaction: TabTransaction) => void = () => {};

  private constructor(folder: string, { database, makeRoom }: IdbSafekeeperOptions) {
    this.#folder = folder;
    this.#database = database;
    this.#makeRoom = makeRoom ?? (async () => false);
  }

  static async open(folder: string, options: IdbSafekeeperOptions): Promise<IdbSegments> {
    const segments = new IdbSegments(folder, options);
    await segments.#load();
    return segments;
  }

  async list(): Promise<readonly { name: string; size: number }[]> {
    return [...this.#files].map(([name, { size }]) => ({ name, size }));
  }

  async create(name: string, size: number): Promise<void> {
    const before = this.#files.get(name);
    const taken = new Set([...this.#files.values()].map(({ records }) => records));
    let records = name;
    for (let n = 1; taken.has(records); n++) records = `${name}~${n}`;
    await this.#transact(name, (transaction) => {
      const store = transaction.objectStore('wal');
      if (before !== undefined) request(store.delete(folderRange(this.#folder, before.records)));
      request(transaction.objectStore('walFiles').put({ size, records }, [this.#folder, name]));
    });
    this.#files.set(name, { size, records, starts: [], end: 0, tail: null, pending: [] });
  }

  write(name: string, offset: number, bytes: Uint8Array): undefined {
    const file = this.#file(name);
    assert(offset + bytes.length <= file.size, 'a write within the file');
    const last = file.pending.at(-1);
    const end = last === undefined ? file.end : last.offset + last.bytes.length;
    // Zeros ahead of the end are there already.
    if (offset >= end && isZeros(bytes)) return undefined;
    assert(offset >= end, 'WAL is written forward');
    file.pending.push({ offset, bytes });
    return undefined;
  }

  async sync(name: string): Promise<void> {
    const file = this.#file(name);
    if (file.pending.length === 0) return;
    const tail = await this.#tailOf(name, file);
    const records = recordsOf(file, tail, file.pending);
    try {
      await this.#transact(name, (transaction) => {
        const store = transaction.objectStore('wal');
        for (const { start, bytes } of records)
          request(store.put(sealRecord(bytes), [this.#folder, file.records, start]));
      });
    } finally {
      file.pending = [];
    }
    for (const { start } of records) if (start !== file.starts.at(-1)) file.starts.push(start);
    const last = records.at(-1)!;
    file.end = last.start + last.bytes.length;
    file.tail = last.bytes.length < tailRecordBytes ? last.bytes : null;
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const file = this.#file(name);
    const out = new Uint8Array(Math.max(0, Math.min(length, file.size - offset)));
    const end = offset + out.length;
    if (offset < file.end && out.length > 0) {
      const first = file.starts[Math.max(0, lastAtOrBelow(file.starts, offset))]!;
      const last = file.starts[lastAtOrBelow(file.starts, end - 1)];
      if (last !== undefined && last >= first) await this.#readRecords(name, first, last, offset, out);
    }
    for (const part of file.pending) copyOver(out, offset, part.offset, part.bytes);
    return out;
  }

  async zeroFrom(name: string, offset: number): Promise<void> {
    const file = this.#file(name);
    file.pending = file.pending
      .filter((part) => part.offset < offset)
      .map((part) => ({ ...part, bytes: part.bytes.subarray(0, offset - part.offset) }));
    if (offset >= file.end) return;
    const at = lastAtOrBelow(file.starts, offset - 1);
    const start = file.starts[at];
    let kept: Uint8Array | null = null;
    // One that ends there stays as it is: where there is no room, it could not be put once more.
    if (start !== undefined && file.starts[at + 1] !== offset) {
      kept = new Uint8Array(offset - start);
      await this.#readRecords(name, start, start, start, kept);
    }
    await this.#transact(name, (transaction) => {
      const store = transaction.objectStore('wal');
      request(store.delete(IDBKeyRange.bound([this.#folder, file.records, offset], [this.#folder, file.records, []])));
      if (kept !== null) request(store.put(sealRecord(kept), [this.#folder, file.records, start!]));
    });
    file.starts.length = at + 1;
    file.end = start === undefined ? 0 : offset;
    file.tail = null;
  }

  async rename(from: string, to: string): Promise<void> {
    const file = this.#file(from);
    const replaced = this.#files.get(to);
    await this.#transact(from, (transaction) => {
      const files = transaction.objectStore('walFiles');
      if (replaced !== undefined)
        request(transaction.objectStore('wal').delete(folderRange(this.#folder, replaced.records)));
      request(files.delete([this.#folder, from]));
      request(files.put({ size: file.size, records: file.records }, [this.#folder, to]));
    });
    this.#files.delete(from);
    this.#files.set(to, file);
  }

  async remove(name: string): Promise<void> {
    const file = this.#files.get(name);
    if (file === undefined) return;
    await this.#transact(name, (transaction) => {
      request(transaction.objectStore('wal').delete(folderRange(this.#folder, file.records)));
      request(transaction.objectStore('walFiles').delete([this.#folder, name]));
    });
    this.#files.delete(name);
  }

  async #load(): Promise<void> {
    const folder = this.#folder;
    await reading(`WAL of ${folder}`, async () => {
      const names = await this.#database.getAllKeys('walFiles', folderRange(folder));
      const files = await this.#database.getAll('walFiles', folderRange(folder));
      for (const [i, [, name]] of names.entries()) {
        const { size, records } = checkedFile(files[i], `WAL segment ${folder}/${name}`);
        const keys = await this.#database.getAllKeys('wal', folderRange(folder, records));
        const starts = keys.map(([, , start]) => start);
        this.#files.set(name, {
          size,
          records,
          starts,
          end: await this.#endOf(records, starts),
          tail: null,
          pending: [],
        });
      }
    });
  }

  /** Where the last record ends. Of a damaged one the length is not known; whoever reads it hears that. */
  async #endOf(records: string, starts: readonly number[]): Promise<number> {
    const last = starts.at(-1);
    if (last === undefined) return 0;
    const record = await this.#database.get('wal', [this.#folder, records, last]);
    return last + (record?.bytes instanceof Uint8Array ? record.bytes.length : 1);
  }

  /** The last record, if it takes more. */
  async #tailOf(name: string, file: File): Promise<Uint8Array | null> {
    const start = file.starts.at(-1);
    if (start === undefined || file.end - start >= tailRecordBytes) return null;
    if (file.tail === null) {
      const tail = new Uint8Array(file.end - start);
      await this.#readRecords(name, start, start, start, tail);
      file.tail = tail;
    }
    return file.tail;
  }

  async #readRecords(name: string, first: number, last: number, offset: number, out: Uint8Array): Promise<void> {
    const folder = this.#folder;
    const file = `${folder}/${name}`;
    const { records: named, starts: known } = this.#file(name);
    const range = IDBKeyRange.bound([folder, named, first], [folder, named, last]);
    const [keys, records] = await reading(file, () =>
      Promise.all([this.#database.getAllKeys('wal', range), this.#database.getAll('wal', range)]),
    );
    const expected = lastAtOrBelow(known, last) - lastAtOrBelow(known, first) + 1;
    if (keys.length !== expected) throw corruptRecord(`WAL segment ${file}`, 'records are missing');
    for (const [i, record] of records.entries()) {
      const start = keys[i]![2];
      copyOver(
        out,
        offset,
        start,
        openRecord(record, () => `WAL segment ${file}, the record at offset ${start},`),
      );
    }
  }

  #transact(name: string, body: (transaction: TabTransaction) => void): Promise<void> {
    const what = `WAL segment ${this.#folder}/${name}`;
    const store = (transaction: TabTransaction) => {
      this.withTransaction(transaction);
      body(transaction);
    };
    return transactWithRoom(this.#database, ['wal', 'walFiles', 'walSmall'], what, store, this.#makeRoom);
  }

  #file(name: string): File {
    const file = this.#files.get(name);
    if (file === undefined) throw new PageliteError('notFound', `no file ${this.#folder}/${name}`, { file: name });
    return file;
  }
}

/** The records that store `pending`: contiguous writes together, the last stored record written again if it takes more. */
function recordsOf(
  file: File,
  tail: Uint8Array | null,
  pending: readonly { readonly offset: number; readonly bytes: Uint8Array }[],
): { start: number; bytes: Uint8Array }[] {
  const records: { start: number; bytes: Uint8Array }[] = [];
  let run: Uint8Array[] = [];
  let start = pending[0]!.offset;
  let end = start;
  if (tail !== null && file.end === start) {
    run = [tail];
    start = file.starts.at(-1)!;
  }
  const finish = () => {
    const bytes = concatBytes(run);
    for (let at = 0; at < bytes.length; at += recordBytesMax) {
      records.push({ start: start + at, bytes: bytes.slice(at, at + recordBytesMax) });
    }
  };
  for (const { offset, bytes } of pending) {
    if (offset !== end) {
      finish();
      run = [];
      start = offset;
    }
    run.push(bytes);
    end = offset + bytes.length;
  }
  finish();
  return records;
}

function checkedFile(value: unknown, what: string): WalFile {
  const { size, records } = (value ?? {}) as Partial<WalFile>;
  if (!Number.isSafeInteger(size) || typeof records !== 'string') {
    throw corruptRecord(what, 'its entry is not there as it was written');
  }
  return { size: size!, records };
}

/** Copies what of `bytes`, which stand at `start`, falls into `out`, which stands at `offset`. */
function copyOver(out: Uint8Array, offset: number, start: number, bytes: Uint8Array): void {
  const from = Math.max(offset, start);
  const to = Math.min(offset + out.length, start + bytes.length);
  if (from < to) out.set(bytes.subarray(from - start, to - start), from - offset);
}

/** Index of the last of ascending `starts` at or below `offset`; -1 if there is none. */
function lastAtOrBelow(starts: readonly number[], offset: number): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function isZeros(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
