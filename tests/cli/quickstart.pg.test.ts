/**
 * Neon's README quickstart with `pagelite` in place of `cargo neon`, by node-postgres and by real psql where it is installed: real processes, the
 * command line of the build. In order; each step builds on the ones before, as a user's do.
 *
 * Must hold: the texts and tables are Neon's; a branch has its ancestor's data and neither sees the other's changes; everything is there after a
 * restart; a branch at a past LSN or time and a read-only endpoint hold what was committed then and do not move.
 */
import { spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findFreePort } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const hasPsql = spawnSync('psql', ['--version']).status === 0;

let rig: RepositoryRig;
beforeAll(() => {
  rig = new RepositoryRig();
});
afterAll(() => rig.close());

const keys = async (endpoint: string) =>
  (await rig.sql<{ key: number }>(endpoint, 'select key from t order by key')).map(({ key }) => key);
const currentLsn = async (endpoint: string) =>
  (await rig.sql<{ lsn: string }>(endpoint, 'select pg_current_wal_insert_lsn()::text as lsn'))[0]!.lsn;

describe("Neon's quickstart", () => {
  it('init, start, tenant create', async () => {
    expect(await rig.ok('init')).toMatch(/^Initializing pageserver node 1 at '127\.0\.0\.1:\d+' in "\.pagelite"$/m);
    rig.putTemplate();
    const started = await rig.ok('start');
    rig.keepTemplate();
    expect(started).toMatch(/^Starting pageserver node 1 at '127\.0\.0\.1:\d+' in "\.pagelite"\.$/m);
    expect(started).toContain(`pageserver started, pid: ${rig.pid('pageserver')}`);
    expect(started).toMatch(/^Starting safekeeper at '127\.0\.0\.1:\d+' in '\.pagelite\/safekeepers\/sk1'\.$/m);
    expect(started).toContain(`safekeeper 1 started, pid: ${rig.pid('safekeeper')}`);
    expect(await rig.ok('pageserver', 'status')).toBe('Page server is up and running\n');

    const [created, initial, isDefault] = (await rig.ok('tenant', 'create', '--set-default')).split('\n');
    const [, tenant] = /^tenant ([0-9a-f]{32}) successfully created on the pageserver$/.exec(created!)!;
    expect(initial).toMatch(
      new RegExp(`^Created an initial timeline '[0-9a-f]{32}' at Lsn 0/[0-9A-F]+ for tenant: ${tenant}$`),
    );
    expect(isDefault).toBe(`Setting tenant ${tenant} as a default one`);
    expect(await rig.ok('tenant', 'list')).toBe(`${tenant} Active (default)\n`);
  });

  it('endpoint create and start, list', async () => {
    await rig.ok('endpoint', 'create', 'main');
    const started = await rig.ok('endpoint', 'start', 'main');
    const [, timeline] = /^Starting new endpoint main \(PostgreSQL v18\) on timeline ([0-9a-f]{32}) \.\.\.$/m.exec(
      started,
    )!;
    const port = rig.port('main');
    expect(started).toContain(`Starting postgres at 'postgresql://cloud_admin@127.0.0.1:${port}/postgres'`);
    const [header, row, end] = (await rig.ok('endpoint', 'list')).split('\n');
    expect(header).toMatch(/^ ENDPOINT {2}ADDRESS {10}TIMELINE {26}BRANCH NAME {2}LSN +STATUS$/);
    expect(row).toMatch(new RegExp(`^ main {6}127\\.0\\.0\\.1:${port}  ${timeline}  main {9}0/[0-9A-F]+ +running$`));
    expect(end).toBe('');
  });

  it('SQL', async () => {
    const client = await rig.connect('main');
    await client.query('CREATE TABLE t(key int primary key, value text)');
    await client.query('insert into t values(1,1)');
    expect((await client.query('select * from t')).rows).toEqual([{ key: 1, value: '1' }]);
    const { rows } = await client.query(
      `select current_user as user, current_setting('server_version_num') as version`,
    );
    expect(rows).toEqual([{ user: 'cloud_admin', version: '180006' }]);
    await client.end();
  });

  if (hasPsql) {
    it('SQL with psql, as in the README', async () => {
      const { out, err, code } = await rig.psql(
        'main',
        'insert into t values(7,7);\nselect * from t;\ndelete from t where key = 7;\n',
      );
      expect({ out, err, code }).toEqual({
        out: 'INSERT 0 1\n key | value \n-----+-------\n   1 | 1\n   7 | 7\n(2 rows)\n\nDELETE 1\n',
        err: '',
        code: 0,
      });
    });
  }

  it('contrib extensions', async () => {
    const client = await rig.connect('main');
    await client.query('create extension pg_trgm; create extension pgcrypto');
    await client.query('create table word (w text); create index on word using gin (w gin_trgm_ops)');
    await client.query("insert into word values ('compute'), ('pageserver')");
    const found = await client.query("select w, encode(digest(w, 'md5'), 'hex') as md5 from word where w % 'computer'");
    expect(found.rows).toEqual([{ w: 'compute', md5: '77e73f3a185e16d1f08ca5e057710b9d' }]);
    await client.end();
  });

  it('branch, tree, endpoint on the branch', async () => {
    const main = JSON.parse(await rig.ok('timeline', 'list', '--json'))[0];
    const branched = await rig.ok('timeline', 'branch', '--branch-name', 'migration_check');
    const [, timeline, lsn] =
      /^Created timeline '([0-9a-f]{32})' at Lsn (0\/[0-9A-F]+) for tenant: [0-9a-f]{32}\. Ancestor timeline: 'main'$/m.exec(
        branched,
      )!;
    expect(await rig.ok('timeline', 'list')).toBe(
      `(L) main [${main.timelineId}]\n(L) ┗━ @${lsn}: migration_check [${timeline}]\n`,
    );
    expect(JSON.parse(await rig.ok('timeline', 'list', '--json'))).toContainEqual(
      expect.objectContaining({
        branchName: 'migration_check',
        timelineId: timeline,
        ancestorTimelineId: main.timelineId,
        ancestorLsn: lsn,
        broken: null,
      }),
    );
    const httpPort = await findFreePort(3080);
    await rig.endpoint('migration_check', '--branch-name', 'migration_check', '--http-port', String(httpPort));
    const status = await (await fetch(`http://127.0.0.1:${httpPort}/status`)).json();
    expect(status).toMatchObject({ status: 'running', port: rig.port('migration_check'), connections: 0 });
    expect(await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text()).toMatch(/^compute_commit_lsn \d+$/m);
    expect(rig.port('migration_check')).not.toBe(rig.port('main'));
    const listed = JSON.parse(await rig.ok('endpoint', 'list', '--json'));
    expect(
      listed.map(({ endpoint, branchName, status }: Record<string, string>) => [endpoint, branchName, status]),
    ).toEqual([
      ['main', 'main', 'running'],
      ['migration_check', 'migration_check', 'running'],
    ]);
  });

  it('isolation both ways', async () => {
    expect(await keys('migration_check')).toEqual([1]);
    await rig.sql('migration_check', 'insert into t values(2,2)');
    await rig.sql('main', 'insert into t values(3,3)');
    expect(await keys('main')).toEqual([1, 3]);
    expect(await keys('migration_check')).toEqual([1, 2]);
  });

  it('stop, and everything is there after a restart', async () => {
    const stopped = await rig.ok('stop');
    for (const name of ['endpoint main', 'endpoint migration_check', 'pageserver', 'safekeeper 1']) {
      expect(stopped).toContain(`${name} stopped`);
    }
    expect(await rig.ok('stop')).toMatch(/pageserver is already stopped/);
    await rig.ok('start');
    expect(await rig.ok('start')).toMatch(/pageserver is already running/);
    expect(await rig.ok('endpoint', 'start', 'main')).toMatch(/^Starting existing endpoint main/m);
    await rig.ok('endpoint', 'start', 'migration_check');
    expect(await keys('main')).toEqual([1, 3]);
    expect(await keys('migration_check')).toEqual([1, 2]);
    await rig.ok('endpoint', 'stop', 'migration_check', '--destroy');
    expect(await rig.ok('endpoint', 'list')).not.toContain('migration_check');
  });
});

describe('time travel', () => {
  it('a branch at a past LSN and at a timestamp', async () => {
    const client = await rig.connect('main');
    await client.query('insert into t values(10,10)');
    const lsn = await currentLsn('main');
    const { rows } = await client.query<{ at: string }>('select clock_timestamp()::text as at');
    // A time is inclusive, and commits have times of milliseconds.
    await client.query('select pg_sleep(0.01)');
    await client.query('insert into t values(11,11)');
    await client.query('delete from t where key = 1');
    await rig.ok('timeline', 'branch', '--branch-name', 'at_lsn', '--ancestor-start-lsn', lsn);
    await rig.ok('timeline', 'branch', '--branch-name', 'at_time', '--at', rows[0]!.at);
    for (const branch of ['at_lsn', 'at_time']) {
      await rig.endpoint(branch, '--branch-name', branch);
      expect(await keys(branch)).toEqual([1, 3, 10]);
      await rig.sql(branch, 'insert into t values(12,12)');
      expect(await keys(branch)).toEqual([1, 3, 10, 12]);
      await rig.ok('endpoint', 'stop', branch);
    }
    expect(await keys('main')).toEqual([3, 10, 11]);
  });

  it('a read-only endpoint at an LSN stays as it is while main moves on', async () => {
    const lsn = await currentLsn('main');
    await rig.ok('endpoint', 'start', 'past', '--branch-name', 'main', '--lsn', lsn);
    expect(await keys('past')).toEqual([3, 10, 11]);
    await rig.sql('main', 'insert into t select n, n from generate_series(100, 5000) n');
    await rig.sql('main', 'update t set value = value || 1');
    await rig.sql('main', 'vacuum t');
    expect(await keys('past')).toEqual([3, 10, 11]);
    expect(await rig.sql('past', 'select sum(value::int)::int as sum from t')).toEqual([{ sum: 24 }]);
    await expect(rig.sql('past', 'insert into t values(0,0)')).rejects.toThrow(/read-only transaction/);
    expect(await rig.ok('endpoint', 'list')).toMatch(new RegExp(`^ past .* ${lsn} +running \\(read-only\\)$`, 'm'));
    await rig.ok('endpoint', 'stop', 'past');
    await rig.ok('endpoint', 'start', 'past');
    expect(await keys('past')).toEqual([3, 10, 11]);
    await rig.ok('endpoint', 'stop', 'past', '--destroy');
  });
});

describe('two writers', () => {
  it('a second one is refused, or forced and the first is fenced and says so', async () => {
    await rig.ok('endpoint', 'create', 'rival');
    expect(await rig.refused('endpoint', 'start', 'rival')).toMatch(
      /endpoint "main" writes to branch main already.*--allow-multiple/,
    );
    await rig.sql('main', 'insert into t values(20,20)');
    const client = await rig.connect('main');
    const heard = new Promise<string>((resolve) => {
      client.on('error', (error: Error) => {
        if (error.message.includes('terminating')) resolve(error.message);
      });
    });
    await rig.ok('endpoint', 'start', 'rival', '--allow-multiple');
    expect(await rig.sql('rival', 'select value from t where key = 20')).toEqual([{ value: '20' }]);
    await rig.sql('rival', 'insert into t values(21,21)');
    expect(await heard).toMatch(/this endpoint was fenced: term \d+ rules/);
    // The process ends by itself; its list entry says so, and its log why.
    for (let i = 0; i < 500 && (await rig.ok('endpoint', 'list')).match(/^ main .*running/m); i++) await sleep(20);
    expect(rig.logs()).toMatch(/fenced/);
    expect((await rig.sql('rival', 'select count(*)::int as n from t where key in (20, 21)'))[0]).toEqual({ n: 2 });
    await rig.ok('endpoint', 'stop', 'rival', '--destroy');
    await rig.ok('endpoint', 'start', 'main');
    expect((await rig.sql('main', 'select count(*)::int as n from t where key in (20, 21)'))[0]).toEqual({ n: 2 });
  });
});
