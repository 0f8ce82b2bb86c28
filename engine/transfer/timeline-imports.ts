/**
 * Timelines whose layers come from elsewhere: a tab pushes a branch to a server, or pulls one from it. One per Pageserver.
 *
 *   begin    the list of layers (import-manifest.ts); the answer says which are missing
 *   put      a layer in parts; whole, it is checked (verify-layer.ts) and stored where it is going to be read
 *   commit   the safekeepers are asked for WAL and fenced (wal-fence.ts), the database is looked at, the index is stored: now it counts
 *
 * Cut off anywhere, `begin` goes on with what has arrived; it also fences whoever was at it before. Beginning again what is done says so.
 *
 * Invariants:
 * - a layer file of an import is complete and checked, or not there; parts have names that no layer has
 * - until the commit nothing of the import is read; if it fails the timeline is as it was
 * - a timeline is continued only by the history that it came from, and only if nobody has written to it since
 */
import { must } from '../assert.ts';
import { messageOf, PageliteError } from '../errors.ts';
import { parseLayerFile, parseLayerName } from '../layers/layer-name.ts';
import { importIdleMaxMs, importPartBytesMax } from '../limits.ts';
import { newTenantId, type TenantId, type TenantTimelineId } from '../model/ids.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log, ObjectStore, Random, WalService } from '../services.ts';
import { type IndexPart, parseIndexFile, timelineFolder } from '../timeline/index-part.ts';
import { copyFile, copyFileName, loadCopyRecord } from './copy-record.ts';
import { checkManifest, type ImportManifest } from './import-manifest.ts';
import {
  encodeImportRecord,
  type ImportRecord,
  importFile,
  importFileName,
  loadImportRecord,
} from './import-record.ts';
import { ReceivedLayers } from './received-layers.ts';
import { transferFileName } from './transfer-record.ts';
import { fenceWal } from './wal-fence.ts';

/** A timeline that is there, as an import sees it. */
export interface ImportTarget {
  readonly lastRecordLsn: Lsn;
  readonly layerNames: ReadonlySet<string>;
  /** While `work` runs, nobody hears where the timeline ends. */
  whileUnsettled<T>(work: () => Promise<T>): Promise<T>;
  /** Goes on with these layers. Throws `invalid` if they make no database, `fenced` if WAL has come in. */
  extend(base: Lsn, piece: IndexPart): Promise<void>;
}

export interface ImportHost {
  readonly store: ObjectStore;
  readonly wal: readonly WalService[];
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly yieldTurn: () => Promise<void>;
  /** In which the tenant is attached here. Throws `notFound`. */
  generationOf(tenant: TenantId): number;
  /** Null if there is none. Throws `notFound` (tenant), `corrupt` (it cannot be opened), `unavailable` (it is just being created or deleted). */
  find(id: TenantTimelineId): ImportTarget | null;
  /** Throws `notFound` and `invalid` as a branch does, and `invalid` if the layers make no database. */
  create(id: TenantTimelineId, part: IndexPart): Promise<void>;
}

export type ImportState =
  /** `received`: bytes from the layer's start on that are here. */
  | { readonly kind: 'open'; readonly importId: string; readonly missing: readonly MissingLayer[] }
  /** The timeline has this history up to `lsn`, null: it is not there. To go on, begin with the layers above. */
  | { readonly kind: 'at'; readonly lsn: Lsn | null };

export interface MissingLayer {
  readonly name: string;
  readonly received: number;
}

interface OpenImport {
  readonly importId: string;
  readonly manifest: ImportManifest;
  readonly committed: ImportRecord['committed'];
  readonly layers: ReceivedLayers;
  touchedAt: number;
}

const wayOut = 'push it under another name';

export class TimelineImports {
  readonly #host: ImportHost;
  readonly #open = new Map<string, OpenImport>();
  readonly #last = new Map<string, Promise<unknown>>();

  constructor(host: ImportHost) {
    this.#host = host;
  }

  async begin(id: TenantTimelineId, manifest: ImportManifest): Promise<ImportState> {
    checkManifest(manifest);
    await this.#removeIdle();
    return this.#inTurn(id, async () => {
      const { store, clock, random } = this.#host;
      const target = this.#host.find(id);
      const record = await this.#loadFinished(id, target);
      const committed = target === null ? null : checkOwn(id, target, record, manifest);
      if ((committed?.lsn ?? null) !== manifest.base) return { kind: 'at', lsn: committed?.lsn ?? null };
      if (committed?.lsn === manifest.diskConsistentLsn) return { kind: 'at', lsn: committed.lsn };
      this.#checkAncestor(id, manifest);
      await this.#refuseKnownWal(id, target !== null);
      const importId = newTenantId(random) as string;
      await this.#removeForeign(id, target, manifest, record.open?.manifest ?? null);
      const open = { importId, touchedAt: clock.now(), manifest };
      await store.put(importFile(id), encodeImportRecord({ committed, open }));
      const state = await this.#openFrom(id, { committed, open });
      return { kind: 'open', importId, missing: state.layers.missing() };
    });
  }

  /** Bytes of the layer that are here now. Throws `fenced` if another `begin` came after this import's. */
  put(id: TenantTimelineId, importId: string, name: string, offset: number, bytes: Uint8Array): Promise<number> {
    if (bytes.length === 0 || bytes.length > importPartBytesMax) {
      const problem = `a part of ${bytes.length} bytes, 1 to ${importPartBytesMax} are possible`;
      return Promise.reject(new PageliteError('invalid', problem, { ...id, layer: name }));
    }
    return this.#inTurn(id, async () => {
      const state = await this.#find(id, importId);
      state.touchedAt = this.#host.clock.now();
      return state.layers.put(name, offset, bytes);
    });
  }

  commit(id: TenantTimelineId, importId: string): Promise<void> {
    return this.#inTurn(id, async () => {
      const target = this.#host.find(id);
      const before = await this.#loadFinished(id, target);
      // Its answer was lost.
      if (before.committed?.importId === importId && target !== null) return;
      const { manifest, layers } = await this.#find(id, importId);
      const missing = layers.missing();
      if (missing.length > 0) {
        throw new PageliteError('invalid', `${missing.length} layers have not arrived, ${missing[0]!.name} for one`, {
          ...id,
        });
      }
      await this.#makeCurrent(id, {
        ...manifest,
        // All of it is as it was flushed, as far as we know, and all of it is kept.
        compactedLsn: manifest.startLsn,
        gcCutoffLsn: manifest.startLsn,
        archivedAtMs: null,
        leases: [],
        // Nothing of the timeline is older than its start: an image layer there has all there is of its range.
        layers: layers.entries.map((entry) => ({
          ...entry,
          isComplete: must(parseLayerName(entry.name)).lsnStart === manifest.startLsn,
        })),
      });
      await this.#finish(id, importId, manifest);
      const { diskConsistentLsn: lsn } = manifest;
      this.#host.log.info('imported', { ...id, lsn: formatLsn(lsn), layers: manifest.layers.length });
    });
  }

  /** Gives up an import, and what has arrived of it. */
  abort(id: TenantTimelineId, importId: string): Promise<void> {
    return this.#inTurn(id, async () => {
      await this.#find(id, importId);
      await this.#giveUp(id);
    });
  }

  /** The timeline was deleted with all its files. */
  forget(id: TenantTimelineId): void {
    this.#open.delete(keyOf(id));
  }

  /** At start: which of a timeline's files belong to an import under way. Gives up one that is too old. */
  async filesUnderWay(id: TenantTimelineId, keys: readonly string[]): Promise<(key: string) => boolean> {
    if (keys.includes(copyFile(id))) {
      const copy = await loadCopyRecord(this.#host.store, copyFile(id), this.#host.clock.now());
      const files = [copyFileName, transferFileName, ...(copy?.layers.map(({ name }) => name) ?? [])];
      return (key) => copy !== null && files.includes(key.slice(timelineFolder(id).length));
    }
    if (!keys.includes(importFile(id))) return () => false;
    const { open, committed } = await this.#loadRecord(id);
    if (open === null || this.#isTooOld(open.touchedAt)) return (key) => committed !== null && key === importFile(id);
    const folder = timelineFolder(id);
    const names = new Set(open.manifest.layers.map(({ name }) => name));
    const own = [importFileName, transferFileName];
    return (key) => own.includes(key.slice(folder.length)) || names.has(layerNameOf(key.slice(folder.length)));
  }

  // Begin

  #checkAncestor({ tenantId }: TenantTimelineId, { ancestor }: ImportManifest): void {
    if (ancestor === null || this.#host.find({ tenantId, timelineId: ancestor.timelineId }) !== null) return;
    const message = `the ancestor, timeline ${ancestor.timelineId} of tenant ${tenantId}, does not exist`;
    throw new PageliteError('notFound', message, { tenantId, timelineId: ancestor.timelineId });
  }

  /** Before much is sent in vain. The commit makes sure. */
  async #refuseKnownWal(id: TenantTimelineId, exists: boolean): Promise<void> {
    const statuses = await Promise.all(this.#host.wal.map((service) => service.getStatus(id).catch(() => null)));
    if (statuses.some((status) => status !== null && status.startLsn !== invalidLsn)) throw hasWal(id, exists);
  }

  /** What is in the folder from an import before and is not the same in this one. */
  async #removeForeign(
    id: TenantTimelineId,
    target: ImportTarget | null,
    manifest: ImportManifest,
    before: ImportManifest | null,
  ): Promise<void> {
    const known = new Map(before?.layers.map((layer) => [layer.name, layer]));
    const wanted = new Set<string>();
    for (const layer of manifest.layers) {
      const same = known.get(layer.name);
      if (same !== undefined && same.size === layer.size && same.crc32c === layer.crc32c) wanted.add(layer.name);
    }
    await this.#removeFiles(id, target, before, (name) => !wanted.has(name));
  }

  /**
   * Parts and layers of imports of which the `isDoomed` are not wanted. Layers of a timeline that is there only if an import has brought them, and the
   * index does not name them: others it may just be writing.
   */
  async #removeFiles(
    id: TenantTimelineId,
    target: ImportTarget | null,
    brought: ImportManifest | null,
    isDoomed: (layerName: string) => boolean,
  ): Promise<void> {
    const { store } = this.#host;
    const folder = timelineFolder(id);
    const ofImport = new Set(brought?.layers.map(({ name }) => name));
    for (const { key } of await store.list(folder)) {
      const file = key.slice(folder.length);
      const name = layerNameOf(file);
      if (parseLayerName(name) === null || !isDoomed(name)) continue;
      const isPart = file.includes('.');
      const isOurs = target === null || (ofImport.has(name) && !target.layerNames.has(name));
      if (isPart || isOurs) await store.delete(key);
    }
  }

  async #giveUp(id: TenantTimelineId): Promise<void> {
    const { store } = this.#host;
    const { committed, open } = await this.#loadRecord(id);
    this.#open.delete(keyOf(id));
    await this.#removeFiles(id, this.#host.find(id), open?.manifest ?? null, () => true);
    if (committed === null) await store.delete(importFile(id));
    else await store.put(importFile(id), encodeImportRecord({ committed, open: null }));
  }

  // Commit

  async #makeCurrent(id: TenantTimelineId, part: IndexPart & Pick<ImportManifest, 'base'>): Promise<void> {
    const target = this.#host.find(id);
    if (target === null) {
      await this.#fence(id, false);
      await this.#host.create(id, part);
      return;
    }
    const { base } = part;
    if (base === null || target.lastRecordLsn !== base)
      throw writtenSince(id, base ?? invalidLsn, target.lastRecordLsn);
    await target.whileUnsettled(async () => {
      await this.#fence(id, true);
      await target.extend(base, part);
    });
  }

  async #fence(id: TenantTimelineId, exists: boolean): Promise<void> {
    const { wal, clock, random, log } = this.#host;
    const fenced = await fenceWal(id, { services: wal, clock, random, log });
    if (fenced.hasWal) throw hasWal(id, exists);
  }

  /** The index names what was brought: the record says so, and what is left of its parts goes. */
  async #finish(id: TenantTimelineId, importId: string, manifest: ImportManifest): Promise<ImportRecord> {
    const committed = { origin: manifest.origin, lsn: manifest.diskConsistentLsn, importId };
    await this.#removeFiles(id, this.#host.find(id), null, () => true);
    await this.#host.store.put(importFile(id), encodeImportRecord({ committed, open: null }));
    this.#open.delete(keyOf(id));
    return { committed, open: null };
  }

  /** The record. Where the crash came after the index was stored, the rest is done first. */
  async #loadFinished(id: TenantTimelineId, target: ImportTarget | null): Promise<ImportRecord> {
    const record = await this.#loadRecord(id);
    const { open } = record;
    if (target === null || open === null || !isCurrent(target, open.manifest)) return record;
    return this.#finish(id, open.importId, open.manifest);
  }

  // State

  async #find(id: TenantTimelineId, importId: string): Promise<OpenImport> {
    const state = this.#open.get(keyOf(id)) ?? (await this.#openFrom(id, await this.#loadRecord(id)).catch(() => null));
    if (state?.importId === importId) return state;
    if (state === null) {
      throw new PageliteError('notFound', `nothing is being imported into timeline ${id.timelineId}: begin again`, {
        ...id,
      });
    }
    throw new PageliteError('fenced', `another import into timeline ${id.timelineId} has begun`, { ...id });
  }

  /** From what is stored: after a restart an import goes on. */
  async #openFrom(id: TenantTimelineId, { committed, open }: ImportRecord): Promise<OpenImport> {
    const { importId, manifest, touchedAt } = must(open);
    const { store, yieldTurn } = this.#host;
    const generation = this.#host.generationOf(id.tenantId);
    const layers = await ReceivedLayers.open({ id, layers: manifest.layers, store, generation, yieldTurn });
    const state: OpenImport = { importId, manifest, committed, layers, touchedAt };
    this.#open.set(keyOf(id), state);
    return state;
  }

  #loadRecord(id: TenantTimelineId): Promise<ImportRecord> {
    const { store, log } = this.#host;
    return loadImportRecord(store, id, (error) =>
      log.warn('the record of an import is damaged', { error: error.message }),
    );
  }

  #isTooOld(touchedAt: number): boolean {
    return this.#host.clock.now() - touchedAt > importIdleMaxMs;
  }

  /** Calls for one timeline are one after another; those for others go on. */
  #inTurn<T>(id: TenantTimelineId, work: () => Promise<T>): Promise<T> {
    const key = keyOf(id);
    const done = (this.#last.get(key) ?? Promise.resolve()).then(work);
    const settled = done.then(
      () => {},
      () => {},
    );
    this.#last.set(key, settled);
    void settled.then(() => {
      if (this.#last.get(key) === settled) this.#last.delete(key);
    });
    return done;
  }

  /** Gives up imports that nobody goes on with. */
  async #removeIdle(): Promise<void> {
    const { log } = this.#host;
    for (const [key, { touchedAt, importId }] of [...this.#open]) {
      if (!this.#isTooOld(touchedAt)) continue;
      const [tenant, timeline] = key.split('/');
      const id = { tenantId: tenant, timelineId: timeline } as TenantTimelineId;
      log.info('giving up an import', { ...id });
      await this.abort(id, importId).catch((error) =>
        log.warn('cannot give up an import', { ...id, error: messageOf(error) }),
      );
    }
  }
}

const keyOf = (id: TenantTimelineId): string => `${id.tenantId}/${id.timelineId}`;

/** The layer of a file, or of a part of it; the file if it is none. */
function layerNameOf(file: string): string {
  const dot = file.indexOf('.');
  if (dot >= 0) return parseIndexFile(file) === null ? file.slice(0, dot) : file;
  return parseLayerFile(file)?.name ?? file;
}

/** The timeline has all of it. */
function isCurrent(
  { layerNames, lastRecordLsn }: ImportTarget,
  { layers, diskConsistentLsn }: ImportManifest,
): boolean {
  return lastRecordLsn >= diskConsistentLsn && layers.every(({ name }) => layerNames.has(name));
}

/** Up to where the timeline has the manifest's history. Throws if it is another's, or was written since. */
function checkOwn(
  id: TenantTimelineId,
  { lastRecordLsn }: ImportTarget,
  { committed }: ImportRecord,
  { origin }: ImportManifest,
): NonNullable<ImportRecord['committed']> {
  if (committed?.origin !== origin) throw isTaken(id);
  if (committed.lsn !== lastRecordLsn) throw writtenSince(id, committed.lsn, lastRecordLsn);
  return committed;
}

function isTaken(id: TenantTimelineId): PageliteError {
  const message = `timeline ${id.timelineId} is there and is no earlier push of this: ${wayOut}`;
  return new PageliteError('invalid', message, { ...id });
}

function writtenSince(id: TenantTimelineId, lsn: Lsn, lastRecordLsn: Lsn): PageliteError {
  return new PageliteError(
    'fenced',
    `timeline ${id.timelineId} was pushed up to ${formatLsn(lsn)} and has been written since, up to ${formatLsn(lastRecordLsn)}: ${wayOut}`,
    { ...id, lsn: formatLsn(lsn), lastRecordLsn: formatLsn(lastRecordLsn) },
  );
}

function hasWal(id: TenantTimelineId, exists: boolean): PageliteError {
  const what = exists ? 'an endpoint has been started on' : 'the safekeepers hold WAL of an earlier';
  return new PageliteError('fenced', `${what} timeline ${id.timelineId}: ${wayOut}`, { ...id });
}
