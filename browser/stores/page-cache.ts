/**
 * Pages of server timelines, kept in the tab: what a hybrid branch reads of its ancestor (R8), and works on when the server is away.
 *
 * `service` wraps the server's PageService. A timeline as of one LSN never changes, so reads at an exact LSN (`requestLsn` = `notModifiedSince`, as a
 * branch reads its ancestor) are answered from memory, from IndexedDB, or fetched and kept; other reads go to the server. The first read of a timeline
 * at an LSN fetches what a boot reads (`fetchBoot`): the basebackup with its prewarm pages and all relation sizes, and the directories, in a handful of
 * answers; these are evicted last, so that a branch that was opened once opens again without a server.
 *
 * Every answer costs milliseconds in a tab, so pages are fetched in extents, in twice as many each time as long as reads go on where the last fetch
 * ended.
 *
 * Invariants
 * - a page is the server's, at that LSN: from an answer, or from a record whose checksum is right. A damaged record is fetched again
 * - without the server, what is here is answered, and what is not is `unavailable` with its relation, block and LSN
 * - a fetch is shared by all who want it, and ends for none of them when one gives up
 */
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { readRelSize, readRels } from '../../engine/ingest/readers.ts';
import { decodeSize, encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { allSlrus } from '../../engine/ingest/slru.ts';
import { decodeDatabases, decodePrepared, decodeSegments } from '../../engine/ingest/small-directories.ts';
import { keysPerRequestMax, pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  formatKey,
  type Key,
  type KeyPrefix,
  keyKind,
  relDirectoryKey,
  relMapKey,
  relPrefix,
  replicationOriginsKey,
  sizeBlock,
  slruDirectoryKey,
  slruPrefix,
  staticFilesKey,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../../engine/model/key.ts';
import { formatLsn, invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import { type BlockNumber, formatRel, type RelTag } from '../../engine/model/rel.ts';
import type {
  Basebackup,
  PageService,
  PrewarmPages,
  ReadLsn,
  TimelineStatus,
  ValueReader,
} from '../../engine/services.ts';
import { relOf } from '../../engine/timeline/reconstruct.ts';
import { type KeptValue, KeptValues } from './kept-values.ts';
import { extentPages, type NewExtent, PageCacheStore, type PageCacheStoreOptions } from './page-cache-store.ts';

export interface PageCacheOptions extends Omit<PageCacheStoreOptions, 'budgetBytes' | 'memoryBytes'> {
  /** Of extents in IndexedDB. */
  readonly budgetBytes?: number;
  readonly memoryBytes?: number;
  /** How long an answer of the server is waited for. */
  readonly serverTimeLimitMs?: number;
}

/** Pages by where they came from, and what was fetched. */
export interface PageCacheCounters {
  memoryHits: number;
  databaseHits: number;
  fetched: number;
  fetches: number;
  fetchedBytes: number;
}

export const pageCacheBudgetBytes = 256 * 1024 * 1024;
const memoryBytesDefault = 16 * 1024 * 1024;
const serverTimeLimitMsDefault = 10_000;

export class PageCache {
  readonly counters: PageCacheCounters = { memoryHits: 0, databaseHits: 0, fetched: 0, fetches: 0, fetchedBytes: 0 };
  readonly #store: PageCacheStore;
  readonly #serverTimeLimitMs: number;

  private constructor(store: PageCacheStore, serverTimeLimitMs: number) {
    this.#store = store;
    this.#serverTimeLimitMs = serverTimeLimitMs;
  }

  static async open(options: PageCacheOptions): Promise<PageCache> {
    const { budgetBytes = pageCacheBudgetBytes, memoryBytes = memoryBytesDefault } = options;
    const store = await PageCacheStore.open({ ...options, budgetBytes, memoryBytes });
    return new PageCache(store, options.serverTimeLimitMs ?? serverTimeLimitMsDefault);
  }

  /** Pages in IndexedDB; of one timeline, or of all. */
  pages(id?: TenantTimelineId): number {
    return id === undefined
      ? this.#store.pages()
      : this.#store.pages((scope) => scope.startsWith(`${timelineScope(id)}@`));
  }

  /** The server's timeline through the cache. `server` is asked for when it is needed first; null without a server. */
  service(id: TenantTimelineId, server: () => PageService | null): PageService {
    return new CachedPageService(id, server, this.#store, this.counters, this.#serverTimeLimitMs);
  }

  /** Keeps these timelines at these LSNs, and forgets all others. */
  retain(wanted: readonly { readonly id: TenantTimelineId; readonly lsn: Lsn }[]): Promise<void> {
    const scopes = new Set(wanted.map(({ id, lsn }) => scopeOf(id, lsn)));
    return this.#store.retain((scope) => scopes.has(scope));
  }

  /** Gives up a good part of what is kept. False if there was nothing. */
  makeRoom(): Promise<boolean> {
    return this.#store.makeRoom();
  }

  /** Resolves when everything that was fetched is stored. */
  idle(): Promise<void> {
    return this.#store.idle();
  }
}

const timelineScope = (id: TenantTimelineId): string => `${id.tenantId}/${id.timelineId}`;
const scopeOf = (id: TenantTimelineId, lsn: Lsn): string => `${timelineScope(id)}@${formatLsn(lsn)}`;

/** What is known of a timeline at one LSN. */
interface Scope {
  readonly name: string;
  readonly lsn: Lsn;
  readonly values: KeptValues;
  /** Small values that are being fetched or stored. */
  ready: Promise<void>;
  readonly fetching: Map<string, Promise<readonly NewExtent[]>>;
  /** For each relation: where the last fetch ended, and how many pages it had. */
  readonly runs: Map<KeyPrefix, { end: number; count: number }>;
}

/**
 * Present once all that a boot needs is kept: every value that is not a relation page. What is not among them does not exist, so that ingest of a new
 * relation need not ask. The other is present once all system catalogs are kept.
 */
const bootMark: Key = { prefix: controlFileKey.prefix, block: sizeBlock };
const catalogsMark: Key = { prefix: controlFileKey.prefix, block: sizeBlock - 1 };
/** Relations below it are PostgreSQL's own (FirstNormalObjectId), databases below it its templates and `postgres`. */
const firstNormalOid = 16384;
const postgresDatabase = 5;
/** A catalog that has grown beyond this is not fetched ahead: 4 MB. */
const catalogPagesMax = 512;
/** Pages of one request for catalogs: others get their turn between two. */
const catalogPagesPerRequest = 64;
const nothing = new Uint8Array(0);

class CachedPageService implements PageService {
  readonly id: TenantTimelineId;
  readonly #openServer: () => PageService | null;
  readonly #store: PageCacheStore;
  readonly #counters: PageCacheCounters;
  readonly #timeLimitMs: number;
  readonly #scopes = new Map<Lsn, Scope>();
  #server: PageService | null | undefined;
  #status: TimelineStatus | null = null;

  constructor(
    id: TenantTimelineId,
    openServer: () => PageService | null,
    store: PageCacheStore,
    counters: PageCacheCounters,
    timeLimitMs: number,
  ) {
    this.id = id;
    this.#openServer = openServer;
    this.#store = store;
    this.#counters = counters;
    this.#timeLimitMs = timeLimitMs;
  }

  async getPages(
    at: ReadLsn,
    rel: RelTag,
    firstBlock: BlockNumber,
    blockCount: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    if (!(blockCount >= 1 && blockCount <= pagesPerRequestMax)) {
      throw new PageliteError('invalid', `${blockCount} pages asked for, 1 to ${pagesPerRequestMax} are possible`);
    }
    if (!isExact(at))
      return this.#ask((server, limit) => server.getPages(at, rel, firstBlock, blockCount, limit), signal);
    const out = new Uint8Array(blockCount * pageSize);
    const size = await this.getRelSize(at, rel, signal);
    const count = Math.min(blockCount, (size ?? 0) - firstBlock);
    if (count <= 0) return out;
    const prefix = relPrefix(rel);
    const keys = Array.from({ length: count }, (_, i) => ({ prefix, block: firstBlock + i }));
    for (const [i, page] of (await this.getImages(at, keys, signal)).entries())
      if (page !== null) out.set(page, i * pageSize);
    return out;
  }

  async getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]> {
    if (keys.length > keysPerRequestMax) {
      throw new PageliteError('invalid', `${keys.length} keys asked for, at most ${keysPerRequestMax} are possible`);
    }
    if (!isExact(at)) return this.#ask((server, limit) => server.getImages(at, keys, limit), signal);
    return abortable(this.#images(at.requestLsn, keys), signal);
  }

  async getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null> {
    if (!isExact(at)) return this.#ask((server, limit) => server.getRelSize(at, rel, limit), signal);
    return readRelSize(this.#readerAt(at.requestLsn, signal), rel);
  }

  async listRels(
    at: ReadLsn,
    spc: number,
    db: number,
    signal?: AbortSignal,
  ): Promise<{ rel: RelTag; size: BlockNumber }[]> {
    if (!isExact(at)) return this.#ask((server, limit) => server.listRels(at, spc, db, limit), signal);
    return readRels(this.#readerAt(at.requestLsn, signal), spc, db);
  }

  /** At an LSN also without the server, if it was read there before. */
  async getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup> {
    if (lsn === null) return this.#ask((server, limit) => server.getBasebackup(null, limit), signal);
    const scope = this.#scope(lsn);
    await abortable(scope.ready, signal);
    return buildBasebackup(this.#readerAt(lsn, signal), lsn, invalidLsn);
  }

  /** Without the server: what it said last. */
  async getStatus(signal?: AbortSignal): Promise<TimelineStatus> {
    try {
      this.#status = await this.#ask((server, limit) => server.getStatus(limit), signal);
      return this.#status;
    } catch (error) {
      if (this.#status === null || !isPageliteError(error, 'unavailable')) throw error;
      return this.#status;
    }
  }

  leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }> {
    return this.#ask((server, limit) => server.leaseLsn(lsn, limit), signal);
  }

  #readerAt(lsn: Lsn, signal: AbortSignal | undefined): ValueReader {
    const at = { requestLsn: lsn, notModifiedSince: lsn };
    return { getImage: async (prefix, block) => (await this.getImages(at, [{ prefix, block }], signal))[0] ?? null };
  }

  // Reads at one LSN

  #scope(lsn: Lsn): Scope {
    const known = this.#scopes.get(lsn);
    if (known !== undefined) return known;
    const scope: Scope = {
      name: scopeOf(this.id, lsn),
      lsn,
      values: new KeptValues(),
      ready: Promise.resolve(),
      fetching: new Map(),
      runs: new Map(),
    };
    scope.ready = this.#load(scope);
    scope.ready.catch(() => this.#scopes.delete(lsn));
    this.#scopes.set(lsn, scope);
    return scope;
  }

  async #images(lsn: Lsn, keys: readonly Key[]): Promise<(Uint8Array | null)[]> {
    const scope = this.#scope(lsn);
    await scope.ready;
    const images: (Uint8Array | null | undefined)[] = keys.map((key) =>
      isPage(key) ? undefined : scope.values.get(key.prefix, key.block),
    );
    const unknown = keys.filter((key, i) => images[i] === undefined && !isPage(key));
    if (unknown.length > 0 && !isBooted(scope)) await this.#fetchValues(scope, unknown);
    const result: (Uint8Array | null)[] = [];
    for (const [i, key] of keys.entries()) {
      const image = isPage(key)
        ? await this.#page(scope, key, keys)
        : (images[i] ?? scope.values.get(key.prefix, key.block) ?? null);
      result.push(image?.slice() ?? null);
    }
    return result;
  }

  /** A page as a view of its extent. `keys`: what is asked for together with it. */
  async #page(scope: Scope, key: Key, keys: readonly Key[]): Promise<Uint8Array | null> {
    const { prefix, block } = key;
    const extent = Math.floor(block / extentPages);
    const offset = (block % extentPages) * pageSize;
    const inMemory = this.#store.inMemory(scope.name, prefix, extent);
    if (inMemory !== null && inMemory.length > offset) {
      this.#counters.memoryHits++;
      return inMemory.subarray(offset, offset + pageSize);
    }
    let damage: unknown = null;
    const stored = await this.#store.read(scope.name, prefix, extent, (error) => {
      damage = error;
    });
    if (stored !== null && stored.length > offset) {
      this.#counters.databaseHits++;
      return stored.subarray(offset, offset + pageSize);
    }
    const fetched = await this.#fetchExtent(scope, prefix, extent, keys, damage);
    const pages = fetched.find((each) => each.extent === extent)?.pages;
    // Past the end of the relation there is nothing.
    if (pages === undefined || pages.length <= offset) return null;
    return pages.subarray(offset, offset + pageSize);
  }

  // Fetching

  /** What is kept of the scope; of one that is new, what a boot needs. The rest of the catalogs comes behind it. */
  async #load(scope: Scope): Promise<void> {
    for (const value of await this.#store.readValues(scope.name)) scope.values.set(value);
    try {
      if (!isBooted(scope)) await this.#fetchBoot(scope);
      if (scope.values.get(catalogsMark.prefix, catalogsMark.block) === undefined) {
        // Without them a branch works as long as there is a server.
        this.#fetchCatalogs(scope).catch(() => {});
      }
    } catch (error) {
      // Without the server: what is here may do, and what is not says so by itself.
      if (!isPageliteError(error, 'unavailable')) throw error;
    }
  }

  async #fetchBoot(scope: Scope): Promise<void> {
    const { lsn, name } = scope;
    const [{ prewarm }, first] = await Promise.all([
      this.#ask((server, limit) => server.getBasebackup(lsn, limit)),
      this.#askValues(scope, bootKeys),
    ]);
    const second = await this.#askValues(scope, directoriesOf(first));
    const third = await this.#askValues(scope, slruPagesOf(second));
    const sizes = prewarm.map(({ rel, relSize }) => ({
      prefix: relPrefix(rel),
      block: sizeBlock,
      bytes: encodeSize(relSize),
    }));
    const mark = { ...bootMark, bytes: nothing };
    const values = [...sizes, ...first, ...second, ...third, mark];
    for (const value of values) scope.values.set(value);
    const extents = prewarm.flatMap(extentsOf);
    for (const { pages } of extents) this.#count(pages);
    this.#store.put(name, extents, true);
    this.#store.putValues(name, values);
  }

  /**
   * Every page of the system catalogs: without a server, the next statement would need one that was never read. They are some four megabytes, of
   * hundreds of small files, so they are asked for by key, many at a time.
   */
  async #fetchCatalogs(scope: Scope): Promise<void> {
    const wanted: NewExtent[] = [];
    for (const { spc, db } of decodeDatabases(scope.values.get(dbDirectoryKey.prefix, dbDirectoryKey.block) ?? null)) {
      if (db !== 0 && db !== postgresDatabase && db < firstNormalOid) continue;
      for (const { rel, size } of await readRels(this.#readerAt(scope.lsn, undefined), spc, db)) {
        if (rel.rel < firstNormalOid && size <= catalogPagesMax)
          wanted.push(...this.#missing(scope, relPrefix(rel), size));
      }
    }
    for (let i = 0; i < wanted.length; ) {
      const batch: NewExtent[] = [];
      for (let pages = 0; i < wanted.length && pages < catalogPagesPerRequest; i++) {
        batch.push(wanted[i]!);
        pages += wanted[i]!.pages.length / pageSize;
      }
      await this.#fetchBatch(scope, batch);
    }
    const mark = { ...catalogsMark, bytes: nothing };
    scope.values.set(mark);
    this.#store.putValues(scope.name, [mark]);
  }

  /** Extents of a relation that are not here, their pages still zeros. */
  #missing(scope: Scope, prefix: KeyPrefix, size: number): NewExtent[] {
    const extents = Array.from({ length: Math.ceil(size / extentPages) }, (_, extent) => ({
      prefix,
      extent,
      pages: new Uint8Array(Math.min(extentPages, size - extent * extentPages) * pageSize),
    }));
    return extents.filter(
      ({ extent }) =>
        !this.#store.has(scope.name, prefix, extent) && this.#store.inMemory(scope.name, prefix, extent) === null,
    );
  }

  async #fetchBatch(scope: Scope, batch: readonly NewExtent[]): Promise<void> {
    const keys = batch.flatMap(({ prefix, extent, pages }) =>
      Array.from({ length: pages.length / pageSize }, (_, i) => ({ prefix, block: extent * extentPages + i })),
    );
    const at = { requestLsn: scope.lsn, notModifiedSince: scope.lsn };
    const images = await this.#ask((server, limit) => server.getImages(at, keys, limit));
    let next = 0;
    for (const { pages } of batch) {
      for (let offset = 0; offset < pages.length; offset += pageSize) {
        const image = images[next++];
        if (image?.length === pageSize) pages.set(image, offset);
      }
      this.#count(pages);
    }
    this.#store.put(scope.name, batch, true);
  }

  async #fetchValues(scope: Scope, keys: readonly Key[]): Promise<void> {
    const values = await this.#askValues(scope, keys);
    for (const value of values) scope.values.set(value);
    this.#store.putValues(scope.name, values);
  }

  async #askValues(scope: Scope, keys: readonly Key[]): Promise<KeptValue[]> {
    const { lsn } = scope;
    const at = { requestLsn: lsn, notModifiedSince: lsn };
    const values: KeptValue[] = [];
    for (let i = 0; i < keys.length; i += keysPerRequestMax) {
      const part = keys.slice(i, i + keysPerRequestMax);
      const images = await this.#ask((server, limit) => server.getImages(at, part, limit)).catch((error) => {
        throw this.#lacks(error, lsn, part[0]!, null);
      });
      for (const [j, { prefix, block }] of part.entries()) values.push({ prefix, block, bytes: images[j] ?? null });
    }
    return values;
  }

  /** Fetches an extent and as many behind it as the way it is read makes worth while. */
  async #fetchExtent(
    scope: Scope,
    prefix: KeyPrefix,
    extent: number,
    keys: readonly Key[],
    damage: unknown,
  ): Promise<readonly NewExtent[]> {
    const size = await this.#sizeOf(scope, prefix);
    const under = scope.fetching.get(`${prefix} ${extent}`);
    if (under !== undefined) return under;
    const start = extent * extentPages;
    const count = this.#fetchCount(scope, prefix, start, size, keys);
    if (count <= 0) return [];
    const names = Array.from({ length: Math.ceil(count / extentPages) }, (_, i) => `${prefix} ${extent + i}`);
    const fetch = this.#fetchPages(scope, prefix, start, count, damage).finally(() => {
      for (const each of names) if (scope.fetching.get(each) === fetch) scope.fetching.delete(each);
    });
    for (const each of names) scope.fetching.set(each, fetch);
    return fetch;
  }

  async #fetchPages(
    scope: Scope,
    prefix: KeyPrefix,
    start: number,
    count: number,
    damage: unknown,
  ): Promise<readonly NewExtent[]> {
    const at = { requestLsn: scope.lsn, notModifiedSince: scope.lsn };
    const fetched = await this.#ask((server, limit) => server.getPages(at, relOf(prefix), start, count, limit)).catch(
      (error) => {
        throw this.#lacks(error, scope.lsn, { prefix, block: start }, damage);
      },
    );
    this.#count(fetched);
    scope.runs.set(prefix, { end: start + count, count });
    const extents = cut(prefix, start / extentPages, fetched);
    this.#store.put(scope.name, extents, false);
    return extents;
  }

  /** Whole extents, not past the relation's end, and not over one that is here already. */
  #fetchCount(scope: Scope, prefix: KeyPrefix, start: number, size: number, keys: readonly Key[]): number {
    const run = scope.runs.get(prefix);
    const goesOn = run?.end === start ? Math.min(2 * run.count, pagesPerRequestMax) : extentPages;
    let wanted = goesOn;
    for (const key of keys) if (key.prefix === prefix) wanted = Math.max(wanted, key.block + 1 - start);
    const end = Math.min(start + Math.min(Math.ceil(wanted / extentPages) * extentPages, pagesPerRequestMax), size);
    for (let at = start + extentPages; at < end; at += extentPages) {
      if (this.#store.has(scope.name, prefix, at / extentPages)) return at - start;
    }
    return end - start;
  }

  async #sizeOf(scope: Scope, prefix: KeyPrefix): Promise<number> {
    if (scope.values.get(prefix, sizeBlock) === undefined && !isBooted(scope))
      await this.#fetchValues(scope, [{ prefix, block: sizeBlock }]);
    return decodeSize(scope.values.get(prefix, sizeBlock) ?? null, prefix);
  }

  #count(pages: Uint8Array): void {
    this.#counters.fetched += pages.length / pageSize;
    this.#counters.fetchedBytes += pages.length;
  }

  /** The server's answer, within the time limit. */
  async #ask<T>(work: (server: PageService, signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) throw cancelled(signal);
    this.#server ??= this.#openServer();
    const server = this.#server;
    if (server === null) throw new PageliteError('unavailable', 'this tab has no server');
    if (navigator.onLine === false) throw new PageliteError('unavailable', 'this browser is offline');
    this.#counters.fetches++;
    const limit = AbortSignal.timeout(this.#timeLimitMs);
    try {
      return await work(server, signal === undefined ? limit : AbortSignal.any([limit, signal]));
    } catch (error) {
      if (!limit.aborted || signal?.aborted) throw error;
      throw new PageliteError(
        'unavailable',
        `the server did not answer within ${this.#timeLimitMs} ms`,
        {},
        { cause: error },
      );
    }
  }

  /** The error for something that is not here and cannot be fetched. */
  #lacks(error: unknown, lsn: Lsn, { prefix, block }: Key, damage: unknown): unknown {
    if (!isPageliteError(error, 'unavailable')) return error;
    const what =
      prefix.kind === keyKind.rel && prefix.rel !== 0
        ? `${block === sizeBlock ? 'the size' : `block ${block}`} of relation ${formatRel(relOf(prefix))}`
        : `key ${formatKey(prefix, block)}`;
    const kept = damage === null ? 'is not kept in this tab' : `is damaged in this tab (${messageOf(damage)})`;
    const { timelineId } = this.id;
    return new PageliteError(
      'unavailable',
      `${what} of timeline ${timelineId} at ${formatLsn(lsn)} ${kept}, and cannot be fetched: ${error.message}`,
      {
        ...error.data,
        timelineId,
        lsn: formatLsn(lsn),
        key: formatKey(prefix, block),
        ...(block === sizeBlock ? {} : { block }),
      },
      { cause: error },
    );
  }
}

const isBooted = ({ values }: Scope): boolean => values.get(bootMark.prefix, bootMark.block) !== undefined;
const isExact = (at: ReadLsn): boolean => at.requestLsn === at.notModifiedSince;
const isPage = ({ prefix, block }: Key): boolean =>
  prefix.kind === keyKind.rel && prefix.rel !== 0 && block !== sizeBlock;

// What a boot reads beside relations, see basebackup/basebackup.ts. What is missing here is fetched when it is asked for.

const bootKeys: readonly Key[] = [
  controlFileKey,
  checkpointKey,
  staticFilesKey,
  replicationOriginsKey,
  twoPhaseDirectoryKey,
  dbDirectoryKey,
  ...allSlrus.map(slruDirectoryKey),
];

const imageOf = (values: readonly KeptValue[], { prefix, block }: Key): Uint8Array | null =>
  values.find((value) => value.prefix === prefix && value.block === block)?.bytes ?? null;

/** Maps and relations of every database, sizes of every SLRU segment, prepared transactions. */
function directoriesOf(boot: readonly KeptValue[]): Key[] {
  const databases = decodeDatabases(imageOf(boot, dbDirectoryKey));
  const slrus = allSlrus.flatMap((kind) =>
    decodeSegments(imageOf(boot, slruDirectoryKey(kind))).map((segment) => ({
      prefix: slruPrefix(kind, segment),
      block: sizeBlock,
    })),
  );
  const prepared = decodePrepared(imageOf(boot, twoPhaseDirectoryKey)).map(twoPhaseKey);
  return [...databases.flatMap(({ spc, db }) => [relMapKey(spc, db), relDirectoryKey(spc, db)]), ...slrus, ...prepared];
}

function slruPagesOf(directories: readonly KeptValue[]): Key[] {
  const sizes = directories.filter(({ prefix, block }) => prefix.kind === keyKind.slru && block === sizeBlock);
  return sizes.flatMap(({ prefix, bytes }) =>
    Array.from({ length: Math.max(0, decodeSize(bytes, prefix)) }, (_, block) => ({ prefix, block })),
  );
}

function extentsOf({ rel, firstBlock, pages }: PrewarmPages): NewExtent[] {
  return pages.length === 0 || firstBlock % extentPages !== 0
    ? []
    : cut(relPrefix(rel), firstBlock / extentPages, pages);
}

function cut(prefix: KeyPrefix, firstExtent: number, pages: Uint8Array): NewExtent[] {
  const bytes = extentPages * pageSize;
  return Array.from({ length: Math.ceil(pages.length / bytes) }, (_, i) => ({
    prefix,
    extent: firstExtent + i,
    pages: pages.slice(i * bytes, (i + 1) * bytes),
  }));
}

function cancelled(signal: AbortSignal): PageliteError {
  const { reason } = signal;
  return reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'the read was cancelled');
}

/** What `promise` gives, or `cancelled` as soon as the signal fires. */
function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  if (signal.aborted) {
    promise.catch(() => {});
    return Promise.reject(cancelled(signal));
  }
  return new Promise((resolve, reject) => {
    const stop = () => reject(cancelled(signal));
    signal.addEventListener('abort', stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
