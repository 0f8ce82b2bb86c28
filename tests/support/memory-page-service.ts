/**
 * A PageService that keeps every version of every value in memory: the seam's contract in its plainest form.
 *
 * It is what tests put behind the protocol when the storage engine itself is not the subject, and the first implementation that the
 * contract suite is run against. Values are put at an LSN; `advance` moves the last record LSN and wakes the reads that wait for it.
 */
import { PageliteError } from '../../engine/errors.ts';
import { keysPerRequestMax, pageSize, pagesPerRequestMax, waitLsnTimeoutMs } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { compareKeys, type Key, keyKind, relPrefix } from '../../engine/model/key.ts';
import { formatLsn, invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BlockNumber, ForkNumber, RelTag } from '../../engine/model/rel.ts';
import type { Basebackup, Clock, PageService, ReadLsn, TimelineStatus } from '../../engine/services.ts';

interface Versions<T> {
  readonly key: Key;
  /** Oldest first. */
  readonly values: { lsn: Lsn; value: T }[];
}

export class MemoryPageService implements PageService {
  readonly id: TenantTimelineId;
  readonly #clock: Clock;
  readonly #startLsn: Lsn;
  #lastRecordLsn: Lsn;
  readonly #images = new Map<string, Versions<Uint8Array | null>>();
  readonly #sizes = new Map<string, Versions<BlockNumber | null>>();
  #waiters: { lsn: Lsn; wake: () => void }[] = [];
  basebackup: Basebackup | undefined;

  constructor(id: TenantTimelineId, startLsn: Lsn, clock: Clock) {
    this.id = id;
    this.#startLsn = startLsn;
    this.#lastRecordLsn = startLsn;
    this.#clock = clock;
  }

  putPage(lsn: Lsn, rel: RelTag, block: BlockNumber, page: Uint8Array): void {
    this.putImage(lsn, { prefix: relPrefix(rel), block }, page);
  }

  putImage(lsn: Lsn, key: Key, image: Uint8Array | null): void {
    versionsOf(this.#images, key).values.push({ lsn, value: image?.slice() ?? null });
  }

  putSize(lsn: Lsn, rel: RelTag, size: BlockNumber | null): void {
    versionsOf(this.#sizes, { prefix: relPrefix(rel), block: 0 }).values.push({ lsn, value: size });
  }

  advance(lsn: Lsn): void {
    this.#lastRecordLsn = lsn;
    const ready = this.#waiters.filter((waiter) => waiter.lsn <= lsn);
    this.#waiters = this.#waiters.filter((waiter) => waiter.lsn > lsn);
    for (const { wake } of ready) wake();
  }

  async getPages(
    at: ReadLsn,
    rel: RelTag,
    firstBlock: BlockNumber,
    blockCount: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    if (!(blockCount >= 1 && blockCount <= pagesPerRequestMax)) {
      throw new PageliteError('invalid', `${blockCount} blocks`);
    }
    const lsn = await this.#waitLsn(at, signal);
    const size = newest(this.#sizes, { prefix: relPrefix(rel), block: 0 }, lsn) ?? 0;
    const pages = new Uint8Array(blockCount * pageSize);
    for (let i = 0; i < blockCount && firstBlock + i < size; i++) {
      const page = newest(this.#images, { prefix: relPrefix(rel), block: firstBlock + i }, lsn);
      if (page) pages.set(page, i * pageSize);
    }
    return pages;
  }

  async getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]> {
    if (keys.length > keysPerRequestMax) throw new PageliteError('invalid', `${keys.length} keys`);
    const lsn = await this.#waitLsn(at, signal);
    return keys.map((key) => newest(this.#images, key, lsn)?.slice() ?? null);
  }

  async getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null> {
    const lsn = await this.#waitLsn(at, signal);
    return newest(this.#sizes, { prefix: relPrefix(rel), block: 0 }, lsn) ?? null;
  }

  async listRels(
    at: ReadLsn,
    spc: number,
    db: number,
    signal?: AbortSignal,
  ): Promise<{ rel: RelTag; size: BlockNumber }[]> {
    const lsn = await this.#waitLsn(at, signal);
    const rels: { key: Key; rel: RelTag; size: BlockNumber }[] = [];
    for (const { key } of this.#sizes.values()) {
      const { prefix } = key;
      if (prefix.kind !== keyKind.rel || prefix.spc !== spc || prefix.db !== db) continue;
      const size = newest(this.#sizes, key, lsn) ?? null;
      const rel = { spc, db, rel: prefix.rel, fork: prefix.fork as ForkNumber };
      if (size !== null) rels.push({ key, rel, size });
    }
    return rels.sort((a, b) => compareKeys(a.key, b.key)).map(({ rel, size }) => ({ rel, size }));
  }

  async getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup> {
    await this.#waitLsn({ requestLsn: lsn ?? this.#lastRecordLsn, notModifiedSince: lsn ?? invalidLsn }, signal);
    if (this.basebackup === undefined) throw new PageliteError('notFound', 'no basebackup was put');
    return { ...this.basebackup, lsn: lsn ?? this.#lastRecordLsn };
  }

  async getStatus(signal?: AbortSignal): Promise<TimelineStatus> {
    if (signal?.aborted) throw new PageliteError('cancelled', 'cancelled');
    return {
      lastRecordLsn: this.#lastRecordLsn,
      prevRecordLsn: invalidLsn,
      diskConsistentLsn: this.#startLsn,
      remoteConsistentLsn: this.#startLsn,
      gcCutoffLsn: this.#startLsn,
      startLsn: this.#startLsn,
      ancestor: null,
      layerBytes: 0,
      stopped: null,
    };
  }

  async leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }> {
    await this.#waitLsn({ requestLsn: lsn, notModifiedSince: lsn }, signal);
    return { validForMs: 60_000 };
  }

  async #waitLsn(at: ReadLsn, signal: AbortSignal | undefined): Promise<Lsn> {
    if (signal?.aborted) throw new PageliteError('cancelled', 'cancelled');
    if (at.requestLsn < this.#startLsn) {
      const text = `LSN ${formatLsn(at.requestLsn)} is before the timeline's start ${formatLsn(this.#startLsn)}`;
      throw new PageliteError('invalid', text, { ...this.id, lsn: formatLsn(at.requestLsn) });
    }
    if (at.notModifiedSince > this.#lastRecordLsn) await this.#wait(at.notModifiedSince, signal);
    return at.requestLsn;
  }

  #wait(lsn: Lsn, signal: AbortSignal | undefined): Promise<void> {
    const timer = new AbortController();
    return new Promise<void>((resolve, reject) => {
      this.#waiters.push({ lsn, wake: resolve });
      signal?.addEventListener('abort', () => reject(new PageliteError('cancelled', 'cancelled')), { once: true });
      this.#clock.sleep(waitLsnTimeoutMs, timer.signal).then(
        () => reject(new PageliteError('unavailable', `LSN ${formatLsn(lsn)} not reached`, { lsn: formatLsn(lsn) })),
        () => {},
      );
    }).finally(() => timer.abort());
  }
}

function versionsOf<T>(map: Map<string, Versions<T>>, key: Key): Versions<T> {
  const name = `${key.prefix.id}/${key.block}`;
  let versions = map.get(name);
  if (versions === undefined) {
    versions = { key, values: [] };
    map.set(name, versions);
  }
  return versions;
}

function newest<T>(map: Map<string, Versions<T>>, key: Key, lsn: Lsn): T | undefined {
  return map.get(`${key.prefix.id}/${key.block}`)?.values.findLast((version) => version.lsn <= lsn)?.value;
}
