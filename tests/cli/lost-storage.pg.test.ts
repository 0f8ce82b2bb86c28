/**
 * A remote storage in a folder that is not there, as a disk that is not mounted: by the command line, with real processes.
 *
 * Must hold: it is never taken for a new one, neither at a start nor while the pageserver runs; commits go on; when it is back everything is as it was.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { RepositoryRig } from '../support/repository-rig.ts';

const parent = mkdtempSync(join(tmpdir(), 'pagelite-mount-'));
const bucket = join(parent, 'bucket');
const elsewhere = join(parent, 'elsewhere');
const rig = new RepositoryRig();

beforeAll(async () => {
  await rig.start('--remote-storage', `file://${bucket}`);
  await rig.endpoint('main');
  await rig.sql('main', 'create table t (id int); insert into t select generate_series(1, 1000)');
}, 240_000);
afterAll(async () => {
  await rig.close();
  rmSync(parent, { recursive: true });
});

const count = async () => (await rig.sql<{ n: number }>('main', 'select count(*)::int as n from t'))[0]!.n;

it('that vanishes while the pageserver runs is waited for', async () => {
  renameSync(bucket, elsewhere);
  await rig.sql('main', 'insert into t select generate_series(1, 1000)');
  const compacted = rig.ok('timeline', 'compact', '--branch-name', 'main');
  const waits = () => rig.logs();
  await expect.poll(waits).toMatch(/is not there.*the object store is away/);
  expect(existsSync(bucket)).toBe(false);
  renameSync(elsewhere, bucket);
  await compacted;
  expect(await count()).toBe(2000);
  expect(await rig.ok('scrub')).toMatch(/\n0 missing or damaged;/);
}, 240_000);

it('that is not there at a start is not made anew, and the message says what to do', async () => {
  await rig.ok('endpoint', 'stop', 'main');
  await rig.ok('stop');
  renameSync(bucket, elsewhere);
  const text = /file:.*bucket is no storage of branches.*not mounted.*Bring it back/;
  expect(await rig.refused('start')).toMatch(text);
  expect(await rig.refused('scrub')).toMatch(text);
  expect(existsSync(bucket)).toBe(false);
  // The place where it is to be mounted.
  mkdirSync(bucket);
  expect(await rig.refused('start')).toMatch(text);
  expect(readdirSync(bucket)).toEqual([]);
  rmSync(bucket, { recursive: true });
  renameSync(elsewhere, bucket);
  await rig.ok('start');
  await rig.ok('endpoint', 'start', 'main');
  expect(await count()).toBe(2000);
}, 240_000);

it('from before it said so by itself is known by its tenants', async () => {
  await rig.ok('endpoint', 'stop', 'main');
  await rig.ok('stop');
  rmSync(join(bucket, 'storage.json'));
  await rig.ok('start');
  expect(readdirSync(bucket)).toContain('storage.json');
  await rig.ok('endpoint', 'start', 'main');
  expect(await count()).toBe(2000);
}, 240_000);

it('in the repository itself is made at the first start, and not again', async () => {
  const own = new RepositoryRig();
  try {
    await own.start();
    const folder = join(own.dir, 'local_fs_remote_storage');
    expect(readdirSync(join(folder, 'pageserver'))).toContain('storage.json');
    await own.ok('stop');
    rmSync(folder, { recursive: true });
    expect(await own.refused('start')).toMatch(/is no storage of branches/);
  } finally {
    await own.close();
  }
}, 240_000);
