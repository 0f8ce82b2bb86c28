/**
 * Makes a branch again from its WAL in the remote storage alone (`pagelite timeline recover`): its layers, and the WAL of safekeepers that have lost theirs.
 *
 * In this order, and again from the beginning after a crash, which finds what was done done:
 * 1. nothing is touched before it is known that the WAL is there from its beginning on, and what it begins from: the template, or another branch
 * 2. safekeepers that have none of it get the end of it (SafekeeperUpkeep.restore); those that have some keep it: it may be more
 * 3. the pageserver begins the timeline anew, and reads all of its WAL through the safekeepers (wal-archive.ts)
 *
 * Invariants:
 * - all safekeepers must answer: one that is away may have commits that are not in the storage
 * - what branched from it stays as it is, and all of it must have branched off where the WAL is still there
 */
import { z } from 'zod';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { ArchivedLog, type ArchivedLogInfo } from '../../engine/safekeeper/archived-log.ts';
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import { openBackup } from '../safekeeper/backup-location.ts';
import { labelOfTimeline, nameBranch, nameOfTimeline } from './branches.ts';
import { longRequestTimeoutMs } from './http-api.ts';
import type { Repository } from './repository.ts';
import { askEach, messagesOf } from './safekeeper-clients.ts';
import { checkNoEndpoints } from './storage-admin.ts';
import type { TimelineInfo } from './storage-api.ts';
import type { HttpStorage } from './storage-clients.ts';
import { checkNotEmbedded } from './storage-processes.ts';
import { changeNames } from './stored-names.ts';

export interface RecoverOptions {
  readonly id: TenantTimelineId;
  /** Given to the timeline if it has none. */
  readonly name: string;
  /** What it branched from; default: what the pageserver knows, if it knows the timeline. */
  readonly ancestor: TimelineId | null;
  readonly onProgress: (progress: TransferProgress) => void;
}

export interface RecoveredTimeline {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** The pageserver had WAL up to here that is nowhere else; null if nothing is lost. */
  readonly hadLsn: Lsn | null;
}

const pollPauseMs = 200;

export async function recoverTimeline(
  storage: HttpStorage,
  repository: Repository,
  { id, name, ancestor: given, onProgress }: RecoverOptions,
): Promise<RecoveredTimeline> {
  checkNotEmbedded(repository);
  checkNoEndpoints(repository, id.tenantId, id.timelineId);
  const log = await findLog(repository, id);
  const known = await knownTimelines(storage, id);
  const before = known.find(({ timelineId }) => timelineId === id.timelineId) ?? null;
  const ancestor = given ?? before?.ancestor?.timelineId ?? null;
  if (ancestor !== null) checkAncestor(known, ancestor);
  else await checkTemplate(storage, id, log);

  await restoreSafekeepers(storage, id);
  const endLsn = (await storage.getCommitLsn(id)) ?? log.startLsn;
  checkBranchPoints(repository, known, id, endLsn);
  const beginning = ancestor && { timelineId: ancestor, lsn: log.startLsn };
  await (before === null ? storage.createTimeline(id, beginning) : storage.rebuildTimeline(id, beginning));
  if (nameOfTimeline(repository.readConfig(), id) === null) {
    await changeNames(storage, repository, id.tenantId, (config) => nameBranch(config, name, id));
  }
  await caughtUp(storage, id, log.startLsn, endLsn, onProgress);
  const had = before?.lastRecordLsn ?? null;
  return { startLsn: log.startLsn, endLsn, hadLsn: had !== null && had > endLsn ? had : null };
}

async function findLog(repository: Repository, id: TenantTimelineId): Promise<ArchivedLogInfo> {
  const backup = await repository.walBackup();
  if (backup === null) {
    const text = 'the safekeepers of this repository send their WAL nowhere (init --disable-wal-backup)';
    throw new PageliteError('invalid', `${text}: there is nothing to make a branch from`);
  }
  const { info } = await ArchivedLog.open(await openBackup(backup), id);
  return info;
}

/** A tenant that is gone is made again, too. */
async function knownTimelines(storage: HttpStorage, id: TenantTimelineId): Promise<readonly TimelineInfo[]> {
  try {
    return await storage.listTimelines(id.tenantId);
  } catch (error) {
    if (!isPageliteError(error, 'notFound')) throw error;
    await storage.createTenant(id.tenantId);
    return [];
  }
}

function checkAncestor(known: readonly TimelineInfo[], ancestor: TimelineId): void {
  const found = known.find(({ timelineId }) => timelineId === ancestor);
  if (found !== undefined && found.broken === null) return;
  const problem = found === undefined ? 'is not there' : `is broken: ${found.broken}`;
  throw new PageliteError('notFound', `timeline ${ancestor}, which it branched from, ${problem}. Recover that first`);
}

/** What a branch reads of this one was WAL, and must be there still. */
function checkBranchPoints(
  repository: Repository,
  known: readonly TimelineInfo[],
  id: TenantTimelineId,
  endLsn: Lsn,
): void {
  const cut = known.filter(({ ancestor }) => ancestor?.timelineId === id.timelineId && ancestor.lsn > endLsn);
  if (cut.length === 0) return;
  const config = repository.readConfig();
  const names = cut.map(({ timelineId }) => labelOfTimeline(config, { ...id, timelineId }));
  const text = `${names.join(', ')} branched from it later than its WAL goes, which is up to ${formatLsn(endLsn)}`;
  const hint = 'What they read of it is only in its layers: pagelite timeline detach-ancestor, then recover it again';
  throw new PageliteError('invalid', `timeline ${id.timelineId} cannot be made again: ${text}. ${hint}`);
}

/** What does not begin at the template's end was imported, or came from elsewhere: what it began with is not in its WAL. */
async function checkTemplate(storage: HttpStorage, id: TenantTimelineId, log: ArchivedLogInfo): Promise<void> {
  const scratch = { ...id, timelineId: newTimelineId(nodeRandom) };
  const { lastRecordLsn } = await storage.createTimeline(scratch, null);
  await storage.forgetTimeline(scratch);
  if (lastRecordLsn === log.startLsn) return;
  const begins = formatLsn(log.startLsn);
  const text = `its WAL begins at ${begins}, an empty branch at ${formatLsn(lastRecordLsn ?? (0 as Lsn))}: it began with something else`;
  const hint =
    'If it branched from another branch: --ancestor-branch-name. What was imported cannot be made again from WAL: pagelite import';
  throw new PageliteError('invalid', `timeline ${id.timelineId} cannot be made from the template: ${text}. ${hint}`);
}

async function restoreSafekeepers(storage: HttpStorage, { tenantId, timelineId }: TenantTimelineId): Promise<void> {
  const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/restore`;
  const { errors } = await askEach(storage.safekeepers.apis, (api) =>
    api.call(z.unknown(), 'POST', path, {}, longRequestTimeoutMs),
  );
  if (errors.length === 0) return;
  const hint =
    'One that does not answer may have what the remote storage does not: start it, or put another one in its place';
  throw new PageliteError('unavailable', `not all safekeepers have the WAL: ${messagesOf(errors)}. ${hint}`);
}

/** Waits until the pageserver has read WAL up to `endLsn`. Throws `corrupt` if it cannot. */
export async function caughtUp(
  storage: HttpStorage,
  id: TenantTimelineId,
  startLsn: Lsn,
  endLsn: Lsn,
  onProgress: (progress: TransferProgress) => void,
): Promise<void> {
  for (;;) {
    const { lastRecordLsn, broken } = await storage.getTimeline(id);
    if (broken !== null)
      throw new PageliteError('corrupt', `timeline ${id.timelineId} cannot be made again: ${broken}`);
    const at = lastRecordLsn ?? startLsn;
    if (at >= endLsn) return;
    onProgress({ text: 'reading WAL', done: at - startLsn, total: endLsn - startLsn, unit: 'bytes' });
    await nodeClock.sleep(pollPauseMs);
  }
}
