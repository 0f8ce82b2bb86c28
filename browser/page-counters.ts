/** A PageService that counts the pages it has given: what a connection's `pageCounters` shows. */
import { pageSize } from '../engine/limits.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';
import type { Key } from '../engine/model/key.ts';
import type { Lsn } from '../engine/model/lsn.ts';
import type { BlockNumber, RelTag } from '../engine/model/rel.ts';
import type { Basebackup, PageService, ReadLsn, TimelineStatus } from '../engine/services.ts';
import type { TrafficCounter } from './net/ws-channel.ts';

export interface ReadCounters {
  pages: number;
  readonly traffic: TrafficCounter;
}

export const newReadCounters = (): ReadCounters => ({ pages: 0, traffic: { bytesReceived: 0 } });

export class CountedPages implements PageService {
  readonly #pages: PageService;
  readonly #counters: ReadCounters;

  constructor(pages: PageService, counters: ReadCounters) {
    this.#pages = pages;
    this.#counters = counters;
  }

  get id(): TenantTimelineId {
    return this.#pages.id;
  }

  async getPages(at: ReadLsn, rel: RelTag, first: BlockNumber, count: number, signal?: AbortSignal) {
    const pages = await this.#pages.getPages(at, rel, first, count, signal);
    this.#counters.pages += count;
    return pages;
  }

  async getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]> {
    const images = await this.#pages.getImages(at, keys, signal);
    this.#counters.pages += images.length;
    return images;
  }

  getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null> {
    return this.#pages.getRelSize(at, rel, signal);
  }

  listRels(at: ReadLsn, spc: number, db: number, signal?: AbortSignal) {
    return this.#pages.listRels(at, spc, db, signal);
  }

  async getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup> {
    const basebackup = await this.#pages.getBasebackup(lsn, signal);
    for (const { pages } of basebackup.prewarm) this.#counters.pages += pages.length / pageSize;
    return basebackup;
  }

  getStatus(signal?: AbortSignal): Promise<TimelineStatus> {
    return this.#pages.getStatus(signal);
  }

  leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }> {
    return this.#pages.leaseLsn(lsn, signal);
  }
}
