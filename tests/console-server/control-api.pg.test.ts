/**
 * The control API over a real repository: branches by name, their history, what they are reset to, and what is refused and how. In order; each step builds
 * on the ones before.
 *
 * Must hold: what the API makes is what an endpoint finds; the history has the commits that were made, at LSNs where they are seen; what others need is not
 * deleted; what is refused changes nothing.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseLsn } from '../../engine/model/lsn.ts';
import type {
  BranchHistory,
  HistoryPoint,
  LayerSummary,
  MetricSample,
  ServerBranch,
  ServerStatus,
} from '../../engine/protocol/control-api.ts';
import { ConsoleClient } from '../support/console-client.ts';
import { RepositoryRig } from '../support/repository-rig.ts';
import { newestIndexFile } from '../support/stored-files.ts';

let rig: RepositoryRig;
let server: ConsoleClient;
/** Commits on main: the time at which PostgreSQL saw itself commit, and the rows from then on. */
const moments: { at: string; lsn: string; rows: number }[] = [];

beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  server = new ConsoleClient(rig.dir);
  await rig.endpoint('main');
  await rig.sql('main', 'create table t (n int)');
  for (let rows = 1; rows <= 5; rows++) {
    await rig.sql('main', `insert into t values (${rows})`);
    const [row] = await rig.sql<{ at: string; lsn: string }>(
      'main',
      `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as at, pg_current_wal_flush_lsn()::text as lsn`,
    );
    moments.push({ ...row!, rows });
    // Times have milliseconds: the next commit is in a later one.
    await rig.sql('main', 'select pg_sleep(0.005)');
  }
});
afterAll(() => rig.close());

const branch = (name: string) => server.ok<ServerBranch>('GET', `/api/v1/branches/${name}`);
const rowsOf = async (endpoint: string) =>
  (await rig.sql<{ n: number }>(endpoint, 'select n from t order by n')).map(({ n }) => n);
/** Starts an endpoint on the branch, reads, stops it. */
async function rowsOn(name: string, endpoint = name.replaceAll('/', '-')): Promise<number[]> {
  await rig.ok('endpoint', 'start', endpoint, '--branch-name', name);
  try {
    return await rowsOf(endpoint);
  } finally {
    await rig.ok('endpoint', 'stop', endpoint);
  }
}
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

describe('branches', () => {
  it('status', async () => {
    const status = await server.ok<ServerStatus>('GET', '/api/v1/status');
    expect(status).toEqual({
      version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      protocols: {
        pagestream: expect.any(Number),
        proposerAcceptor: expect.any(Number),
        walStream: expect.any(Number),
      },
      tenantId: expect.stringMatching(/^[0-9a-f]{32}$/),
      safekeepers: [{ id: 1 }],
      safekeepersGeneration: 1,
    });
  });

  it('are listed with their endpoints', async () => {
    const branches = await server.ok<ServerBranch[]>('GET', '/api/v1/branches');
    expect(branches).toEqual([
      {
        name: 'main',
        timelineId: expect.stringMatching(/^[0-9a-f]{32}$/),
        ancestor: null,
        startLsn: expect.any(String),
        lsn: expect.any(String),
        lastRecordLsn: expect.any(String),
        layerBytes: expect.any(Number),
        endpoints: [{ name: 'main', port: rig.port('main'), status: 'running', readOnlyLsn: null }],
        broken: null,
      },
    ]);
    expect(parseLsn(branches[0]!.lsn!)).toBeGreaterThanOrEqual(parseLsn(moments[4]!.lsn));
  });

  it('are made at the end, at an LSN, at a time; a path is a name', async () => {
    const made = await server.ok<ServerBranch>('POST', '/api/v1/branches', { name: 'dev/end', from: 'main' }, 201);
    expect(made).toMatchObject({ name: 'dev/end', ancestor: { name: 'main' }, endpoints: [], broken: null });
    expect(await branch(encodeURIComponent('dev/end'))).toEqual(made);
    await server.ok('POST', '/api/v1/branches', { name: 'at-lsn', from: 'main', lsn: moments[1]!.lsn }, 201);
    await server.ok('POST', '/api/v1/branches', { name: 'at-time', from: 'main', at: moments[2]!.at }, 201);
    expect(await rowsOn('dev/end')).toEqual(upTo(5));
    expect(await rowsOn('at-lsn')).toEqual(upTo(2));
    expect(await rowsOn('at-time')).toEqual(upTo(3));
  });

  it('are made by many pages at once', async () => {
    const names = upTo(6).map((n) => `many-${n}`);
    await Promise.all(names.map((name) => server.ok('POST', '/api/v1/branches', { name, from: 'at-time' }, 201)));
    const all = await server.ok<ServerBranch[]>('GET', '/api/v1/branches');
    expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(names));
    await Promise.all(names.map((name) => server.ok('DELETE', `/api/v1/branches/${name}`)));
    expect((await server.ok<ServerBranch[]>('GET', '/api/v1/branches')).map(({ name }) => name)).toEqual([
      'at-lsn',
      'at-time',
      'dev/end',
      'main',
    ]);
  });

  it('are renamed', async () => {
    const renamed = await server.ok<ServerBranch>('POST', '/api/v1/branches/at-lsn/rename', { name: 'two' });
    expect(renamed).toMatchObject({ name: 'two', endpoints: [{ name: 'at-lsn', status: 'stopped' }] });
    expect((await server.ask('GET', '/api/v1/branches/at-lsn')).status).toBe(404);
    const taken = await server.ask('POST', '/api/v1/branches/two/rename', { name: 'main' });
    expect([taken.status, taken.body.msg]).toEqual([400, expect.stringMatching(/branch "main" exists/)]);
    await rig.ok('timeline', 'rename', '--branch-name', 'two', '--new-name', 'at-lsn');
    expect(await rowsOn('at-lsn')).toEqual(upTo(2));
  });

  it('layers', async () => {
    const layers = await server.ok<LayerSummary>('GET', '/api/v1/branches/main/layers');
    expect(layers.inMemory[0]).toEqual({ startLsn: expect.stringContaining('/'), endLsn: null });
    expect(layers.files[0]).toMatchObject({ kind: expect.stringMatching(/delta|image/), bytes: expect.any(Number) });
  });
});

describe('what is refused', () => {
  it.each([
    ['GET', '/api/v1/branches/nobody', undefined, 404, 'notFound', /no branch "nobody".*There is: .*main/],
    ['GET', '/api/v1/branches/nobody/history', undefined, 404, 'notFound', /no branch "nobody"/],
    ['GET', `/api/v1/branches/${'0'.repeat(32)}`, undefined, 404, 'notFound', /timeline 0{32}/],
    ['GET', `/api/v1/branches/${'0'.repeat(32)}/history`, undefined, 404, 'notFound', /timeline 0{32}/],
    ['DELETE', '/api/v1/branches/nobody', undefined, 404, 'notFound', /no branch "nobody"/],
    ['DELETE', `/api/v1/branches/${'0'.repeat(32)}`, undefined, 404, 'notFound', /no timeline/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'nobody' }, 404, 'notFound', /no branch "nobody"/],
    ['POST', '/api/v1/branches', { name: 'main', from: 'main' }, 400, 'invalid', /branch "main" exists/],
    ['POST', '/api/v1/branches', { name: '../x', from: 'main' }, 400, 'invalid', /cannot be the name of a branch/],
    ['POST', '/api/v1/branches', { name: '', from: 'main' }, 400, 'invalid', /cannot be the name of a branch/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', lsn: 'zz' }, 400, 'invalid', /LSN/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', lsn: '0/8' }, 400, 'invalid', /before the start/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', lsn: 'FF/0' }, 400, 'invalid', /past the end/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', at: 'yesterday' }, 400, 'invalid', /malformed timestamp/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', at: '2999-01-01' }, 400, 'invalid', /in the future/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', at: '1999-01-01' }, 400, 'invalid', /no commits/],
    ['POST', '/api/v1/branches', { name: 'x', from: 'main', at: '2026-01-01', lsn: '0/8' }, 400, 'invalid', /not both/],
    ['POST', '/api/v1/branches', { name: 7, from: 'main' }, 400, 'invalid', /malformed request body: name/],
    ['POST', '/api/v1/branches', '{"name":', 400, 'invalid', /not JSON/],
    ['POST', '/api/v1/branches', undefined, 400, 'invalid', /name.*from/],
    ['GET', '/api/v1/branches/main/lsn', undefined, 400, 'invalid', /give lsn or at/],
    ['GET', '/api/v1/branches/main/lsn?at=soon', undefined, 400, 'invalid', /malformed timestamp/],
    ['PUT', '/api/v1/branches/x', { timelineId: 'zz' }, 400, 'invalid', /timeline/],
    ['PUT', '/api/v1/branches/x', { timelineId: 'ab'.repeat(16) }, 404, 'notFound', /abab/],
    ['POST', '/api/v1/branches/main/reset', {}, 400, 'invalid', /endpoint "main" runs on branch "main". Stop it first/],
    ['POST', '/api/v1/branches/nobody/rename', { name: 'x' }, 404, 'notFound', /no branch "nobody"/],
    ['POST', '/api/v1/branches/main/rename', {}, 400, 'invalid', /name/],
    ['GET', '/api/v1/frob', undefined, 404, 'notFound', /there is no GET \/api\/v1\/frob/],
    ['POST', '/api/v1/status', {}, 404, 'notFound', /there is no POST/],
  ])('%s %s %o: %d %s', async (method, path, body, status, kind, message) => {
    const answer = await server.ask(method, path, body);
    expect(answer).toMatchObject({
      status,
      body: { kind, msg: expect.stringMatching(message), data: expect.any(Object) },
    });
  });

  it('has changed nothing', async () => {
    const names = (await server.ok<ServerBranch[]>('GET', '/api/v1/branches')).map(({ name }) => name);
    expect(names).toEqual(['at-lsn', 'at-time', 'dev/end', 'main']);
  });
});

describe('history', () => {
  it('has the commits, at LSNs where they are seen', async () => {
    const { start, end, commits } = await server.ok<BranchHistory>('GET', '/api/v1/branches/main/history');
    const lsns = [start.lsn, ...commits.map(({ lsn }) => lsn), end.lsn].map(parseLsn);
    expect(lsns).toEqual([...lsns].sort((a, b) => a - b));
    const times = commits.map(({ at }) => Date.parse(at));
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(end.at).toBe(commits.at(-1)!.at);
    for (const { at, lsn, rows } of moments) {
      const last = commits.filter((commit) => Date.parse(commit.at) <= Date.parse(at)).at(-1)!;
      expect(parseLsn(last.lsn)).toBeLessThanOrEqual(parseLsn(lsn));
      const name = `seen-${rows}`;
      await server.ok('POST', '/api/v1/branches', { name, from: 'main', lsn: last.lsn }, 201);
      if (rows % 2 === 0) expect(await rowsOn(name)).toEqual(upTo(rows));
      await server.ok('DELETE', `/api/v1/branches/${name}`);
    }
  });

  it("of a branch begins with its ancestors', and a point of that is found there", async () => {
    const of = (name: string) => server.ok<BranchHistory>('GET', `/api/v1/branches/${name}/history`);
    const main = await of('main');
    const { ancestor } = await branch('at-time');
    const { start, end, commits } = await of('at-time');
    expect(start).toEqual(main.start);
    expect(commits).toEqual(main.commits.filter(({ lsn }) => parseLsn(lsn) <= parseLsn(ancestor!.lsn)));
    expect(end.at).toBe(commits.at(-1)!.at);

    const point = (query: string) => server.ok<HistoryPoint>('GET', `/api/v1/branches/at-time/lsn?${query}`);
    const { timelineId } = await branch('main');
    const old = commits.find(({ at }) => Date.parse(at) <= Date.parse(moments[0]!.at))!;
    expect(await point(`lsn=${old.lsn}`)).toEqual({ lsn: old.lsn, branch: 'main', timelineId });
    const first = await point(`at=${moments[0]!.at}`);
    expect(first).toMatchObject({ branch: 'main', timelineId });
    expect(await point(`at=${end.at}`)).toMatchObject({ branch: 'at-time' });

    await server.ok('POST', '/api/v1/branches', { name: 'before', from: 'at-time', at: moments[0]!.at }, 201);
    expect((await branch('before')).ancestor).toEqual({ name: 'main', timelineId, lsn: first.lsn });
    expect(await rowsOn('before')).toEqual(upTo(1));
  });
});

describe('reset', () => {
  it('begins anew at the end of the parent; the old head has what the branch had, and its branches', async () => {
    await rig.ok('endpoint', 'start', 'dev-end');
    await rig.sql('dev-end', 'insert into t values (100)');
    await rig.ok('endpoint', 'stop', 'dev-end');
    await server.ok('POST', '/api/v1/branches', { name: 'child', from: 'dev/end' }, 201);
    await rig.sql('main', 'insert into t values (6)');

    const old = await branch('dev%2Fend');
    const reset = await server.ok<ServerBranch>('POST', '/api/v1/branches/dev%2Fend/reset', {});
    expect(reset).toMatchObject({ name: 'dev/end', ancestor: { name: 'main' }, endpoints: [{ name: 'dev-end' }] });
    expect(reset.timelineId).not.toBe(old.timelineId);
    expect(await rowsOn('dev/end')).toEqual(upTo(6));
    const preserved = (await server.ok<ServerBranch[]>('GET', '/api/v1/branches')).find(
      ({ timelineId }) => timelineId === old.timelineId,
    )!;
    expect(preserved.name).toMatch(/^dev\/end_old_\d{8}T\d{6}Z$/);
    expect((await branch('child')).ancestor!.name).toBe(preserved.name);
    expect(await rowsOn(preserved.name, 'preserved')).toEqual([...upTo(5), 100]);
  });

  it('goes back to a point of its own history, and from there to where it was', async () => {
    await rig.ok('endpoint', 'stop', 'main');
    await server.ok('POST', '/api/v1/branches/main/reset', { at: moments[1]!.at, preserveAs: 'main-before' });
    expect((await branch('main')).ancestor!.name).toBe('main-before');
    expect(await rowsOn('main')).toEqual(upTo(2));
    expect(await rig.ok('timeline', 'reset', '--branch-name', 'main', '--preserve-under-name', 'mistake')).toMatch(
      /^Reset branch 'main': it is timeline '[0-9a-f]{32}' now\. The old head is branch 'mistake'$/m,
    );
    expect(await rowsOn('main')).toEqual(upTo(6));
  });

  it('goes back to before the branch began', async () => {
    await server.ok('POST', '/api/v1/branches/at-time/reset', { lsn: moments[0]!.lsn, preserveAs: 'at-time-before' });
    expect((await branch('at-time')).ancestor!.name).toBe('main-before');
    expect(await rowsOn('at-time')).toEqual(upTo(1));
  });

  it('leaves read-only endpoints at the LSN where they stand', async () => {
    await rig.ok('endpoint', 'create', 'look', '--branch-name', 'at-lsn', '--lsn', (await branch('at-lsn')).lsn!);
    await server.ok('POST', '/api/v1/branches/at-lsn/reset', { preserveAs: 'looked-at' });
    expect((await branch('looked-at')).endpoints).toMatchObject([{ name: 'look' }]);
    expect((await branch('at-lsn')).endpoints).toMatchObject([{ name: 'at-lsn' }]);
    await rig.ok('endpoint', 'start', 'look');
    expect(await rowsOf('look')).toEqual(upTo(2));
    await rig.ok('endpoint', 'stop', 'look');
  });

  it.each([
    ['main', { preserveAs: 'child' }, /branch "child" exists/],
    ['main', { preserveAs: 'a b' }, /cannot be the name/],
    ['main', { lsn: '0/8' }, /before the start/],
    ['main', { lsn: 'FF/0' }, /past the end/],
    ['main-before', {}, /no parent to be reset to/],
  ])('of %s to %o is refused', async (name, body, message) => {
    const before = await server.ok<ServerBranch[]>('GET', '/api/v1/branches');
    const answer = await server.ask('POST', `/api/v1/branches/${name}/reset`, body);
    expect([answer.status, answer.body.msg]).toEqual([400, expect.stringMatching(message)]);
    expect(await server.ok<ServerBranch[]>('GET', '/api/v1/branches')).toEqual(before);
  });
});

describe('naming', () => {
  it('gives a timeline that has none its name, once', async () => {
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    const { timelineId: ancestor } = await branch('main');
    const timelineId = 'cd'.repeat(16);
    const pushed = { new_timeline_id: timelineId, ancestor_timeline_id: ancestor };
    await server.ok('POST', `/v1/tenant/${tenantId}/timeline`, pushed, 201);
    for (let again = 0; again < 2; again++) {
      const named = await server.ok<ServerBranch>('PUT', '/api/v1/branches/pushed', { timelineId });
      expect(named).toMatchObject({ name: 'pushed', timelineId });
    }
    const other = await server.ask('PUT', '/api/v1/branches/other', { timelineId });
    expect([other.status, other.body.msg]).toEqual([400, expect.stringMatching(/is branch "pushed" already/)]);
    const taken = await server.ask('PUT', '/api/v1/branches/pushed', { timelineId: ancestor });
    expect([taken.status, taken.body.msg]).toEqual([400, expect.stringMatching(/is branch "main" already/)]);
  });
});

describe('delete', () => {
  const stored = async ({ timelineId }: ServerBranch) => {
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    return [
      existsSync(join(rig.tenantsDir, tenantId, 'timelines', timelineId)),
      existsSync(join(rig.dir, 'safekeepers/sk1', tenantId, timelineId)),
    ];
  };

  it('is refused while others need the branch', async () => {
    const parent = await server.ask('DELETE', '/api/v1/branches/main-before');
    expect([parent.status, parent.body.msg]).toEqual([400, expect.stringMatching(/main.* branched from it/)]);
    await rig.ok('endpoint', 'start', 'child', '--branch-name', 'child');
    const running = await server.ask('DELETE', '/api/v1/branches/child');
    expect([running.status, running.body.msg]).toEqual([400, expect.stringMatching(/endpoint "child" runs/)]);
    expect(await rig.refused('timeline', 'delete', '--branch-name', 'child')).toMatch(/endpoint "child" runs/);
    await rig.sql('child', 'insert into t values (7)');
    await rig.ok('endpoint', 'stop', 'child');
  });

  it('removes layers, WAL, stopped endpoints and the name', async () => {
    const child = await branch('child');
    expect(await stored(child)).toEqual([true, true]);
    await server.ok('DELETE', '/api/v1/branches/child');
    expect(await stored(child)).toEqual([false, false]);
    expect((await server.ask('GET', '/api/v1/branches/child')).status).toBe(404);
    expect((await server.ask('DELETE', '/api/v1/branches/child')).status).toBe(404);
    expect(existsSync(join(rig.dir, 'endpoints/child'))).toBe(false);
    expect(await rig.ok('timeline', 'delete', '--branch-name', 'pushed')).toBe(
      `Deleted branch 'pushed', timeline '${'cd'.repeat(16)}'\n`,
    );
  });

  it('ends a compute that nobody knows of, such as one in a tab, instead of letting it wait', async () => {
    await server.ok('POST', '/api/v1/branches', { name: 'open', from: 'main' }, 201);
    await rig.ok('endpoint', 'start', 'open', '--branch-name', 'open');
    const client = await rig.connect('open');
    await client.query('insert into t values (8)');
    const open = await branch('open');
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    const path = `/v1/tenant/${tenantId}/timeline/${open.timelineId}`;
    const { safekeepers } = JSON.parse(readFileSync(join(rig.dir, 'config.json'), 'utf8'));
    await server.ok('DELETE', path);
    const removed = await fetch(`http://127.0.0.1:${safekeepers[0].httpPort}${path}`, { method: 'DELETE' });
    expect(removed.status).toBe(200);
    await expect(client.query('insert into t values (9)')).rejects.toThrow();
    await expect
      .poll(() => readFileSync(join(rig.dir, 'endpoints/open/compute.log'), 'utf8'), { timeout: 30_000 })
      .toMatch(/was deleted: this compute cannot write to it any more/);
    expect(await stored(open)).toEqual([false, false]);
    await rig.run('endpoint', 'stop', 'open');
    await server.ok('DELETE', '/api/v1/branches/open');
  });

  it('that was cut off is finished by the next one', async () => {
    const doomed = await branch('mistake');
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    expect(await stored(doomed)).toEqual([true, true]);
    await server.ok('DELETE', `/v1/tenant/${tenantId}/timeline/${doomed.timelineId}`);
    expect(await stored(doomed)).toEqual([false, true]);
    await server.ok('DELETE', '/api/v1/branches/mistake');
    expect(await stored(doomed)).toEqual([false, false]);
    expect(readFileSync(join(rig.dir, 'config.json'), 'utf8')).not.toContain(doomed.timelineId);
  });
});

describe('the rest', () => {
  it("the pageserver's own history of a timeline, within its bounds", async () => {
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    const { timelineId } = await branch('main-before');
    const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/commit_history`;
    const all = await server.ok<{ commits: { lsn: string; timestamp: string }[] }>('GET', path);
    expect(all.commits.length).toBeGreaterThan(5);
    const until = all.commits[3]!.lsn;
    expect(await server.ok('GET', `${path}?until_lsn=${until}`)).toMatchObject({
      end: { lsn: until, timestamp: all.commits[3]!.timestamp },
      commits: all.commits.slice(0, 4),
    });
    expect(await server.ok('GET', `${path}?count_max=2`)).toMatchObject({
      commits: [all.commits[0], all.commits.at(-1)],
    });
    for (const query of ['count_max=0', 'count_max=1001', 'count_max=x', 'until_lsn=zz']) {
      expect((await server.ask('GET', `${path}?${query}`)).status).toBe(400);
    }
  });

  it('a damaged ancestor: what needs it names the file, the rest goes on', async () => {
    const { tenantId } = await server.ok<ServerStatus>('GET', '/api/v1/status');
    const parent = await branch('main-before');
    const child = await branch('main');
    await rig.ok('stop');
    const index = newestIndexFile(join(rig.tenantsDir, tenantId, 'timelines', parent.timelineId));
    const whole = readFileSync(index);
    writeFileSync(index, whole.subarray(0, whole.length - 5));
    await rig.ok('start');
    expect((await branch('main-before')).broken).toMatch(/index_part\.json/);
    expect(await server.ask('GET', '/api/v1/branches/main-before/history')).toMatchObject({
      status: 500,
      body: { kind: 'corrupt', msg: expect.stringMatching(/index_part\.json/) },
    });
    expect((await server.ok<ServerBranch[]>('GET', '/api/v1/branches')).length).toBeGreaterThan(3);
    expect(child.ancestor!.timelineId).toBe(parent.timelineId);
    expect(await server.ask('GET', '/api/v1/branches/main/history')).toMatchObject({
      status: 500,
      body: { kind: 'corrupt', msg: expect.stringMatching(/index_part\.json/) },
    });
    await rig.ok('stop');
    writeFileSync(index, whole);
    await rig.ok('start');
    expect((await branch('main-before')).broken).toBeNull();
  });

  it('metrics of both servers', async () => {
    const samples = await server.ok<MetricSample[]>('GET', '/api/v1/metrics');
    expect(new Set(samples.map(({ node }) => node))).toEqual(new Set(['pageserver', 'safekeeper 1']));
    for (const sample of samples) {
      expect(sample).toEqual({
        node: expect.any(String),
        name: expect.stringMatching(/^[a-z_:]+/),
        labels: expect.any(Object),
        value: expect.any(Number),
      });
    }
  });

  it('settings of before there was a console', async () => {
    const file = join(rig.dir, 'config.json');
    const { console: port, ...old } = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify(old));
    expect(await rig.ok('timeline', 'list')).toMatch(/main/);
    writeFileSync(file, JSON.stringify({ ...old, console: port }));
  });
});
