/**
 * Branches that are made again from their WAL in the remote storage alone: when layers, safekeepers' disks, or both are gone.
 *
 * Must hold: what was sent is there again, row for row; what cannot be made from WAL is refused before anything is touched; it can be asked for again.
 */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findFreePort } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

let rig: RepositoryRig;
let ids: Record<'main' | 'dev', string>;

const config = () => JSON.parse(readFileSync(join(rig.dir, 'config.json'), 'utf8'));
const tenant = (): string => config().defaultTenantId;
/** Everything that is in the table, in one number. */
const content = async (endpoint: string): Promise<string> =>
  (await rig.sql<{ all: string }>(endpoint, `select md5(string_agg(t::text, ',' order by id)) as all from t`))[0]!.all;

beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start('--num-safekeepers', '3');
  await rig.endpoint('main', '--pg-port', String(await findFreePort(23_600)));
  await rig.sql('main', 'create table t(id int primary key, filler text)');
  await rig.sql('main', `insert into t select i, repeat('a', 1000) from generate_series(1, 9000) i`);
  await rig.ok('timeline', 'branch', '--branch-name', 'dev');
  await rig.endpoint('dev', '--branch-name', 'dev', '--pg-port', String(await findFreePort(23_620)));
  await rig.sql('dev', `update t set filler = 'dev ' || id where id % 3 = 0`);
  for (let i = 1; i <= 3; i++) {
    await rig.sql('main', `insert into t select ${10_000 * i} + i, repeat('b', 1000) from generate_series(1, 9000) i`);
  }
  const timelineOf = (name: string) =>
    config().branches.find((branch: { name: string }) => branch.name === name).timelineId as string;
  ids = { main: timelineOf('main'), dev: timelineOf('dev') };
});
afterAll(() => rig.close());

/** Everything stops in good order: the end of the WAL is sent. */
async function stopped(): Promise<void> {
  for (const endpoint of ['main', 'dev']) await rig.ok('endpoint', 'stop', endpoint);
  await rig.ok('stop');
}

describe('a branch', () => {
  it('is made again when layers and all disks are gone, then what branched from it', async () => {
    const [main, dev] = [await content('main'), await content('dev')];
    await stopped();
    rmSync(rig.tenantsDir, { recursive: true });
    rmSync(join(rig.dir, 'pageserver_1/tenants'), { recursive: true });
    for (const id of [1, 2, 3]) rmSync(join(rig.dir, `safekeepers/sk${id}/${tenant()}`), { recursive: true });
    await rig.ok('start');
    expect(await rig.refused('endpoint', 'start', 'main')).toMatch(/.+/);
    // Not before what it is made of.
    expect(await rig.refused('timeline', 'recover', '--branch-name', 'dev', '--ancestor-branch-name', 'main')).toMatch(
      /which it branched from, is not there. Recover that first/,
    );
    expect(await rig.refused('timeline', 'recover', '--branch-name', 'dev')).toMatch(
      /cannot be made from the template/,
    );

    const told = JSON.parse(await rig.ok('timeline', 'recover', '--branch-name', 'main', '--json'));
    expect(told).toMatchObject({ timelineId: ids.main, lostUpToLsn: null });
    const out = await rig.ok('timeline', 'recover', '--branch-name', 'dev', '--ancestor-branch-name', 'main');
    expect(out).toMatch(/Made branch 'dev' again from its WAL/);
    for (const endpoint of ['main', 'dev']) await rig.ok('endpoint', 'start', endpoint);
    expect([await content('main'), await content('dev')]).toEqual([main, dev]);
    // It is a branch like any other: writes go on, and are there after a restart.
    await rig.sql('main', `insert into t values (99001, 'after')`);
    await rig.sql('dev', `insert into t values (99002, 'after')`);
    await stopped();
    await rig.ok('start');
    for (const endpoint of ['main', 'dev']) await rig.ok('endpoint', 'start', endpoint);
    expect(await rig.sql('main', 'select id from t where id > 99000')).toEqual([{ id: 99001 }]);
    expect(await rig.sql('dev', 'select id from t where id > 99000')).toEqual([{ id: 99002 }]);
  });

  it('whose layers are damaged is made again while safekeepers have its WAL', async () => {
    const before = await content('dev');
    await rig.ok('endpoint', 'stop', 'dev');
    const folder = join(rig.tenantsDir, tenant(), 'timelines', ids.dev);
    for (const name of readdirSync(folder)) if (name.includes('__')) rmSync(join(folder, name));
    expect(await rig.ok('timeline', 'recover', '--branch-name', 'dev')).toMatch(/again from its WAL/);
    await rig.ok('endpoint', 'start', 'dev');
    expect(await content('dev')).toBe(before);
    // Again: the same.
    expect(await rig.refused('timeline', 'recover', '--branch-name', 'dev')).toMatch(/endpoint dev runs there/);
    await rig.ok('endpoint', 'stop', 'dev');
    await rig.ok('timeline', 'recover', '--branch-name', 'dev');
    await rig.ok('endpoint', 'start', 'dev');
    expect(await content('dev')).toBe(before);
    expect(await rig.ok('scrub')).toMatch(/0 missing or damaged/);
  });

  it('from which others branched is made again in place, and they go on', async () => {
    const [main, dev] = [await content('main'), await content('dev')];
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('endpoint', 'stop', 'dev');
    const folder = join(rig.tenantsDir, tenant(), 'timelines', ids.main);
    for (const name of readdirSync(folder)) if (name.includes('__')) rmSync(join(folder, name));
    await rig.ok('pageserver', 'restart');
    await rig.ok('timeline', 'recover', '--branch-name', 'main');
    for (const endpoint of ['main', 'dev']) await rig.ok('endpoint', 'start', endpoint);
    expect([await content('main'), await content('dev')]).toEqual([main, dev]);
    // While one of them is at work.
    await rig.ok('endpoint', 'stop', 'main');
    let isOver = false;
    const work = (async () => {
      let sums = 0;
      for (; !isOver; sums++) await rig.sql('dev', 'select sum(length(filler)) from t');
      return sums;
    })();
    await rig.ok('timeline', 'recover', '--branch-name', 'main');
    isOver = true;
    expect(await work).toBeGreaterThan(0);
    await rig.ok('endpoint', 'start', 'main');
    expect([await content('main'), await content('dev')]).toEqual([main, dev]);
    expect(await rig.ok('scrub')).toMatch(/0 missing or damaged/);
  });

  it('whose WAL is not there, or that a safekeeper may have more of, is left as it is', async () => {
    await rig.ok('timeline', 'create', '--branch-name', 'empty');
    expect(await rig.refused('timeline', 'recover', '--branch-name', 'empty')).toMatch(/no WAL of timeline/);
    await rig.ok('safekeeper', 'stop', '2');
    await rig.ok('endpoint', 'stop', 'dev');
    expect(await rig.refused('timeline', 'recover', '--branch-name', 'dev')).toMatch(/safekeeper 2.*start it/s);
    await rig.ok('safekeeper', 'start', '2');
    await rig.ok('endpoint', 'start', 'dev');
    expect((await content('dev')).length).toBe(32);
  });

  it('from which others branched later than its WAL goes is left as it is', async () => {
    await rig.sql('main', `insert into t select i, repeat('c', 1000) from generate_series(200001, 220000) i`);
    await rig.ok('timeline', 'branch', '--branch-name', 'late');
    await stopped();
    for (const id of [1, 2, 3]) rmSync(join(rig.dir, `safekeepers/sk${id}/${tenant()}`), { recursive: true });
    const logs = join(rig.tenantsDir, '../wal');
    const objects = readdirSync(logs, { recursive: true, encoding: 'utf8' });
    const segments = objects.filter((path) => path.includes(ids.main) && statSync(join(logs, path)).isFile()).sort();
    for (const path of segments.slice(-2)) rmSync(join(logs, path));
    await rig.ok('start');
    const layers = () => readdirSync(join(rig.tenantsDir, tenant(), 'timelines', ids.main)).sort();
    const before = layers();
    const refused = await rig.refused('timeline', 'recover', '--branch-name', 'main');
    expect(refused).toMatch(/late branched from it later than its WAL goes.*detach-ancestor/s);
    expect(layers()).toEqual(before);
  });
});
