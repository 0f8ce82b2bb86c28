/**
 * Where a safekeeper's bytes lie: a folder per timeline with a few files. Disk (server/safekeeper/disk-segments.ts), memory (below, for
 * tests and tabs); tests/simulation has one that forgets what was not synchronised.
 */
import { PageliteError } from '../errors.ts';
import { type TenantTimelineId, timelineKey } from '../model/ids.ts';

/**
 * The files of one timeline. Calls on one file are made one after another, except reads. Every rejection is a PageliteError:
 * `notFound` where the file is absent, `unavailable` where the medium fails.
 */
export interface SegmentStorage {
  /**
   * A `sync` that rejects has stored nothing of what it was to make durable, and reads of a storage that is opened anew show that. Absent on a
   * disk: there a failed sync leaves open what was stored.
   */
  readonly failedSyncKeepsNothing?: boolean;
  list(): Promise<readonly { readonly name: string; readonly size: number }[]>;
  /** A file of `size` zeros, which need not take up space. Durable, with its name; an existing one is replaced. */
  create(name: string, size: number): Promise<void>;
  /** Into an existing file. Not durable before `sync`. May finish within the call (undefined), which is the fast path for small writes. */
  write(name: string, offset: number, bytes: Uint8Array): Promise<void> | undefined;
  /** All that was written to the file is durable: when it resolves, or within the call (undefined). */
  sync(name: string): Promise<void> | undefined;
  /** Shorter at the end of the file. The bytes belong to the caller. */
  read(name: string, offset: number, length: number): Promise<Uint8Array>;
  /** From `offset` on the file is zeros, up to the size it has. Durable. */
  zeroFrom(name: string, offset: number): Promise<void>;
  /** Durable. */
  rename(from: string, to: string): Promise<void>;
  /** Durable; an absent file is fine. */
  remove(name: string): Promise<void>;
}

/** One timeline's folder. */
export interface TimelineStorage {
  readonly segments: SegmentStorage;
  /** For messages: the folder's path. */
  readonly label: string;
  readFile(name: string): Promise<Uint8Array | null>;
  /** Durable when it resolves, and never half of it: after a crash the file holds the old bytes or the new. */
  replaceFile(name: string, bytes: Uint8Array): Promise<void>;
  /** Of a few bytes, in place. Durable only if asked. */
  overwriteFile(name: string, bytes: Uint8Array, durable: boolean): Promise<void>;
  close(): Promise<void>;
}

/** Small files of a safekeeper as such. */
export type NodeFiles = Pick<TimelineStorage, 'readFile' | 'replaceFile'>;

export interface SafekeeperStorage {
  /** Absent where a safekeeper has no peers: what they say of themselves is then forgotten with the process. */
  readonly nodeFiles?: NodeFiles;
  /** Null if the timeline has never been created here. */
  openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null>;
  /** Durable, with its name. */
  createTimeline(id: TenantTimelineId): Promise<TimelineStorage>;
  listTimelines(): Promise<readonly TenantTimelineId[]>;
}

/** Everything in memory and durable at once. */
export class MemorySafekeeperStorage implements SafekeeperStorage {
  readonly #timelines = new Map<string, { id: TenantTimelineId; storage: TimelineStorage }>();

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    return this.#timelines.get(timelineKey(id))?.storage ?? null;
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    const storage = new MemoryTimelineStorage(`memory:${timelineKey(id)}`);
    this.#timelines.set(timelineKey(id), { id, storage });
    return storage;
  }

  async removeTimeline(id: TenantTimelineId): Promise<void> {
    this.#timelines.delete(timelineKey(id));
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    return [...this.#timelines.values()].map(({ id }) => id);
  }
}

export class MemoryTimelineStorage implements TimelineStorage {
  readonly label: string;
  readonly segments: MemorySegments = new MemorySegments();
  readonly #files = new Map<string, Uint8Array>();

  constructor(label: string) {
    this.label = label;
  }

  async readFile(name: string): Promise<Uint8Array | null> {
    return this.#files.get(name)?.slice() ?? null;
  }

  async replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    this.#files.set(name, bytes.slice());
  }

  async overwriteFile(name: string, bytes: Uint8Array, _durable: boolean): Promise<void> {
    this.#files.set(name, bytes.slice());
  }

  async close(): Promise<void> {}
}

/** Memory grows with what was written, not with the size of the files. */
class MemorySegments implements SegmentStorage {
  readonly #files = new Map<string, { size: number; bytes: Uint8Array }>();

  async list(): Promise<readonly { name: string; size: number }[]> {
    return [...this.#files].map(([name, { size }]) => ({ name, size }));
  }

  async create(name: string, size: number): Promise<void> {
    this.#files.set(name, { size, bytes: new Uint8Array(0) });
  }

  write(name: string, offset: number, bytes: Uint8Array): undefined {
    const file = this.#file(name);
    const end = offset + bytes.length;
    if (end > file.bytes.length) {
      const bigger = new Uint8Array(Math.min(file.size, Math.max(2 * file.bytes.length, end)));
      bigger.set(file.bytes);
      file.bytes = bigger;
    }
    file.bytes.set(bytes, offset);
    return undefined;
  }

  async sync(name: string): Promise<void> {
    this.#file(name);
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const { size, bytes } = this.#file(name);
    const out = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
    if (offset < bytes.length) out.set(bytes.subarray(offset, offset + out.length));
    return out;
  }

  async zeroFrom(name: string, offset: number): Promise<void> {
    this.#file(name).bytes.fill(0, offset);
  }

  async rename(from: string, to: string): Promise<void> {
    const file = this.#file(from);
    this.#files.delete(from);
    this.#files.set(to, file);
  }

  async remove(name: string): Promise<void> {
    this.#files.delete(name);
  }

  #file(name: string): { size: number; bytes: Uint8Array } {
    const file = this.#files.get(name);
    if (file === undefined) throw new PageliteError('notFound', `no file ${name}`, { file: name });
    return file;
  }
}
