/** Whether the layers of an imported timeline make a database: what a compute boots from is there at its end, and of the system it is said to be. */
import { buildBasebackup } from '../basebackup/basebackup.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import type { Basebackup } from '../services.ts';
import type { Timeline } from '../timeline/timeline.ts';

/** Throws `invalid`. What is not about the layers (an ancestor that is away, a store) as it is. */
export async function checkDatabase(timeline: Timeline): Promise<void> {
  const { id, lastRecordLsn, prevRecordLsn, systemIdentifier } = timeline;
  const bad = (problem: string, cause?: unknown) =>
    new PageliteError('invalid', `timeline ${id.timelineId} is not a database: ${problem}`, { ...id }, { cause });
  let basebackup: Basebackup;
  try {
    basebackup = await buildBasebackup(timeline, lastRecordLsn, prevRecordLsn);
  } catch (error) {
    if (isPageliteError(error, 'corrupt') || isPageliteError(error, 'invalid')) throw bad(error.message, error);
    throw error;
  }
  if (basebackup.systemIdentifier !== systemIdentifier) {
    throw bad(`its pg_control is of system ${basebackup.systemIdentifier}, not of ${systemIdentifier}`);
  }
}
