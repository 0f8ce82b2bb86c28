/** The tree of a tenant's branches, drawn as neon_local draws it. Children stand in the order of their branch points. */
import type { TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';

export interface TreeTimeline {
  readonly timelineId: TimelineId;
  readonly name: string | null;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null;
  readonly isArchived?: boolean;
  /** Why it does not work, or null. */
  readonly broken: string | null;
}

/** One line a timeline. A timeline whose ancestor is not in the list stands as a root, with its branch point. */
export function drawTimelineTree(timelines: readonly TreeTimeline[]): string[] {
  const known = new Set(timelines.map(({ timelineId }) => timelineId));
  const childrenOf = new Map<TimelineId | null, TreeTimeline[]>();
  for (const timeline of timelines) {
    const parent = timeline.ancestor && known.has(timeline.ancestor.timelineId) ? timeline.ancestor.timelineId : null;
    childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), timeline]);
  }
  const lines: string[] = [];
  const draw = (parent: TimelineId | null, padding: string) => {
    const children = (childrenOf.get(parent) ?? []).toSorted(byBranchPoint);
    children.forEach((timeline, index) => {
      const isLast = index === children.length - 1;
      const branch = parent === null ? '' : isLast ? '┗━ ' : '┣━ ';
      lines.push(`(L) ${padding}${branch}${label(timeline)}`);
      draw(timeline.timelineId, parent === null ? '' : padding + (isLast ? '   ' : '┃  '));
    });
  };
  draw(null, '');
  return lines;
}

function label({ name, timelineId, ancestor, broken, isArchived = false }: TreeTimeline): string {
  const at = ancestor ? `@${formatLsn(ancestor.lsn)}: ` : '';
  return `${at}${name ?? '_no_name_'} [${timelineId}]${isArchived ? ' archived' : ''}${broken === null ? '' : ` broken: ${broken}`}`;
}

function byBranchPoint(a: TreeTimeline, b: TreeTimeline): number {
  const byLsn = (a.ancestor?.lsn ?? 0) - (b.ancestor?.lsn ?? 0);
  if (byLsn !== 0) return byLsn;
  const [left, right] = [a.name ?? a.timelineId, b.name ?? b.timelineId];
  return left < right ? -1 : left > right ? 1 : 0;
}
