/**
 * The history of a branch of the tab, as far back as the tab has it: a hybrid branch's begins where it left the server, which has what is older.
 */
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { LineagePart } from '../../engine/timeline/branch-history.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';

/** The branch and those that it came from, nearest first. Of each, everything that its part needs is ingested when this resolves. */
export async function localLineage(
  pageserver: Pageserver,
  branch: TenantTimelineId,
  endLsn: Lsn,
): Promise<LineagePart[]> {
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
    timeline = { ...branch, timelineId: ancestor.timelineId as TenantTimelineId['timelineId'] };
  }
}
