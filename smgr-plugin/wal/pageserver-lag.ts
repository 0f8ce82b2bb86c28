/**
 * Back-pressure from the pageserver (W2 of the write path): a writer that is far ahead of what the pageserver has ingested waits, so that reads, which
 * wait for that, do not run into their time limit, and a restart has little WAL to read. Called by bridge/io-host.ts before it takes WAL.
 *
 * Invariants
 * - where the writer is not far ahead nothing is asked and nobody waits
 * - nobody waits for a pageserver that does not answer before the bound is reached by what it was last known to have
 *
 * Source: Neon's max_replication_write_lag (pgxn/neon/walproposer_pg.c, backpressure_lag), with its default.
 */
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import { pageserverLagPollMs } from '../../engine/limits.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { Clock, Log, PageService } from '../../engine/services.ts';

export interface PageserverLagOptions {
  readonly pages: Pick<PageService, 'id' | 'getStatus'>;
  readonly clock: Clock;
  readonly log: Log;
  /** 0: no bound. */
  readonly lagBytesMax: number;
  /** The writer may go on. */
  readonly onRoom: () => void;
  readonly signal: AbortSignal;
}

export class PageserverLag {
  readonly #options: PageserverLagOptions;
  #knownLsn: number;
  #endLsn = 0;
  #isAsking = false;
  #isHeld = false;

  /** The pageserver has ingested everything up to `startLsn`. */
  constructor(startLsn: Lsn, options: PageserverLagOptions) {
    this.#knownLsn = startLsn;
    this.#options = options;
  }

  /** Whether a writer at `endLsn` has to wait; then `onRoom` follows. */
  mustWait(endLsn: Lsn): boolean {
    const { pages, log, lagBytesMax } = this.#options;
    if (lagBytesMax === 0) return false;
    this.#endLsn = endLsn;
    const lag = endLsn - this.#knownLsn;
    if (lag < lagBytesMax / 2) return false;
    // Before it matters, so that a pageserver that keeps up costs no wait.
    if (!this.#isAsking) void this.#ask();
    if (lag < lagBytesMax) return false;
    if (!this.#isHeld) {
      this.#isHeld = true;
      const ingestedLsn = formatLsn(this.#knownLsn as Lsn);
      log.warn('writers wait for the pageserver', { ...pages.id, ingestedLsn, lagBytes: lag });
    }
    return true;
  }

  /** Until the writer is no longer far ahead. */
  async #ask(): Promise<void> {
    const { pages, clock, log, lagBytesMax, onRoom, signal } = this.#options;
    let toldProblem = '';
    this.#isAsking = true;
    try {
      while (!signal.aborted) {
        const problem = await this.#update();
        const lag = this.#endLsn - this.#knownLsn;
        if (problem !== null && problem !== toldProblem) {
          toldProblem = problem;
          log.warn('the pageserver does not get on', { ...pages.id, error: problem });
        }
        if (lag < lagBytesMax && this.#isHeld) {
          this.#isHeld = false;
          log.info('writers go on: the pageserver has caught up', { ...pages.id });
          onRoom();
        }
        if (lag < lagBytesMax / 2) return;
        await clock.sleep(pageserverLagPollMs, signal).catch(() => {});
      }
    } finally {
      this.#isAsking = false;
    }
  }

  /** What is wrong with the pageserver; null if nothing is. */
  async #update(): Promise<string | null> {
    const { pages, signal } = this.#options;
    try {
      const { lastRecordLsn, stopped } = await pages.getStatus(signal);
      if (lastRecordLsn > this.#knownLsn) this.#knownLsn = lastRecordLsn;
      return stopped;
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      return messageOf(error);
    }
  }
}
