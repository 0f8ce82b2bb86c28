/**
 * Looks through an object store as a whole: every index names objects that are there and whose checksums hold, and everything else is garbage. Changes
 * nothing.
 *
 * Garbage is what a crash or a replaced owner has left: layers that no newest index names, indexes and claims of earlier owners, files of timelines without
 * an index, WAL of timelines that are deleted (scrub-wal.ts). What an import under way has brought is none. While processes are at work, what they have just
 * written counts as garbage for a moment; a problem is only what is still there when the same index is looked at again. What has a name that nothing here
 * writes is foreign: it is told, and not to be deleted.
 */

import { must } from '../assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { BlockCache } from '../layers/block-cache.ts';
import { LayerFile } from '../layers/layer-file.ts';
import { parseLayerFile, parseLayerName } from '../layers/layer-name.ts';
import { isIdText, type TenantId, type TenantTimelineId, tenantId, timelineId } from '../model/ids.ts';
import { walTenantFolder } from '../safekeeper/wal-backup.ts';
import type { ObjectStore } from '../services.ts';
import { branchNamesFile, loadBranchNames } from '../timeline/branch-names.ts';
import {
  decodeChecked,
  decodeIndexPart,
  type IndexPart,
  type LayerEntry,
  layerKey,
  parseIndexFile,
  tenantFolder,
  timelineFolder,
} from '../timeline/index-part.ts';
import { deletedFile, newestClaim, parseClaimName } from '../timeline/tenant-claims.ts';
import { loadTenantConfig } from '../timeline/tenant-config.ts';
import { copyFileName, decodeCopyRecord } from '../transfer/copy-record.ts';
import { decodeImportRecord, importFileName } from '../transfer/import-record.ts';
import { layerOfPart } from '../transfer/received-layers.ts';
import { loadTransferRecord, transferFileName } from '../transfer/transfer-record.ts';
import { scrubWal } from './scrub-wal.ts';

export interface ScrubOptions {
  readonly store: ObjectStore;
  /** Null: all of them. */
  readonly tenant: TenantId | null;
  /** Also reads every layer, and checks the checksum of each of its blocks. */
  readonly isDeep: boolean;
  /** The store is a folder in which a pageserver has other files, too: only what is under `tenants/` and `wal/` is looked at. */
  readonly isShared?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { readonly objects: number; readonly bytes: number }) => void;
}

export interface ScrubProblem {
  readonly key: string;
  readonly problem: string;
}

export interface ScrubReport {
  readonly tenants: number;
  readonly timelines: number;
  /** That indexes name. */
  readonly layers: number;
  readonly layerBytes: number;
  readonly problems: readonly ScrubProblem[];
  readonly garbage: readonly Garbage[];
}

export interface Garbage {
  readonly key: string;
  readonly size: number;
  /** Of the tenant; null: nobody's. */
  readonly ownerNodeId: number | null;
  /** Nothing of ours has such a name: somebody else may have put it there. */
  readonly isForeign: boolean;
}

/** Objects beside the folders: what says that it is a storage, and what its server's habits are tried out on. */
const rootFiles = ['storage.json', 'access-check', 'access-check-swap'];
const timelinePattern = /^timelines\/([0-9a-f]{32})\/([^/]+)$/;
/** Blocks of a layer that are read at once. */
const blocksPerRead = 256;
/** How often a timeline with a problem is looked at while its index keeps changing. */
const looksMax = 20;

export async function scrub(options: ScrubOptions): Promise<ScrubReport> {
  const work = new Scrub(options);
  const { store, tenant } = options;
  // Before the tenants: a timeline is there before its WAL is.
  const wal = await store.list(tenant === null ? 'wal/' : walTenantFolder(tenant));
  for (const name of tenant === null ? await store.listFolders('tenants/') : [tenant]) await work.tenant(name);
  work.wal(wal);
  if (tenant === null && options.isShared !== true) await work.root();
  return work.report;
}

class Scrub {
  readonly #options: ScrubOptions;
  readonly #problems: ScrubProblem[] = [];
  readonly #garbage: Garbage[] = [];
  /** Tenants with their owners, and timelines, as `<tenant>/<timeline>`, that are there, damaged or not. */
  readonly #tenants = new Map<string, number | null>();
  readonly #timelines = new Set<string>();
  readonly #blocks = new BlockCache(1);
  #counts = { tenants: 0, timelines: 0, layers: 0, layerBytes: 0 };
  #objects = 0;
  #bytes = 0;

  constructor(options: ScrubOptions) {
    this.#options = options;
  }

  get report(): ScrubReport {
    return { ...this.#counts, problems: this.#problems, garbage: this.#garbage };
  }

  async tenant(name: string): Promise<void> {
    const { store } = this.#options;
    if (!isIdText(name)) {
      this.#problem(`tenants/${name}`, 'is not a tenant');
      return;
    }
    const id = tenantId(name);
    const folder = tenantFolder(id);
    const objects = new Map((await store.list(folder)).map(({ key, size }) => [key, size]));
    if (objects.size === 0)
      throw new PageliteError('notFound', `there is no tenant ${id} in the store`, { tenantId: id });
    if (objects.has(folder + deletedFile)) return this.#deletedTenant(folder, objects);
    this.#counts.tenants++;
    const owner = await this.#checkTenant(id, objects);
    this.#tenants.set(id, owner);
    const timelines = new Map<string, string[]>();
    for (const key of objects.keys()) {
      const match = timelinePattern.exec(key.slice(folder.length));
      if (match !== null) timelines.set(match[1]!, [...(timelines.get(match[1]!) ?? []), key]);
      else if (key.startsWith(`${folder}timelines/`)) this.#problem(key, 'is not an object of a timeline');
      else if (key.indexOf('/', folder.length) >= 0) this.#waste(key, objects.get(key)!, owner);
    }
    const indexes = new Map<string, IndexPart>();
    for (const [timeline, keys] of timelines) {
      const part = await this.#timeline({ tenantId: id, timelineId: timelineId(timeline) }, keys, objects, owner);
      if (part !== null) indexes.set(timeline, part);
    }
    for (const [timeline, { ancestor }] of indexes) {
      if (ancestor === null || indexes.has(ancestor.timelineId)) continue;
      this.#problem(
        `${folder}timelines/${timeline}/`,
        `its ancestor ${ancestor.timelineId} is not there, or cannot be read`,
      );
    }
  }

  /** What is there beside the note of its deletion is what the deletion has not come to, or what a stale owner has stored since. */
  #deletedTenant(folder: string, objects: ReadonlyMap<string, number>): void {
    for (const [key, size] of objects) {
      if (key !== folder + deletedFile) this.#waste(key, size, null);
    }
  }

  /** WAL that safekeepers have sent. */
  wal(objects: readonly { readonly key: string; readonly size: number }[]): void {
    const isThere = (id: TenantTimelineId) => this.#timelines.has(`${id.tenantId}/${id.timelineId}`);
    const { problems, garbage, foreign } = scrubWal(objects, isThere);
    this.#problems.push(...problems);
    for (const { key, size, tenant } of garbage) this.#waste(key, size, this.#tenants.get(tenant) ?? null);
    for (const { key, size } of foreign) this.#foreign(key, size);
  }

  /** What is in no folder of ours. */
  async root(): Promise<void> {
    const objects = await this.#options.store.list('');
    const folders = await this.#options.store.listFolders('tenants/');
    const isOurs = (key: string) =>
      rootFiles.includes(key) || key.startsWith('wal/') || folders.some((name) => key.startsWith(`tenants/${name}/`));
    for (const { key, size } of objects) if (!isOurs(key)) this.#foreign(key, size);
  }

  #waste(key: string, size: number, ownerNodeId: number | null): void {
    this.#garbage.push({ key, size, ownerNodeId, isForeign: false });
  }

  #foreign(key: string, size: number): void {
    this.#garbage.push({ key, size, ownerNodeId: null, isForeign: true });
  }

  /** Returns the node that owns it. */
  async #checkTenant(id: TenantId, objects: ReadonlyMap<string, number>): Promise<number | null> {
    const { store } = this.#options;
    const folder = tenantFolder(id);
    const known = ['tenant.json', 'config.json', branchNamesFile];
    const marker = await store.get(`${folder}tenant.json`);
    if (marker === null) this.#problem(`${folder}tenant.json`, 'is missing');
    else if (decodeChecked(marker.bytes) === null) this.#problem(`${folder}tenant.json`, 'is damaged: wrong checksum');
    const generations = [...objects.keys()].map((key) => parseClaimName(key.slice(folder.length)));
    const newest = Math.max(0, ...generations.filter((generation) => generation !== null));
    let owner: number | null = null;
    await this.#reading(`${folder}generation-`, async () => {
      owner = (await newestClaim(store, id))?.nodeId ?? null;
    });
    await this.#reading(`${folder}config.json`, async () => {
      await loadTenantConfig(store, id);
    });
    await this.#reading(folder + branchNamesFile, async () => {
      await loadBranchNames(store, id);
    });
    for (const [key, size] of objects) {
      const file = key.slice(folder.length);
      if (file.includes('/')) continue;
      const generation = parseClaimName(file);
      if (generation === null ? !known.includes(file) : generation < newest) {
        this.#waste(key, size, owner);
      }
    }
    return owner;
  }

  /** A pageserver at work swaps the index and removes layers between the listing and the reading: then it is looked at again. */
  async #timeline(
    id: TenantTimelineId,
    keys: readonly string[],
    objects: ReadonlyMap<string, number>,
    owner: number | null,
  ): Promise<IndexPart | null> {
    const { store } = this.#options;
    const [problemCount, garbageCount, counts] = [this.#problems.length, this.#garbage.length, { ...this.#counts }];
    let look = await this.#look(id, keys, objects, owner);
    for (let n = 1; n < looksMax && this.#problems.length > problemCount; n++) {
      const again = new Map((await store.list(timelineFolder(id))).map(({ key, size }) => [key, size]));
      this.#problems.length = problemCount;
      this.#garbage.length = garbageCount;
      this.#counts = { ...counts };
      const before = look.index;
      look = await this.#look(id, [...again.keys()], again, owner);
      if (look.index === before) break;
    }
    return look.part;
  }

  /** `index`: which one was read, and in which version. */
  async #look(
    id: TenantTimelineId,
    keys: readonly string[],
    objects: ReadonlyMap<string, number>,
    owner: number | null,
  ): Promise<{ readonly part: IndexPart | null; readonly index: string | null }> {
    const folder = timelineFolder(id);
    const newest = keys.map((key) => parseIndexFile(key.slice(folder.length)) ?? -1).reduce((a, b) => Math.max(a, b));
    const indexKey = keys.find((key) => parseIndexFile(key.slice(folder.length)) === newest && newest >= 0);
    const underWay = await this.#underWay(id, keys);
    const garbage = (named: ReadonlySet<string>) => {
      for (const key of keys) {
        if (!named.has(key) && !underWay(key.slice(folder.length))) this.#waste(key, objects.get(key)!, owner);
      }
    };
    if (indexKey === undefined) {
      garbage(new Set());
      return { part: null, index: null };
    }
    this.#timelines.add(`${id.tenantId}/${id.timelineId}`);
    this.#counts.timelines++;
    let part: IndexPart | null = null;
    let index = indexKey;
    await this.#reading(indexKey, async () => {
      const found = await this.#options.store.get(indexKey);
      if (found === null) throw new PageliteError('corrupt', 'it vanished', { file: indexKey });
      index += ` ${found.version}`;
      part = decodeIndexPart(found.bytes, indexKey);
    });
    // What a damaged index names is not known: then nothing is garbage.
    if (part === null) return { part: null, index };
    const { layers } = part as IndexPart;
    garbage(new Set([indexKey, ...layers.map((entry) => layerKey(id, entry))]));
    for (const entry of layers) await this.#layer(id, entry, objects);
    return { part, index };
  }

  /** Checks the records beside the index. Returns whether a file is one of them, or belongs to what one of them has begun. */
  async #underWay(id: TenantTimelineId, keys: readonly string[]): Promise<(file: string) => boolean> {
    const { store } = this.#options;
    const folder = timelineFolder(id);
    const names = new Set<string>();
    let isKnown = true;
    const check = async (file: string, work: (bytes: Uint8Array) => readonly { readonly name: string }[]) => {
      const found = keys.includes(folder + file) ? await store.get(folder + file) : null;
      if (found === null) return;
      const before = this.#problems.length;
      await this.#reading(folder + file, async () => {
        for (const { name } of work(found.bytes)) names.add(name);
      });
      // What it has brought is not known then: it may be anything.
      if (this.#problems.length > before) isKnown = false;
    };
    await check(
      importFileName,
      (bytes) => decodeImportRecord(bytes, folder + importFileName).open?.manifest.layers ?? [],
    );
    await check(copyFileName, (bytes) => decodeCopyRecord(bytes, folder + copyFileName).layers);
    if (keys.includes(folder + transferFileName)) {
      await this.#reading(folder + transferFileName, async () => {
        await loadTransferRecord(store, id);
      });
    }
    return (file) => {
      if ([importFileName, copyFileName, transferFileName].includes(file)) return true;
      const layer = layerOfPart(file) ?? parseLayerFile(file)?.name;
      return layer !== undefined && (!isKnown || names.has(layer));
    };
  }

  async #layer(id: TenantTimelineId, entry: LayerEntry, objects: ReadonlyMap<string, number>): Promise<void> {
    this.#options.signal?.throwIfAborted();
    const key = layerKey(id, entry);
    const size = objects.get(key);
    this.#counts.layers++;
    this.#counts.layerBytes += entry.size;
    this.#objects++;
    if (size === undefined) this.#problem(key, 'is missing, and the index names it');
    else if (size !== entry.size) this.#problem(key, `has ${size} bytes, and the index says ${entry.size}`);
    else if (this.#options.isDeep) await this.#reading(key, () => this.#readLayer(id, entry));
    this.#bytes += entry.size;
    this.#options.onProgress?.({ objects: this.#objects, bytes: this.#bytes });
  }

  async #readLayer(id: TenantTimelineId, entry: LayerEntry): Promise<void> {
    const desc = must(parseLayerName(entry.name));
    const { store } = this.#options;
    const file = new LayerFile(id, desc, timelineFolder(id), entry.size, store, this.#blocks, entry);
    const { blockCount } = await file.open();
    for (let first = 0; first < blockCount; first += blocksPerRead) {
      this.#options.signal?.throwIfAborted();
      await file.holdBlocks(first, Math.min(blockCount, first + blocksPerRead) - 1);
    }
    file.forget();
  }

  /** What is damaged is a problem, and the rest is looked at; a store that is away ends it. */
  async #reading(key: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isPageliteError(error, 'corrupt') && !isPageliteError(error, 'invalid')) throw error;
      const { file } = error.data;
      this.#problem(typeof file === 'string' ? file : key, messageOf(error));
    }
  }

  #problem(key: string, problem: string): void {
    this.#problems.push({ key, problem });
  }
}
