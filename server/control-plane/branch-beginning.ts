/**
 * Whether what a branch begins with is there: all of its ancestors' WAL up to where it branched off. A pageserver that has just started reads that again; after a
 * machine was lost, it may be nowhere, and a compute would wait for it for ever.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { nodeClock } from '../process/node-host.ts';
import { nameOfTimeline } from './branches.ts';
import type { RepositoryConfig } from './repository.ts';
import type { StorageApi } from './storage-api.ts';

/** Without progress. */
const patienceMs = 10_000;
const pollPauseMs = 200;

/** What is missing, for messages; null if nothing is, or if an ancestor is broken, which is said elsewhere. */
export async function missingBeginning(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
): Promise<string | null> {
  return (await findMissing(storage, config, id))?.text ?? null;
}

/** Waits as long as the pageserver goes on with it. Throws `unavailable`, saying what is missing. */
export async function checkBeginning(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
): Promise<void> {
  let sinceMs = nodeClock.now();
  let before: Lsn | null = null;
  for (;;) {
    const missing = await findMissing(storage, config, id);
    if (missing === null) return;
    if (missing.reachedLsn !== before) sinceMs = nodeClock.now();
    before = missing.reachedLsn;
    if (nodeClock.now() - sinceMs > patienceMs) {
      const hint = 'pagelite safekeeper status shows what WAL is there; pagelite timeline list, where branches begin';
      throw new PageliteError('unavailable', `${missing.text}. ${hint}`, { ...id });
    }
    await nodeClock.sleep(pollPauseMs);
  }
}

async function findMissing(
  storage: StorageApi,
  config: RepositoryConfig,
  { tenantId, timelineId }: TenantTimelineId,
): Promise<{ readonly text: string; readonly reachedLsn: Lsn } | null> {
  const named = (id: TenantTimelineId) => nameOfTimeline(config, id) ?? id.timelineId;
  let child = await storage.getTimeline({ tenantId, timelineId });
  while (child.ancestor !== null) {
    const { lsn, timelineId: ancestorId } = child.ancestor;
    const parent = await storage.getTimeline({ tenantId, timelineId: ancestorId });
    const { lastRecordLsn: reachedLsn } = parent;
    if (reachedLsn !== null && reachedLsn < lsn) {
      const [branch, ancestor] = [child, parent].map((one) => named({ tenantId, timelineId: one.timelineId }));
      const text = `branch "${branch}" begins at Lsn ${formatLsn(lsn)} of branch "${ancestor}", which is here up to ${formatLsn(reachedLsn)} only`;
      return { text, reachedLsn };
    }
    child = parent;
  }
  return null;
}
