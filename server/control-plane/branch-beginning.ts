/**
 * Whether what a branch begins with is there: all of its ancestors' WAL up to where it branched off. A pageserver that has just started reads that again; after a
 * machine was lost, it may be nowhere, and a compute would wait for it for ever.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId, TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { nodeClock } from '../process/node-host.ts';
import { labelOfTimeline } from './branches.ts';
import type { RepositoryConfig } from './repository.ts';
import type { StorageApi, TimelineInfo } from './storage-api.ts';

/** Without progress. */
const patienceMs = 10_000;
const pollPauseMs = 200;

/** What `parent` lacks of what `child`, a branch of it, begins with, for messages; null if nothing, or if it is broken, which is said elsewhere. */
export function missingBeginning(
  config: RepositoryConfig,
  tenantId: TenantId,
  child: TimelineInfo,
  parent: TimelineInfo,
): string | null {
  const { lastRecordLsn: reachedLsn } = parent;
  const beginsLsn = child.ancestor!.lsn;
  if (reachedLsn === null || reachedLsn >= beginsLsn) return null;
  const nameOf = ({ timelineId }: TimelineInfo) => labelOfTimeline(config, { tenantId, timelineId });
  const begins = `branch "${nameOf(child)}" begins at Lsn ${formatLsn(beginsLsn)} of branch "${nameOf(parent)}"`;
  return `${begins}, which is here up to ${formatLsn(reachedLsn)} only`;
}

/** As `missingBeginning`, of a branch and of what it branched from; waits as long as the pageserver goes on with it. */
export async function missingForGood(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
): Promise<string | null> {
  let sinceMs = nodeClock.now();
  let before: Lsn | null = null;
  for (;;) {
    const missing = await findMissing(storage, config, id);
    if (missing === null) return null;
    if (missing.reachedLsn !== before) sinceMs = nodeClock.now();
    before = missing.reachedLsn;
    if (nodeClock.now() - sinceMs > patienceMs) return missing.text;
    await nodeClock.sleep(pollPauseMs);
  }
}

/** Waits likewise. Throws `unavailable`, saying what is missing. */
export async function checkBeginning(
  storage: StorageApi,
  config: RepositoryConfig,
  id: TenantTimelineId,
): Promise<void> {
  const missing = await missingForGood(storage, config, id);
  if (missing === null) return;
  const hint = 'pagelite safekeeper status shows what WAL is there; pagelite timeline list, where branches begin';
  throw new PageliteError('unavailable', `${missing}. ${hint}`, { ...id });
}

/** Of the branch, or of what it branched from. */
async function findMissing(
  storage: StorageApi,
  config: RepositoryConfig,
  { tenantId, timelineId }: TenantTimelineId,
): Promise<{ readonly text: string; readonly reachedLsn: Lsn | null } | null> {
  let child = await storage.getTimeline({ tenantId, timelineId });
  while (child.ancestor !== null) {
    const parent = await storage.getTimeline({ tenantId, timelineId: child.ancestor.timelineId });
    const text = missingBeginning(config, tenantId, child, parent);
    if (text !== null) return { text, reachedLsn: parent.lastRecordLsn };
    child = parent;
  }
  return null;
}
