/**
 * Two repositories that have their remote storage in common, each with a safekeeper of its own, hand a tenant to and fro.
 *
 * Must hold: what was committed before a detach is there for whoever attaches, and is there when the tenant comes back to where it was, whatever WAL that
 * one has kept; an endpoint whose safekeepers know less than the pageserver is refused before it writes anything.
 */
import { mkdtempSync, rmSync } from 'node:fs';
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
