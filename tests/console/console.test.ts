/**
 * The console's decisions without a browser: the tree of branches, the difference of two of them, the picture of layers, and how values, sizes and
 * places are shown.
 */
import { describe, expect, it } from 'vitest';
import type { BranchInfo, StorageLayers } from '../../browser/api.ts';
import { diffObjects, type SchemaObject } from '../../browser/console/diff.ts';
import { formatBytes, formatMs, lsnNumber, lsnText, tabSeparated } from '../../browser/console/format.ts';
import { copyFromStdin } from '../../browser/console/query.ts';
import { treeRows } from '../../browser/console/tree.ts';
import { layerBoxes } from '../../engine/layers/layer-picture.ts';

const branch = (name: string, place: BranchInfo['place'], parent?: [string, BranchInfo['place']]): BranchInfo => ({
  name,
  place,
  timelineId: `${place}-${name}`,
  ancestor: parent ? { name: parent[0], place: parent[1], lsn: '0/10' } : null,
  startLsn: '0/10',
  lsn: '0/20',
  layerBytes: 0,
  pushed: null,
  cachedPages: null,
  broken: null,
});

describe('the tree of branches', () => {
  const shape = (branches: BranchInfo[]) =>
    treeRows(branches).map(({ branch: { name, place }, depth }) => `${'  '.repeat(depth)}${name} ${place}`);

  it('has children below their parents, main first, then by name', () => {
    const branches = [
      branch('zebra', 'server', ['main', 'server']),
      branch('a', 'server'),
      branch('main', 'server'),
      branch('b', 'server', ['zebra', 'server']),
      branch('ant', 'server', ['main', 'server']),
    ];
    expect(shape(branches)).toEqual(['main server', '  ant server', '  zebra server', '    b server', 'a server']);
  });

  it('tells the same name in the tab and on the server apart', () => {
    const branches = [
      branch('main', 'server'),
      branch('main', 'local'),
      branch('x', 'hybrid', ['main', 'server']),
      branch('y', 'local', ['main', 'local']),
      branch('z', 'local', ['x', 'hybrid']),
    ];
    expect(shape(branches)).toEqual(['main local', '  y local', 'main server', '  x hybrid', '    z local']);
  });

  it('shows a branch whose parent is not there at the root', () => {
    expect(shape([branch('x', 'hybrid', ['gone', 'server'])])).toEqual(['x hybrid']);
  });
});

describe('the difference of two branches', () => {
  const objects = (...all: SchemaObject[]) => new Map(all.map((object) => [object.name, object]));
  const table = (name: string, rows: number, ...lines: string[]): SchemaObject => ({ name, rows, lines });

  it('is empty for equal ones', () => {
    const one = objects(table('table public.t', 3, 'id integer'));
    expect(diffObjects(one, new Map(one))).toEqual([]);
  });

  it('names what is new, gone and changed, with lines and rows', () => {
    const before = objects(table('t', 3, 'id integer', 'old text'), table('gone', 1, 'x integer'));
    const after = objects(table('t', 5, 'id integer', 'note text'), table('new', 0, 'y integer'));
    const diff = diffObjects(before, after);
    expect(diff.map(({ name, change, rowsBefore, rowsAfter }) => [name, change, rowsBefore, rowsAfter])).toEqual([
      ['gone', 'removed', 1, null],
      ['new', 'added', null, 0],
      ['t', 'changed', 3, 5],
    ]);
    expect(diff[2]).toMatchObject({ removed: ['old text'], added: ['note text'] });
  });

  it('shows a change of rows alone', () => {
    expect(diffObjects(objects(table('t', 3, 'a')), objects(table('t', 2, 'a')))).toMatchObject([
      { change: 'changed', removed: [], added: [], rowsBefore: 3, rowsAfter: 2 },
    ]);
  });
});

describe('the picture of layers', () => {
  const file = (name: string, kind: 'delta' | 'image', startLsn: string, endLsn: string) => ({
    name,
    kind,
    startLsn,
    endLsn,
    bytes: 1,
  });

  it('has every layer inside of it, newer ones above, ranges of keys side by side', () => {
    const layers: StorageLayers = {
      inMemory: [{ startLsn: '0/300', endLsn: null }],
      files: [
        file('00-80__0000000000000100', 'image', '0/100', '0/100'),
        file('80-FF__0000000000000100', 'image', '0/100', '0/100'),
        file('00-FF__0000000000000100-0000000000000300', 'delta', '0/100', '0/300'),
      ],
    };
    const boxes = layerBoxes(layers);
    expect(boxes).toHaveLength(4);
    for (const { x, y, width, height } of boxes) {
      expect(Math.min(x, y, width, height)).toBeGreaterThanOrEqual(0);
      expect(Math.max(x + width, y + height)).toBeLessThanOrEqual(1.000001);
    }
    const [left, right, delta, memory] = boxes;
    expect(left!.x + left!.width).toBeCloseTo(right!.x);
    expect(memory!.y).toBeLessThan(delta!.y);
    expect(delta!.width).toBe(1);
  });

  it('of no layers is empty', () => {
    expect(layerBoxes({ inMemory: [], files: [] })).toEqual([]);
  });
});

describe('a text with COPY FROM STDIN', () => {
  it('is found where the statement begins, and nowhere else', () => {
    expect(copyFromStdin('select 1;\n  COPY public.t (a, b)\n FROM stdin;\n1\t2\n\\.')).toBe(12);
    expect(copyFromStdin('copy t from stdin with (format csv)')).toBe(0);
    const others = [
      'copy t to stdout',
      "copy t from '/tmp/t'",
      "select 'copy t from stdin'",
      'copy (select 1) to stdout; select 2',
    ];
    for (const text of others) expect(copyFromStdin(text)).toBeNull();
  });
});

describe('what is shown', () => {
  it('rows for the clipboard: a value with tabs or line ends stays one, NULL differs from an empty text', () => {
    const rows = [
      ['id', 'a "name"'],
      ['1', null],
      ['', 'two\nlines\tand a tab'],
      ['"', 'plain'],
    ];
    const lines = ['id\t"a ""name"""', '1\t', '""\t"two\nlines\tand a tab"', '""""\tplain'];
    expect(tabSeparated(rows)).toBe(lines.join('\n'));
  });

  it('sizes and times in units that fit', () => {
    expect([0, 999, 1000, 23_353_896, 10_737_418_240].map(formatBytes)).toEqual([
      '0 B',
      '999 B',
      '1.0 kB',
      '23.4 MB',
      '10.7 GB',
    ]);
    expect([0.123, 5, 853.2, 12_345].map(formatMs)).toEqual(['0.12 ms', '5.0 ms', '853 ms', '12.3 s']);
  });

  it('LSNs as numbers and back', () => {
    for (const lsn of ['0/0', '0/14E2D48', 'A/FFFFFFFF', '1F/1']) expect(lsnText(lsnNumber(lsn))).toBe(lsn);
  });
});
