/**
 * Tells the log of reads of pages that took long, or that many layers were looked into for: what an operator sees first of a timeline that
 * wants compaction. One line in `slowReadLogPauseMs` for each timeline, with the number of those that it stands for.
 */
import type { ValueChain } from '../layers/value-chain.ts';
import { slowReadLayers, slowReadLogPauseMs, slowReadMs } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatKey } from '../model/key.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log } from '../services.ts';

export class SlowReads {
  readonly #id: TenantTimelineId;
  readonly #clock: Clock;
  readonly #log: Log;
  #quietUntilMs = Number.NEGATIVE_INFINITY;
  #untold = 0;

  constructor(id: TenantTimelineId, clock: Clock, log: Log) {
    this.#id = id;
    this.#clock = clock;
    this.#log = log;
  }

  /** Pages that were asked for together are read: gathered and rebuilt since `startMs`, not counting the wait for their LSN. */
  observe(chains: readonly ValueChain[], lsn: Lsn, startMs: number): void {
    const nowMs = this.#clock.now();
    const ms = nowMs - startMs;
    let worst = chains[0]!;
    let longest = 0;
    for (const chain of chains) {
      if (chain.layersVisited > worst.layersVisited) worst = chain;
      longest = Math.max(longest, chain.lsns.length);
    }
    if (ms < slowReadMs && worst.layersVisited < slowReadLayers) return;
    if (nowMs < this.#quietUntilMs) {
      this.#untold++;
      return;
    }
    this.#log.warn('slow read of pages', {
      ...this.#id,
      key: formatKey(worst.prefix, chains[0]!.block),
      pages: chains.length,
      lsn: formatLsn(lsn),
      ms,
      layersVisited: worst.layersVisited,
      chainLength: longest,
      moreOfThem: this.#untold,
    });
    this.#quietUntilMs = nowMs + slowReadLogPauseMs;
    this.#untold = 0;
  }
}
