/**
 * How branches are stored, by the command line and with real processes: layers, what is kept and why, compaction, garbage, rest, independence, attachment.
 *
 * Must hold: what the commands say is so afterwards for who reads the data; a read-only endpoint at an old LSN keeps its history; an empty disk costs
 * nothing; refusals name the way out.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RepositoryRig } from '../support/repository-rig.ts';

const rig = new RepositoryRig();
beforeAll(async () => {
  await rig.start();
  await rig.endpoint('main');
}, 120_000);
afterAll(() => rig.close());

interface Layers {
  readonly files: readonly { name: string; kind: string; bytes: number }[];
}
const info = async (branch = 'main') =>
  JSON.parse(await rig.ok('timeline', 'info', '--branch-name', branch, '--json')) as Record<string, never> & {
    layerBytes: number;
    logicalBytes: number;
    gcCutoffLsn: string;
    retained: { reason: string; lsn: string; branchName?: string }[];
  };
const tenantOf = async () =>
  (JSON.parse(await rig.ok('tenant', 'list', '--json')) as [{ tenantId: string }])[0].tenantId;
const question = 'select count(*)::int as n, sum(hashtext(v))::text as h from t';
const storageDir = () => rig.tenantsDir;

describe('the layers of a branch', () => {
  it('are listed, drawn and dumped', async () => {
    await rig.sql(
      'main',
      'create table t (id int primary key, v text); insert into t select g, md5(g::text) from generate_series(1, 5000) g',
    );
    await rig.ok('timeline', 'compact', '--branch-name', 'main', '--force');
    const { files } = JSON.parse(await rig.ok('layer', 'list', '--json')) as Layers;
    expect(new Set(files.map(({ kind }) => kind))).toEqual(new Set(['delta', 'image']));
    expect(await rig.ok('layer', 'list')).toMatch(new RegExp(`\\n${files.length} layer files, `));
    expect(await rig.ok('layer', 'map', '--width', '80')).toMatch(/═{20}/);
    await rig.ok('layer', 'map', '--svg', join(rig.cwd, 'map.svg'));
    expect(readFileSync(join(rig.cwd, 'map.svg'), 'utf8')).toContain('Layers of branch main');
    const delta = files.find(({ kind }) => kind === 'delta')!;
    const dumped = (await rig.ok('layer', 'dump', delta.name, '--json'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(dumped.length).toBeGreaterThan(100);
    expect(dumped.some(({ about }) => /heap info/.test(about ?? ''))).toBe(true);
    const { key } = dumped[5]!;
    const ofKey = (await rig.ok('layer', 'dump', delta.name, '--key', key, '--json'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(ofKey).toEqual(dumped.filter((one) => one.key === key));
    expect(await rig.refused('layer', 'dump', 'FFFFFFFF')).toMatch(/no layer has "FFFFFFFF" in its name. There is:\n/);
  });

  it('are dumped from a file too, and damage is named', async () => {
    const { files } = JSON.parse(await rig.ok('layer', 'list', '--json')) as Layers;
    const delta = files.find(({ kind }) => kind === 'delta')!;
    const found = readdirSync(storageDir(), { recursive: true, encoding: 'utf8' }).find((path) =>
      path.includes(delta.name),
    )!;
    const path = join(storageDir(), found);
    expect(await rig.ok('layer', 'dump', path, '--json')).toBe(await rig.ok('layer', 'dump', delta.name, '--json'));
    const bytes = readFileSync(path);
    bytes[Math.floor(bytes.length / 3)]! ^= 1;
    const copy = join(rig.cwd, found.slice(found.lastIndexOf('/') + 1));
    writeFileSync(copy, bytes);
    const { code, out, err } = await rig.run('layer', 'dump', copy, '--json');
    expect(code).toBe(1);
    expect(err).toMatch(/checksum/);
    expect(out.split('\n').length).toBeGreaterThan(10);
  });
});

describe('a damaged layer', () => {
  it('is told by timeline compact and timeline info, until it is mended', async () => {
    await rig.sql(
      'main',
      'create table hurt (id int, v text); insert into hurt select g, md5(g::text) from generate_series(1, 20000) g',
    );
    const before = new Set((JSON.parse(await rig.ok('layer', 'list', '--json')) as Layers).files.map((f) => f.name));
    await rig.ok('timeline', 'compact', '--branch-name', 'main');
    const { files } = JSON.parse(await rig.ok('layer', 'list', '--json')) as Layers;
    const flushed = files.find(({ kind, name }) => kind === 'delta' && !before.has(name))!;
    const found = readdirSync(storageDir(), { recursive: true, encoding: 'utf8' }).find((path) =>
      path.includes(flushed.name),
    )!;
    const path = join(storageDir(), found);
    const flip = async () => {
      const bytes = readFileSync(path);
      bytes[Math.floor(bytes.length / 3)]! ^= 1;
      writeFileSync(path, bytes);
      await rig.ok('pageserver', 'restart');
    };
    await flip();
    const { code, out, err } = await rig.run('timeline', 'compact', '--branch-name', 'main', '--force');
    expect(code).toBe(1);
    expect(out).not.toMatch(/Compacted/);
    expect(err).toContain(`layer ${flushed.name} is not merged`);
    expect(await rig.ok('timeline', 'info', '--branch-name', 'main')).toContain(`Damaged: layer ${flushed.name}`);
    const { compaction } = (await info()) as unknown as { compaction: { blocked: object[]; lastError: string } };
    expect(compaction.blocked).toContainEqual(expect.objectContaining({ kind: 'l0_compaction', what: flushed.name }));
    expect(compaction.lastError).toMatch(/checksum/);
    await flip();
    expect(await rig.ok('timeline', 'compact', '--branch-name', 'main', '--force')).toMatch(/Compacted/);
    expect(await rig.ok('timeline', 'info', '--branch-name', 'main')).not.toMatch(/Damaged/);
    await rig.sql('main', 'drop table hurt');
  }, 120_000);
});

describe('history', () => {
  it('is kept for branches and read-only endpoints, and goes otherwise', async () => {
    await rig.ok('timeline', 'branch', '--branch-name', 'early');
    const [{ lsn }] = (await rig.sql<{ lsn: string }>('main', 'select pg_current_wal_flush_lsn()::text as lsn')) as [
      { lsn: string },
    ];
    const then = await rig.sql('main', question);
    await rig.endpoint('past', '--lsn', lsn);
    for (let i = 0; i < 4; i++) {
      await rig.sql('main', `update t set v = v || '${i}'`);
      await rig.sql('main', 'vacuum t');
      await rig.ok('timeline', 'compact', '--branch-name', 'main');
    }
    await rig.ok('tenant', 'config', '-c', 'pitr_interval:0', '-c', 'gc_horizon:0');
    const { retained } = await info();
    expect(retained.map(({ reason, branchName }) => branchName ?? reason)).toEqual(
      expect.arrayContaining(['early', 'lease']),
    );
    expect(await rig.ok('timeline', 'info', '--branch-name', 'main')).toMatch(
      /branch 'early' begins there[\s\S]*leased until|leased until[\s\S]*branch 'early' begins there/,
    );
    await rig.ok('timeline', 'compact', '--branch-name', 'main', '--force');
    const before = await info();
    expect(await rig.ok('timeline', 'gc', '--branch-name', 'main')).toMatch(/Removed \d+ layers/);
    expect(await rig.sql('past', question)).toEqual(then);
    // Its lease outlives the pageserver, and can be had anew.
    await rig.ok('pageserver', 'restart');
    expect(await rig.sql('past', question)).toEqual(then);
    expect((await info()).retained.map(({ reason }) => reason)).toContain('lease');
    await rig.ok('endpoint', 'stop', 'past', '--tenant-id', await tenantOf());
    await rig.ok('endpoint', 'start', 'past');
    await rig.ok('timeline', 'gc', '--branch-name', 'main');
    expect(await rig.sql('past', question)).toEqual(then);
    await rig.endpoint('early', '--branch-name', 'early');
    expect(await rig.sql('early', question)).toEqual(then);
    // Nobody needs the rest.
    await rig.ok('endpoint', 'stop', 'past');
    await rig.ok('endpoint', 'stop', 'early');
    await rig.ok('timeline', 'detach-ancestor', '--branch-name', 'early');
    await rig.ok('tenant', 'config', '-c', 'lsn_lease_length:0s');
    expect(await rig.refused('endpoint', 'create', 'older', '--lsn', '0/10')).toMatch(/before the start/);
    const after = await info();
    expect(after.layerBytes).toBeLessThanOrEqual(before.layerBytes);
    await rig.ok('endpoint', 'start', 'early');
    expect(await rig.sql('early', question)).toEqual(then);
    await rig.ok('endpoint', 'stop', 'early');
  });
});

describe('rest and attachment', () => {
  it('an archived branch cannot be used, and is as it was afterwards', async () => {
    expect(await rig.refused('timeline', 'archive', '--branch-name', 'main')).toMatch(
      /endpoint main runs there. Stop it first/,
    );
    await rig.ok('timeline', 'archive', '--branch-name', 'early');
    expect(await rig.ok('timeline', 'list')).toMatch(/early \[\w+\] archived/);
    expect(await rig.refused('endpoint', 'start', 'early')).toMatch(/archived/);
    expect(await rig.ok('timeline', 'info', '--branch-name', 'early')).toMatch(/is archived/);
    await rig.ok('timeline', 'unarchive', '--branch-name', 'early');
    await rig.ok('endpoint', 'start', 'early');
    expect(await rig.sql('early', 'select count(*)::int as n from t')).toEqual([{ n: 5000 }]);
    await rig.ok('endpoint', 'stop', 'early');
  });

  it('a tenant that is detached is attached again, and an empty disk costs nothing', async () => {
    const answer = await rig.sql('main', question);
    const [{ tenantId }] = JSON.parse(await rig.ok('tenant', 'list', '--json')) as [{ tenantId: string }];
    expect(await rig.refused('tenant', 'detach', '--tenant-id', tenantId)).toMatch(/endpoint main runs there/);
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('tenant', 'detach', '--tenant-id', tenantId);
    expect(JSON.parse(await rig.ok('tenant', 'list', '--json'))).toEqual([]);
    await rig.ok('pageserver', 'stop');
    rmSync(join(rig.dir, 'pageserver_1/tenants'), { recursive: true, force: true });
    await rig.ok('pageserver', 'start');
    // It was given up: a start does not take it back.
    expect(JSON.parse(await rig.ok('tenant', 'list', '--json'))).toEqual([]);
    await rig.ok('tenant', 'attach', '--tenant-id', tenantId);
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', question)).toEqual(answer);
    expect(await rig.ok('scrub')).toMatch(/\n0 missing or damaged;/);
    expect(await rig.refused('scrub', '--delete-garbage')).toMatch(/Stop it first: pagelite stop/);
  });

  it('a deleted tenant leaves nothing in the store but the note that it was', async () => {
    const [{ tenantId }] = JSON.parse(await rig.ok('tenant', 'list', '--json')) as [{ tenantId: string }];
    await rig.ok('endpoint', 'stop', 'main');
    expect(await rig.refused('tenant', 'delete', '--tenant-id', tenantId)).toMatch(/--yes/);
    await rig.ok('tenant', 'delete', '--tenant-id', tenantId, '--yes');
    expect(readdirSync(storageDir(), { recursive: true })).toEqual([tenantId, `${tenantId}/deleted.json`]);
    expect(await rig.refused('tenant', 'create', '--tenant-id', tenantId)).toMatch(/was deleted. .*choose another id/);
    expect(await rig.ok('scrub')).toMatch(/ 0 tenants,.*\n0 missing or damaged; garbage: 0 objects/);
  });
});
