/**
 * The page cache's records in IndexedDB and in memory: extents of `extentPages` pages, and small values. Under page-cache.ts, which decides what to
 * fetch.
 *
 * Extents are kept under a byte budget; the longest unused go first, those that a boot needs last of all (`pinned`). What is in the database is known
 * in memory, so a page that is not there costs no look-up. Everything here can be fetched again: transactions are relaxed, a failed write costs the
 * record, and a damaged record is dropped.
 *
 * Invariants
 * - an extent holds the pages from its first on, without a hole; it may be shorter than `extentPages` at the end of what was fetched
 * - no page is used before the checksum of its record was checked
 */
import { isStorageFull, messageOf } from '../../engine/errors.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { pageSize } from '../../engine/limits.ts';
import type { KeyPrefix } from '../../engine/model/key.ts';
import type { Clock, Log } from '../../engine/services.ts';
import { openRecord, reading, request, sealRecord, type TabDatabase, transact } from './database.ts';
import { decodeValues, encodeValues, type KeptValue } from './kept-values.ts';

/** 128 kB: read in 1 ms where 64 records of a page take 10, and small enough that a point read moves little. */
export const extentPages = 16;
/** Where a scope's small values are, beside its extents. */
const valuesName = 'values';
/** Evicted in one go, as a part of the budget. */
const evictPart = 0.1;
/** Given up for a write of the tab's own that found no room, as a part of what is there. */
const giveUpPart = 0.5;

export interface PageCacheStoreOptions {
  readonly database: TabDatabase;
  readonly clock: Clock;
  readonly log: Log;
  readonly budgetBytes: number;
  readonly memoryBytes: number;
}

interface Kept {
  readonly scope: string;
  readonly prefix: string;
  readonly extent: number;
  readonly bytes: number;
  readonly pinned: boolean;
  usedAt: number;
}

interface InMemory {
  readonly cachedBytes: number;
  readonly pages: Uint8Array;
  used: boolean;
  evict(): void;
}

export interface NewExtent {
  readonly prefix: KeyPrefix;
  readonly extent: number;
  readonly pages: Uint8Array;
}

export class PageCacheStore {
  readonly #options: PageCacheStoreOptions;
  /** By record name; what the database has. */
  readonly #kept = new Map<string, Kept>();
  readonly #memory = new Map<string, InMemory>();
  readonly #clockCache: ClockCache;
  readonly #nextValues = new Map<string, number>();
  #bytes = 0;
  #evicting: Promise<void> | null = null;
  /** The last write under way. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(options: PageCacheStoreOptions) {
    this.#options = options;
    this.#clockCache = new ClockCache(options.memoryBytes);
  }

  static async open(options: PageCacheStoreOptions): Promise<PageCacheStore> {
    const store = new PageCacheStore(options);
    await store.#load();
    return store;
  }

  /** Of extents in the database. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Pages of the timelines for which `wanted` holds. */
  pages(wanted: (scope: string) => boolean = () => true): number {
    let bytes = 0;
    for (const kept of this.#kept.values()) if (wanted(kept.scope)) bytes += kept.bytes;
    return Math.floor(bytes / pageSize);
  }

  /** The pages of an extent if they are in memory. */
  inMemory(scope: string, prefix: KeyPrefix, extent: number): Uint8Array | null {
    const found = this.#memory.get(nameOf(scope, prefix.toString(), extent));
    if (found === undefined) return null;
    found.used = true;
    return found.pages;
  }

  has(scope: string, prefix: KeyPrefix, extent: number): boolean {
    return this.#kept.has(nameOf(scope, prefix.toString(), extent));
  }

  /** The pages of an extent from the database; null if it is not there, or is damaged: then it is dropped, and `onDamage` told. */
  async read(
    scope: string,
    prefix: KeyPrefix,
    extent: number,
    onDamage: (error: unknown) => void,
  ): Promise<Uint8Array | null> {
    const name = nameOf(scope, prefix.toString(), extent);
    const kept = this.#kept.get(name);
    if (kept === undefined) return null;
    kept.usedAt = this.#options.clock.now();
    const what = `cached pages ${extent * extentPages} and on of ${prefix} of ${scope}`;
    try {
      const record = await reading(what, () => this.#options.database.get('pages', [scope, kept.prefix, extent]));
      const pages = openRecord(record, () => what);
      this.#remember(name, pages);
      return pages;
    } catch (error) {
      onDamage(error);
      this.#options.log.warn('a record of the page cache is dropped', { file: what, error: messageOf(error) });
      await this.#remove([kept]);
      return null;
    }
  }

  /** Keeps extents, in memory at once. `pinned`: a boot needs them. */
  put(scope: string, extents: readonly NewExtent[], pinned: boolean): void {
    for (const { prefix, extent, pages } of extents) this.#remember(nameOf(scope, prefix.toString(), extent), pages);
    this.#write(() => this.#store(scope, extents, pinned));
  }

  /** All small values of a scope. Damaged records are dropped. */
  async readValues(scope: string): Promise<KeptValue[]> {
    const what = `small values of ${scope}`;
    const range = IDBKeyRange.bound([scope, valuesName, 0], [scope, valuesName, Number.MAX_SAFE_INTEGER]);
    const { database, log } = this.#options;
    const [keys, records] = await reading(what, () =>
      Promise.all([database.getAllKeys('pages', range), database.getAll('pages', range)]),
    );
    const values: KeptValue[] = [];
    for (const [i, record] of records.entries()) {
      const key = keys[i]!;
      this.#nextValues.set(scope, key[2] + 1);
      try {
        values.push(...decodeValues(openRecord(record, () => what)));
      } catch (error) {
        log.warn('a record of the page cache is dropped', { file: what, error: messageOf(error) });
        this.#write(() =>
          transact(database, ['pages'], what, (tx) => request(tx.objectStore('pages').delete(key)), 'relaxed'),
        );
      }
    }
    return values;
  }

  putValues(scope: string, values: readonly KeptValue[]): void {
    const n = this.#nextValues.get(scope) ?? 0;
    this.#nextValues.set(scope, n + 1);
    const record = sealRecord(encodeValues(values));
    const store = (tx: Parameters<Parameters<typeof transact>[3]>[0]) =>
      request(tx.objectStore('pages').put(record, [scope, valuesName, n]));
    this.#write(() => transact(this.#options.database, ['pages'], 'page cache', store, 'relaxed'));
  }

  /** Forgets timelines that nobody reads any more. */
  async retain(wanted: (scope: string) => boolean): Promise<void> {
    const gone = new Set(
      [...this.#kept.values(), ...[...this.#nextValues.keys()].map((scope) => ({ scope }))].map(({ scope }) => scope),
    );
    for (const scope of [...gone].filter((name) => !wanted(name))) {
      await this.idle();
      await transact(this.#options.database, ['pages', 'pageUse'], 'page cache', (tx) => {
        const range = IDBKeyRange.bound([scope], [scope, []]);
        request(tx.objectStore('pages').delete(range));
        request(tx.objectStore('pageUse').delete(range));
      });
      for (const [name, kept] of this.#kept) if (kept.scope === scope) this.#forget(name, kept);
      this.#nextValues.delete(scope);
    }
  }

  /** Gives up a good part of what is kept, for a write that is worth more. False if there was nothing to give. */
  async makeRoom(): Promise<boolean> {
    const oldest = this.#oldest(Math.max(this.#bytes * giveUpPart, 1));
    if (oldest.length === 0) return false;
    await this.#remove(oldest);
    return true;
  }

  /** Resolves when everything that was put is stored, and the budget holds. */
  async idle(): Promise<void> {
    while (this.#evicting !== null || this.#writing > 0) {
      await this.#last;
      await this.#evicting;
    }
  }

  #writing = 0;

  /** One write after another. What fails is not kept; a full origin gives way to what the tab itself has to store. */
  #write(work: () => Promise<void>): void {
    this.#writing++;
    this.#last = this.#last
      .then(work)
      .catch(async (error) => {
        this.#options.log.warn('pages are not kept', { error: messageOf(error) });
        if (isStorageFull(error)) await this.makeRoom().catch(() => {});
      })
      .finally(() => {
        this.#writing--;
      });
  }

  async #store(scope: string, extents: readonly NewExtent[], pinned: boolean): Promise<void> {
    const usedAt = this.#options.clock.now();
    const kept = extents.map(({ prefix, extent, pages }) => {
      return { scope, prefix: prefix.toString(), extent, bytes: pages.length, pinned, usedAt };
    });
    await transact(
      this.#options.database,
      ['pages', 'pageUse'],
      'page cache',
      (tx) => {
        for (const [i, { pages }] of extents.entries()) {
          const { prefix, extent, bytes } = kept[i]!;
          request(tx.objectStore('pages').put(sealRecord(pages), [scope, prefix, extent]));
          request(tx.objectStore('pageUse').put({ bytes, usedAt, pinned }, [scope, prefix, extent]));
        }
      },
      'relaxed',
    );
    for (const entry of kept) this.#admit(entry);
    if (this.#bytes > this.#options.budgetBytes) this.#evicting ??= this.#evict();
  }

  async #evict(): Promise<void> {
    const { budgetBytes } = this.#options;
    try {
      await this.#remove(this.#oldest(this.#bytes - budgetBytes * (1 - evictPart)));
    } catch (error) {
      this.#options.log.warn('the page cache cannot be evicted', { error: messageOf(error) });
    } finally {
      this.#evicting = null;
    }
  }

  /** The longest unused, of at least so many bytes together; pinned ones after all others. */
  #oldest(bytes: number): Kept[] {
    const order = [...this.#kept.values()].sort((a, b) => Number(a.pinned) - Number(b.pinned) || a.usedAt - b.usedAt);
    const chosen: Kept[] = [];
    for (let sum = 0; sum < bytes && chosen.length < order.length; ) {
      const kept = order[chosen.length]!;
      chosen.push(kept);
      sum += kept.bytes;
    }
    return chosen;
  }

  async #remove(entries: readonly Kept[]): Promise<void> {
    await transact(this.#options.database, ['pages', 'pageUse'], 'page cache', (tx) => {
      for (const { scope, prefix, extent } of entries) {
        request(tx.objectStore('pages').delete([scope, prefix, extent]));
        request(tx.objectStore('pageUse').delete([scope, prefix, extent]));
      }
    });
    for (const kept of entries) this.#forget(nameOf(kept.scope, kept.prefix, kept.extent), kept);
  }

  #admit(kept: Kept): void {
    const name = nameOf(kept.scope, kept.prefix, kept.extent);
    this.#bytes += kept.bytes - (this.#kept.get(name)?.bytes ?? 0);
    this.#kept.set(name, kept);
  }

  #forget(name: string, kept: Kept): void {
    if (this.#kept.get(name) !== kept) return;
    this.#kept.delete(name);
    this.#bytes -= kept.bytes;
  }

  #remember(name: string, pages: Uint8Array): void {
    const before = this.#memory.get(name);
    if (before !== undefined) this.#clockCache.forget((entry) => entry === before);
    const entry: InMemory = {
      cachedBytes: pages.length,
      pages,
      used: true,
      evict: () => {
        if (this.#memory.get(name) === entry) this.#memory.delete(name);
      },
    };
    this.#memory.set(name, entry);
    this.#clockCache.insert(entry);
  }

  async #load(): Promise<void> {
    const { database } = this.#options;
    const [keys, uses] = await reading('page cache', () =>
      Promise.all([database.getAllKeys('pageUse'), database.getAll('pageUse')]),
    );
    for (const [i, [scope, prefix, extent]] of keys.entries()) {
      const { bytes, usedAt, pinned } = uses[i]!;
      if (Number.isSafeInteger(bytes)) this.#admit({ scope, prefix, extent, bytes, pinned: pinned === true, usedAt });
    }
  }
}

const nameOf = (scope: string, prefix: string, extent: number): string => `${scope} ${prefix} ${extent}`;
