/**
 * The pageserver of one object store: its tenants and their timelines. What HTTP, CLI and embedded hosts call.
 *
 *   tenants/<tenant>/tenant.json
 *   tenants/<tenant>/timelines/<timeline>/index_part.json
 *   tenants/<tenant>/timelines/<timeline>/<layer>...
 *
 * Invariants:
 * - a timeline exists from the moment its index is stored until its index is deleted; other files of its folder are waste then
 * - a timeline whose index is damaged is there, and says so to whoever asks for it; others go on
 * - one process at a time writes to the store; the index's version fences one that was replaced
 */

import { systemIdentifierOf } from '../basebackup/control-data.ts';
import { TimelineCounters } from '../counters.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { BlockCache } from '../layers/block-cache.ts';
import { ClockCache } from '../layers/clock-cache.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import {
  blockCacheBytesMax,
  flushWalDistance,
  frozenLayersMax,
  imageChainBytesMin,
  imageChainRecordsMin,
  imageLayerBytesMax,
  logicalSizeWaitMs,
  openChainLengthMax,
  openLayerBytesMax,
  pageVersionsBytesMax,
  waitLsnTimeoutMs,
} from '../limits.ts';
import { type TenantId, type TenantTimelineId, type TimelineId, tenantId, timelineId } from '../model/ids.ts';
import { controlFileKey } from '../model/key.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log, ObjectStore, PageService, Random, TenantTemplate, WalRedo, WalService } from '../services.ts';
import { checkDatabase } from '../transfer/check-database.ts';
import { importFileName } from '../transfer/import-record.ts';
import { type ImportTarget, TimelineImports } from '../transfer/timeline-imports.ts';
import { transferFileName } from '../transfer/transfer-record.ts';
import { bootstrap } from './bootstrap.ts';
import { type BranchSource, branchIndex, checkBranchPoint } from './branch.ts';
import { type CommitPoint, clogCommits, spreadCommits } from './commit-history.ts';
import { findLsnByTimestamp, type TimestampLsn, timestampOfLsn } from './find-lsn.ts';
import type { Ancestor } from './gather.ts';
import {
  encodeChecked,
  type IndexPart,
  indexFileName,
  StoredIndex,
  tenantFolder,
  timelineFolder,
} from './index-part.ts';
import type { LogicalSize } from './logical-size.ts';
import { observeCache, observeTimeline, type PageserverObservation } from './observation.ts';
import type { YieldTurn } from './reconstruct.ts';
import { RunningTimeline, type SharedParts, type TimelineLimits, timelineOf } from './running-timeline.ts';

export interface PageserverLimits extends TimelineLimits {
  readonly blockCacheBytesMax: number;
  readonly pageVersionsBytesMax: number;
}

export const defaultPageserverLimits: PageserverLimits = {
  openLayerBytesMax,
  openChainLengthMax,
  flushWalDistance,
  frozenLayersMax,
  waitLsnTimeoutMs,
  imageChainRecordsMin,
  imageChainBytesMin,
  imageLayerBytesMax,
  blockCacheBytesMax,
  pageVersionsBytesMax,
};

export interface PageserverOptions {
  readonly store: ObjectStore;
  /** The safekeepers. */
  readonly wal: readonly WalService[];
  /** Closed with the pageserver. */
  readonly redo: WalRedo;
  readonly template: () => Promise<TenantTemplate>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly limits?: Partial<PageserverLimits>;
  /** Gives the event loop a turn; by default `clock.sleep(0)`, which a host may do faster. */
  readonly yieldTurn?: YieldTurn;
  /** Timelines that are not in this store but may be ancestors of some that are. */
  readonly openRemote?: (id: TenantTimelineId) => PageService;
}

export interface LayerInfo {
  readonly inMemory: { startLsn: Lsn; endLsn: Lsn | null }[];
  readonly files: { name: string; bytes: number; kind: 'delta' | 'image'; startLsn: Lsn; endLsn: Lsn }[];
}

/** Times: of the latest transaction that had ended by then; null if none had. */
export interface CommitHistory {
  readonly start: { readonly lsn: Lsn; readonly timeMs: number | null };
  readonly end: { readonly lsn: Lsn; readonly timeMs: number | null };
  readonly commits: readonly CommitPoint[];
}

type Slot =
  | { readonly kind: 'running'; readonly running: RunningTimeline }
  | { readonly kind: 'broken'; readonly error: Error }
  /** Being created, as a branch of another or not, or being deleted. */
  | { readonly kind: 'busy'; readonly ancestorId: TimelineId | null };

/** A timeline whose index was read. */
interface LoadedTimeline {
  readonly id: TenantTimelineId;
  readonly index: StoredIndex;
  readonly leftovers: readonly string[];
}

const tenantFile = 'tenant.json';
const tenantVersion = 1;
const keyPattern = /^tenants\/([0-9a-f]{32})\/(?:timelines\/([0-9a-f]{32})\/([^/]+)|tenant\.json)$/;

export class Pageserver {
  readonly #options: PageserverOptions;
  readonly #shared: SharedParts;
  readonly #tenants = new Map<TenantId, Map<TimelineId, Slot>>();
  readonly #deletedCounters = new TimelineCounters();
  #closed = false;
  /** The logical sizes that are being counted. */
  #counting: Promise<void> = Promise.resolve();
  /** Timelines whose layers are made elsewhere. */
  readonly imports: TimelineImports;

  private constructor(options: PageserverOptions) {
    const limits = { ...defaultPageserverLimits, ...options.limits };
    this.#options = options;
    const { store, wal, redo, clock, random, log } = options;
    this.#shared = {
      store,
      wal,
      redo,
      clock,
      random,
      log,
      limits,
      blocks: new BlockCache(limits.blockCacheBytesMax),
      versions: new ClockCache(limits.pageVersionsBytesMax),
      yieldTurn: options.yieldTurn ?? (() => clock.sleep(0)),
    };
    this.imports = new TimelineImports({
      store,
      wal,
      clock,
      random,
      log,
      yieldTurn: this.#shared.yieldTurn,
      find: (id) => this.#findForImport(id),
      create: (id, part) => this.adoptTimeline(id, part),
    });
  }

  /** Loads every timeline's index and follows its WAL. A damaged index costs that timeline. */
  static async open(options: PageserverOptions): Promise<Pageserver> {
    const pageserver = new Pageserver(options);
    await pageserver.#load();
    return pageserver;
  }

  // Tenants

  /** Throws `invalid` if it exists. */
  async createTenant(id: TenantId): Promise<void> {
    this.#checkOpen();
    if (this.#tenants.has(id)) throw new PageliteError('invalid', `tenant ${id} exists`, { tenantId: id });
    const content = encodeChecked(JSON.stringify({ version: tenantVersion }));
    await this.#options.store.put(tenantFolder(id) + tenantFile, content, { ifAbsent: true });
    this.#tenants.set(id, new Map());
  }

  async listTenants(): Promise<TenantId[]> {
    this.#checkOpen();
    return [...this.#tenants.keys()].sort();
  }

  // Timelines

  /**
   * A timeline from the template, or a branch of another one at `lsn` (null: all that is committed). Waits until the ancestor has ingested
   * that LSN. Throws `notFound` (tenant, ancestor), `invalid` (id taken, LSN before the ancestor's start or past its end).
   */
  async createTimeline(
    id: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
  ): Promise<void> {
    this.#checkOpen();
    const timelines = this.#timelines(id.tenantId);
    if (timelines.has(id.timelineId)) {
      throw new PageliteError('invalid', `timeline ${id.timelineId} exists`, { ...id });
    }
    timelines.set(id.timelineId, { kind: 'busy', ancestorId: ancestor?.timelineId ?? null });
    try {
      const part = ancestor === null ? await this.#fromTemplate(id) : await this.#branch(id, ancestor);
      const index = await StoredIndex.create(this.#options.store, id, part);
      this.#checkOpen();
      this.#run(id, index, []);
    } catch (error) {
      timelines.delete(id.timelineId);
      throw error;
    }
  }

  /** The index of a timeline with everything that is committed in its layer files: what can be sent elsewhere (transfer/push-timeline.ts). */
  async exportTimeline(id: TenantTimelineId): Promise<IndexPart> {
    const running = this.#running(id);
    await running.catchUp(await this.#commitLsn(id));
    await running.flush();
    return running.index.part;
  }

  /** Bytes of a layer file that the index names; null if there is none of this name. */
  async readLayer(
    id: TenantTimelineId,
    name: string,
    range: { start: number; end: number },
  ): Promise<Uint8Array | null> {
    this.#checkOpen();
    const found = await this.#options.store.get(timelineFolder(id) + name, range);
    return found?.bytes ?? null;
  }

  async listTimelines(tenant: TenantId): Promise<TimelineId[]> {
    this.#checkOpen();
    return [...this.#timelines(tenant)]
      .filter(([, slot]) => slot.kind !== 'busy')
      .map(([id]) => id)
      .sort();
  }

  /** Throws `notFound`; `corrupt` with the file if the timeline cannot be opened. */
  async openPages(id: TenantTimelineId): Promise<PageService> {
    return this.#running(id).pages;
  }

  async findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampLsn> {
    const { timeline, pages } = this.#running(id);
    return findLsnByTimestamp((lsn) => pages.readerAt(lsn), timeline.startLsn, timeline.lastRecordLsn, timestampMs);
  }

  /**
   * When the latest transaction that is visible at `lsn` ended, in milliseconds since the Unix epoch; null if none has. Throws `invalid` for an LSN
   * that the timeline does not have.
   */
  async timestampOfLsn(id: TenantTimelineId, lsn: Lsn): Promise<number | null> {
    const { timeline, pages } = this.#running(id);
    if (lsn < timeline.startLsn || lsn > timeline.lastRecordLsn) {
      const range = `${formatLsn(timeline.startLsn)} to ${formatLsn(timeline.lastRecordLsn)}`;
      throw new PageliteError('invalid', `timeline ${id.timelineId} has ${range}, not ${formatLsn(lsn)}`, { ...id });
    }
    return timestampOfLsn(pages.readerAt(lsn));
  }

  /** Some commits of the timeline itself, up to `until` or all that is ingested, spread over time (commit-history.ts). */
  async commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory> {
    const { timeline, pages } = this.#running(id);
    const { startLsn: start, lastRecordLsn } = timeline;
    const end = Math.max(start, Math.min(until ?? lastRecordLsn, lastRecordLsn)) as Lsn;
    const readerAt = (lsn: Lsn) => pages.readerAt(lsn);
    const startMs = await timestampOfLsn(readerAt(start));
    const endMs = await timestampOfLsn(readerAt(end));
    const commits = await spreadCommits(clogCommits(timeline, readerAt), start, end, startMs, countMax);
    return { start: { lsn: start, timeMs: startMs }, end: { lsn: end, timeMs: endMs }, commits };
  }

  /** Writes everything ingested so far to layers (Neon's "checkpoint" of a timeline). */
  flush(id: TenantTimelineId): Promise<void> {
    return this.#running(id).flush();
  }

  /** Resolves when images for the pages that wanted one are written. */
  imagesIdle(id: TenantTimelineId): Promise<void> {
    return this.#running(id).imagesIdle();
  }

  /** Resolves when every whole record below `lsn` is ingested. */
  catchUp(id: TenantTimelineId, lsn: Lsn): Promise<void> {
    return this.#running(id).catchUp(lsn);
  }

  async listLayers(id: TenantTimelineId): Promise<LayerInfo> {
    const { memory, files } = this.#running(id).timeline.layers;
    const info = ({ name, size, desc }: LayerFile) => ({
      name,
      bytes: size,
      kind: desc.kind,
      startLsn: desc.lsnStart,
      endLsn: desc.lsnEnd,
    });
    return {
      inMemory: memory.map((layer) => ({ startLsn: layer.lsnStart, endLsn: layer.lsnEnd })),
      files: files.layers().map(info),
    };
  }

  /**
   * Bytes of all relations at the timeline's end. Counted when it is asked for first, one timeline at a time; null if that takes longer than
   * `logicalSizeWaitMs`, or cannot be done: ask again later.
   */
  async logicalSize(id: TenantTimelineId): Promise<number | null> {
    const { logicalSize } = this.#running(id);
    const { clock } = this.#options;
    if (logicalSize.bytes === null) {
      const timer = new AbortController();
      const timeout = clock.sleep(logicalSizeWaitMs, timer.signal).catch(() => {});
      await Promise.race([this.#countLogicalSize(id, logicalSize), timeout]);
      timer.abort();
    }
    return logicalSize.bytes;
  }

  /** Bytes of a timeline's own layer files; 0 if it cannot be opened. */
  physicalSize(id: TenantTimelineId): number {
    const slot = this.#timelines(id.tenantId).get(id.timelineId);
    return slot?.kind === 'running' ? slot.running.layerBytes : 0;
  }

  /** Numbers for operators. Begins to count logical sizes that nobody has asked for yet. */
  observe(): PageserverObservation {
    const slots = [...this.#tenants.values()].flatMap((timelines) => [...timelines.values()]);
    const running = slots.flatMap((slot) => (slot.kind === 'running' ? [slot.running] : []));
    const total = new TimelineCounters();
    total.add(this.#deletedCounters);
    for (const { timeline, logicalSize } of running) {
      total.add(timeline.counters);
      void this.#countLogicalSize(timeline.id, logicalSize);
    }
    return {
      tenantCount: this.#tenants.size,
      timelines: running.map(observeTimeline),
      total,
      brokenCount: slots.filter(({ kind }) => kind === 'broken').length,
      blocks: observeCache(this.#shared.blocks),
      versions: observeCache(this.#shared.versions),
    };
  }

  /** In turn, so that many timelines together take no more of the event loop than one. */
  #countLogicalSize(id: TenantTimelineId, size: LogicalSize): Promise<void> {
    if (this.#closed || !size.isWanted) return Promise.resolve();
    const counted = this.#counting.then(async () => {
      try {
        if (!this.#closed) await size.count();
      } catch (error) {
        // Closed or deleted meanwhile: nobody is interested any more.
        if (isPageliteError(error, 'closed')) return;
        this.#options.log.warn('the logical size cannot be counted', { ...id, error: messageOf(error) });
      }
    });
    this.#counting = counted;
    return counted;
  }

  /** Throws `notFound`, and `invalid` while other timelines branch from it. */
  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    this.#checkOpen();
    const timelines = this.#timelines(id.tenantId);
    const slot = timelines.get(id.timelineId);
    if (slot === undefined || slot.kind === 'busy') throw noTimeline(id);
    const reason = this.#neededBy(timelines, id.timelineId, slot.kind === 'broken');
    if (reason !== null) {
      throw new PageliteError('invalid', `timeline ${id.timelineId} cannot be deleted: ${reason}`, { ...id });
    }
    timelines.set(id.timelineId, { kind: 'busy', ancestorId: null });
    if (slot.kind === 'running') {
      await slot.running.close();
      this.#deletedCounters.add(slot.running.timeline.counters);
    }
    const folder = timelineFolder(id);
    const keys = (await this.#options.store.list(folder)).map(({ key }) => key);
    // The index first: without it the rest is waste, whenever we crash.
    const rank = (key: string) => (key.endsWith(indexFileName) ? 0 : 1);
    for (const key of keys.sort((a, b) => rank(a) - rank(b))) await this.#options.store.delete(key);
    this.imports.forget(id);
    timelines.delete(id.timelineId);
  }

  /** Ends everything and loses nothing: what is not in layers is read from the safekeepers again. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const all = [...this.#tenants.values()].flatMap((timelines) => [...timelines.values()]);
    await Promise.all(all.map((slot) => (slot.kind === 'running' ? slot.running.close() : undefined)));
    await this.#options.redo.close();
  }

  /**
   * Why a timeline must stay: others read from it, or may do so. Null if nobody does. Of several that cannot be opened each can be deleted, as
   * far as is known.
   */
  #neededBy(timelines: ReadonlyMap<TimelineId, Slot>, ancestor: TimelineId, isBroken: boolean): string | null {
    for (const [id, slot] of timelines) {
      if (id === ancestor) continue;
      if (slot.kind === 'broken') {
        if (isBroken) continue;
        return `${id} cannot be opened, and may be a branch of it`;
      }
      const { ancestorId } = slot.kind === 'busy' ? slot : slot.running.timeline;
      if (ancestorId === ancestor) return `${id} is a branch of it`;
    }
    return null;
  }

  // Loading

  async #load(): Promise<void> {
    const { store, log } = this.#options;
    const folders = new Map<string, { id: TenantTimelineId; keys: string[] }>();
    for (const { key } of await store.list('tenants/')) {
      const match = keyPattern.exec(key);
      if (match === null) {
        log.warn('an object that is not ours is in the store', { file: key });
        continue;
      }
      const tenant = tenantId(match[1]!);
      if (!this.#tenants.has(tenant)) this.#tenants.set(tenant, new Map());
      if (match[2] === undefined) continue;
      const id = { tenantId: tenant, timelineId: timelineId(match[2]) };
      const folder = folders.get(timelineFolder(id)) ?? { id, keys: [] };
      folder.keys.push(key);
      folders.set(timelineFolder(id), folder);
    }
    // All of them are known before the first one is made, which may be a branch of another, and made before the first one reads.
    const loaded: LoadedTimeline[] = [];
    for (const { id, keys } of folders.values()) {
      const timeline = await this.#loadTimeline(id, keys);
      if (timeline === null) continue;
      this.#timelines(id.tenantId).set(id.timelineId, { kind: 'busy', ancestorId: null });
      loaded.push(timeline);
    }
    for (const running of loaded.map(({ id, index, leftovers }) => this.#make(id, index, leftovers))) running.start();
  }

  async #loadTimeline(id: TenantTimelineId, keys: readonly string[]): Promise<LoadedTimeline | null> {
    const { store, log } = this.#options;
    const isUnderWay = await this.imports.filesUnderWay(id, keys);
    try {
      const index = await StoredIndex.load(store, id);
      const folder = timelineFolder(id);
      const named = new Set([index.key, ...index.part.layers.map(({ name }) => folder + name)]);
      const isLeft = (key: string) => !named.has(key) && !isOwnFile(key.slice(folder.length)) && !isUnderWay(key);
      return { id, index, leftovers: keys.filter(isLeft) };
    } catch (error) {
      if (isPageliteError(error, 'notFound')) {
        // Its creation or its deletion was cut off: it does not exist. An import goes on.
        for (const key of keys) if (!isUnderWay(key)) await store.delete(key);
        return null;
      }
      log.error('a timeline cannot be opened', { ...id, error: messageOf(error) });
      this.#timelines(id.tenantId).set(id.timelineId, { kind: 'broken', error: error as Error });
      return null;
    }
  }

  #run(id: TenantTimelineId, index: StoredIndex, leftovers: readonly string[]): void {
    this.#make(id, index, leftovers).start();
  }

  #make(id: TenantTimelineId, index: StoredIndex, leftovers: readonly string[]): RunningTimeline {
    const running = new RunningTimeline(id, index, this.#ancestorOf(id, index.part), leftovers, this.#shared);
    this.#timelines(id.tenantId).set(id.timelineId, { kind: 'running', running });
    return running;
  }

  /** A local ancestor is looked up when it is read: it may be made later, or be broken. */
  #ancestorOf(id: TenantTimelineId, { ancestor }: IndexPart): Ancestor | null {
    if (ancestor === null) return null;
    const ancestorId = { tenantId: id.tenantId, timelineId: ancestor.timelineId };
    const { openRemote } = this.#options;
    const isLocal = this.#tenants.get(id.tenantId)?.has(ancestor.timelineId) ?? false;
    if (openRemote !== undefined && !isLocal) {
      return { kind: 'remote', lsn: ancestor.lsn, service: openRemote(ancestorId) };
    }
    return { kind: 'local', lsn: ancestor.lsn, open: () => this.#running(ancestorId).timeline };
  }

  // Creation

  async #fromTemplate(id: TenantTimelineId): Promise<IndexPart> {
    return bootstrap(this.#options.store, id, await this.#options.template(), this.#shared.yieldTurn);
  }

  async #branch(
    id: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null },
  ): Promise<IndexPart> {
    const ancestorId = { tenantId: id.tenantId, timelineId: ancestor.timelineId };
    const slot = this.#timelines(id.tenantId).get(ancestor.timelineId);
    const { openRemote } = this.#options;
    if (slot === undefined && openRemote !== undefined) return remoteBranch(openRemote(ancestorId), ancestor.lsn);
    const running = this.#running(ancestorId);
    const { timeline } = running;
    const source = { ...sourceOf(timeline), timelineId: ancestor.timelineId };
    const committedLsn = Math.max(timeline.lastRecordLsn, await this.#commitLsn(ancestorId)) as Lsn;
    const lsn = checkBranchPoint(source, ancestor.lsn ?? committedLsn, committedLsn);
    await running.catchUp(lsn);
    return branchIndex({ ...sourceOf(timeline), timelineId: ancestor.timelineId }, lsn);
  }

  /** The end of committed WAL as the safekeepers know it; 0 if none answers or knows the timeline. */
  async #commitLsn(id: TenantTimelineId): Promise<Lsn> {
    const statuses = await Promise.all(
      this.#options.wal.map((service) =>
        service.getStatus(id).catch((error) => {
          this.#options.log.warn('a safekeeper is away', { ...id, nodeId: service.nodeId, error: messageOf(error) });
          return null;
        }),
      ),
    );
    return Math.max(0, ...statuses.map((status) => status?.commitLsn ?? 0)) as Lsn;
  }

  // Imports

  #findForImport(id: TenantTimelineId): ImportTarget | null {
    this.#checkOpen();
    const slot = this.#timelines(id.tenantId).get(id.timelineId);
    if (slot === undefined) return null;
    if (slot.kind === 'busy') {
      throw new PageliteError('unavailable', `timeline ${id.timelineId} is being created or deleted: try again`, {
        ...id,
      });
    }
    const running = this.#running(id);
    return {
      lastRecordLsn: running.timeline.lastRecordLsn,
      layerNames: new Set(running.index.part.layers.map(({ name }) => name)),
      whileUnsettled: (work) => running.whileUnsettled(work),
      extend: async (base, piece) => {
        const { part } = running.index;
        await this.#checkImported(id, { ...piece, layers: [...part.layers, ...piece.layers] });
        await running.extend(base, piece);
      },
    };
  }

  /**
   * A timeline of layers that are in its folder already. Throws `invalid` (id taken, not a database, not where its ancestor can be branched),
   * `notFound` (tenant, ancestor).
   */
  async adoptTimeline(id: TenantTimelineId, part: IndexPart): Promise<void> {
    this.#checkOpen();
    const timelines = this.#timelines(id.tenantId);
    if (timelines.has(id.timelineId)) throw new PageliteError('invalid', `timeline ${id.timelineId} exists`, { ...id });
    timelines.set(id.timelineId, { kind: 'busy', ancestorId: part.ancestor?.timelineId ?? null });
    try {
      if (part.ancestor !== null) checkSamePoint(id, part, await this.#branch(id, part.ancestor));
      await this.#checkImported(id, part);
      const index = await StoredIndex.create(this.#options.store, id, part);
      this.#checkOpen();
      this.#run(id, index, []);
    } catch (error) {
      timelines.delete(id.timelineId);
      throw error;
    }
  }

  /** A compute could boot at its end. */
  async #checkImported(id: TenantTimelineId, part: IndexPart): Promise<void> {
    const timeline = timelineOf(id, part, this.#ancestorOf(id, part), this.#shared);
    try {
      await checkDatabase(timeline);
    } finally {
      for (const file of timeline.layers.files.layers()) file.forget();
    }
  }

  // Look-ups

  #checkOpen(): void {
    if (this.#closed) throw new PageliteError('closed', 'the pageserver was closed');
  }

  #timelines(tenant: TenantId): Map<TimelineId, Slot> {
    const timelines = this.#tenants.get(tenant);
    if (timelines === undefined)
      throw new PageliteError('notFound', `tenant ${tenant} does not exist`, { tenantId: tenant });
    return timelines;
  }

  #running(id: TenantTimelineId): RunningTimeline {
    this.#checkOpen();
    const slot = this.#timelines(id.tenantId).get(id.timelineId);
    if (slot === undefined || slot.kind === 'busy') throw noTimeline(id);
    if (slot.kind === 'broken') throw slot.error;
    return slot.running;
  }
}

function noTimeline(id: TenantTimelineId): PageliteError {
  return new PageliteError('notFound', `timeline ${id.timelineId} of tenant ${id.tenantId} does not exist`, { ...id });
}

/** Files beside layers and index that stay with a timeline: what was imported, and where from or where to. */
function isOwnFile(file: string): boolean {
  return file === importFileName || file === transferFileName;
}

/** The branch that was made elsewhere begins where one made here would. */
function checkSamePoint(id: TenantTimelineId, imported: IndexPart, branch: IndexPart): void {
  const problem =
    imported.startLsn !== branch.startLsn
      ? `a branch at ${formatLsn(imported.startLsn)} would begin at ${formatLsn(branch.startLsn)}`
      : imported.systemIdentifier !== branch.systemIdentifier
        ? `it is of system ${imported.systemIdentifier}, its ancestor of ${branch.systemIdentifier}`
        : null;
  if (problem !== null)
    throw new PageliteError('invalid', `timeline ${id.timelineId} does not fit: ${problem}`, { ...id });
}

function sourceOf(timeline: Omit<BranchSource, 'timelineId'>): Omit<BranchSource, 'timelineId'> {
  const { systemIdentifier, startLsn, lastRecordLsn, prevRecordLsn } = timeline;
  return { systemIdentifier, startLsn, lastRecordLsn, prevRecordLsn };
}

/** A branch here of a timeline elsewhere. */
async function remoteBranch(service: PageService, requested: Lsn | null): Promise<IndexPart> {
  const status = await service.getStatus();
  const at = requested ?? status.lastRecordLsn;
  const [control] = await service.getImages({ requestLsn: at, notModifiedSince: at }, [controlFileKey]);
  if (control == null) throw new PageliteError('corrupt', `timeline ${service.id.timelineId} has no pg_control`);
  const after = await service.getStatus();
  const source = { ...after, timelineId: service.id.timelineId, systemIdentifier: systemIdentifierOf(control) };
  return branchIndex(source, checkBranchPoint(source, at, after.lastRecordLsn));
}
