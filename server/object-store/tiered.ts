/**
 * The disk of a pageserver before its remote storage. Layers are read from chunks on disk, which are fetched when they are first needed and given up, the
 * longest unused first, when they are more than the budget. Layers that are written wait on disk for their upload (LayerStaging). Everything else
 * passes through: it is small, and the remote storage is where the truth is.
 *
 * Invariants:
 * - what is staged and not uploaded is never given up
 * - a chunk that is missing or damaged is fetched again; a disk that is full or fails costs speed, and no more
 * - what a chunk's own checksums cannot tell, that it was damaged or cut short before it came here, its reader can: a `fresh` read, and one that finds
 *   less in a chunk than it wants, replaces it
 * - objects that are kept are immutable: their keys are never used for other bytes (layers have the generation of their owner in theirs)
 */
import { assert } from '../../engine/assert.ts';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { isLayerKey } from '../../engine/layers/layer-name.ts';
import { cacheChunkBytes } from '../../engine/limits.ts';
import type { LayerStaging, Log, ObjectStore, StagingCounters } from '../../engine/services.ts';
import { ChunkFiles } from './chunk-files.ts';

export interface TieredOptions {
  readonly remote: ObjectStore;
  readonly folder: string;
  readonly budgetBytes: number;
  readonly log: Log;
}

interface Chunk {
  readonly key: string;
  readonly number: number;
  readonly bytes: number;
}

export class TieredObjectStore implements ObjectStore, LayerStaging {
  readonly #remote: ObjectStore;
  readonly #files: ChunkFiles;
  readonly #budgetBytes: number;
  readonly #log: Log;
  /** The longest unused first. */
  readonly #chunks = new Map<string, Chunk>();
  readonly #ofObject = new Map<string, Set<string>>();
  /** Sizes of objects that are staged and not uploaded. */
  readonly #staged = new Map<string, number>();
  readonly #fetching = new Map<string, Promise<Uint8Array | null>>();
  #residentBytes = 0;
  #stagedBytes = 0;
  #diskFailed = false;
  /** Of which objects a reader has found chunks damaged: told once of each. */
  readonly #foundDamaged = new Set<string>();
  readonly counters: { -readonly [name in keyof StagingCounters]: number } = {
    downloads: 0,
    downloadedBytes: 0,
    evictions: 0,
    uploads: 0,
    uploadedBytes: 0,
  };

  private constructor({ remote, folder, budgetBytes, log }: TieredOptions) {
    this.#remote = remote;
    this.#files = new ChunkFiles(folder);
    this.#budgetBytes = budgetBytes;
    this.#log = log;
  }

  static async open(options: TieredOptions): Promise<TieredObjectStore> {
    const store = new TieredObjectStore(options);
    for (const { key, chunk, bytes } of await store.#files.list()) store.#keep({ key, number: chunk, bytes });
    await store.#evict();
    return store;
  }

  /** Bytes on disk. */
  get residentBytes(): number {
    return this.#residentBytes;
  }

  residentBytesOf(key: string): number {
    let sum = 0;
    for (const name of this.#ofObject.get(key) ?? []) sum += this.#chunks.get(name)!.bytes;
    return sum;
  }

  // LayerStaging

  get stagedBytes(): number {
    return this.#stagedBytes;
  }

  async stage(key: string, bytes: Uint8Array): Promise<void> {
    assert(isKept(key) && !this.#staged.has(key), 'layers are staged, once each');
    this.#staged.set(key, bytes.length);
    this.#stagedBytes += bytes.length;
    try {
      await this.#writeChunks(key, bytes);
    } catch (error) {
      this.#tellDisk(error);
      // No room here: then it is uploaded at once.
      this.#unstage(key);
      await this.#remote.put(key, bytes);
      this.#count(bytes.length);
    }
  }

  async upload(key: string): Promise<void> {
    const size = this.#staged.get(key);
    if (size === undefined) return;
    const parts: Uint8Array[] = [];
    for (let chunk = 0; chunk * cacheChunkBytes < size; chunk++) {
      const part = await this.#files.read(key, chunk, 0, cacheChunkBytes);
      // Nobody has it but this disk. WAL is what it is made of again, after a restart.
      if (part === null) throw lostLayer(key);
      parts.push(part);
    }
    const bytes = Buffer.concat(parts);
    if (bytes.length !== size) throw lostLayer(key);
    await this.#remote.put(key, bytes);
    this.#count(size);
    this.#unstage(key);
    await this.#evict();
  }

  #unstage(key: string): void {
    this.#stagedBytes -= this.#staged.get(key) ?? 0;
    this.#staged.delete(key);
  }

  #count(bytes: number): void {
    this.counters.uploads++;
    this.counters.uploadedBytes += bytes;
  }

  // ObjectStore

  async put(key: string, bytes: Uint8Array, condition?: { ifAbsent: true } | { ifVersion: string }): Promise<string> {
    const version = await this.#remote.put(key, bytes, condition);
    if (!isKept(key)) return version;
    this.#count(bytes.length);
    try {
      await this.#writeChunks(key, bytes);
      await this.#evict();
    } catch (error) {
      this.#tellDisk(error);
    }
    return version;
  }

  async get(
    key: string,
    range?: { start: number; end: number },
    { fresh }: { readonly fresh: boolean } = { fresh: false },
  ): Promise<{ bytes: Uint8Array; version: string } | null> {
    if (!isKept(key) || range === undefined || range.end <= range.start) return this.#remote.get(key, range);
    const { start, end } = range;
    const first = Math.floor(start / cacheChunkBytes);
    const last = Math.ceil(end / cacheChunkBytes) - 1;
    const fetched = fresh ? this.#fetchAgain(key, first, last) : null;
    const parts: Uint8Array[] = [];
    for (let chunk = first; chunk <= last; chunk++) {
      const base = chunk * cacheChunkBytes;
      const from = Math.max(0, start - base);
      const to = Math.min(cacheChunkBytes, end - base);
      const part = fetched
        ? sliceOf(await fetched[chunk - first]!, from, to)
        : await this.#readChunk(key, chunk, last, from, to);
      if (part === null) return null;
      parts.push(part);
      if (part.length < to - from) break;
    }
    const bytes = parts.length === 1 ? parts[0]! : new Uint8Array(Buffer.concat(parts));
    return { bytes, version: '' };
  }

  async head(key: string): Promise<{ size: number; version: string } | null> {
    const size = this.#staged.get(key);
    return size === undefined ? this.#remote.head(key) : { size, version: '' };
  }

  list(prefix: string): Promise<{ key: string; size: number }[]> {
    return this.#remote.list(prefix);
  }

  listFolders(folder: string): Promise<string[]> {
    return this.#remote.listFolders(folder);
  }

  async delete(key: string): Promise<void> {
    this.#unstage(key);
    this.#foundDamaged.delete(key);
    for (const name of [...(this.#ofObject.get(key) ?? [])]) await this.#drop(name);
    await this.#remote.delete(key);
  }

  // Chunks

  /** Bytes [from, to) of a chunk; null if there is no such object. Those behind it, up to `last`, are wanted too. */
  async #readChunk(key: string, chunk: number, last: number, from: number, to: number): Promise<Uint8Array | null> {
    const name = nameOf(key, chunk);
    const known = this.#chunks.get(name);
    if (known !== undefined) {
      this.#chunks.delete(name);
      this.#chunks.set(name, known);
      const bytes = await this.#files.read(key, chunk, from, to);
      const isStaged = this.#staged.has(key);
      if (bytes !== null && (isStaged || bytes.length === to - from)) return bytes;
      if (isStaged) throw lostLayer(key);
      this.#forget(name);
    }
    return sliceOf(await this.#fetch(key, chunk, last), from, to);
  }

  /**
   * Chunks first..last from the remote storage, each replacing what is here of it as it comes. Null: what this disk alone has cannot be fetched.
   */
  #fetchAgain(key: string, first: number, last: number): readonly Promise<Uint8Array | null>[] | null {
    if (this.#staged.has(key)) return null;
    if (!this.#foundDamaged.has(key)) this.#log.warn('a layer was read damaged, and is fetched again', { file: key });
    this.#foundDamaged.add(key);
    const chunks = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    return chunks.map((chunk) => this.#fetch(key, chunk, last, true));
  }

  /** A chunk, and in the same request those behind it, up to `last`, that are not here (`all`: here or not). */
  #fetch(key: string, chunk: number, last: number, all = false): Promise<Uint8Array | null> {
    const under = this.#fetching.get(nameOf(key, chunk));
    if (under !== undefined) return under;
    let end = chunk + 1;
    while (end <= last && (all || !this.#chunks.has(nameOf(key, end))) && !this.#fetching.has(nameOf(key, end))) end++;
    const whole = this.#remote.get(key, { start: chunk * cacheChunkBytes, end: end * cacheChunkBytes });
    for (let one = chunk; one < end; one++) {
      const name = nameOf(key, one);
      const start = (one - chunk) * cacheChunkBytes;
      const part = whole
        .then(async (found) => {
          if (found === null) return null;
          const data = found.bytes.slice(start, start + cacheChunkBytes);
          this.counters.downloads++;
          this.counters.downloadedBytes += data.length;
          await this.#keepChunk(key, one, data);
          return data;
        })
        .finally(() => this.#fetching.delete(name));
      // Whoever waits hears of a failure; nobody may be waiting for this very chunk.
      part.catch(() => {});
      this.#fetching.set(name, part);
    }
    return this.#fetching.get(nameOf(key, chunk))!;
  }

  async #keepChunk(key: string, chunk: number, data: Uint8Array): Promise<void> {
    if (data.length === 0 || this.#budgetBytes === 0) return;
    try {
      this.#keep({ key, number: chunk, bytes: await this.#files.write(key, chunk, data) });
      this.#diskFailed = false;
      await this.#evict();
    } catch (error) {
      this.#tellDisk(error);
    }
  }

  async #writeChunks(key: string, bytes: Uint8Array): Promise<void> {
    for (let chunk = 0; chunk * cacheChunkBytes < bytes.length; chunk++) {
      const data = bytes.subarray(chunk * cacheChunkBytes, (chunk + 1) * cacheChunkBytes);
      this.#keep({ key, number: chunk, bytes: await this.#files.write(key, chunk, data) });
    }
  }

  #keep(chunk: Chunk): void {
    const name = nameOf(chunk.key, chunk.number);
    this.#forget(name);
    this.#chunks.set(name, chunk);
    const names = this.#ofObject.get(chunk.key) ?? new Set();
    names.add(name);
    this.#ofObject.set(chunk.key, names);
    this.#residentBytes += chunk.bytes;
  }

  #forget(name: string): Chunk | null {
    const chunk = this.#chunks.get(name);
    if (chunk === undefined) return null;
    this.#chunks.delete(name);
    this.#residentBytes -= chunk.bytes;
    const names = this.#ofObject.get(chunk.key)!;
    names.delete(name);
    if (names.size === 0) this.#ofObject.delete(chunk.key);
    return chunk;
  }

  async #drop(name: string): Promise<void> {
    const chunk = this.#forget(name);
    if (chunk !== null) await this.#files.remove(chunk.key, chunk.number);
  }

  async #evict(): Promise<void> {
    if (this.#residentBytes <= this.#budgetBytes) return;
    for (const [name, { key }] of this.#chunks) {
      if (this.#residentBytes <= this.#budgetBytes) return;
      if (this.#staged.has(key)) continue;
      this.counters.evictions++;
      await this.#drop(name);
    }
  }

  #tellDisk(error: unknown): void {
    if (!this.#diskFailed) this.#log.warn('the local disk takes no layers', { error: messageOf(error) });
    this.#diskFailed = true;
  }
}

/** Layers: what is read again and again, and never changes. */
const isKept = isLayerKey;

const sliceOf = (data: Uint8Array | null, from: number, to: number): Uint8Array | null =>
  data === null ? null : data.subarray(Math.min(from, data.length), Math.min(to, data.length));

const nameOf = (key: string, chunk: number): string => `${key}#${chunk}`;

const lostLayer = (key: string): PageliteError =>
  new PageliteError('corrupt', `layer ${key} was not uploaded yet, and is gone from the disk or damaged`, {
    file: key,
  });
