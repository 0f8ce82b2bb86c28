/**
 * What a branch of a running repository holds, as the command line sees it: the pageserver knows where it starts, a safekeeper how far it is
 * acknowledged. The pageserver follows the safekeepers and may be a moment behind.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BranchExtent } from './branch-point.ts';
import { nameOfTimeline } from './branches.ts';
import type { RepositoryConfig } from './repository.ts';
import { PageserverClient, SafekeeperClient } from './storage-clients.ts';

/** A pageserver that has just started reads again what its layers do not hold: at most a few hundred megabytes. */
const catchUpTimeoutMs = 60_000;

/** Throws `corrupt` if the timeline is broken. Waits until the pageserver has all that is acknowledged now. */
export async function branchExtent(
  config: RepositoryConfig,
  id: TenantTimelineId,
  branch: string,
): Promise<BranchExtent> {
  const pageserver = new PageserverClient(config.pageserver);
  const committed = await commitLsnOf(config, id);
  for (let waitedMs = 0; ; waitedMs += 20) {
    const { startLsn, lastRecordLsn, ancestor, broken } = await pageserver.getTimeline(id);
    if (broken !== null) {
      throw new PageliteError('corrupt', `branch "${branch}" does not work: ${broken}`, { ...id });
    }
    if (startLsn === null || lastRecordLsn === null) {
      throw new PageliteError('unavailable', `the pageserver does not say where branch "${branch}" ends`, { ...id });
    }
    if (lastRecordLsn >= committed) {
      const ancestorName = ancestor ? (nameOfTimeline(config, { ...id, ...ancestor }) ?? ancestor.timelineId) : null;
      return { branch, startLsn, endLsn: lastRecordLsn, ancestor: ancestorName };
    }
    if (waitedMs >= catchUpTimeoutMs) throw behind(branch, committed, lastRecordLsn);
    await sleep(20);
  }
}

/** What a quorum has; one safekeeper may not know the latest of it. */
async function commitLsnOf(config: RepositoryConfig, id: TenantTimelineId): Promise<Lsn> {
  const answers = await Promise.all(config.safekeepers.map((node) => new SafekeeperClient(node).getCommitLsn(id)));
  return Math.max(0, ...answers.map((lsn) => lsn ?? 0)) as Lsn;
}

function behind(branch: string, committed: Lsn, reached: Lsn): PageliteError {
  const text =
    `the pageserver has branch "${branch}" up to ${formatLsn(reached)} and does not come to ${formatLsn(committed)}, ` +
    'which is acknowledged. Its log, pageserver_1/pageserver.log, says why';
  return new PageliteError('unavailable', text, { branch });
}
