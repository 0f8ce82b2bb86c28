/**
 * The tab's own repository: the whole engine (Pageserver, Safekeeper, WAL redo) over IndexedDB, and its branches by name. Called by the storage worker,
 * which puts an I/O host before each place that it opens.
 *
 * A branch is local (a database made here), or hybrid: it or an ancestor of it began on a server's timeline at an LSN, which is read through the
 * page cache (stores/page-cache.ts). A hybrid branch is a timeline of the server's tenant, so that it can be pushed as it is.
 *
 * Invariants
 * - one tab at a time has it open (repository-lock.ts)
 * - what was acknowledged is in the database when the acknowledgement leaves; the tab may be killed at any moment
 * - a full origin fails the write that finds no room, after cached server pages were given up for it; reads go on, and so does writing once there
 *   is room
 * - a damaged branch is listed with what is wrong, and costs only itself
 */
import { must } from '../../engine/assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import {
  newTenantId,
  newTimelineId,
  nodeId,
  type TenantId,
  type TenantTimelineId,
  timelineId,
} from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BranchHistory, HistoryPoint } from '../../engine/protocol/control-api.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type {
  Clock,
  Log,
  PageService,
  Random,
  TenantTemplate,
  TimelineStatus,
  WalService,
} from '../../engine/services.ts';
import { historyOfLineage, partWith } from '../../engine/timeline/branch-history.ts';
import { type LayerInfo, Pageserver, type PageserverLimits } from '../../engine/timeline/pageserver.ts';
import type { BranchInfo, BranchPlace, Progress } from '../api.ts';
import { openTabDatabase, type TabDatabase } from '../stores/database.ts';
import { IdbObjectStore } from '../stores/idb-object-store.ts';
import { IdbSafekeeperStorage } from '../stores/idb-safekeeper-storage.ts';
import { PageCache } from '../stores/page-cache.ts';
import { BranchList, type BranchOrigin, type BranchRecord, type PushedState, timelineOf } from './branch-list.ts';
import { type BranchMoment, BranchMoments } from './branch-moments.ts';
import { flushWhenIdle } from './idle-flush.ts';
import { LazyRedo } from './lazy-redo.ts';
import { RepositoryLock } from './repository-lock.ts';
import { settleAll, trimAll } from './settle.ts';
import { tabConfig, tabLimits } from './tab-limits.ts';
import { type LoadArtefacts, loadTabTemplate } from './tab-template.ts';
import { yieldTurn } from './yield-turn.ts';

export interface LocalRepositoryOptions {
  /** Name of the repository, of its database and its lock. */
  readonly name: string;
  /** Pages of a server's timeline; absent without a server: hybrid branches then have what is cached. */
  readonly openServerPages?: (id: TenantTimelineId) => PageService;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly progress?: (progress: Progress) => void;
  /** PGlite's own files where the host has loaded them already. */
  readonly artefacts?: LoadArtefacts;
  /** The encoded tenant template from elsewhere: spares initdb. */
  readonly fetchTemplate?: () => Promise<Uint8Array | null>;
  readonly limits?: Partial<PageserverLimits>;
  /** Bytes that pages of server branches may take in IndexedDB. */
  readonly pageCacheBudgetBytes?: number;
  readonly pageCacheMemoryBytes?: number;
  /** How long an answer of the server is waited for. */
  readonly serverTimeLimitMs?: number;
}

export type NewBranchSource =
  | { readonly kind: 'new' }
  | { readonly kind: 'local'; readonly branch: string; readonly at: BranchMoment }
  | {
      readonly kind: 'server';
      readonly id: TenantTimelineId;
      readonly name: string | null;
      /** Null: as far as the server has ingested. */
      readonly lsn: Lsn | null;
    };

/** What an I/O host needs of a branch. */
export interface OpenPlace {
  readonly id: TenantTimelineId;
  readonly pages: PageService;
  readonly wal: readonly WalService[];
  readonly mode: 'primary' | { readonly readOnlyAt: Lsn };
}

/** A compute has booted by then, or is slow for reasons of its own. */
const redoWarmDelayMs = 2000;
/** The only safekeeper of a tab. */
const tabSafekeeper = nodeId(1);

interface Parts {
  readonly options: LocalRepositoryOptions;
  readonly lock: RepositoryLock;
  readonly database: TabDatabase;
  readonly store: IdbObjectStore;
  readonly branches: BranchList;
  readonly safekeeperStorage: IdbSafekeeperStorage;
  readonly safekeeper: Safekeeper;
  readonly redo: LazyRedo;
  readonly pageserver: Pageserver;
  readonly moments: BranchMoments;
  readonly pageCache: PageCache;
}

export class LocalRepository {
  readonly #parts: Parts;
  readonly #closing = new AbortController();
  #flushing: Promise<void> = Promise.resolve();
  /** The last change of branches under way. */
  #last: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | null = null;

  private constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Throws `invalid` while another tab has it open, `corrupt` if its list of branches is damaged. */
  static async open(options: LocalRepositoryOptions): Promise<LocalRepository> {
    const lock = await RepositoryLock.acquire(options.name);
    let database: TabDatabase | null = null;
    try {
      database = await openTabDatabase(options.name);
      const repository = new LocalRepository(await openParts(options, lock, database));
      await repository.#begin();
      return repository;
    } catch (error) {
      database?.close();
      lock.release();
      throw error;
    }
  }

  /** For push and pull: the engine behind the names. */
  get pageserver(): Pageserver {
    return this.#parts.pageserver;
  }

  get safekeeper(): Safekeeper {
    return this.#parts.safekeeper;
  }

  /** Counters of what hybrid branches read of their server. */
  get pageCache(): PageCache {
    return this.#parts.pageCache;
  }

  get store(): IdbObjectStore {
    return this.#parts.store;
  }

  // Branches

  branches(): Promise<BranchInfo[]> {
    return Promise.all(this.#parts.branches.branches.map((record) => this.#info(record)));
  }

  branch(name: string): Promise<BranchInfo> {
    return this.#info(this.#parts.branches.get(name));
  }

  /** Throws `notFound`. */
  timelineOf(name: string): TenantTimelineId {
    return timelineOf(this.#parts.branches.get(name));
  }

  /** Throws `invalid` for a name that is taken, or a moment that `from` does not have. */
  createBranch(name: string, from: NewBranchSource): Promise<BranchInfo> {
    return this.#change(async () => {
      this.#parts.branches.checkNew(name);
      const { id, origin } = await this.#createTimeline(from);
      await this.#parts.branches.add({ name, ...id, origin, pushed: null });
      return this.branch(name);
    });
  }

  /** Gives a timeline that was brought into the store (pull) its name. */
  nameTimeline(
    name: string,
    id: TenantTimelineId,
    origin: BranchOrigin | null,
    pushed: PushedState | null,
  ): Promise<BranchInfo> {
    return this.#change(async () => {
      await this.#parts.pageserver.openPages(id);
      await this.#parts.branches.add({ name, ...id, origin, pushed });
      return this.branch(name);
    });
  }

  /** Up to where a server has the branch, and under which name. */
  setPushed(name: string, pushed: PushedState): Promise<void> {
    return this.#change(async () => {
      this.#parts.branches.get(name);
      await this.#parts.branches.change(name, { pushed });
    });
  }

  /**
   * Back to the end of the branch it came from; of a hybrid one to `serverLsn`, or as far as the server has ingested. Other branches that began from
   * it keep the old state, under a name of its own.
   */
  resetBranch(name: string, serverLsn: Lsn | null = null): Promise<BranchInfo> {
    return this.#change(async () => {
      const { branches } = this.#parts;
      const record = branches.get(name);
      if (record.origin === null) {
        throw new PageliteError(
          'invalid',
          `branch "${name}" did not begin from another one: there is nothing to go back to`,
          {
            branch: name,
          },
        );
      }
      const { id } = await this.#createTimeline(this.#sourceOf(record, record.origin, serverLsn));
      const needed = branches.branches.some(({ origin }) => isFrom(origin, record.timelineId));
      const old = needed ? [{ ...record, name: this.#freeName(`${name}_old`) }] : [];
      await branches.change(name, { timelineId: id.timelineId, pushed: null }, old);
      if (!needed) await this.#removeTimeline(timelineOf(record));
      return this.branch(name);
    });
  }

  /** Throws `invalid` while other branches of this tab need it. */
  deleteBranch(name: string): Promise<void> {
    return this.#change(async () => {
      const { branches } = this.#parts;
      const record = branches.get(name);
      const needing = branches.branches
        .filter(({ origin }) => isFrom(origin, record.timelineId))
        .map((other) => other.name);
      if (needing.length > 0) {
        const text = `branch "${name}" cannot be deleted: ${needing.join(', ')} began from it. Delete that first`;
        throw new PageliteError('invalid', text, { branch: name });
      }
      await branches.remove(name);
      await this.#removeTimeline(timelineOf(record));
    });
  }

  /** For writing at its end, for reading at any other moment. Throws `invalid` for one that it does not have, `corrupt` if it is damaged. */
  async openPlace(branch: string, at: BranchMoment): Promise<OpenPlace> {
    const { pageserver, safekeeper, branches } = this.#parts;
    const id = timelineOf(branches.get(branch));
    const pages = await pageserver.openPages(id);
    void this.#warmRedo();
    const mode = at === 'end' ? 'primary' : { readOnlyAt: await this.#parts.moments.lsnOf(branch, id, at) };
    return { id, pages, wal: [safekeeper], mode };
  }

  /** Once a compute has started: redo's PGlite starts in this thread, which the compute's first pages would wait for. */
  async #warmRedo(): Promise<void> {
    const { options, redo } = this.#parts;
    const isOpen = await options.clock.sleep(redoWarmDelayMs, this.#closing.signal).then(
      () => true,
      () => false,
    );
    if (isOpen) redo.warm();
  }

  layers(branch: string): Promise<LayerInfo> {
    return this.#parts.pageserver.listLayers(this.timelineOf(branch));
  }

  /** The LSN of a moment of a branch. Throws `invalid` if it does not have it. */
  async lsnOf(branch: string, at: BranchMoment): Promise<Lsn> {
    const id = this.timelineOf(branch);
    const { moments } = this.#parts;
    return at === 'end' ? moments.endLsn(id) : moments.lsnOf(branch, id, at);
  }

  /** As far back as the tab has it. */
  async history(branch: string): Promise<BranchHistory> {
    const { pageserver, moments } = this.#parts;
    return historyOfLineage(pageserver, await moments.lineage(this.timelineOf(branch)));
  }

  /** Which branch has a moment of this one's history, and at which LSN. Throws `invalid` for one that is not in it. */
  async pointAt(branch: string, timestampMs: number): Promise<HistoryPoint> {
    const { pageserver, branches, moments } = this.#parts;
    const lineage = await moments.lineage(this.timelineOf(branch));
    const { timeline } = must(
      await partWith(pageserver, lineage, { timestampMs }),
      'the oldest part has what no other has',
    );
    const { timelineId } = timeline;
    const name = branches.nameOf(timelineId) ?? timelineId;
    return { timelineId, branch: name, lsn: formatLsn(await moments.lsnOf(name, timeline, { timestampMs })) };
  }

  /** The server's timeline that a hybrid branch began on; null if it began in this tab. */
  serverOrigin(branch: string): string | null {
    const { origin } = this.#parts.branches.get(branch);
    return origin?.place === 'server' ? origin.timelineId : null;
  }

  async storage(): Promise<{ usedBytes: number; quotaBytes: number; cachedPages: number }> {
    const { usage, quota } = await navigator.storage.estimate();
    return { usedBytes: usage ?? 0, quotaBytes: quota ?? 0, cachedPages: this.#parts.pageCache.pages() };
  }

  /** Ends everything, loses nothing, and lets another tab open it. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { pageserver, safekeeper, pageCache, database, lock } = this.#parts;
    this.#closing.abort(new PageliteError('closed', 'the repository was closed'));
    await this.#last;
    await this.#flushing;
    try {
      await pageserver.close();
      await safekeeper.close();
      await pageCache.idle();
    } finally {
      database.close();
      lock.release();
    }
  }

  // Opening

  async #begin(): Promise<void> {
    const { options, pageserver, branches } = this.#parts;
    await this.#removeUnnamed();
    await settleAll(this.#parts, options, this.#closing.signal);
    await trimAll(this.#parts, options.log);
    const { clock, log } = options;
    const timelines = () => branches.branches.map(timelineOf);
    this.#flushing = flushWhenIdle({ pageserver, timelines, clock, log, signal: this.#closing.signal });
  }

  /** Timelines without a name are what a killed tab left of making or deleting a branch. */
  async #removeUnnamed(): Promise<void> {
    const { pageserver, branches, safekeeper, options } = this.#parts;
    const named = new Set(branches.branches.map((branch) => branch.timelineId));
    for (const tenantId of await pageserver.listTenants()) {
      const unnamed = (await pageserver.listTimelines(tenantId)).filter((id) => !named.has(id));
      for (const id of unnamed) {
        await this.#removeTimeline({ tenantId, timelineId: id }).catch((error) =>
          options.log.warn('a timeline without a name stays', { timelineId: id, error: messageOf(error) }),
        );
      }
    }
    for (const id of await safekeeper.listTimelines()) {
      if (!named.has(id.timelineId)) await this.#parts.safekeeperStorage.deleteTimeline(id);
    }
  }

  // Changing

  async #createTimeline(from: NewBranchSource): Promise<{ id: TenantTimelineId; origin: BranchOrigin | null }> {
    const { pageserver, branches, options } = this.#parts;
    const tenant =
      from.kind === 'new'
        ? branches.tenantId
        : from.kind === 'server'
          ? from.id.tenantId
          : this.timelineOf(from.branch).tenantId;
    const id = { tenantId: tenant, timelineId: newTimelineId(options.random) };
    await this.#needTenant(tenant);
    switch (from.kind) {
      case 'new':
        await pageserver.createTimeline(id, null);
        return { id, origin: null };
      case 'local': {
        const { timelineId: ancestor } = this.timelineOf(from.branch);
        const lsn = await this.lsnOf(from.branch, from.at);
        await pageserver.createTimeline(id, { timelineId: ancestor, lsn });
        return { id, origin: { place: 'local', name: from.branch, timelineId: ancestor } };
      }
      case 'server': {
        const { timelineId: ancestor } = from.id;
        await pageserver.createTimeline(id, { timelineId: ancestor, lsn: from.lsn });
        return { id, origin: { place: 'server', name: from.name, timelineId: ancestor } };
      }
    }
  }

  async #needTenant(tenant: TenantId): Promise<void> {
    const { pageserver } = this.#parts;
    if (!(await pageserver.listTenants()).includes(tenant)) await pageserver.createTenant(tenant);
  }

  #sourceOf(record: BranchRecord, origin: BranchOrigin, serverLsn: Lsn | null): NewBranchSource {
    if (origin.place === 'server') {
      const id = { tenantId: timelineOf(record).tenantId, timelineId: timelineId(origin.timelineId) };
      return { kind: 'server', id, name: origin.name, lsn: serverLsn };
    }
    const branch = this.#parts.branches.nameOf(origin.timelineId);
    if (branch === null) {
      throw new PageliteError('invalid', `branch "${record.name}" began from one that is not here any more`, {
        branch: record.name,
      });
    }
    return { kind: 'local', branch, at: 'end' };
  }

  #freeName(wanted: string): string {
    const taken = new Set(this.#parts.branches.branches.map(({ name }) => name));
    let name = wanted;
    for (let n = 2; taken.has(name); n++) name = `${wanted}_${n}`;
    return name;
  }

  /** Its layers and its WAL. */
  async #removeTimeline(id: TenantTimelineId): Promise<void> {
    const { pageserver, safekeeper, safekeeperStorage } = this.#parts;
    await pageserver.deleteTimeline(id);
    await safekeeper.deleteTimeline(id, () => safekeeperStorage.deleteTimeline(id));
    await this.#retainPages();
  }

  /** Pages of server timelines from which no branch of this tab began any more are forgotten. */
  async #retainPages(): Promise<void> {
    const { pageserver, pageCache, branches } = this.#parts;
    const wanted: { id: TenantTimelineId; lsn: Lsn }[] = [];
    for (const record of branches.branches) {
      if (record.origin?.place !== 'server') continue;
      const id = timelineOf(record);
      // Of a branch that cannot be opened the LSN is not known: then nothing is forgotten.
      const pages = await pageserver.openPages(id).catch(() => null);
      if (pages === null) return;
      const { ancestor } = await pages.getStatus();
      if (ancestor) wanted.push({ id: { ...id, timelineId: timelineId(record.origin.timelineId) }, lsn: ancestor.lsn });
    }
    await pageCache.retain(wanted);
  }

  /** One change of branches after another. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(() => {
      this.#closing.signal.throwIfAborted();
      return work();
    });
    this.#last = done.catch(() => {});
    return done;
  }

  // Reading

  async #info(record: BranchRecord): Promise<BranchInfo> {
    const id = timelineOf(record);
    const { name, timelineId, origin, pushed } = record;
    const place: BranchPlace = this.#isHybrid(record) ? 'hybrid' : 'local';
    const cachedPages = place === 'hybrid' ? this.#cachedPages(record) : null;
    const known = { name, place, timelineId, pushed, cachedPages };
    try {
      const status = await (await this.#parts.pageserver.openPages(id)).getStatus();
      return {
        ...known,
        ancestor: this.#ancestorOf(origin, status),
        startLsn: formatLsn(status.startLsn),
        lsn: formatLsn(await this.#parts.moments.endLsn(id)),
        layerBytes: status.layerBytes,
        broken: status.stopped,
      };
    } catch (error) {
      // One that is damaged, or whose storage fails, does not keep the others from being listed.
      if (!isPageliteError(error) || error.kind === 'closed') throw error;
      return { ...known, ancestor: null, startLsn: null, lsn: null, layerBytes: null, broken: error.message };
    }
  }

  #ancestorOf(origin: BranchOrigin | null, { ancestor }: TimelineStatus): BranchInfo['ancestor'] {
    if (ancestor === null || origin === null) return null;
    const lsn = formatLsn(ancestor.lsn);
    if (origin.place === 'server') return { name: origin.name, place: 'server', lsn };
    const { branches } = this.#parts;
    const record = branches.branches.find((branch) => branch.timelineId === origin.timelineId);
    const place = record !== undefined && this.#isHybrid(record) ? 'hybrid' : 'local';
    return { name: record?.name ?? origin.name, place, lsn };
  }

  #isHybrid(record: BranchRecord): boolean {
    return this.#serverOrigin(record) !== null;
  }

  /** The server's timeline on which it, or what it began from, began. */
  #serverOrigin(record: BranchRecord): BranchOrigin | null {
    for (let at: BranchRecord | undefined = record; at?.origin; ) {
      if (at.origin.place === 'server') return at.origin;
      const ancestor: string = at.origin.timelineId;
      at = this.#parts.branches.branches.find((branch) => branch.timelineId === ancestor);
    }
    return null;
  }

  #cachedPages(record: BranchRecord): number {
    const origin = this.#serverOrigin(record);
    if (origin === null) return 0;
    return this.#parts.pageCache.pages({
      tenantId: timelineOf(record).tenantId,
      timelineId: timelineId(origin.timelineId),
    });
  }
}

const isFrom = (origin: BranchOrigin | null, timeline: string): boolean =>
  origin !== null && origin.place === 'local' && origin.timelineId === timeline;

async function openParts(options: LocalRepositoryOptions, lock: RepositoryLock, database: TabDatabase): Promise<Parts> {
  const { clock, random, log, artefacts, openServerPages } = options;
  const pageCache = await openPageCache(options, database);
  const makeRoom = () => pageCache.makeRoom();
  const store = await IdbObjectStore.open(database, makeRoom);
  const branches = await BranchList.open(store, () => newTenantId(random));
  const onMarkFailed = (error: unknown) => log.warn('a flush mark is not stored', { error: messageOf(error) });
  const safekeeperStorage = new IdbSafekeeperStorage({ database, makeRoom, onMarkFailed });
  const safekeeper = new Safekeeper({ nodeId: tabSafekeeper, storage: safekeeperStorage, log });
  const template = once(() =>
    loadTabTemplate({
      store,
      artefacts,
      fetchTemplate: options.fetchTemplate,
      log,
      progress: options.progress ?? (() => {}),
    }),
  );
  const redo = new LazyRedo(
    async () =>
      PostgresRedo.create({ template: await template(), ...(artefacts && { artefacts: await artefacts() }), log }),
    log,
  );
  const pageserver = await Pageserver.open({
    // The tab holds a lock.
    nodeId: null,
    store,
    wal: [safekeeper],
    redo,
    template,
    clock,
    random,
    log,
    limits: { ...tabLimits, ...options.limits },
    config: tabConfig,
    yieldTurn,
    openRemote: (id) => pageCache.service(id, () => openServerPages?.(id) ?? null),
  });
  const moments = new BranchMoments({ pageserver, safekeeper, clock });
  return {
    options,
    lock,
    database,
    store,
    branches,
    safekeeperStorage,
    safekeeper,
    redo,
    pageserver,
    moments,
    pageCache,
  };
}

function openPageCache(options: LocalRepositoryOptions, database: TabDatabase): Promise<PageCache> {
  const { clock, log, pageCacheBudgetBytes, pageCacheMemoryBytes, serverTimeLimitMs } = options;
  return PageCache.open({
    database,
    clock,
    log,
    ...(pageCacheBudgetBytes !== undefined && { budgetBytes: pageCacheBudgetBytes }),
    ...(pageCacheMemoryBytes !== undefined && { memoryBytes: pageCacheMemoryBytes }),
    ...(serverTimeLimitMs !== undefined && { serverTimeLimitMs }),
  });
}

/** The value that `make` gives, made when it is first asked for; a failure is not kept. */
function once(make: () => Promise<TenantTemplate>): () => Promise<TenantTemplate> {
  let made: Promise<TenantTemplate> | null = null;
  return () => {
    made ??= make().catch((error) => {
      made = null;
      throw error;
    });
    return made;
  };
}
