/**
 * A data directory as a timeline: its files as image layers at its shutdown checkpoint, written one after another into a store, and the index that
 * names them, which the caller stores or sends (transfer/push-timeline.ts). (As Neon's import_timeline_from_postgres_datadir, but for
 * directories of any size.)
 *
 * Called by the command line and the library with a directory that was shut down in order (server/import/).
 *
 * Invariants:
 * - values are added in key order, and a layer is stored when it has `compactionTargetBytes`: memory does not grow with the directory
 * - pages of zeros are left out, as everywhere; every other page was checked (check-page.ts)
 * - the timeline begins at the shutdown checkpoint; a compute writes that record anew, and nothing in the directory is newer
 */

import { controlPath, originsPath } from '../basebackup/data-directory-paths.ts';
import { encodeFiles } from '../basebackup/data-files.ts';
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import { clogValueBytes } from '../ingest/patch.ts';
import { RelDirectory } from '../ingest/rel-directory.ts';
import { encodeSize } from '../ingest/rel-sizes.ts';
import { encodeDatabases, encodeOrigins, encodePrepared, encodeSegments } from '../ingest/small-directories.ts';
import { ImageLayerWriter } from '../layers/image-layer.ts';
import { compactionTargetBytes, pageSize } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  type Key,
  type KeyPrefix,
  relDirectoryKey,
  relMapKey,
  relPrefix,
  replicationOriginsKey,
  type SlruKind,
  sizeBlock,
  slruDirectoryKey,
  slruKind,
  slruPrefix,
  staticFilesKey,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../model/key.ts';
import { invalidLsn, type Lsn, readLsn } from '../model/lsn.ts';
import { formatRel } from '../model/rel.ts';
import type { ObjectStore } from '../services.ts';
import { type IndexPart, type LayerEntry, layerKey, newIndexPart } from '../timeline/index-part.ts';
import type { TransferProgress } from '../transfer/push-timeline.ts';
import { checkControl, checkpointForBranch, controlForBranch } from './check-control.ts';
import { isZeroPage, pageProblem } from './check-page.ts';
import { configurationForBranch } from './configuration.ts';
import type { DataDirectory } from './data-directory.ts';
import { type ImportPlan, isRebuiltFork, type PlannedDatabase, type PlannedFork, planImport } from './plan.ts';

export interface ImportDataDirectoryOptions {
  readonly directory: DataDirectory;
  /** The timeline that it becomes. */
  readonly id: TenantTimelineId;
  /** Takes the layers. */
  readonly store: Pick<ObjectStore, 'put'>;
  readonly layerBytesMax?: number;
  readonly progress?: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

export interface ImportedDirectory {
  readonly part: IndexPart;
  /** Of the directory that is in the timeline. */
  readonly bytes: number;
  /** Relations that begin empty, as after a crash. */
  readonly unloggedRelations: number;
  /** Damaged pages of free space maps and visibility maps: PostgreSQL makes them again. */
  readonly droppedMapPages: number;
  /** Folders of databases that were never finished. */
  readonly unfinishedDatabases: readonly string[];
  /** Settings that name files which only the old server has. */
  readonly settingsLeftOut: readonly string[];
}

/** Pages of one read. */
const pagesPerRead = 128;
/** Configuration and the like are read whole. */
const smallFileBytesMax = 16 * 1024 * 1024;

/** Throws `invalid` (not for us) and `corrupt` (damaged), naming the file; what the store throws; `cancelled`. */
export async function importDataDirectory(options: ImportDataDirectoryOptions): Promise<ImportedDirectory> {
  return new Import(options, planImport(options.directory)).run();
}

class Import {
  readonly #options: ImportDataDirectoryOptions;
  readonly #plan: ImportPlan;
  readonly #layers: LayerEntry[] = [];
  #writer: ImageLayerWriter | null = null;
  #lsn = invalidLsn;
  #hasChecksums = false;
  #done = 0;
  #droppedMapPages = 0;
  readonly #settingsLeftOut: string[] = [];

  constructor(options: ImportDataDirectoryOptions, plan: ImportPlan) {
    this.#options = options;
    this.#plan = plan;
  }

  async run(): Promise<ImportedDirectory> {
    const { directory } = this.#options;
    // Kept until the end; what is read next takes the place of what was.
    const control = (await this.#readSmall(controlPath)).slice();
    const { isClean, lsn, systemIdentifier, hasChecksums, state } = checkControl(control, directory.name);
    if (!isClean) throw new PageliteError('invalid', `${directory.name} was not shut down: it is ${state}`);
    this.#lsn = lsn;
    this.#hasChecksums = hasChecksums;
    await this.#addRelations();
    await this.#addSlrus();
    await this.#addPrepared();
    await this.#put(controlFileKey, controlForBranch(control));
    await this.#put(checkpointKey, checkpointForBranch(control));
    await this.#put(staticFilesKey, await this.#configuration());
    if (this.#plan.hasOrigins) await this.#put(replicationOriginsKey, await this.#origins());
    await this.#closeLayer();
    const { bytes, unloggedRelations, unfinishedDatabases } = this.#plan;
    const part = newIndexPart({ systemIdentifier, lsn, prevRecordLsn: invalidLsn, layers: this.#layers });
    const droppedMapPages = this.#droppedMapPages;
    const settingsLeftOut = this.#settingsLeftOut;
    return { part, bytes, unloggedRelations, droppedMapPages, unfinishedDatabases, settingsLeftOut };
  }

  // In key order

  async #addRelations(): Promise<void> {
    const { databases } = this.#plan;
    await this.#put(dbDirectoryKey, encodeDatabases(databases.map(({ spc, db }) => ({ spc, db }))));
    for (const database of databases) await this.#addDatabase(database);
  }

  async #addDatabase({ spc, db, mapPath, forks }: PlannedDatabase): Promise<void> {
    const map = await this.#readSmall(mapPath);
    checkRelationMap(map, mapPath, this.#options.directory.name);
    await this.#put(relMapKey(spc, db), map);
    const relations = new RelDirectory();
    for (const { rel } of forks) relations.add(rel.rel, rel.fork);
    await this.#put(relDirectoryKey(spc, db), relations.encode());
    for (const fork of forks) await this.#addFork(fork);
  }

  async #addFork({ rel, files, blocks }: PlannedFork): Promise<void> {
    const prefix = relPrefix(rel);
    let block = 0;
    for (const file of files) {
      for (let first = 0; first < file.blocks; first += pagesPerRead) {
        const count = Math.min(pagesPerRead, file.blocks - first);
        const bytes = await this.#read(file.path, first * pageSize, count * pageSize);
        for (let i = 0; i < count; i++, block++) {
          if (isZeroPage(bytes, i * pageSize)) continue;
          const problem = pageProblem(bytes, i * pageSize, block, this.#lsn, this.#hasChecksums);
          if (problem !== null && !isRebuiltFork(rel)) {
            const what = `page ${first + i} of ${file.path} of ${this.#options.directory.name} is damaged: ${problem}`;
            throw new PageliteError('corrupt', what, { file: file.path, page: first + i, relation: formatRel(rel) });
          }
          if (problem !== null) this.#droppedMapPages++;
          else this.#add(prefix, block, bytes.subarray(i * pageSize, (i + 1) * pageSize));
        }
        await this.#closeLayerIfFull();
      }
    }
    await this.#put({ prefix, block: sizeBlock }, encodeSize(blocks));
  }

  async #addSlrus(): Promise<void> {
    for (const [kind, segments] of [...this.#plan.slrus].sort(([a], [b]) => a - b)) {
      await this.#put(slruDirectoryKey(kind), encodeSegments(segments.map(({ segment }) => segment)));
      for (const { segment, path, blocks } of segments) await this.#addSlruSegment(kind, segment, path, blocks);
    }
  }

  async #addSlruSegment(kind: SlruKind, segment: number, path: string, blocks: number): Promise<void> {
    const prefix = slruPrefix(kind, segment);
    const bytes = await this.#read(path, 0, blocks * pageSize);
    for (let block = 0; block < blocks; block++) {
      const page = bytes.subarray(block * pageSize, (block + 1) * pageSize);
      // Behind a clog page stands the time of its latest commit, which is not known.
      const value = kind === slruKind.clog ? new Uint8Array(clogValueBytes) : page;
      value.set(page);
      this.#add(prefix, block, value);
    }
    await this.#put({ prefix, block: sizeBlock }, encodeSize(blocks));
  }

  /** Two-phase state without its CRC. */
  async #addPrepared(): Promise<void> {
    const { prepared } = this.#plan;
    await this.#put(twoPhaseDirectoryKey, encodePrepared(prepared.map(({ xid }) => xid)));
    for (const { xid, path } of prepared) {
      const bytes = await this.#readSmall(path);
      await this.#put(twoPhaseKey(xid), bytesBeforeCrc(bytes, path, this.#options.directory.name));
    }
  }

  async #configuration(): Promise<Uint8Array> {
    const files = [];
    for (const path of this.#plan.configuration) {
      const bytes = (await this.#readSmall(path)).slice();
      const isSettings = path.startsWith('postgresql');
      const kept = isSettings ? configurationForBranch(bytes) : { bytes, leftOut: [] };
      files.push({ path, bytes: kept.bytes });
      this.#settingsLeftOut.push(...kept.leftOut.map((setting) => `${setting} of ${path}`));
    }
    return encodeFiles(files);
  }

  /** The file of origin.c (see basebackup.ts): u32 magic, per origin u16 id, 6 bytes of padding and u64 remote LSN, then u32 CRC32C. */
  async #origins(): Promise<Uint8Array> {
    const path = originsPath;
    const body = bytesBeforeCrc(await this.#readSmall(path), path, this.#options.directory.name);
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    const origins = new Map<number, Lsn>();
    for (let at = 4; at + 16 <= body.length; at += 16) origins.set(view.getUint16(at, true), readLsn(view, at + 8));
    return encodeOrigins(origins);
  }

  // Files

  async #readSmall(path: string): Promise<Uint8Array> {
    const { name, files } = this.#options.directory;
    const size = files.find((file) => file.path === path)?.size;
    if (size === undefined) throw new PageliteError('invalid', `${name} has no ${path}`, { file: path });
    if (size > smallFileBytesMax) {
      throw new PageliteError('invalid', `${path} of ${name} has ${size} bytes, at most ${smallFileBytesMax}`);
    }
    return this.#read(path, 0, size);
  }

  async #read(path: string, offset: number, length: number): Promise<Uint8Array> {
    const { directory, signal, progress } = this.#options;
    signal?.throwIfAborted();
    const bytes = await directory.read(path, offset, length);
    this.#done += length;
    progress?.({
      text: 'Reading',
      done: Math.min(this.#done, this.#plan.bytes),
      total: this.#plan.bytes,
      unit: 'bytes',
    });
    return bytes;
  }

  // Layers

  async #put({ prefix, block }: Key, value: Uint8Array): Promise<void> {
    this.#add(prefix, block, value);
    await this.#closeLayerIfFull();
  }

  #add(prefix: KeyPrefix, block: number, value: Uint8Array): void {
    this.#writer ??= new ImageLayerWriter(this.#options.id, this.#lsn, this.#bytesExpected());
    this.#writer.add(prefix, block, value);
  }

  get #layerBytesMax(): number {
    return this.#options.layerBytesMax ?? compactionTargetBytes;
  }

  /** What is left, or a full layer; a page has about 60 bytes beside it. */
  #bytesExpected(): number {
    const left = Math.ceil(Math.max(0, this.#plan.bytes - this.#done) * 1.02) + pagesPerRead * pageSize * 2;
    return Math.min(left, this.#layerBytesMax + pagesPerRead * pageSize * 2);
  }

  async #closeLayerIfFull(): Promise<void> {
    if (this.#writer !== null && this.#writer.length >= this.#layerBytesMax) await this.#closeLayer();
  }

  async #closeLayer(): Promise<void> {
    const written = this.#writer?.finish() ?? null;
    this.#writer = null;
    if (written === null) return;
    const { id, store } = this.#options;
    // Nothing of the timeline is older, so each layer is all there is of its range.
    const entry = { name: written.name, size: written.bytes.length, generation: 0, isComplete: true };
    await store.put(layerKey(id, entry), written.bytes);
    this.#layers.push(entry);
  }
}

const relationMapMagic = 0x592717;
const relationMapBytes = 524;

/** relmapper.c, read_relmap_file. */
function checkRelationMap(map: Uint8Array, path: string, name: string): void {
  const view = new DataView(map.buffer, map.byteOffset, map.byteLength);
  const isWhole =
    map.length === relationMapBytes &&
    view.getUint32(0, true) === relationMapMagic &&
    view.getUint32(relationMapBytes - 4, true) === crc32c(map, 0, relationMapBytes - 4);
  if (!isWhole) throw new PageliteError('corrupt', `${path} of ${name} is damaged`, { file: path });
}

/** Of a file whose last four bytes are the CRC32C of those before. */
function bytesBeforeCrc(bytes: Uint8Array, path: string, name: string): Uint8Array {
  const end = bytes.length - 4;
  const stored = end < 0 ? -1 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(end, true);
  if (end < 4 || stored !== crc32c(bytes, 0, end)) {
    throw new PageliteError('corrupt', `${path} of ${name} fails its CRC`, { file: path });
  }
  return bytes.slice(0, end);
}
