/** The tree of branches looks as in Neon's README, for every shape of tree. */
import { describe, expect, it } from 'vitest';
import type { TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { drawTimelineTree, type TreeTimeline } from '../../server/cli/timeline-tree.ts';

const id = (digit: string) => digit.repeat(32) as TimelineId;

function timeline(name: string, digit: string, parent?: string, lsn = 0): TreeTimeline {
  const ancestor = parent === undefined ? null : { timelineId: id(parent), lsn: lsn as Lsn };
  return { name, timelineId: id(digit), ancestor, broken: null };
}

describe('the tree of branches', () => {
  it("is drawn as in Neon's README", () => {
    const lines = drawTimelineTree([timeline('migration_check', 'b', 'd', 0x16f9a00), timeline('main', 'd')]);
    expect(lines).toEqual([`(L) main [${id('d')}]`, `(L) ┗━ @0/16F9A00: migration_check [${id('b')}]`]);
  });

  it('nests, and orders children by branch point', () => {
    const lines = drawTimelineTree([
      timeline('main', '0'),
      timeline('late', '1', '0', 0x300),
      timeline('early', '2', '0', 0x100),
      timeline('of-early', '3', '2', 0x200),
      timeline('of-of-early', '4', '3', 0x210),
      timeline('of-late', '5', '1', 0x400),
      timeline('other-root', '6'),
    ]);
    expect(lines.map((line) => line.replace(/ \[.*/, ''))).toEqual([
      '(L) main',
      '(L) ┣━ @0/100: early',
      '(L) ┃  ┗━ @0/200: of-early',
      '(L) ┃     ┗━ @0/210: of-of-early',
      '(L) ┗━ @0/300: late',
      '(L)    ┗━ @0/400: of-late',
      '(L) other-root',
    ]);
  });

  it('shows timelines without a name, broken ones, and ones whose ancestor is not there', () => {
    const lines = drawTimelineTree([
      { ...timeline('', '1', '9', 0x100), name: null },
      { ...timeline('bad', '2'), broken: 'the index is damaged' },
    ]);
    expect(lines).toEqual([`(L) bad [${id('2')}] broken: the index is damaged`, `(L) @0/100: _no_name_ [${id('1')}]`]);
  });
});
