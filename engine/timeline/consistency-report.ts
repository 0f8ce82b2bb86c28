/**
 * Tells the safekeepers up to where a pageserver needs no WAL of a timeline any more (beside W9 of the write path): they may remove it. Called when an index
 * has been stored, and when WAL is followed anew, as a safekeeper that has started again does not know.
 *
 * Invariant: what is told is in a stored index, and after it was stored nobody newer had claimed the tenant: whoever claims it later reads that index or a
 * newer one (tenant-claims.ts). So no owner ever asks for WAL below. Source: Neon's remote_consistent_lsn_visible (pageserver's deletion queue).
 */
import { isPageliteError, messageOf } from '../errors.ts';
import { consistencyReportPauseMs } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { Clock, Log, WalService } from '../services.ts';
import type { TenantAttachment } from './tenant-claims.ts';

export interface ConsistencyReportParts {
  readonly id: TenantTimelineId;
  readonly services: readonly WalService[];
  readonly attachment: TenantAttachment;
  /** Of the index that is stored. */
  readonly storedLsn: () => Lsn;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

export class ConsistencyReport {
  readonly #parts: ConsistencyReportParts;
  #reportedLsn = 0;
  #running: Promise<void> | null = null;

  constructor(parts: ConsistencyReportParts) {
    this.#parts = parts;
  }

  /** `again`: also what was told before. */
  tell({ again = false }: { readonly again?: boolean } = {}): void {
    if (again) this.#reportedLsn = 0;
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
  }

  async #run(): Promise<void> {
    const { id, storedLsn, clock, log, signal } = this.#parts;
    while (!signal.aborted && storedLsn() > this.#reportedLsn) {
      const lsn = storedLsn();
      try {
        if (await this.#report(lsn)) this.#reportedLsn = Math.max(this.#reportedLsn, lsn);
        else await clock.sleep(consistencyReportPauseMs, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!isPageliteError(error)) throw error;
        // The upload queue meets it, too, and says so.
        if (error.kind === 'fenced') return;
        log.debug('safekeepers do not know yet what is stored', { ...id, error: error.message });
        await clock.sleep(consistencyReportPauseMs, signal).catch(() => {});
      }
    }
  }

  /** False if no safekeeper has heard it. They tell each other. */
  async #report(lsn: Lsn): Promise<boolean> {
    const { id, services, attachment, log } = this.#parts;
    if (services.length === 0) return true;
    await attachment.check();
    const told = await Promise.all(
      services.map((service) =>
        service.reportConsistent(id, lsn).then(
          () => true,
          (error: unknown) => {
            log.debug('a safekeeper is away', { ...id, nodeId: service.nodeId, error: messageOf(error) });
            return false;
          },
        ),
      ),
    );
    return told.includes(true);
  }
}
