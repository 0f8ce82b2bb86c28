/** The branches as a tree, flattened into rows: children below their parent, in the order of their names. */
import type { BranchInfo } from '../api.ts';

export interface TreeRow {
  readonly branch: BranchInfo;
  readonly depth: number;
  /** Of the branch that it came from, if that is shown. */
  readonly parent: string | null;
}

/** A name alone may be in the tab and on the server. */
export const branchKey = ({ name, place }: Pick<BranchInfo, 'name' | 'place'>): string =>
  `${place === 'server' ? 'server' : 'local'}:${name}`;

export function treeRows(branches: readonly BranchInfo[]): TreeRow[] {
  const byKey = new Map(branches.map((branch) => [branchKey(branch), branch]));
  const children = new Map<string | null, BranchInfo[]>();
  for (const branch of branches) {
    const parent = parentKey(branch, byKey);
    children.set(parent, [...(children.get(parent) ?? []), branch]);
  }
  const rows: TreeRow[] = [];
  const add = (parent: string | null, depth: number): void => {
    const sorted = (children.get(parent) ?? []).sort(inOrder);
    for (const branch of sorted) {
      rows.push({ branch, depth, parent });
      add(branchKey(branch), depth + 1);
    }
  };
  add(null, 0);
  return rows;
}

function parentKey({ ancestor }: BranchInfo, known: ReadonlyMap<string, BranchInfo>): string | null {
  if (ancestor?.name == null) return null;
  const key = branchKey({ name: ancestor.name, place: ancestor.place });
  return known.has(key) ? key : null;
}

function inOrder(a: BranchInfo, b: BranchInfo): number {
  if (a.name === b.name) return a.place < b.place ? -1 : 1;
  if (a.name === 'main' || b.name === 'main') return a.name === 'main' ? -1 : 1;
  return a.name < b.name ? -1 : 1;
}
