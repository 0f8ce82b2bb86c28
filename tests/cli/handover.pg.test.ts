/**
 * Two repositories that have their remote storage in common, each with a safekeeper of its own, hand a tenant to and fro.
 *
 * Must hold: what was committed before a detach is there for whoever attaches, and is there when the tenant comes back to where it was, whatever WAL that
 * one has kept; an endpoint whose safekeepers know less than the pageserver is refused before it writes anything; whoever takes a tenant over without a
 * detach is told what it may miss, and has what is stored, layers and WAL; a tenant that one deletes does not come back through the other; branches have the names
 * that whoever had the tenant last has given them.
 */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Repository } from '../../server/control-plane/repository.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const shared = mkdtempSync(join(tmpdir(), 'pagelite-shared-'));
const here = new RepositoryRig();
const there = new RepositoryRig();
let tenant: string;

beforeAll(async () => {
  for (const rig of [here, there]) {
    await rig.ok('init', '--remote-storage', `file://${shared}`);
    rig.putTemplate();
    await rig.ok('start');
  }
  await here.ok('tenant', 'create', '--set-default');
  tenant = (JSON.parse(await here.ok('tenant', 'list', '--json')) as { tenantId: string }[])[0]!.tenantId;
  await here.endpoint('main');
  await here.sql('main', 'create table t(id int, v text)');
}, 240_000);
afterAll(async () => {
  await here.close();
  await there.close();
  rmSync(shared, { recursive: true });
});

const rows = (rig: RepositoryRig) =>
  rig.sql('main', 'select count(*)::int as n, coalesce(sum(hashtext(v || id)), 0)::text as h from t');

it('what was committed comes along, to and fro', async () => {
  const [from, to] = [
    [here, there],
    [there, here],
  ] as const;
  let written = 0;
  for (const [i, [one, other]] of [from, to, from, to].entries()) {
    const count = 1_000 * (i + 1);
    await one.sql('main', `insert into t select g, repeat('${i}', g % 100) from generate_series(1, ${count}) g`);
    await one.sql('main', `insert into t values (${-i}, 'the newest')`);
    written += count + 1;
    const before = await rows(one);
    expect(before).toMatchObject([{ n: written }]);
    await one.ok('endpoint', 'stop', 'main');
    await one.ok('tenant', 'detach', '--tenant-id', tenant);
    await other.ok('tenant', 'attach', '--tenant-id', tenant);
    if (i === 0) await other.endpoint('main');
    else await other.ok('endpoint', 'start', 'main');
    expect(await rows(other)).toEqual(before);
    await other.ok('endpoint', 'stop', 'main');
    await other.ok('endpoint', 'start', 'main');
    expect(await rows(other)).toEqual(before);
  }
}, 240_000);

const branches = async (rig: RepositoryRig) => {
  const list = JSON.parse(await rig.ok('timeline', 'list', '--json')) as { branchName: string; timelineId: string }[];
  return new Map(list.map(({ branchName, timelineId }) => [branchName, timelineId]));
};
const stored = async (rig: RepositoryRig) =>
  JSON.parse(await rig.ok('tenant', 'list', '--remote-storage', '--json')) as object[];
const nodeOf = (rig: RepositoryRig) => Repository.open(rig.dir).readConfig().pageserver.id;

it('names of branches come along, and back', async () => {
  for (const name of ['feature/search', 'gone', 'left']) await here.ok('timeline', 'branch', '--branch-name', name);
  expect(await stored(there)).toEqual([
    { tenantId: tenant, nodeId: nodeOf(here), isHere: false, branches: ['feature/search', 'gone', 'left', 'main'] },
  ]);
  await here.ok('endpoint', 'stop', 'main');
  await here.ok('tenant', 'detach', '--tenant-id', tenant);
  expect(await stored(there)).toMatchObject([{ nodeId: null, isHere: false }]);
  await there.ok('tenant', 'attach', '--tenant-id', tenant);
  expect([...(await branches(there)).keys()].toSorted()).toEqual(['feature/search', 'gone', 'left', 'main']);
  await there.ok('timeline', 'rename', '--branch-name', 'left', '--new-name', 'swapped');
  await there.ok('timeline', 'rename', '--branch-name', 'feature/search', '--new-name', 'left');
  await there.ok('timeline', 'delete', '--branch-name', 'gone');
  await there.ok('timeline', 'branch', '--branch-name', 'gone');
  await there.ok('timeline', 'reset', '--branch-name', 'gone', '--preserve-under-name', 'before');
  const renamed = await branches(there);
  expect([...renamed.keys()].toSorted()).toEqual(['before', 'gone', 'left', 'main', 'swapped']);
  await there.ok('tenant', 'detach', '--tenant-id', tenant);
  await here.ok('tenant', 'attach', '--tenant-id', tenant);
  expect(await branches(here)).toEqual(renamed);
  for (const name of ['before', 'gone', 'left', 'swapped']) {
    await here.ok('timeline', 'delete', '--branch-name', name);
  }
  expect(await stored(here)).toMatchObject([{ isHere: true, branches: ['main'] }]);
}, 240_000);

it('names that are damaged in the storage, or were never there, are stored at the next start', async () => {
  const file = join(shared, 'tenants', tenant, 'branches.json');
  const before = await stored(here);
  rmSync(file);
  expect(await stored(here)).toMatchObject([{ branches: [] }]);
  await here.ok('start');
  expect(await stored(here)).toEqual(before);
  writeFileSync(file, 'not it\n00000000\n');
  expect(await stored(here)).toMatchObject([{ branches: null }]);
  expect((await here.run('scrub')).out).toMatch(/branches\.json .*wrong checksum/);
  const { err } = await here.run('start');
  expect(err).toMatch(/branches\.json is damaged: wrong checksum. They are stored anew/);
  expect(await stored(here)).toEqual(before);
  await here.ok('endpoint', 'start', 'main');
}, 240_000);

it('an endpoint whose safekeepers know less than the pageserver is refused', async () => {
  const before = await rows(here);
  await here.ok('endpoint', 'stop', 'main');
  await here.ok('tenant', 'detach', '--tenant-id', tenant);
  await there.ok('tenant', 'attach', '--tenant-id', tenant);
  await there.ok('endpoint', 'start', 'main');
  await there.sql('main', "insert into t values (0, 'written there')");
  await there.ok('endpoint', 'stop', 'main');
  await there.ok('tenant', 'detach', '--tenant-id', tenant);
  // Over HTTP nobody tells the safekeepers, which have what was written here until the tenant went.
  const { pageserver } = Repository.open(here.dir).readConfig();
  const path = `http://127.0.0.1:${pageserver.httpPort}/v1/tenant/${tenant}/location_config`;
  const answer = await fetch(path, { method: 'PUT', body: JSON.stringify({ mode: 'AttachedSingle' }) });
  expect(answer.status).toBe(200);
  expect(await here.refused('endpoint', 'start', 'main')).toMatch(/was written elsewhere: .*tenant detach/);
  await here.ok('tenant', 'detach', '--tenant-id', tenant);
  await here.ok('tenant', 'attach', '--tenant-id', tenant);
  await here.ok('endpoint', 'start', 'main');
  expect(await here.sql('main', "delete from t where v = 'written there' returning id")).toEqual([{ id: 0 }]);
  expect(await rows(here)).toEqual(before);
}, 240_000);

const clusterOf = (rig: RepositoryRig) => Repository.open(rig.dir).readConfig().clusterId!;

/** As if `of`'s safekeepers were those that the tenant was written through last: what an attach that was cut off leaves. */
async function blame(rig: RepositoryRig, of: RepositoryRig): Promise<void> {
  const { pageserver } = Repository.open(rig.dir).readConfig();
  const url = `http://127.0.0.1:${pageserver.httpPort}/v1/tenant/${tenant}/branch_names`;
  const stored = (await (await fetch(url)).json()) as { cluster_id: string; names: object };
  expect(stored.cluster_id).toBe(clusterOf(rig));
  const body = JSON.stringify({ ...stored, cluster_id: clusterOf(of) });
  expect((await fetch(url, { method: 'PUT', body })).status).toBe(200);
}

it('taken over without a detach, all that was sent to the remote storage is there, WAL too, and a warning says so', async () => {
  await here.ok('tenant', 'config', '-c', 'pitr_interval:0s', '-c', 'gc_horizon:0');
  await here.ok('timeline', 'compact', '--branch-name', 'main');
  // The cutoff must not pass what is stored: these commits are in memory and in the safekeeper here, which sends them when it is stopped.
  await here.sql('main', "insert into t select g, 'not in layers' from generate_series(1, 3000) g");
  await here.ok('timeline', 'gc', '--branch-name', 'main');
  await here.ok('timeline', 'branch', '--branch-name', 'made-here');
  const written = await rows(here);
  await here.ok('stop');

  const attach = ['tenant', 'attach', '--tenant-id', tenant];
  const { code, out, err } = await there.run(...attach);
  expect([code, err]).toEqual([0, expect.stringMatching(/was not detached before.*newest commits may be only there/)]);
  expect(out).toMatch(/Branch 'main': took over its WAL from Lsn /);
  await blame(there, here);
  expect(await there.ok(...attach)).not.toMatch(/took over/);
  await there.ok('endpoint', 'start', 'main', '--branch-name', 'main');
  expect(await rows(there)).toEqual(written);
  await there.endpoint('made-here', '--branch-name', 'made-here');
  const counted = await there.sql('made-here', 'select count(*)::int as n from t');
  expect(counted).toMatchObject([{ n: (written as { n: number }[])[0]!.n }]);
  await there.ok('endpoint', 'stop', 'made-here', '--destroy');

  // What was written there is not that of here: it is left alone, and it is what goes on.
  await there.sql('main', "insert into t values (-7, 'written there')");
  const more = await rows(there);
  await there.ok('endpoint', 'stop', 'main');
  await blame(there, here);
  expect(await there.ok(...attach)).not.toMatch(/took over/);
  await there.ok('endpoint', 'start', 'main');
  expect(await rows(there)).toEqual(more);
  await there.ok('stop');
  await here.ok('start');
  expect(await here.ok(...attach)).toMatch(/Branch 'main': took over its WAL from Lsn /);
  await here.ok('endpoint', 'start', 'main');
  expect(await rows(here)).toEqual(more);
  await here.ok('timeline', 'delete', '--branch-name', 'made-here');
  await here.ok('endpoint', 'stop', 'main');
  await here.ok('tenant', 'detach', '--tenant-id', tenant);
  await here.ok('stop', '--mode', 'immediate');
  await there.ok('start');
  expect(await there.ok(...attach)).not.toMatch(/took over/);
  await there.ok('timeline', 'branch', '--branch-name', 'made-there');
  await there.ok('tenant', 'detach', '--tenant-id', tenant);
}, 300_000);

it('a branch whose beginning was lost with a machine is told, and refused with what is missing', async () => {
  await here.ok('start');
  await here.ok('tenant', 'attach', '--tenant-id', tenant);
  await here.ok('timeline', 'branch', '--branch-name', 'base');
  await here.endpoint('base', '--branch-name', 'base');
  await here.sql('base', "insert into t values (1, 'sent nowhere')");
  await here.ok('timeline', 'branch', '--branch-name', 'lost', '--ancestor-branch-name', 'base');
  await here.ok('stop', '--mode', 'immediate');
  const { code, err } = await there.run('tenant', 'attach', '--tenant-id', tenant);
  const problem = /branch "lost" begins at Lsn \S+ of branch "base", which is here up to \S+ only/;
  expect([code, err]).toEqual([0, expect.stringMatching(problem)]);
  expect(await there.refused('endpoint', 'start', 'ep', '--branch-name', 'lost')).toMatch(problem);
  for (const name of ['lost', 'base']) await there.ok('timeline', 'delete', '--branch-name', name);
  await there.ok('tenant', 'detach', '--tenant-id', tenant);
}, 240_000);

it('deleted by the one, it stays deleted whatever the other does', async () => {
  await here.ok('start');
  await here.ok('tenant', 'attach', '--tenant-id', tenant);
  await here.ok('endpoint', 'start', 'main');
  await here.sql('main', "insert into t values (1, 'of an owner')");
  await there.ok('tenant', 'attach', '--tenant-id', tenant);
  await there.ok('tenant', 'delete', '--tenant-id', tenant, '--yes');
  await here.sql('main', "insert into t values (1, 'of an owner no more')").catch(() => {});
  expect(await here.refused('timeline', 'compact', '--branch-name', 'main')).toMatch(/was deleted/);
  await here.ok('endpoint', 'stop', 'main');
  await here.ok('pageserver', 'restart');
  expect(JSON.parse(await here.ok('tenant', 'list', '--json'))).toEqual([]);
  expect(readdirSync(join(shared, 'tenants'), { recursive: true })).toEqual([tenant, `${tenant}/deleted.json`]);
  expect(await here.refused('tenant', 'attach', '--tenant-id', tenant)).toMatch(/does not exist/);
  expect(await here.ok('scrub')).toMatch(/\n0 missing or damaged; garbage: 0 objects/);
}, 240_000);
