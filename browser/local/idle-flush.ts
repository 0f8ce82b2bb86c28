/**
 * Flushes branches that nobody writes to any more, so that the next load of the tab reads layers and not WAL. Losing it costs nothing.
 */
import { messageOf } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Clock, Log } from '../../engine/services.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';
import { idleFlushAfterMs, idleFlushBytesMin } from './tab-limits.ts';

export interface IdleFlushOptions {
  readonly pageserver: Pageserver;
  readonly timelines: () => readonly TenantTimelineId[];
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** Runs until the signal fires. */
export async function flushWhenIdle(options: IdleFlushOptions): Promise<void> {
  const { clock, signal } = options;
  /** LSN of each timeline at the last look. */
  const seen = new Map<string, number>();
  while (!signal.aborted) {
    await clock.sleep(idleFlushAfterMs, signal).catch(() => {});
    for (const id of options.timelines()) {
      if (signal.aborted) return;
      await flushIfIdle(options, id, seen).catch((error) => {
        if (!signal.aborted) options.log.warn('a branch cannot be flushed', { ...id, error: messageOf(error) });
      });
    }
  }
}

async function flushIfIdle(
  { pageserver }: IdleFlushOptions,
  id: TenantTimelineId,
  seen: Map<string, number>,
): Promise<void> {
  const { lastRecordLsn, diskConsistentLsn, stopped } = await (await pageserver.openPages(id)).getStatus();
  const before = seen.get(id.timelineId);
  seen.set(id.timelineId, lastRecordLsn);
  if (stopped !== null || before !== lastRecordLsn) return;
  if (lastRecordLsn - diskConsistentLsn >= idleFlushBytesMin) await pageserver.flush(id);
}
