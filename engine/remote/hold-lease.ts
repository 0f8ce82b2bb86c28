/**
 * Keeps an LSN of a timeline readable for as long as somebody reads there: asks for a lease (PageService.leaseLsn) and asks again in time.
 *
 * Held by read-only endpoints. A pageserver that is away for a while costs nothing: leases are stored (timeline/lsn-leases.ts), and those that it finds
 * at its start last for as long as it takes to ask for them again.
 */
import { messageOf } from '../errors.ts';
import { leaseRenewPauseMinMs, leaseRetryPauseMs } from '../limits.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log, PageService } from '../services.ts';

/** Resolves with the first lease; then it is renewed until the signal fires. Rejects as `leaseLsn` does if there is no first one. */
export async function holdLease(
  service: PageService,
  lsn: Lsn,
  { clock, log, signal }: { readonly clock: Clock; readonly log: Log; readonly signal: AbortSignal },
): Promise<void> {
  const { validForMs } = await service.leaseLsn(lsn, signal);
  void renew(service, lsn, validForMs, { clock, log, signal });
}

async function renew(
  service: PageService,
  lsn: Lsn,
  validForMs: number,
  { clock, log, signal }: { readonly clock: Clock; readonly log: Log; readonly signal: AbortSignal },
): Promise<void> {
  let pauseMs = renewAfterMs(validForMs);
  while (!signal.aborted) {
    try {
      await clock.sleep(pauseMs, signal);
      pauseMs = renewAfterMs((await service.leaseLsn(lsn, signal)).validForMs);
    } catch (error) {
      if (signal.aborted) return;
      log.warn('a lease is not renewed', { ...service.id, lsn: formatLsn(lsn), error: messageOf(error) });
      pauseMs = leaseRetryPauseMs;
    }
  }
}

/** Twice before it ends, so that one lost request does not matter. */
const renewAfterMs = (validForMs: number): number => Math.max(leaseRenewPauseMinMs, validForMs / 3);
