/**
 * R6. The PageService of a timeline in this process: waits for the LSN, gathers, reconstructs, copies out.
 *
 * Called by the compute of an embedded host, or by the pagestream handler for a remote one. A request whose data is resident runs to its end
 * without giving way, except that redo of many records gives others a turn.
 */
import { buildBasebackup } from '../basebackup/basebackup.ts';
import { PageliteError } from '../errors.ts';
import { throwIfCancelled } from '../in-time.ts';
import { readRels } from '../ingest/readers.ts';
import { decodeSize } from '../ingest/rel-sizes.ts';
import type { ValueChain } from '../layers/value-chain.ts';
import { keysPerRequestMax, pageSize, pagesPerRequestMax } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { type Key, type KeyPrefix, relPrefix, sizeBlock } from '../model/key.ts';
import { formatLsn, invalidLsn, type Lsn, maxLsn } from '../model/lsn.ts';
import type { BlockNumber, RelTag } from '../model/rel.ts';
import { answerPages } from '../protocol/answer-pages.ts';
import type { Basebackup, Clock, PageService, ReadLsn, TimelineStatus, ValueReader } from '../services.ts';
import { recordEnd } from '../wal/wal-page.ts';
import { gather } from './gather.ts';
import { reconstructWhenReady, WorkBudget, type YieldTurn } from './reconstruct.ts';
import type { SlowReads } from './slow-reads.ts';
import type { Timeline } from './timeline.ts';

export interface PageServiceHooks {
  readonly yieldTurn: YieldTurn;
  /** Throws once the timeline is closed or deleted. */
  checkOpen(): void;
  /** Resolves when it is known where the timeline ends; undefined if it is. */
  settled(): Promise<void> | undefined;
  /** Everything up to here is in the object store. */
  remoteConsistentLsn(): Lsn;
  /** Whether an LSN before the cutoff of garbage collection is kept all the same. */
  isLeased(lsn: Lsn): boolean;
  /** How long `lsn` is kept from now on, in milliseconds, whatever happens to this process. Garbage collection sees it at once. */
  lease(lsn: Lsn): Promise<number>;
  readonly clock: Clock;
  readonly slowReads: SlowReads;
}

export class TimelinePageService implements PageService {
  readonly id: TenantTimelineId;
  readonly #timeline: Timeline;
  readonly #hooks: PageServiceHooks;
  readonly #budget: WorkBudget;
  /** LSNs of requests under way, with how many there are of each. */
  readonly #running = new LsnCounts();
  /** From where on everything is being read, likewise. */
  readonly #floors = new LsnCounts();
  #reading = 0;

  constructor(timeline: Timeline, hooks: PageServiceHooks) {
    this.id = timeline.id;
    this.#timeline = timeline;
    this.#hooks = hooks;
    this.#budget = new WorkBudget(hooks.yieldTurn);
  }

  /** Requests under way. */
  get reading(): number {
    return this.#reading;
  }

  /** Where requests under way read. */
  lsnsRead(): Lsn[] {
    return this.#running.lsns();
  }

  /** The cutoff of garbage collection may not rise above this now. */
  get floorLsn(): Lsn {
    return this.#floors.lsns().reduce((a, b) => (a < b ? a : b), maxLsn);
  }

  /** While `work` runs, `lsn`, which is there now, and everything after it is kept. */
  async holdingFrom<T>(lsn: Lsn, work: () => Promise<T>): Promise<T> {
    this.#floors.add(lsn);
    this.#reading++;
    try {
      return await work();
    } finally {
      this.#floors.remove(lsn);
      this.#reading--;
    }
  }

  #enter(lsn: Lsn): void {
    this.#running.add(lsn);
    this.#reading++;
  }

  #leave(lsn: Lsn): void {
    this.#running.remove(lsn);
    this.#reading--;
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
    const lsn = await this.#begin(at, signal);
    const startMs = this.#hooks.clock.now();
    try {
      const prefix = relPrefix(rel);
      const size = await this.#relSize(prefix, lsn, signal);
      const { pages: out, holders } = answerPages(blockCount);
      const count = Math.min(blockCount, (size ?? 0) - firstBlock);
      if (count <= 0) return out;
      const gathered = gather(this.#timeline, prefix, firstBlock, count, lsn + 1, signal);
      const chains = gathered instanceof Promise ? await gathered : gathered;
      for (let i = 0; i < count; i++) {
        const chain = chains[i]!;
        const work = this.#budget.spend(chain.lsns.length);
        if (work !== undefined) {
          await work;
          throwIfCancelled(signal);
        }
        const rebuilt = this.#rebuild(chain);
        const page = rebuilt instanceof Promise ? await rebuilt : rebuilt;
        if (page === null) continue;
        if (page.length !== pageSize) throw wrongLength(chain, page);
        out.set(page, i * pageSize);
        holders[i] = chain.holder;
      }
      this.#hooks.slowReads.observe(chains, lsn, startMs);
      return out;
    } finally {
      this.#leave(lsn);
    }
  }

  async getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]> {
    if (keys.length > keysPerRequestMax) {
      throw new PageliteError('invalid', `${keys.length} keys asked for, at most ${keysPerRequestMax} are possible`);
    }
    const lsn = await this.#begin(at, signal);
    try {
      const images: (Uint8Array | null)[] = [];
      for (const { prefix, block } of keys) images.push(await this.#image(prefix, block, lsn, signal));
      return images;
    } finally {
      this.#leave(lsn);
    }
  }

  async getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null> {
    const lsn = await this.#begin(at, signal);
    try {
      return await this.#relSize(relPrefix(rel), lsn, signal);
    } finally {
      this.#leave(lsn);
    }
  }

  async listRels(
    at: ReadLsn,
    spc: number,
    db: number,
    signal?: AbortSignal,
  ): Promise<{ rel: RelTag; size: BlockNumber }[]> {
    const lsn = await this.#begin(at, signal);
    try {
      return await readRels(this.readerAt(lsn, signal), spc, db);
    } finally {
      this.#leave(lsn);
    }
  }

  async getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup> {
    if (lsn === null) await this.#hooks.settled();
    const wanted = recordEnd(lsn ?? this.#timeline.lastRecordLsn);
    const at = await this.#begin({ requestLsn: wanted, notModifiedSince: wanted }, signal);
    try {
      const prevLsn = at === this.#timeline.lastRecordLsn ? this.#timeline.prevRecordLsn : invalidLsn;
      return await buildBasebackup(this.readerAt(at, signal), at, prevLsn);
    } finally {
      this.#leave(at);
    }
  }

  async getStatus(signal?: AbortSignal): Promise<TimelineStatus> {
    throwIfCancelled(signal);
    await this.#hooks.settled();
    this.#hooks.checkOpen();
    const timeline = this.#timeline;
    return {
      lastRecordLsn: timeline.lastRecordLsn,
      prevRecordLsn: timeline.prevRecordLsn,
      diskConsistentLsn: timeline.diskConsistentLsn,
      remoteConsistentLsn: this.#hooks.remoteConsistentLsn(),
      gcCutoffLsn: timeline.gcCutoffLsn,
      startLsn: timeline.startLsn,
      ancestor:
        timeline.ancestorId && timeline.ancestor
          ? { timelineId: timeline.ancestorId, lsn: timeline.ancestor.lsn }
          : null,
      layerBytes: timeline.layers.files.layers().reduce((sum, file) => sum + file.size, 0),
      stopped: timeline.stopped?.message ?? null,
    };
  }

  async leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }> {
    const at = await this.#begin({ requestLsn: lsn, notModifiedSince: lsn }, signal);
    try {
      return { validForMs: await this.#hooks.lease(at) };
    } finally {
      this.#leave(at);
    }
  }

  /** Values as of `lsn`, which is ingested already and held by the caller. */
  readerAt(lsn: Lsn, signal?: AbortSignal): ValueReader {
    return { getImage: (prefix, block) => this.#image(prefix, block, lsn, signal) };
  }

  /**
   * Where to read: the LSN asked for, or as far as ingest has come if nothing was modified since before that. It is kept from garbage collection until
   * `#leave`.
   */
  async #begin(at: ReadLsn, signal: AbortSignal | undefined): Promise<Lsn> {
    throwIfCancelled(signal);
    const requestLsn = recordEnd(at.requestLsn);
    const notModifiedSince = recordEnd(at.notModifiedSince);
    this.#hooks.checkOpen();
    const timeline = this.#timeline;
    const { startLsn } = timeline;
    if (requestLsn < startLsn) {
      throw new PageliteError(
        'invalid',
        `LSN ${formatLsn(requestLsn)} is before the start of timeline ${this.id.timelineId} at ${formatLsn(startLsn)}`,
        { ...this.id, lsn: formatLsn(requestLsn), startLsn: formatLsn(startLsn) },
      );
    }
    if (notModifiedSince > requestLsn) {
      throw new PageliteError(
        'invalid',
        `a page as of ${formatLsn(requestLsn)} cannot be unmodified since ${formatLsn(notModifiedSince)}`,
      );
    }
    const wait = timeline.waitLsn(notModifiedSince, signal);
    if (wait !== undefined) await wait;
    const lsn = Math.min(requestLsn, timeline.lastRecordLsn) as Lsn;
    if (lsn < timeline.gcCutoffLsn && !this.#hooks.isLeased(lsn)) throw collected(timeline, lsn);
    this.#enter(lsn);
    return lsn;
  }

  async #relSize(prefix: KeyPrefix, lsn: Lsn, signal: AbortSignal | undefined): Promise<number | null> {
    const gathered = gather(this.#timeline, prefix, sizeBlock, 1, lsn + 1, signal);
    const [chain] = gathered instanceof Promise ? await gathered : gathered;
    const size = decodeSize(await this.#rebuild(chain!), prefix);
    return size < 0 ? null : size;
  }

  async #image(
    prefix: KeyPrefix,
    block: number,
    lsn: Lsn,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array | null> {
    const gathered = gather(this.#timeline, prefix, block, 1, lsn + 1, signal);
    const [chain] = gathered instanceof Promise ? await gathered : gathered;
    const work = this.#budget.spend(chain!.lsns.length);
    if (work !== undefined) await work;
    return (await this.#rebuild(chain!))?.slice() ?? null;
  }

  /** Read only: it may be a layer's memory. */
  #rebuild(chain: ValueChain): Uint8Array | null | Promise<Uint8Array | null> {
    return reconstructWhenReady(chain, this.#timeline.redo, this.#timeline.versions, this.id);
  }
}

/** How many there are of each LSN. */
class LsnCounts {
  readonly #counts = new Map<Lsn, number>();

  lsns(): Lsn[] {
    return [...this.#counts.keys()];
  }

  add(lsn: Lsn): void {
    this.#counts.set(lsn, (this.#counts.get(lsn) ?? 0) + 1);
  }

  remove(lsn: Lsn): void {
    const count = this.#counts.get(lsn)! - 1;
    if (count === 0) this.#counts.delete(lsn);
    else this.#counts.set(lsn, count);
  }
}

/** History that is not kept any more. */
export function collected({ id, gcCutoffLsn }: Pick<Timeline, 'id' | 'gcCutoffLsn'>, lsn: Lsn): PageliteError {
  return new PageliteError(
    'invalid',
    `LSN ${formatLsn(lsn)} of timeline ${id.timelineId} is older than what is kept: history begins at ${formatLsn(gcCutoffLsn)} (pitr_interval, gc_horizon)`,
    { ...id, lsn: formatLsn(lsn), gcCutoffLsn: formatLsn(gcCutoffLsn) },
  );
}

function wrongLength(chain: ValueChain, page: Uint8Array): PageliteError {
  return new PageliteError('corrupt', `block ${chain.block} of ${chain.prefix} has ${page.length} bytes`, {
    block: chain.block,
    lsn: formatLsn(chain.lsns[0]!),
  });
}
