/**
 * A safekeeper's disk that remembers, after a power failure, only what was synchronised: each unsynchronised write is kept, lost or torn at
 * a sector, on its own. It may be slow, fail, be full, or be put back to what it held some time ago. Operations take time; those of a
 * process that died have no effect any more.
 */
import { crc32c } from '../../engine/crc32c.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { NodeFiles, SafekeeperStorage, SegmentStorage, TimelineStorage } from '../../engine/safekeeper/storage.ts';
import { SparseBytes } from './sparse-bytes.ts';
import type { World } from './world.ts';

const sectorBytes = 512;

class SimFile {
  readonly size: number;
  durable: SparseBytes;
  /** What reads see: durable and the unsynchronised writes. */
  cached: SparseBytes;
  unsynced: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  /** A sync failed: the next process sees what the medium holds. */
  lostWrites = false;

  constructor(size: number, durable: SparseBytes) {
    this.size = size;
    this.durable = durable;
    this.cached = durable.clone();
  }

  static of(bytes: Uint8Array): SimFile {
    const durable = new SparseBytes();
    durable.write(0, bytes);
    return new SimFile(bytes.length, durable);
  }
}

type Timelines = Map<string, { readonly id: TenantTimelineId; readonly files: Map<string, SimFile> }>;

/** What is on a disk. */
interface Contents {
  readonly timelines: Timelines;
  /** Of the safekeeper as such. */
  readonly nodeFiles: Map<string, SimFile>;
}

/** The medium: outlives the processes that use it. */
export class SimDisk {
  readonly #world: World;
  contents: Contents = emptyContents();
  /** Operations take so many times as long. */
  slowness = 1;
  /** What writes and syncs reject with. */
  failure: 'none' | 'fails' | 'full' = 'none';
  /** It was put back: what was acknowledged since is not on it. */
  isOld = false;
  tornWrites = 0;
  failures = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** The view of one process. It ends with `crash`. */
  mount(): SimStorage {
    return new SimStorage(this.#world, this);
  }

  /** Power failure, or, gently, the death of a process: then the page cache survives, and is no more durable than before. */
  crash(losesCache: boolean): void {
    for (const files of this.#folders()) {
      for (const file of files.values()) {
        if (!losesCache && !file.lostWrites) continue;
        for (const write of file.unsynced) if (this.#world.chance(0.5)) this.tear(file, write);
        file.unsynced = [];
        file.lostWrites = false;
        file.cached = file.durable.clone();
      }
    }
  }

  /** What is durable now, for `restore`. */
  snapshot(): Contents {
    const copy = emptyContents();
    for (const [key, { id, files }] of this.contents.timelines) copy.timelines.set(key, { id, files: copyOf(files) });
    for (const [name, file] of copyOf(this.contents.nodeFiles)) copy.nodeFiles.set(name, file);
    return copy;
  }

  /** No process has it mounted. Null: it is a new one, with nothing on it. */
  restore(snapshot: Contents | null): void {
    this.contents = snapshot ?? emptyContents();
    this.isOld = true;
  }

  #folders(): Map<string, SimFile>[] {
    return [...[...this.contents.timelines.values()].map(({ files }) => files), this.contents.nodeFiles];
  }

  /** Throws what a write or sync meets. */
  checkWritable(): void {
    if (this.failure === 'none') return;
    this.failures++;
    if (this.failure === 'fails') throw new PageliteError('unavailable', 'the disk fails: EIO');
    throw new PageliteError('unavailable', 'the disk is full: ENOSPC', { storageFull: true });
  }

  fingerprint(crc: number): number {
    const text = new TextEncoder();
    const add = (bytes: Uint8Array) => {
      crc = crc32c(bytes, 0, bytes.length, crc);
    };
    for (const files of this.#folders()) {
      for (const [name, { durable }] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
        add(text.encode(name));
        for (const [offset, bytes] of durable.blocks()) {
          add(text.encode(String(offset)));
          add(bytes);
        }
      }
    }
    return crc;
  }

  /** Some of the write's sectors made it. */
  tear(file: SimFile, { offset, bytes }: { readonly offset: number; readonly bytes: Uint8Array }): void {
    this.tornWrites++;
    const keep = this.#world.next();
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, sectorBytes - ((offset + at) % sectorBytes));
      if (this.#world.chance(keep)) file.durable.write(offset + at, bytes.subarray(at, at + length));
      at += length;
    }
  }
}

function emptyContents(): Contents {
  return { timelines: new Map(), nodeFiles: new Map() };
}

function copyOf(files: ReadonlyMap<string, SimFile>): Map<string, SimFile> {
  return new Map([...files].map(([name, { size, durable }]) => [name, new SimFile(size, durable.clone())]));
}

export class SimStorage implements SafekeeperStorage {
  readonly disk: SimDisk;
  readonly nodeFiles: NodeFiles;
  readonly #world: World;
  alive = true;

  constructor(world: World, disk: SimDisk) {
    this.#world = world;
    this.disk = disk;
    this.nodeFiles = new SimTimelineStorage(this, disk.contents.nodeFiles);
  }

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    await this.take();
    const timeline = this.disk.contents.timelines.get(id.timelineId);
    return timeline ? new SimTimelineStorage(this, timeline.files) : null;
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    await this.take();
    this.disk.checkWritable();
    const { timelines } = this.disk.contents;
    const timeline = timelines.get(id.timelineId) ?? { id, files: new Map<string, SimFile>() };
    timelines.set(id.timelineId, timeline);
    return new SimTimelineStorage(this, timeline.files);
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    await this.take();
    return [...this.disk.contents.timelines.values()].map(({ id }) => id);
  }

  /** Time passes; never returns to a process that died meanwhile. */
  async take(ms = 1): Promise<void> {
    if (this.alive) await this.#world.sleep(ms * this.disk.slowness * this.#world.next());
    if (!this.alive) await new Promise(() => {});
  }

  /** The same of what changes the medium, which may fail before it has done anything. */
  async takeToWrite(): Promise<void> {
    await this.take(4);
    this.disk.checkWritable();
  }
}

class SimTimelineStorage implements TimelineStorage {
  readonly label = 'sim';
  readonly segments: SegmentStorage;
  readonly #storage: SimStorage;
  readonly #files: Map<string, SimFile>;

  constructor(storage: SimStorage, files: Map<string, SimFile>) {
    this.#storage = storage;
    this.#files = files;
    this.segments = new SimSegments(storage, files);
  }

  async readFile(name: string): Promise<Uint8Array | null> {
    await this.#storage.take();
    const file = this.#files.get(name);
    return file?.cached.read(0, file.size) ?? null;
  }

  async replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    await this.#storage.takeToWrite();
    this.#files.set(name, SimFile.of(bytes));
    await this.#storage.take();
  }

  async overwriteFile(name: string, bytes: Uint8Array, durable: boolean): Promise<void> {
    await this.#storage.take();
    this.#storage.disk.checkWritable();
    const file = this.#files.get(name) ?? new SimFile(bytes.length, new SparseBytes());
    this.#files.set(name, file);
    file.cached.write(0, bytes);
    file.unsynced.push({ offset: 0, bytes: bytes.slice() });
    if (durable) await this.segments.sync(name);
  }

  async close(): Promise<void> {}
}

class SimSegments implements SegmentStorage {
  readonly #storage: SimStorage;
  readonly #files: Map<string, SimFile>;

  constructor(storage: SimStorage, files: Map<string, SimFile>) {
    this.#storage = storage;
    this.#files = files;
  }

  async list(): Promise<readonly { name: string; size: number }[]> {
    await this.#storage.take();
    return [...this.#files].map(([name, { size }]) => ({ name, size }));
  }

  async create(name: string, size: number): Promise<void> {
    await this.#storage.takeToWrite();
    this.#files.set(name, new SimFile(size, new SparseBytes()));
    await this.#storage.take();
  }

  write(name: string, offset: number, bytes: Uint8Array): Promise<void> | undefined {
    if (!this.#storage.alive) return new Promise(() => {});
    const file = this.#file(name);
    this.#storage.disk.checkWritable();
    file.cached.write(offset, bytes);
    file.unsynced.push({ offset, bytes: bytes.slice() });
    return undefined;
  }

  async sync(name: string): Promise<void> {
    const file = this.#file(name);
    const writes = file.unsynced.slice();
    await this.#storage.take(4);
    file.unsynced = file.unsynced.filter((write) => !writes.includes(write));
    try {
      this.#storage.disk.checkWritable();
    } catch (error) {
      // As Linux does: what was not stored counts as stored from now on, and reads still show it.
      for (const write of writes) this.#storage.disk.tear(file, write);
      file.lostWrites = true;
      throw error;
    }
    for (const { offset, bytes } of writes) file.durable.write(offset, bytes);
    await this.#storage.take();
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    await this.#storage.take();
    const { size, cached } = this.#file(name);
    return cached.read(offset, Math.max(0, Math.min(length, size - offset)));
  }

  async zeroFrom(name: string, offset: number): Promise<void> {
    await this.#storage.takeToWrite();
    const file = this.#file(name);
    file.cached.zeroFrom(offset);
    file.durable = file.cached.clone();
    file.unsynced = [];
    await this.#storage.take();
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#storage.takeToWrite();
    const file = this.#file(from);
    this.#files.delete(from);
    this.#files.set(to, file);
    await this.#storage.take();
  }

  async remove(name: string): Promise<void> {
    await this.#storage.take();
    this.#files.delete(name);
  }

  #file(name: string): SimFile {
    const file = this.#files.get(name);
    if (file === undefined) throw new PageliteError('notFound', `no file ${name}`);
    return file;
  }
}
