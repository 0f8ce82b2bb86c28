/**
 * Looks through an object store as a whole: every index names objects that are there and whose checksums hold, and everything else is garbage. Changes
 * nothing.
 *
 * Garbage is what a crash or a replaced owner has left: layers that no newest index names, indexes and claims of earlier owners, files of timelines without
 * an index. While pageservers are at work, what they have just written counts as garbage for a moment.
 */

import { must } from '../assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { BlockCache } from '../layers/block-cache.ts';
import { LayerFile } from '../layers/layer-file.ts';
import { parseLayerName } from '../layers/layer-name.ts';
import { type TenantId, type TenantTimelineId, tenantId, timelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
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
import { importFileName } from '../transfer/import-record.ts';
import { transferFileName } from '../transfer/transfer-record.ts';

export interface ScrubOptions {
  readonly store: ObjectStore;
  /** Null: all of them. */
  readonly tenant: TenantId | null;
  /** Also reads every layer, and checks the checksum of each of its blocks. */
  readonly isDeep: boolean;
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
  readonly garbage: readonly { readonly key: string; readonly size: number; readonly ownerNodeId: number | null }[];
}

const idPattern = /^[0-9a-f]{32}$/;
const timelinePattern = /^timelines\/([0-9a-f]{32})\/([^/]+)$/;
/** Blocks of a layer that are read at once. */
const blocksPerRead = 256;

export async function scrub(options: ScrubOptions): Promise<ScrubReport> {
  const work = new Scrub(options);
  const { store, tenant } = options;
  for (const name of tenant === null ? await store.listFolders('tenants/') : [tenant]) await work.tenant(name);
  return work.report;
}

class Scrub {
  readonly #options: ScrubOptions;
  readonly #problems: ScrubProblem[] = [];
  readonly #garbage: { key: string; size: number; ownerNodeId: number | null }[] = [];
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
    if (!idPattern.test(name)) {
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
    const timelines = new Map<string, string[]>();
    for (const key of objects.keys()) {
      const match = timelinePattern.exec(key.slice(folder.length));
      if (match !== null) timelines.set(match[1]!, [...(timelines.get(match[1]!) ?? []), key]);
      else if (key.startsWith(`${folder}timelines/`)) this.#problem(key, 'is not an object of a timeline');
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
      if (key !== folder + deletedFile) this.#garbage.push({ key, size, ownerNodeId: null });
    }
  }

  /** Returns the node that owns it. */
  async #checkTenant(id: TenantId, objects: ReadonlyMap<string, number>): Promise<number | null> {
    const { store } = this.#options;
    const folder = tenantFolder(id);
    const known = ['tenant.json', 'config.json'];
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
    for (const [key, size] of objects) {
      const file = key.slice(folder.length);
      if (file.includes('/')) continue;
      const generation = parseClaimName(file);
      if (generation === null ? !known.includes(file) : generation < newest) {
        this.#garbage.push({ key, size, ownerNodeId: owner });
      }
    }
    return owner;
  }

  async #timeline(
    id: TenantTimelineId,
    keys: readonly string[],
    objects: ReadonlyMap<string, number>,
    owner: number | null,
  ): Promise<IndexPart | null> {
    const folder = timelineFolder(id);
    const newest = keys.map((key) => parseIndexFile(key.slice(folder.length)) ?? -1).reduce((a, b) => Math.max(a, b));
    const indexKey = keys.find((key) => parseIndexFile(key.slice(folder.length)) === newest && newest >= 0);
    const isOwn = (key: string) => [importFileName, transferFileName].includes(key.slice(folder.length));
    const garbage = (named: ReadonlySet<string>) => {
      for (const key of keys) {
        if (!named.has(key) && !isOwn(key)) this.#garbage.push({ key, size: objects.get(key)!, ownerNodeId: owner });
      }
    };
    if (indexKey === undefined) {
      garbage(new Set());
      return null;
    }
    this.#counts.timelines++;
    let part: IndexPart | null = null;
    await this.#reading(indexKey, async () => {
      const found = await this.#options.store.get(indexKey);
      if (found === null) throw new PageliteError('corrupt', 'it vanished', { file: indexKey });
      part = decodeIndexPart(found.bytes, indexKey);
    });
    // What a damaged index names is not known: then nothing is garbage.
    if (part === null) return null;
    const { layers } = part as IndexPart;
    garbage(new Set([indexKey, ...layers.map((entry) => layerKey(id, entry))]));
    for (const entry of layers) await this.#layer(id, entry, objects);
    return part;
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
