/**
 * Moments of the tab's branches, as LSNs, and their history as far back as the tab has it: a hybrid branch's begins where it left the server, which has
 * what is older.
 */
import { PageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { Clock } from '../../engine/services.ts';
import type { LineagePart } from '../../engine/timeline/branch-history.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';

/** A moment of a branch: its end, an LSN of it, or all that was committed until a time. */
export type BranchMoment = 'end' | { readonly lsn: Lsn } | { readonly timestampMs: number };

interface Sources {
  readonly pageserver: Pageserver;
  readonly safekeeper: Safekeeper;
  readonly clock: Clock;
}

export class BranchMoments {
  readonly #sources: Sources;

  constructor(sources: Sources) {
    this.#sources = sources;
  }

  /** Up to where everything that was acknowledged is. */
  async endLsn(id: TenantTimelineId): Promise<Lsn> {
    const { pageserver, safekeeper } = this.#sources;
    const { lastRecordLsn } = await (await pageserver.openPages(id)).getStatus();
    const status = await safekeeper.getStatus(id);
    if (status === null) return lastRecordLsn;
    return Math.max(lastRecordLsn, status.commitLsn) as Lsn;
  }

  /** `branch`: its name, for messages. Throws `invalid` for a moment that the branch itself does not have. */
  async lsnOf(branch: string, id: TenantTimelineId, at: Exclude<BranchMoment, 'end'>): Promise<Lsn> {
    const { pageserver, clock } = this.#sources;
    const { startLsn } = await (await pageserver.openPages(id)).getStatus();
    const endLsn = await this.endLsn(id);
    const span = `it goes from ${formatLsn(startLsn)} to ${formatLsn(endLsn)}`;
    if ('lsn' in at) {
      if (at.lsn >= startLsn && at.lsn <= endLsn) return at.lsn;
      const lsn = formatLsn(at.lsn);
      throw new PageliteError('invalid', `branch "${branch}" has no LSN ${lsn}: ${span}`, { branch, lsn });
    }
    const timestamp = new Date(at.timestampMs).toISOString();
    if (at.timestampMs > clock.now())
      throw new PageliteError('invalid', `${timestamp} is in the future`, { timestamp });
    await pageserver.catchUp(id, endLsn);
    const answer = await pageserver.findLsnByTimestamp(id, at.timestampMs);
    if (answer.kind === 'present' || answer.kind === 'future') return answer.lsn;
    const why = answer.kind === 'past' ? 'has no commits that are as old as' : 'has no commits with a time, asked for';
    throw new PageliteError('invalid', `branch "${branch}" ${why} ${timestamp}: ${span}`, { branch, timestamp });
  }

  /** The branch and those that it came from, nearest first. Of each, everything that its part needs is ingested when this resolves. */
  async lineage(branch: TenantTimelineId): Promise<LineagePart[]> {
    const { pageserver } = this.#sources;
    const endLsn = await this.endLsn(branch);
    const here = new Set<string>(await pageserver.listTimelines(branch.tenantId));
    const found: LineagePart[] = [];
    let timeline = branch;
    for (let until: Lsn | null = null; ; ) {
      const { startLsn, ancestor } = await (await pageserver.openPages(timeline)).getStatus();
      await pageserver.catchUp(timeline, until ?? endLsn);
      const isOldest = ancestor === null || !here.has(ancestor.timelineId);
      found.push({ timeline, startLsn, hasAncestor: !isOldest, until });
      if (isOldest) return found;
      until = ancestor.lsn;
      timeline = { ...branch, timelineId: timelineId(ancestor.timelineId) };
    }
  }
}
