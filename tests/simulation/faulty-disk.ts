/**
 * A safekeeper's disk that remembers, after a crash, only what was synchronised: each unsynchronised write is kept, lost or torn at a
 * sector, on its own. Operations take time; those of a process that died have no effect any more.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { SafekeeperStorage, SegmentStorage, TimelineStorage } from '../../engine/safekeeper/storage.ts';
import type { World } from './world.ts';

const sectorBytes = 512;

interface SimFile {
  size: number;
  /** Grows with what was written; zeros beyond. */
  durable: Uint8Array;
  /** What reads see: durable and the unsynchronised writes. */
  cached: Uint8Array;
  unsynced: { offset: number; bytes: Uint8Array }[];
}

/** The medium: outlives the processes that use it. */
export class SimDisk {
  readonly #world: World;
  readonly timelines = new Map<string, { id: TenantTimelineId; files: Map<string, SimFile> }>();
  tornWrites = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** The view of one process. It ends with `crash`. */
  mount(): SimStorage {
    return new SimStorage(this.#world, this);
  }

  /** Power failure, or, gently, the death of a process: then the page cache survives. */
  crash(losesCache: boolean): void {
    for (const { files } of this.timelines.values()) {
      for (const file of files.values()) {
        for (const write of file.unsynced) {
          if (!losesCache) overwrite(file, 'durable', write.offset, write.bytes);
          else if (this.#world.chance(0.5)) this.#tear(file, write);
        }
        file.unsynced = [];
        file.cached = file.durable.slice();
      }
    }
  }

  /** Some of the write's sectors made it. */
  #tear(file: SimFile, { offset, bytes }: { offset: number; bytes: Uint8Array }): void {
    this.tornWrites++;
    const keep = this.#world.next();
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, sectorBytes - ((offset + at) % sectorBytes));
      if (this.#world.chance(keep)) overwrite(file, 'durable', offset + at, bytes.subarray(at, at + length));
      at += length;
    }
  }
}

function overwrite(file: SimFile, which: 'durable' | 'cached', offset: number, bytes: Uint8Array): void {
  const end = offset + bytes.length;
  if (end > file[which].length) {
    const bigger = new Uint8Array(end);
    bigger.set(file[which]);
    file[which] = bigger;
  }
  file[which].set(bytes, offset);
}

export class SimStorage implements SafekeeperStorage {
  readonly #world: World;
  readonly #disk: SimDisk;
  alive = true;

  constructor(world: World, disk: SimDisk) {
    this.#world = world;
    this.#disk = disk;
  }

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    await this.take();
    const timeline = this.#disk.timelines.get(id.timelineId);
    return timeline ? new SimTimelineStorage(this, timeline.files) : null;
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    await this.take();
    const timeline = this.#disk.timelines.get(id.timelineId) ?? { id, files: new Map() };
    this.#disk.timelines.set(id.timelineId, timeline);
    return new SimTimelineStorage(this, timeline.files);
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    return [...this.#disk.timelines.values()].map(({ id }) => id);
  }

  /** Time passes; never returns to a process that died meanwhile. */
  async take(ms = 1): Promise<void> {
    if (this.alive) await this.#world.sleep(ms * this.#world.next());
    if (!this.alive) await new Promise(() => {});
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
    return this.#files.get(name)?.cached.slice() ?? null;
  }

  async replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    await this.#storage.take(4);
    this.#files.set(name, newFile(bytes.slice(), bytes.length));
    await this.#storage.take();
  }

  async overwriteFile(name: string, bytes: Uint8Array, durable: boolean): Promise<void> {
    await this.#storage.take();
    const file = this.#files.get(name) ?? newFile(new Uint8Array(0), bytes.length);
    this.#files.set(name, file);
    overwrite(file, 'cached', 0, bytes);
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
    await this.#storage.take(4);
    this.#files.set(name, newFile(new Uint8Array(0), size));
    await this.#storage.take();
  }

  write(name: string, offset: number, bytes: Uint8Array): Promise<void> | undefined {
    if (!this.#storage.alive) return new Promise(() => {});
    const file = this.#file(name);
    overwrite(file, 'cached', offset, bytes);
    file.unsynced.push({ offset, bytes: bytes.slice() });
    return undefined;
  }

  async sync(name: string): Promise<void> {
    const file = this.#file(name);
    const writes = file.unsynced.slice();
    await this.#storage.take(4);
    for (const { offset, bytes } of writes) overwrite(file, 'durable', offset, bytes);
    file.unsynced = file.unsynced.filter((write) => !writes.includes(write));
    await this.#storage.take();
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    await this.#storage.take();
    const { size, cached } = this.#file(name);
    const out = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
    if (offset < cached.length) out.set(cached.subarray(offset, offset + out.length));
    return out;
  }

  async zeroFrom(name: string, offset: number): Promise<void> {
    await this.#storage.take(4);
    const file = this.#file(name);
    file.durable = file.cached.slice(0, offset);
    file.cached = file.durable.slice();
    file.unsynced = [];
    await this.#storage.take();
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#storage.take(4);
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

function newFile(bytes: Uint8Array, size: number): SimFile {
  return { size, durable: bytes, cached: bytes.slice(), unsynced: [] };
}
