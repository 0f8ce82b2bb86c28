/**
 * The pageserver of one object store: the tenants that are attached to it and their timelines (tenant.ts). What HTTP, CLI and embedded hosts call.
 *
 * Several pageservers may have one store in common. Each attaches the tenants whose newest claim names it, and those that nobody has claimed; what
 * it has on its own disk is only a copy, so a pageserver with an empty disk attaches the same.
 *
 * Invariants:
 * - a tenant is attached to one pageserver; one that was replaced without noticing harms nothing (tenant-claims.ts)
 * - a tenant that cannot be attached is there, and says why to whoever asks for it; others go on
 */

import { eachAtOnce } from '../at-once.ts';
import type { CompactionHost } from '../compaction/compaction-parts.ts';
import { inThisThread, SerialCompaction } from '../compaction/run-job.ts';
import { TimelineCounters } from '../counters.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { inTime } from '../in-time.ts';
import { SafekeeperSurvey } from '../ingest/safekeeper-survey.ts';
import { BlockCache } from '../layers/block-cache.ts';
import { ClockCache } from '../layers/clock-cache.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import {
  blockCacheBytesMax,
  frozenLayersMax,
  housekeepingPeriodMs,
  imageChainBytesMin,
  imageChainRecordsMin,
  imageDeltaBytesMin,
  logicalSizeWaitMs,
  openChainLengthMax,
  openLayerBytesMax,
  pageVersionsBytesMax,
  waitLsnTimeoutMs,
} from '../limits.ts';
import {
  isIdText,
  type NodeId,
  type TenantId,
  type TenantTimelineId,
  type TimelineId,
  tenantId,
} from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { walTenantFolder } from '../safekeeper/wal-backup.ts';
import type {
  Clock,
  LayerStaging,
  Log,
  ObjectStore,
  PageService,
  Random,
  TenantTemplate,
  WalRedo,
  WalService,
} from '../services.ts';
import { TimelineImports } from '../transfer/timeline-imports.ts';
import type { BranchNames } from './branch-names.ts';
import { type CommitPoint, clogCommits, spreadCommits } from './commit-history.ts';
import type { CompactionForce, CompactionStatus } from './compaction.ts';
import { findLsnByTimestamp, type TimestampLsn, timestampOfLsn } from './find-lsn.ts';
import type { GcResult } from './garbage-collection.ts';
import { encodeChecked, type IndexPart, layerKey, tenantFolder } from './index-part.ts';
import type { LogicalSize } from './logical-size.ts';
import { observeCache, observeTimeline, type PageserverObservation } from './observation.ts';
import type { YieldTurn } from './reconstruct.ts';
import type { Retention } from './retention.ts';
import type { RunningTimeline, SharedParts, TimelineLimits } from './running-timeline.ts';
import { Tenant, type TenantParts } from './tenant.ts';
import {
  claimTenant,
  deletedFile,
  isTenantDeleted,
  newestClaim,
  parseClaimName,
  TenantAttachment,
} from './tenant-claims.ts';
import { loadTenantConfig, type TenantConfig, tenantConfigDefaults } from './tenant-config.ts';
import { collected } from './timeline-page-service.ts';
import type { UploadStatus } from './upload-queue.ts';

export interface PageserverLimits extends TimelineLimits {
  readonly blockCacheBytesMax: number;
  readonly pageVersionsBytesMax: number;
}

export const defaultPageserverLimits: PageserverLimits = {
  openLayerBytesMax,
  openChainLengthMax,
  frozenLayersMax,
  waitLsnTimeoutMs,
  imageChainRecordsMin,
  imageChainBytesMin,
  imageDeltaBytesMin,
  blockCacheBytesMax,
  pageVersionsBytesMax,
};

export interface PageserverOptions {
  readonly store: ObjectStore;
  /** Where layers wait for their upload; absent: they go to the store at once. */
  readonly staging?: LayerStaging;
  /** Null: nobody else can reach the store, which some lock sees to. Then no claims are made. */
  readonly nodeId: NodeId | null;
  /** The safekeepers. */
  readonly wal: readonly WalService[];
  /** Closed with the pageserver. */
  readonly redo: WalRedo;
  readonly template: () => Promise<TenantTemplate>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly limits?: Partial<PageserverLimits>;
  /** Of tenants that do not set it themselves. */
  readonly config?: Partial<TenantConfig>;
  /** Where compaction works; by default in this thread. Closed with the pageserver. */
  readonly compaction?: CompactionHost;
  /** Gives the event loop a turn; by default `clock.sleep(0)`, which a host may do faster. */
  readonly yieldTurn?: YieldTurn;
  /** Timelines that are not in this store but may be ancestors of some that are. */
  readonly openRemote?: (id: TenantTimelineId) => PageService;
}

export interface LayerInfo {
  readonly inMemory: { startLsn: Lsn; endLsn: Lsn | null }[];
  /** isLocal: all of it is on the local disk, or the store is. */
  readonly files: {
    name: string;
    isLocal: boolean;
    bytes: number;
    kind: 'delta' | 'image';
    startLsn: Lsn;
    endLsn: Lsn;
  }[];
}

/** Times: of the latest transaction that had ended by then; null if none had. */
export interface CommitHistory {
  readonly start: { readonly lsn: Lsn; readonly timeMs: number | null };
  readonly end: { readonly lsn: Lsn; readonly timeMs: number | null };
  readonly commits: readonly CommitPoint[];
}

/** A tenant that is to be here, and cannot: another one may have it, or what is stored of it is damaged. */
type TenantSlot =
  | { readonly kind: 'attached'; readonly tenant: Tenant }
  | { readonly kind: 'broken'; readonly error: Error }
  | { readonly kind: 'busy' };

const tenantFile = 'tenant.json';
const tenantVersion = 1;
/** Tenants that are attached at the same time. */
const attachesAtOnce = 4;

export class Pageserver {
  readonly #options: PageserverOptions;
  readonly #shared: Omit<SharedParts, 'attachment' | 'config'>;
  readonly #tenants = new Map<TenantId, TenantSlot>();
  #closed = false;
  readonly #abort = new AbortController();
  #house: Promise<void> = Promise.resolve();
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
      staging: options.staging ?? null,
      wal,
      survey: new SafekeeperSurvey(),
      redo,
      clock,
      random,
      log,
      limits,
      blocks: new BlockCache(limits.blockCacheBytesMax),
      versions: new ClockCache(limits.pageVersionsBytesMax),
      compaction: new SerialCompaction(options.compaction ?? inThisThread),
      yieldTurn: options.yieldTurn ?? (() => clock.sleep(0)),
      deletedCounters: new TimelineCounters(),
    };
    this.imports = new TimelineImports({
      store,
      wal,
      clock,
      random,
      log,
      yieldTurn: this.#shared.yieldTurn,
      generationOf: (id) => this.#tenant(id).attachment.generation,
      find: ({ tenantId: tenant, timelineId: timeline }) => this.#tenant(tenant).findForImport(timeline),
      create: (id, part) => this.adoptTimeline(id, part),
    });
  }

  /** Attaches the tenants that are ours, with all of their timelines. */
  static async open(options: PageserverOptions): Promise<Pageserver> {
    const pageserver = new Pageserver(options);
    await pageserver.#load();
    pageserver.#house = pageserver.#keepHouse();
    return pageserver;
  }

  // Tenants

  /** Throws `invalid` if it exists, or did before it was deleted. */
  async createTenant(id: TenantId): Promise<void> {
    this.#checkOpen();
    await this.#whileBusy(id, async () => {
      if (await isTenantDeleted(this.#options.store, id)) {
        const hint = 'An owner of before may still be at work: choose another id';
        throw new PageliteError('invalid', `tenant ${id} was deleted. ${hint}`, { tenantId: id });
      }
      const content = encodeChecked(JSON.stringify({ version: tenantVersion }));
      await this.#options.store.put(tenantFolder(id) + tenantFile, content, { ifAbsent: true });
      return Tenant.empty(id, await this.#claim(id));
    });
  }

  /** Those that are here, attached or broken. */
  async listTenants(): Promise<TenantId[]> {
    this.#checkOpen();
    return [...this.#tenants]
      .filter(([, slot]) => slot.kind !== 'busy')
      .map(([id]) => id)
      .sort();
  }

  /** In which the tenant is attached here. Throws `notFound`; what keeps it from being attached. */
  generationOf(id: TenantId): number {
    return this.#tenant(id).attachment.generation;
  }

  /**
   * Attaches a tenant that is in the store: takes it over from whoever has it. Done already, nothing changes. Throws `notFound` if the store has no such
   * tenant.
   */
  async attachTenant(id: TenantId): Promise<void> {
    this.#checkOpen();
    const slot = this.#tenants.get(id);
    if (slot?.kind === 'attached' && (await isCurrent(slot.tenant))) return;
    const { store } = this.#options;
    if (!(await isTenant(store, id)) || (await isTenantDeleted(store, id))) throw noTenant(id);
    if (slot?.kind === 'attached') await slot.tenant.close();
    if (slot?.kind !== 'busy') this.#tenants.delete(id);
    await this.#whileBusy(id, async () => Tenant.load(id, await this.#claim(id)));
  }

  /** Gives a tenant up, so that any pageserver may attach it. Everything of it that is committed is in the store afterwards. */
  async detachTenant(id: TenantId): Promise<void> {
    this.#checkOpen();
    const tenant = this.#tenant(id);
    await this.#removeSlot(id, async () => {
      for (const timeline of tenant.listTimelines()) {
        await tenant.stored(timeline);
      }
      if (this.#options.nodeId !== null && (await isCurrent(tenant))) {
        await claimTenant(this.#options.store, id, null);
      }
      await tenant.close();
    });
  }

  /** Deletes a tenant with all of its timelines. Cut off, it is gone on with at the next start. */
  async deleteTenant(id: TenantId): Promise<void> {
    this.#checkOpen();
    const slot = this.#tenants.get(id);
    if (slot === undefined || slot.kind === 'busy') throw noTenant(id);
    if (slot.kind === 'attached') await slot.tenant.attachment.check();
    const content = encodeChecked(JSON.stringify({ version: tenantVersion }));
    await this.#options.store.put(tenantFolder(id) + deletedFile, content);
    this.#tenants.set(id, { kind: 'busy' });
    if (slot.kind === 'attached') await slot.tenant.close();
    try {
      await this.#finishDeletion(id);
      this.#tenants.delete(id);
    } catch (error) {
      this.#tenants.set(id, { kind: 'broken', error: error as Error });
      throw error;
    }
  }

  /** What is set of a tenant, and what holds. */
  tenantConfig(id: TenantId): Tenant['config'] {
    return this.#tenant(id).config;
  }

  /** Replaces what is set of a tenant. */
  async setTenantConfig(id: TenantId, overrides: Partial<TenantConfig>): Promise<void> {
    await this.#tenant(id).setConfig(overrides);
  }

  /** Names of a tenant's branches as they are stored. Throws `corrupt`, naming the object. */
  async branchNames(id: TenantId): Promise<BranchNames> {
    return this.#tenant(id).branchNames();
  }

  /** Replaces all of them. */
  async setBranchNames(id: TenantId, names: BranchNames): Promise<void> {
    await this.#tenant(id).setBranchNames(names);
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
    await this.#tenant(id.tenantId).createTimeline(id.timelineId, ancestor);
  }

  /** See Tenant.adoptTimeline. */
  async adoptTimeline(id: TenantTimelineId, part: IndexPart): Promise<void> {
    await this.#tenant(id.tenantId).adoptTimeline(id.timelineId, part);
  }

  /** The index of a timeline with everything that is committed in its layer files: what can be sent elsewhere (transfer/push-timeline.ts). */
  async exportTimeline(id: TenantTimelineId): Promise<IndexPart> {
    const running = this.#running(id);
    await running.catchUp(await this.#tenant(id.tenantId).commitLsn(id.timelineId));
    await running.flush();
    return running.uploads.part;
  }

  /**
   * As `exportTimeline`; while `work` runs, layers of that index can be read (`readLayer`), also those that compaction or garbage collection have
   * replaced since.
   */
  async exporting<T>(id: TenantTimelineId, work: (part: IndexPart) => Promise<T>): Promise<T> {
    const part = await this.exportTimeline(id);
    return this.#running(id).holdingLayers(part, () => work(part));
  }

  /** Bytes of a layer file that the index names; null if there is none of this name. */
  async readLayer(
    id: TenantTimelineId,
    name: string,
    range: { start: number; end: number },
  ): Promise<Uint8Array | null> {
    const entry = this.#running(id).findLayer(name);
    if (entry === null) return null;
    const found = await this.#options.store.get(layerKey(id, entry), range);
    return found?.bytes ?? null;
  }

  async listTimelines(tenant: TenantId): Promise<TimelineId[]> {
    return this.#tenant(tenant).listTimelines();
  }

  /** Throws `notFound`; `invalid` if it is archived; `corrupt` with the file if the timeline cannot be opened. */
  async openPages(id: TenantTimelineId): Promise<PageService> {
    return this.#running(id).pages;
  }

  async findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampLsn> {
    const { timeline, pages } = this.#running(id);
    const { gcCutoffLsn: start, lastRecordLsn: end } = timeline;
    return pages.holdingFrom(start, () => findLsnByTimestamp((lsn) => pages.readerAt(lsn), start, end, timestampMs));
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
    if (lsn < timeline.gcCutoffLsn) throw collected(timeline, lsn);
    return pages.holdingFrom(lsn, () => timestampOfLsn(pages.readerAt(lsn)));
  }

  /** Some commits of the timeline itself, up to `until` or all that is ingested, spread over time (commit-history.ts). */
  async commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory> {
    const { timeline, pages } = this.#running(id);
    const { gcCutoffLsn: start, lastRecordLsn } = timeline;
    const end = Math.max(start, Math.min(until ?? lastRecordLsn, lastRecordLsn)) as Lsn;
    const readerAt = (lsn: Lsn) => pages.readerAt(lsn);
    return pages.holdingFrom(start, async () => {
      const startMs = await timestampOfLsn(readerAt(start));
      const endMs = await timestampOfLsn(readerAt(end));
      const commits = await spreadCommits(clogCommits(timeline, readerAt), start, end, startMs, countMax);
      return { start: { lsn: start, timeMs: startMs }, end: { lsn: end, timeMs: endMs }, commits };
    });
  }

  /** Writes everything ingested so far to layers (Neon's "checkpoint" of a timeline). `isUploaded`: waits until the store has them. */
  async flush(id: TenantTimelineId, options: { readonly isUploaded?: boolean } = {}): Promise<void> {
    await this.#running(id).flush(options);
  }

  /** Merges flushed layers; `images`: and writes the pages of every key range with changes anew. Resolves when there is nothing more to do. */
  compact(id: TenantTimelineId, force: CompactionForce = 'none'): Promise<void> {
    return this.#running(id).compact(force);
  }

  compactionStatus(id: TenantTimelineId): CompactionStatus {
    return this.#running(id).compaction.status;
  }

  /** Resolves when no compaction is under way. */
  compactionIdle(id: TenantTimelineId): Promise<void> {
    return this.#running(id).compaction.idle();
  }

  /** Resolves when every whole record below `lsn` is ingested. */
  catchUp(id: TenantTimelineId, lsn: Lsn): Promise<void> {
    return this.#running(id).catchUp(lsn);
  }

  async listLayers(id: TenantTimelineId): Promise<LayerInfo> {
    const { memory, files } = this.#running(id).timeline.layers;
    const { staging } = this.#shared;
    const info = ({ key, name, size, desc }: LayerFile) => ({
      name,
      isLocal: staging === null || staging.residentBytesOf(key) >= size,
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

  /** What of a timeline's history must stay, and why. */
  async retention(id: TenantTimelineId): Promise<Retention> {
    return this.#tenant(id.tenantId).retention(id.timelineId);
  }

  /** Removes what a timeline no longer has to keep. */
  async collectGarbage(id: TenantTimelineId): Promise<GcResult> {
    return this.#tenant(id.tenantId).collectGarbage(id.timelineId);
  }

  /**
   * Bytes of all relations at the timeline's end. Counted when it is asked for first, one timeline at a time; null if that takes longer than
   * `logicalSizeWaitMs`, or cannot be done: ask again later.
   */
  async logicalSize(id: TenantTimelineId): Promise<number | null> {
    const { logicalSize } = this.#running(id);
    const { clock } = this.#options;
    if (logicalSize.bytes === null) {
      await inTime(this.#countLogicalSize(id, logicalSize), clock, logicalSizeWaitMs);
    }
    return logicalSize.bytes;
  }

  /** Bytes of a timeline's own layer files; 0 if it cannot be opened. */
  physicalSize(id: TenantTimelineId): number {
    const tenant = this.#tenant(id.tenantId);
    const rests = tenant.archived(id.timelineId)?.layers.reduce((sum, { size }) => sum + size, 0);
    return rests ?? tenant.find(id.timelineId)?.layerBytes ?? 0;
  }

  /** Numbers for operators. Begins to count logical sizes that nobody has asked for yet. */
  observe(): PageserverObservation {
    const tenants = [...this.#tenants.values()].flatMap((slot) => (slot.kind === 'attached' ? [slot.tenant] : []));
    const running = tenants.flatMap((tenant) => tenant.runningTimelines());
    const total = new TimelineCounters();
    total.add(this.#shared.deletedCounters);
    for (const { timeline, logicalSize } of running) {
      total.add(timeline.counters);
      void this.#countLogicalSize(timeline.id, logicalSize);
    }
    return {
      tenantCount: this.#tenants.size,
      timelines: running.map((one) => observeTimeline(one, this.#shared.staging)),
      staging: this.#shared.staging?.counters ?? null,
      total,
      brokenCount: tenants.reduce((sum, { brokenCount }) => sum + brokenCount, 0),
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

  /** Gives a branch all that it reads of its ancestor, and then it has none. */
  async detachAncestor(id: TenantTimelineId): Promise<void> {
    await this.#running(id).detachAncestor();
  }

  /** See Tenant.archiveTimeline. */
  async archiveTimeline(id: TenantTimelineId): Promise<void> {
    await this.#tenant(id.tenantId).archiveTimeline(id.timelineId);
  }

  async unarchiveTimeline(id: TenantTimelineId): Promise<void> {
    await this.#tenant(id.tenantId).unarchiveTimeline(id.timelineId);
  }

  /** The index of a timeline that is archived; null if it is not, or not there. */
  archived(id: TenantTimelineId): IndexPart | null {
    return this.#tenant(id.tenantId).archived(id.timelineId);
  }

  /** What of a timeline is on its way to the store. */
  uploadStatus(id: TenantTimelineId): UploadStatus {
    return this.#running(id).uploads.status;
  }

  /** See Tenant.rebuildTimeline. */
  async rebuildTimeline(
    id: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null,
  ): Promise<void> {
    await this.#tenant(id.tenantId).rebuildTimeline(id.timelineId, ancestor);
  }

  /** Throws `notFound`, and `invalid` while other timelines branch from it. */
  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    await this.#tenant(id.tenantId).deleteTimeline(id.timelineId);
  }

  /** Ends everything and loses nothing: what is not in layers is read from the safekeepers again. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#abort.abort(new PageliteError('closed', 'the pageserver was closed'));
    await this.#house;
    await Promise.all(
      [...this.#tenants.values()].map((slot) => (slot.kind === 'attached' ? slot.tenant.close() : null)),
    );
    await this.#shared.compaction.close();
    await this.#options.redo.close();
  }

  // Housekeeping

  /** Until it is closed: what timelines want by the clock. */
  async #keepHouse(): Promise<void> {
    const { clock } = this.#options;
    while (!this.#closed) {
      try {
        await clock.sleep(housekeepingPeriodMs, this.#abort.signal);
      } catch (error) {
        if (this.#closed) return;
        throw error;
      }
      for (const slot of this.#tenants.values()) if (slot.kind === 'attached') slot.tenant.keepHouse();
    }
  }

  // Attaching

  async #load(): Promise<void> {
    const { store, log } = this.#options;
    const ids: TenantId[] = [];
    for (const name of await store.listFolders('tenants/')) {
      if (isIdText(name)) ids.push(tenantId(name));
      else log.warn('a folder that is not ours is in the store', { file: `tenants/${name}` });
    }
    await eachAtOnce(ids, attachesAtOnce, (id) => this.#loadTenant(id));
  }

  async #loadTenant(id: TenantId): Promise<void> {
    const { store, nodeId, log } = this.#options;
    try {
      if (nodeId !== null) {
        const claim = await newestClaim(store, id);
        // Another pageserver's, or nobody's until it is attached again.
        if (claim !== null && claim.nodeId !== nodeId) return;
      }
      if (await isTenantDeleted(store, id)) return await this.#finishDeletion(id);
      if (!(await isTenant(store, id))) {
        log.warn('objects of a tenant without tenant.json are in the store', { tenantId: id });
        return;
      }
      const tenant = await Tenant.load(id, await this.#claim(id));
      this.#tenants.set(id, { kind: 'attached', tenant });
    } catch (error) {
      // The store is away: then nothing can be served, and the start fails.
      if (!isPageliteError(error, 'corrupt')) throw error;
      log.error('a tenant cannot be attached', { tenantId: id, error: messageOf(error) });
      this.#tenants.set(id, { kind: 'broken', error });
    }
  }

  async #claim(id: TenantId): Promise<TenantParts> {
    const { store, nodeId, template, openRemote } = this.#options;
    const generation = nodeId === null ? 0 : await claimTenant(store, id, nodeId);
    const shared = { ...this.#shared, attachment: new TenantAttachment(store, id, generation) };
    const overrides = await loadTenantConfig(store, id);
    const defaults = { ...tenantConfigDefaults, ...this.#options.config };
    return { shared, template, imports: this.imports, openRemote, defaults, overrides };
  }

  /**
   * The note that it was deleted stays, and whoever finds it goes on. Where nobody else can have had the tenant, it goes last. Its WAL goes, too, whoever's
   * safekeepers have sent it.
   */
  async #finishDeletion(id: TenantId): Promise<void> {
    const { store, nodeId } = this.#options;
    const folder = tenantFolder(id);
    const stays = (file: string) => file === deletedFile && nodeId !== null;
    const rank = (file: string) => (file === deletedFile ? 2 : parseClaimName(file) === null ? 0 : 1);
    for (const { key } of await store.list(walTenantFolder(id))) await store.delete(key);
    const files = (await store.list(folder)).map(({ key }) => key.slice(folder.length)).filter((file) => !stays(file));
    for (const file of files.sort((a, b) => rank(a) - rank(b))) await store.delete(folder + file);
  }

  async #whileBusy(id: TenantId, make: () => Promise<Tenant>): Promise<void> {
    if (this.#tenants.has(id)) throw new PageliteError('invalid', `tenant ${id} exists`, { tenantId: id });
    this.#tenants.set(id, { kind: 'busy' });
    try {
      const tenant = await make();
      this.#tenants.set(id, { kind: 'attached', tenant });
      if (this.#closed) await tenant.close();
    } catch (error) {
      this.#tenants.delete(id);
      throw error;
    }
  }

  /** The tenant is not here while `work` runs, and not afterwards; if that fails, it is as before. */
  async #removeSlot(id: TenantId, work: () => Promise<void>): Promise<void> {
    const slot = this.#tenants.get(id)!;
    this.#tenants.set(id, { kind: 'busy' });
    try {
      await work();
      this.#tenants.delete(id);
    } catch (error) {
      this.#tenants.set(id, slot);
      throw error;
    }
  }

  // Look-ups

  #checkOpen(): void {
    if (this.#closed) throw new PageliteError('closed', 'the pageserver was closed');
  }

  #tenant(id: TenantId): Tenant {
    this.#checkOpen();
    const slot = this.#tenants.get(id);
    if (slot === undefined || slot.kind === 'busy') throw noTenant(id);
    if (slot.kind === 'broken') throw slot.error;
    return slot.tenant;
  }

  #running(id: TenantTimelineId): RunningTimeline {
    return this.#tenant(id.tenantId).running(id.timelineId);
  }
}

const isTenant = async (store: ObjectStore, id: TenantId): Promise<boolean> =>
  (await store.head(tenantFolder(id) + tenantFile)) !== null;

async function isCurrent(tenant: Tenant): Promise<boolean> {
  return tenant.attachment.check().then(
    () => true,
    (error) => {
      if (isPageliteError(error, 'fenced')) return false;
      throw error;
    },
  );
}

function noTenant(id: TenantId): PageliteError {
  return new PageliteError('notFound', `tenant ${id} does not exist`, { tenantId: id });
}
