/**
 * The library's counterparts of import and export, without processes: what PGlite dumped becomes a branch, what a branch dumps opens in PGlite.
 *
 * Must hold: from a folder, a tarball and a File alike; at a place of the history; a name that is taken or a source that is none is refused and leaves
 * nothing behind.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { Pagelite } from 'pagelite';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { keepTemplate, putTemplate } from '../support/template-cache.ts';

let root: string;
let lite: Pagelite;
let dumped: File;

const numbers = 'select count(*)::int as n, sum(i)::int as sum from numbers';
const valuesOf = async (pg: PGlite) => (await pg.query<{ n: number; sum: number }>(numbers)).rows[0];

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'pagelite-lib-import-'));
  const plain = await PGlite.create(join(root, 'plain'));
  await plain.exec('create table numbers as select generate_series(1, 1000) i');
  dumped = (await plain.dumpDataDir('gzip')) as File;
  writeFileSync(join(root, 'dumped.tgz'), new Uint8Array(await dumped.arrayBuffer()));
  await plain.close();
  putTemplate(join(root, 'data'));
  lite = await Pagelite.open(join(root, 'data'));
  keepTemplate(join(root, 'data'));
});
afterAll(async () => {
  await lite?.close();
  rmSync(root, { recursive: true, force: true });
});

it('a folder, a tarball and a File become branches', async () => {
  for (const [name, source] of [
    ['folder', join(root, 'plain')],
    ['tarball', join(root, 'dumped.tgz')],
    ['file', dumped],
  ] as const) {
    const branch = await lite.importDataDir(name, source);
    expect(branch).toMatchObject({ name, ancestor: null });
    const pg = await lite.connect(name);
    expect(await valuesOf(pg as unknown as PGlite)).toEqual({ n: 1000, sum: 500_500 });
    await pg.exec('insert into numbers values (100000)');
    await pg.close();
  }
});

it('a branch is dumped at its end and at an LSN, and PGlite opens it', async () => {
  const [then] = (await lite.branches()).filter(({ name }) => name === 'folder');
  const pg = await lite.connect('folder');
  await pg.exec('delete from numbers where i <= 500');
  const atEnd = await lite.dumpDataDir('folder', { compression: 'none' });
  const before = await lite.dumpDataDir('folder', { lsn: then!.lsn });
  await pg.close();
  expect([atEnd.name, before.name]).toEqual(['folder.tar', 'folder.tar.gz']);
  for (const [file, expected] of [
    [atEnd, { n: 501, sum: 475_250 }],
    [before, { n: 1001, sum: 600_500 }],
  ] as const) {
    const plain = await PGlite.create({ loadDataDir: file });
    expect(await valuesOf(plain)).toEqual(expected);
    await plain.close();
  }
});

it('a branch is exported to a file', async () => {
  const path = join(root, 'main.tar.gz');
  await lite.exportDataDir('tarball', path);
  const plain = await PGlite.create({ loadDataDir: new Blob([readFileSync(path)], { type: 'application/x-gzip' }) });
  expect(await valuesOf(plain)).toEqual({ n: 1001, sum: 600_500 });
  await plain.close();
  await expect(lite.exportDataDir('nothing', join(root, 'nothing.tar'))).rejects.toThrow(/no branch "nothing"/);
  expect(readdirSync(root).filter((name) => name.includes('nothing'))).toEqual([]);
});

it('what cannot be is refused', async () => {
  await expect(lite.importDataDir('main', join(root, 'plain'))).rejects.toMatchObject({ kind: 'invalid' });
  await expect(lite.importDataDir('none', join(root, 'nowhere'))).rejects.toMatchObject({ kind: 'notFound' });
  await expect(lite.importDataDir('none', new Blob(['no archive'.repeat(200)]))).rejects.toMatchObject({
    kind: 'corrupt',
  });
  expect((await lite.branches()).map(({ name }) => name)).toEqual(['file', 'folder', 'main', 'tarball']);
  expect(existsSync(join(root, 'data/imports')) ? readdirSync(join(root, 'data/imports')) : []).toEqual([]);
});
