/** What of a data directory becomes keys, from its list of files: which files are a relation, in which order, and what is left out. */
import { describe, expect, it } from 'vitest';
import { meaningOfPath, relationPath } from '../../engine/basebackup/data-directory-paths.ts';
import { planImport } from '../../engine/import/plan.ts';
import { pageSize, relSegmentBlocks } from '../../engine/limits.ts';

const gigabyte = relSegmentBlocks * pageSize;
/** The least that a data directory has. */
const least: Record<string, number> = {
  PG_VERSION: 3,
  'global/pg_control': 8192,
  'global/pg_filenode.map': 524,
  'global/1262': 8192,
  'base/5/PG_VERSION': 3,
  'base/5/pg_filenode.map': 524,
  'base/5/1259': 16384,
  'pg_xact/0000': 8192,
  'pg_multixact/members/0000': 8192,
  'pg_multixact/offsets/0000': 8192,
  'pg_wal/000000010000000000000001': 16777216,
};

function plan(more: Record<string, number> = {}) {
  const files = Object.entries({ ...least, ...more }).filter(([, size]) => size >= 0);
  return planImport({
    name: 'there',
    // In no order.
    files: files.map(([path, size]) => ({ path, size })).reverse(),
    read: () => Promise.reject(new Error('nothing is read')),
  });
}

const forksOf = (planned: ReturnType<typeof plan>, db: number) =>
  planned.databases.find((database) => database.db === db)!.forks.map(({ files, blocks }) => [files[0]!.path, blocks]);

describe('a relation', () => {
  it('of several files is one, in the order of their numbers', () => {
    const planned = plan({
      'base/5/20000': gigabyte,
      'base/5/20000.1': gigabyte,
      'base/5/20000.2': 8192,
      'base/5/20000_vm': 8192,
      'base/5/3000': 0,
    });
    expect(forksOf(planned, 5)).toEqual([
      ['base/5/1259', 2],
      ['base/5/3000', 0],
      ['base/5/20000', 2 * relSegmentBlocks + 1],
      ['base/5/20000_vm', 1],
    ]);
  });

  it('ends with the first file that is not full, if nothing is in those behind', () => {
    const planned = plan({
      'base/5/20000': gigabyte,
      'base/5/20000.1': 8192,
      'base/5/20000.2': 0,
      'base/5/20000.3': 0,
    });
    expect(forksOf(planned, 5)).toContainEqual(['base/5/20000', relSegmentBlocks + 1]);
  });

  const bad: [what: string, files: Record<string, number>, message: RegExp][] = [
    ['half a page', { 'base/5/20000': 8191 }, /base\/5\/20000 of there is damaged: .* 8191 bytes/],
    ['more than a gigabyte in a file', { 'base/5/20000': gigabyte + 8192 }, /more than a gigabyte/],
    [
      'a file missing in the middle',
      { 'base/5/20000': gigabyte, 'base/5/20000.2': 8192 },
      /20000\.2 .*before it is missing/,
    ],
    ['no first file', { 'base/5/20000.1': 8192 }, /20000\.1 .*before it is missing/],
    ['a file cut short before another', { 'base/5/20000': 8192, 'base/5/20000.1': 8192 }, /20000\.1 .*cut short/],
    ['half a page of an SLRU', { 'pg_xact/0001': 100 }, /pg_xact\/0001/],
    ['an SLRU segment that is too long', { 'pg_xact/0001': 33 * 8192 }, /pg_xact\/0001/],
  ];
  for (const [what, files, message] of bad)
    it(`with ${what} is refused`, () => expect(() => plan(files)).toThrow(message));

  it('that is unlogged has its init fork only; a temporary one nothing', () => {
    const planned = plan({
      'base/5/20000': 81920,
      'base/5/20000_fsm': 24576,
      'base/5/20000_init': 0,
      'base/5/20001': 16384,
      'base/5/20001_init': 8192,
      'base/5/t3_20002': 8192,
      'base/pgsql_tmp/pgsql_tmp1.0': 8192,
    });
    expect(planned.unloggedRelations).toBe(2);
    expect(forksOf(planned, 5)).toEqual([
      ['base/5/1259', 2],
      ['base/5/20000_init', 0],
      ['base/5/20001_init', 1],
    ]);
  });
});

describe('a directory', () => {
  it('has its databases in the order of keys', () => {
    const planned = plan({
      'base/40000/1259': 8192,
      'base/40000/pg_filenode.map': 524,
      'base/1/1259': 8192,
      'base/1/pg_filenode.map': 524,
    });
    expect(planned.databases.map(({ spc, db }) => [spc, db])).toEqual([
      [1663, 1],
      [1663, 5],
      [1663, 40000],
      [1664, 0],
    ]);
  });

  it('keeps nothing of a database that was never finished', () => {
    const planned = plan({ 'base/40000/1259': 8192, 'base/40000/PG_VERSION': 3 });
    expect(planned.unfinishedDatabases).toEqual(['base/40000']);
    expect(planned.databases.map(({ db }) => db)).toEqual([5, 0]);
  });

  it('has prepared transactions in the order of their ids', () => {
    const planned = plan({
      'pg_twophase/0000000100000002': 200,
      'pg_twophase/00000000000003E8': 200,
      'pg_twophase/x': 1,
    });
    expect(planned.prepared.map(({ xid }) => xid)).toEqual([1000, 2 ** 32 + 2]);
  });

  for (const missing of ['global/pg_filenode.map', 'pg_xact/0000', 'pg_multixact/offsets/0000', 'global/1262']) {
    it(`without ${missing} is refused`, () =>
      expect(() => plan({ [missing]: -1 })).toThrow(/not a whole data directory/));
  }

  it('with a tablespace is refused', () => {
    expect(() => plan({ 'pg_tblspc/16400/PG_18_202506291/5/20000': 8192 })).toThrow(/tablespaces are not supported/);
  });
});

describe('a path', () => {
  it('that PostgreSQL does not write is nothing', () => {
    const strange = [
      'base/5/01259',
      'base/5/1259.0',
      'base/5/1259_fsm.01',
      'base/05/1259',
      'base/5/4294967296',
      'base/5/1259.99999',
    ];
    for (const path of [...strange, 'base/5/a/1259', 'global/5/1259', 'pg_xact/1', 'pg_xact/0000.tmp', 'base/1259']) {
      expect(meaningOfPath(path), path).toBeNull();
    }
  });

  it('of a relation is what it is read as', () => {
    for (const path of ['base/5/1259', 'base/5/1259_fsm.7', 'global/1262_vm', 'base/4294967295/4294967295_init']) {
      const meaning = meaningOfPath(path);
      expect(meaning?.kind === 'relation' && relationPath(meaning.rel, meaning.segment)).toBe(path);
    }
  });
});
