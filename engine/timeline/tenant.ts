/**
 * A tenant that is attached here: its timelines, how they come into being, are loaded and end. Timelines of one tenant may be branches of each other.
 *
 *   tenants/<tenant>/tenant.json
 *   tenants/<tenant>/branches.json                              names of its branches (branch-names.ts)
 *   tenants/<tenant>/generation-<generation>                    who it is attached to (tenant-claims.ts)
 *   tenants/<tenant>/timelines/<timeline>/index_part.json-<generation>
 *   tenants/<tenant>/timelines/<timeline>/<layer>-<generation>...
 *
 * Invariants:
 * - the tenant was claimed before anything of it was read
 * - a timeline exists from the moment its index is stored until its indexes are deleted; other files of its folder are waste then
 * - a timeline whose index is damaged is there, and says so to whoever asks for it; others go on
 */
import { must } from '../assert.ts';
import { systemIdentifierOf } from '../basebackup/control-data.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { inTime } from '../in-time.ts';
import { rebuildReadersMaxMs } from '../limits.ts';
import type { TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import { controlFileKey } from '../model/key.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { PageService, TenantTemplate } from '../services.ts';
import { checkDatabase } from '../transfer/check-database.ts';
import type { ImportTarget, TimelineImports } from '../transfer/timeline-imports.ts';
import { bootstrap } from './bootstrap.ts';
import { branchIndex, checkBranchPoint, checkSamePoint, sourceOf } from './branch.ts';
import { type BranchNames, loadBranchNames, storeBranchNames } from './branch-names.ts';
import type { GcResult } from './garbage-collection.ts';
import type { Ancestor } from './gather.ts';
import { type IndexPart, StoredIndex } from './index-part.ts';
import type { Retention } from './retention.ts';
import { RunningTimeline, type SharedParts, timelineOf } from './running-timeline.ts';
import { loadTimelines } from './stored-timelines.ts';
import type { TenantAttachment } from './tenant-claims.ts';
import { effectiveTenantConfig, storeTenantConfig, type TenantConfig } from './tenant-config.ts';
import { TenantGarbage } from './tenant-garbage.ts';
import { beingChanged, type SettledSlot, TenantSlots } from './tenant-slots.ts';
import { deleteFiles, deleteIndexes, deleteUnnamed } from './timeline-files.ts';
import { retryUnavailable } from './upload-queue.ts';

export interface TenantParts {
  readonly shared: Omit<SharedParts, 'config'>;
  readonly template: () => Promise<TenantTemplate>;
  readonly imports: TimelineImports;
  /** Timelines that are not in this store but may be ancestors of some that are. */
  readonly openRemote: ((id: TenantTimelineId) => PageService) | undefined;
  readonly defaults: TenantConfig;
  /** What is set of the tenant. */
  readonly overrides: Partial<TenantConfig>;
}

export class Tenant {
  readonly id: TenantId;
  readonly #parts: TenantParts;
  readonly #shared: SharedParts;
  readonly #slots: TenantSlots;
  readonly #garbage: TenantGarbage;
  #overrides: Partial<TenantConfig>;
  #config: TenantConfig;
  readonly #abort = new AbortController();
  #closed = false;

  private constructor(id: TenantId, parts: TenantParts) {
    this.id = id;
    this.#overrides = parts.overrides;
    this.#config = effectiveTenantConfig(parts.defaults, parts.overrides);
    this.#parts = parts;
    this.#shared = { ...parts.shared, config: () => this.#config };
    this.#slots = new TenantSlots(id);
    this.#garbage = new TenantGarbage(this.#slots, this.#shared);
  }

  /** Loads every timeline's index and follows its WAL. A damaged index costs that timeline. */
  static async load(id: TenantId, parts: TenantParts): Promise<Tenant> {
    const tenant = new Tenant(id, parts);
    await tenant.#load();
    return tenant;
  }

  /** One that has nothing yet. */
  static empty(id: TenantId, parts: TenantParts): Tenant {
    return new Tenant(id, parts);
  }

  get attachment(): TenantAttachment {
    return this.#shared.attachment;
  }

  /** What is set, and what holds. */
  get config(): { readonly overrides: Partial<TenantConfig>; readonly effective: TenantConfig } {
    return { overrides: this.#overrides, effective: this.#config };
  }

  /** Replaces what is set. It holds at once. */
  async setConfig(overrides: Partial<TenantConfig>): Promise<void> {
    const { store, attachment } = this.#shared;
    await attachment.check();
    await storeTenantConfig(store, this.id, overrides);
    this.#config = effectiveTenantConfig(this.#parts.defaults, overrides);
    this.#overrides = overrides;
  }

  branchNames(): Promise<BranchNames> {
    return loadBranchNames(this.#shared.store, this.id);
  }

  /** Replaces all of them. */
  async setBranchNames(names: BranchNames): Promise<void> {
    const { store, attachment } = this.#shared;
    await attachment.check();
    await storeBranchNames(store, this.id, names);
  }

  listTimelines(): TimelineId[] {
    return this.#slots.ids();
  }

  /** Throws `notFound`; `corrupt` with the file if the timeline cannot be opened. */
  running(timeline: TimelineId): RunningTimeline {
    this.#checkOpen();
    return this.#slots.running(timeline);
  }

  runningTimelines(): RunningTimeline[] {
    return this.#slots.allRunning();
  }

  /** Timelines that could not be opened. */
  get brokenCount(): number {
    return this.#slots.brokenIds().length;
  }

  /** Null if there is none that runs. */
  find(timeline: TimelineId): RunningTimeline | null {
    return this.#slots.find(timeline);
  }

  /** See Pageserver.createTimeline. */
  createTimeline(
    timeline: TimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
  ): Promise<void> {
    const { store } = this.#shared;
    return this.#create(timeline, ancestor?.timelineId ?? null, {
      make: () => this.#beginning(timeline, ancestor, this.#holdPoint(timeline)),
      undo: () => deleteFiles(store, this.#idOf(timeline)),
    });
  }

  /**
   * A timeline of layers that are in its folder already. Throws `invalid` (id taken, not a database, not where its ancestor can be branched),
   * `notFound` (ancestor).
   */
  adoptTimeline(timeline: TimelineId, part: IndexPart): Promise<void> {
    const id = this.#idOf(timeline);
    return this.#create(timeline, part.ancestor?.timelineId ?? null, {
      make: async () => {
        if (part.ancestor !== null)
          checkSamePoint(id, part, await this.#branch(part.ancestor, this.#holdPoint(timeline)));
        await this.#checkImported(id, part);
        return part;
      },
      // The layers stay: it can be tried again.
      undo: () => deleteIndexes(this.#shared.store, id),
    });
  }

  async #create(
    timeline: TimelineId,
    ancestorId: TimelineId | null,
    { make, undo }: { make: () => Promise<IndexPart>; undo: () => Promise<void> },
  ): Promise<void> {
    this.#checkOpen();
    const id = this.#idOf(timeline);
    this.#slots.checkFree(timeline);
    this.#slots.set(timeline, { kind: 'busy', ancestorId });
    const { store, attachment } = this.#shared;
    try {
      const part = await make();
      const index = await StoredIndex.create(store, id, attachment.generation, part);
      // Whoever has attached the tenant since does not know of this timeline.
      await attachment.check();
      this.#checkOpen();
      this.#make(id, index, []).start();
    } catch (error) {
      // It may be there, and nobody was told so: until it is gone for certain, what it needs of its ancestor stays.
      if (isPageliteError(error, 'unavailable') && !this.#closed) void this.#remove(timeline, undo);
      else this.#slots.delete(timeline);
      throw error;
    }
  }

  /**
   * Throws `notFound`, and `invalid` while other timelines branch from it; `unavailable` if the store is away: it is gone for its readers then, and from
   * the store once that is back.
   */
  async deleteTimeline(timeline: TimelineId): Promise<void> {
    this.#checkOpen();
    const id = this.#idOf(timeline);
    const slot = this.#slots.settled(timeline);
    this.#slots.checkNotNeeded(timeline);
    const { store, attachment } = this.#shared;
    await attachment.check();
    this.#slots.checkSame(timeline, slot);
    this.#slots.checkNotNeeded(timeline);
    this.#slots.set(timeline, { kind: 'busy', ancestorId: null });
    if (slot.kind === 'running') {
      await slot.running.close();
      this.#shared.deletedCounters.add(slot.running.timeline.counters);
    }
    this.#parts.imports.forget(id);
    try {
      await deleteFiles(store, id);
    } catch (error) {
      if (isPageliteError(error, 'unavailable')) void this.#remove(timeline, () => deleteFiles(store, id));
      throw error;
    }
    this.#slots.delete(timeline);
  }

  /**
   * Begins a timeline anew in its place, broken or not: its layers go, and are made of its WAL again, from its beginning on. What branched from it stays:
   * what it reads there waits until the layers are gone, and then for the WAL. Throws `notFound`; `invalid` where it would be its own ancestor, or a branch of
   * it begins before it. Waits for a store that goes away meanwhile.
   */
  async rebuildTimeline(
    timeline: TimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null,
  ): Promise<void> {
    this.#checkOpen();
    const id = this.#idOf(timeline);
    const slot = this.#slots.settled(timeline);
    if (this.#slots.descends(ancestor?.timelineId ?? null, timeline)) {
      throw new PageliteError('invalid', `timeline ${timeline} cannot be a branch of its own branch`, { ...id });
    }
    const fresh = await this.#beginning(timeline, ancestor, () => {});
    for (const point of this.#slots.branchPoints(timeline)) {
      if (point.lsn >= fresh.startLsn) continue;
      const problem = `${point.timelineId} branched from it at ${formatLsn(point.lsn)}, before it would begin`;
      throw new PageliteError('invalid', `timeline ${timeline} cannot be begun anew: ${problem}`, { ...id });
    }
    await this.attachment.check();
    this.#checkOpen();
    this.#slots.checkSame(timeline, slot);
    // Until here garbage collection of the ancestor did not see it.
    if (fresh.ancestor !== null) {
      const above = this.find(fresh.ancestor.timelineId);
      if (above !== null) this.#checkPoint(above, fresh.startLsn, fresh.startLsn);
    }
    this.#parts.imports.forget(id);
    await this.#startAnew(id, slot, fresh);
    // Branches that have stopped could not read it. If it was something else, they stop again.
    for (const running of this.runningTimelines()) {
      const { timeline: branch, index } = running;
      if (branch.stopped === null || !this.#slots.descends(branch.ancestorId, timeline)) continue;
      if (this.find(branch.id.timelineId) !== running) continue;
      await this.#startAnew(branch.id, { kind: 'running', running }, index.part);
    }
  }

  /** A timeline ends, and another of the same id starts from `part`. */
  async #startAnew(id: TenantTimelineId, slot: SettledSlot, part: IndexPart): Promise<void> {
    const rebuild = this.#replace(id, slot, part);
    const ended = rebuild.catch(() => {});
    const ancestorId = part.ancestor?.timelineId ?? null;
    this.#slots.set(id.timelineId, { kind: 'busy', ancestorId, branchLsn: part.startLsn, rebuild: ended });
    await rebuild;
  }

  async #replace(id: TenantTimelineId, slot: SettledSlot, fresh: IndexPart): Promise<void> {
    const { store, attachment, clock, log, deletedCounters } = this.#shared;
    const retry = (work: () => Promise<void>) =>
      retryUnavailable(work, clock, this.#abort.signal, (error) =>
        log.warn('a timeline cannot be begun anew yet', { ...id, error: messageOf(error) }),
      );
    let index = slot.kind === 'running' ? slot.running.index : slot.kind === 'archived' ? slot.index : null;
    const part = { ...fresh, leases: index?.part.leases ?? [] };
    try {
      if (slot.kind === 'running') {
        await slot.running.close();
        deletedCounters.add(slot.running.timeline.counters);
        // Reads of branches end with the layers that they began with. Compaction of one may hold them while it waits for this.
        await inTime(slot.running.timeline.readers.gone(), clock, rebuildReadersMaxMs, this.#abort.signal);
      }
      await retry(async () => {
        index ??= await StoredIndex.unread(store, id, attachment.generation, part);
        await index.put(part);
        await attachment.check();
      });
      const stored = must(index, 'it was put');
      // What is written from now on may have the same names.
      await retry(() => deleteUnnamed(store, stored, (keys) => this.#parts.imports.filesUnderWay(id, keys)));
      this.#checkOpen();
      this.#make(id, stored, []).start();
    } catch (error) {
      if (!this.#closed) this.#slots.set(id.timelineId, { kind: 'broken', error: error as Error });
      throw error;
    }
  }

  /** Tries until it is done or the tenant is closed. Never rejects. */
  #remove(timeline: TimelineId, work: () => Promise<void>): Promise<void> {
    const { clock, log } = this.#shared;
    const id = this.#idOf(timeline);
    const slot = this.#slots.get(timeline);
    const { attachment } = this.#shared;
    const checked = async () => {
      await attachment.check();
      await work();
    };
    const removal = retryUnavailable(checked, clock, this.#abort.signal, (error) =>
      log.warn('a timeline cannot be removed yet', { ...id, error: messageOf(error) }),
    ).then(
      () => void this.#slots.delete(timeline),
      (error) => {
        if (!this.#closed) log.error('a timeline cannot be removed', { ...id, error: messageOf(error) });
      },
    );
    const { ancestorId = null, branchLsn } = slot?.kind === 'busy' ? slot : {};
    const at = branchLsn === undefined ? {} : { branchLsn };
    this.#slots.set(timeline, { kind: 'busy', ancestorId, ...at, removal });
    return removal;
  }

  /** The index of a timeline that is archived; null if it is not. */
  archived(timeline: TimelineId): IndexPart | null {
    return this.#slots.archived(timeline);
  }

  /**
   * Lays a timeline to rest: what it has stays in the store, and it takes no memory. Done already, nothing changes. Throws `invalid` while branches
   * of it are not archived.
   */
  async archiveTimeline(timeline: TimelineId): Promise<void> {
    this.#checkOpen();
    const slot = this.#slots.settled(timeline);
    if (slot.kind === 'archived') return;
    const running = this.running(timeline);
    this.#slots.checkBranchesRest(timeline);
    await this.stored(timeline);
    this.#slots.checkSame(timeline, slot);
    this.#slots.checkBranchesRest(timeline);
    const { ancestorId, startLsn } = running.timeline;
    this.#slots.set(timeline, { kind: 'busy', ancestorId, branchLsn: startLsn });
    try {
      await running.archive();
      this.#slots.set(timeline, { kind: 'archived', index: running.index, leftovers: [] });
    } catch (error) {
      this.#slots.set(timeline, slot);
      throw error;
    }
  }

  /** Throws `invalid` while its ancestor is archived. */
  async unarchiveTimeline(timeline: TimelineId): Promise<void> {
    this.#checkOpen();
    const slot = this.#slots.get(timeline);
    if (slot?.kind !== 'archived') {
      this.running(timeline);
      return;
    }
    const { index, leftovers } = slot;
    const { ancestor } = index.part;
    if (ancestor !== null && this.archived(ancestor.timelineId) !== null) {
      const message = `timeline ${timeline} cannot be taken up: its ancestor ${ancestor.timelineId} is archived`;
      throw new PageliteError('invalid', message, { ...this.#idOf(timeline) });
    }
    this.#slots.set(timeline, {
      kind: 'busy',
      ancestorId: ancestor?.timelineId ?? null,
      branchLsn: index.part.startLsn,
    });
    try {
      await index.put({ ...index.part, archivedAtMs: null });
      await this.attachment.check();
      this.#checkOpen();
      this.#make(this.#idOf(timeline), index, leftovers).start();
    } catch (error) {
      this.#slots.set(timeline, slot);
      throw error;
    }
  }

  /**
   * Everything of a timeline that is committed is in the store. One that cannot be opened has nothing that is not. Throws `unavailable` if no safekeeper
   * says what is committed.
   */
  async stored(timeline: TimelineId): Promise<void> {
    const slot = this.#slots.get(timeline);
    if (slot?.kind !== 'running' || slot.running.timeline.stopped !== null) return;
    const { lsn, areAllAway } = await this.#askSafekeepers(timeline);
    if (areAllAway) {
      const hint = 'what was committed last may not be stored yet. Start the safekeeper first';
      throw new PageliteError('unavailable', `no safekeeper answers: ${hint}`, { ...this.#idOf(timeline) });
    }
    await slot.running.catchUp(lsn);
    await slot.running.flush({ isUploaded: true });
  }

  /** Ends everything and loses nothing: what is not in layers is read from the safekeepers again. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const collected = this.#garbage.close();
    this.#abort.abort(new PageliteError('closed', `tenant ${this.id} was closed`, { tenantId: this.id }));
    const ends = this.#slots.all().map((slot) => {
      if (slot.kind === 'running') return slot.running.close();
      return slot.kind === 'busy' ? (slot.removal ?? slot.rebuild) : undefined;
    });
    await Promise.all(ends);
    await collected;
  }

  // Loading

  async #load(): Promise<void> {
    const { loaded, broken } = await loadTimelines(this.id, { ...this.#shared, imports: this.#parts.imports });
    for (const { id, error } of broken) this.#slots.set(id.timelineId, { kind: 'broken', error });
    // All of them are known before the first one is made, which may be a branch of another, and made before the first one reads.
    for (const { id } of loaded) this.#slots.set(id.timelineId, { kind: 'busy', ancestorId: null });
    for (const { id, index, leftovers } of loaded) {
      if (index.part.archivedAtMs !== null) this.#slots.set(id.timelineId, { kind: 'archived', index, leftovers });
    }
    const awake = loaded.filter(({ index }) => index.part.archivedAtMs === null);
    for (const running of awake.map(({ id, index, leftovers }) => this.#make(id, index, leftovers))) running.start();
  }

  #make(id: TenantTimelineId, index: StoredIndex, leftovers: readonly string[]): RunningTimeline {
    const ancestor = this.#ancestorOf(index.part);
    const running = new RunningTimeline(id, index, ancestor, leftovers, this.#shared);
    this.#slots.set(id.timelineId, { kind: 'running', running });
    return running;
  }

  /** A local ancestor is looked up when it is read: it may be made later, or be broken. */
  #ancestorOf({ ancestor }: IndexPart): Ancestor | null {
    if (ancestor === null) return null;
    const { openRemote } = this.#parts;
    if (openRemote !== undefined && this.#slots.get(ancestor.timelineId) === undefined) {
      return { kind: 'remote', lsn: ancestor.lsn, service: openRemote(this.#idOf(ancestor.timelineId)) };
    }
    const above = () => this.running(ancestor.timelineId);
    return {
      kind: 'local',
      lsn: ancestor.lsn,
      open: () => above().timeline,
      whenBegun: (signal) => this.#whenBegun(ancestor.timelineId, signal),
      flush: () => above().flush(),
    };
  }

  #whenBegun(timeline: TimelineId, signal: AbortSignal | undefined): Promise<void> | undefined {
    const rebuild = this.#slots.rebuildOf(timeline);
    if (rebuild === undefined) return;
    const { clock, limits } = this.#shared;
    const ended = rebuild.then(() => true);
    return inTime(ended, clock, limits.waitLsnTimeoutMs, signal).then((hasEnded) => {
      if (!hasEnded) throw beingChanged(this.#idOf(timeline), 'begun anew');
    });
  }

  // Creation

  #beginning(
    timeline: TimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
    hold: (ancestorId: TimelineId, lsn: Lsn) => void,
  ): Promise<IndexPart> {
    return ancestor === null ? this.#fromTemplate(timeline) : this.#branch(ancestor, hold);
  }

  /** From then on garbage collection sees where a timeline that is being created branches off. */
  #holdPoint(timeline: TimelineId): (ancestorId: TimelineId, branchLsn: Lsn) => void {
    return (ancestorId, branchLsn) => void this.#slots.set(timeline, { kind: 'busy', ancestorId, branchLsn });
  }

  async #fromTemplate(timeline: TimelineId): Promise<IndexPart> {
    const { store, attachment, yieldTurn } = this.#shared;
    return bootstrap(store, this.#idOf(timeline), attachment.generation, await this.#parts.template(), yieldTurn);
  }

  /** `hold` is told where it branches off, and nothing is awaited between the look at the ancestor and that. */
  async #branch(
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null },
    hold: (ancestorId: TimelineId, lsn: Lsn) => void,
  ): Promise<IndexPart> {
    const slot = this.#slots.get(ancestor.timelineId);
    const { openRemote } = this.#parts;
    if (slot === undefined && openRemote !== undefined) {
      return remoteBranch(openRemote(this.#idOf(ancestor.timelineId)), ancestor.lsn);
    }
    const running = this.running(ancestor.timelineId);
    const committedLsn = Math.max(running.timeline.lastRecordLsn, await this.commitLsn(ancestor.timelineId)) as Lsn;
    const lsn = this.#checkPoint(running, ancestor.lsn ?? committedLsn, committedLsn);
    hold(ancestor.timelineId, lsn);
    await running.catchUp(lsn);
    return branchIndex({ ...sourceOf(running.timeline), timelineId: ancestor.timelineId }, lsn);
  }

  /** See checkBranchPoint. */
  #checkPoint({ timeline, leases }: RunningTimeline, lsn: Lsn, endLsn: Lsn): Lsn {
    const source = { ...sourceOf(timeline), timelineId: timeline.id.timelineId };
    return checkBranchPoint(source, lsn, endLsn, leases.has(lsn, this.#shared.clock.now()));
  }

  /** The end of committed WAL as the safekeepers know it; 0 if none answers or knows the timeline. */
  async commitLsn(timeline: TimelineId): Promise<Lsn> {
    return (await this.#askSafekeepers(timeline)).lsn;
  }

  async #askSafekeepers(timeline: TimelineId): Promise<{ readonly lsn: Lsn; readonly areAllAway: boolean }> {
    const id = this.#idOf(timeline);
    const { wal, log } = this.#shared;
    let away = 0;
    const statuses = await Promise.all(
      wal.map((service) =>
        service.getStatus(id).catch((error) => {
          log.warn('a safekeeper is away', { ...id, nodeId: service.nodeId, error: messageOf(error) });
          away++;
          return null;
        }),
      ),
    );
    const lsn = Math.max(0, ...statuses.map((status) => status?.commitLsn ?? 0)) as Lsn;
    return { lsn, areAllAway: wal.length > 0 && away === wal.length };
  }

  // Imports

  /** Null if there is none. Throws `unavailable` while it is being created or deleted. */
  findForImport(timeline: TimelineId): ImportTarget | null {
    this.#checkOpen();
    const slot = this.#slots.get(timeline);
    if (slot === undefined) return null;
    const id = this.#idOf(timeline);
    if (slot.kind === 'busy') {
      throw new PageliteError('unavailable', `timeline ${timeline} is being created or deleted: try again`, { ...id });
    }
    const running = this.running(timeline);
    return {
      lastRecordLsn: running.timeline.lastRecordLsn,
      layerNames: new Set(running.uploads.part.layers.map(({ name }) => name)),
      whileUnsettled: (work) => running.whileUnsettled(work),
      extend: async (base, piece) => {
        const { part } = running.uploads;
        await this.#checkImported(id, { ...piece, layers: [...part.layers, ...piece.layers] });
        await running.extend(base, piece);
      },
    };
  }

  /** A compute could boot at its end. */
  async #checkImported(id: TenantTimelineId, part: IndexPart): Promise<void> {
    const timeline = timelineOf(id, part, this.#ancestorOf(part), this.#shared);
    try {
      await checkDatabase(timeline);
    } finally {
      for (const file of timeline.layers.files.layers()) file.forget();
    }
  }

  // Housekeeping

  /** What is due by the clock: see RunningTimeline.keepHouse; and garbage collection. */
  keepHouse(): void {
    for (const running of this.runningTimelines()) running.keepHouse();
    this.#garbage.collectIfDue();
  }

  /** See TenantGarbage.retention. */
  async retention(timeline: TimelineId): Promise<Retention> {
    this.#checkOpen();
    return this.#garbage.retention(timeline);
  }

  /** See TenantGarbage.collect. */
  async collectGarbage(timeline: TimelineId): Promise<GcResult> {
    this.#checkOpen();
    return this.#garbage.collect(timeline);
  }

  // Look-ups

  #idOf(timeline: TimelineId): TenantTimelineId {
    return this.#slots.idOf(timeline);
  }

  #checkOpen(): void {
    if (this.#closed) throw new PageliteError('closed', `tenant ${this.id} was closed`, { tenantId: this.id });
  }
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
