/**
 * Three safekeepers as a user runs them: any one may be away, without a majority commits wait and what is in memory is still read, and the one
 * that returns gets what it missed. Which branches there are does not depend on who is up.
 */
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NodeId } from '../../engine/model/ids.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import { findFreePort } from '../../server/process/ports.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

interface Status {
  readonly id: number;
  readonly state: string;
  readonly timelines: readonly {
    readonly branch_name: string;
    readonly timeline_id: string;
    readonly term: number;
    readonly flush_lsn: string;
    readonly commit_lsn: string;
    readonly lag_bytes: number;
    readonly refused?: string;
  }[];
}

let rig: RepositoryRig;
beforeAll(async () => {
  rig = new RepositoryRig();
  expect(await rig.ok('init', '--num-safekeepers', '3')).toMatch(/3 safekeepers: 1 of them may be away/);
  rig.putTemplate();
  await rig.ok('start');
  rig.keepTemplate();
  await rig.ok('tenant', 'create', '--set-default');
  await rig.endpoint('main', '--pg-port', String(await findFreePort(23_500)));
  await rig.sql('main', 'create table t(id int primary key, filler text)');
});
afterAll(() => rig.close());

const status = async (...args: string[]): Promise<Status[]> =>
  JSON.parse(await rig.ok('safekeeper', 'status', ...args, '--json'));
const branch = (name: string) => (one: Status) => one.timelines.filter(({ branch_name }) => branch_name === name);
const caughtUp = () =>
  expect
    .poll(async () =>
      (await status()).flatMap(branch('main')).map(({ flush_lsn, lag_bytes }) => [flush_lsn, lag_bytes]),
    )
    .toSatisfy((all: [string, number][]) => all.length === 3 && all.every(([lsn, lag]) => lsn === all[0]![0] && !lag));

describe('three safekeepers', () => {
  it('each shows term, flush and commit LSN and lag of every branch', async () => {
    const all = await status();
    expect(all.map(({ id, state }) => [id, state])).toEqual([
      [1, 'running'],
      [2, 'running'],
      [3, 'running'],
    ]);
    expect(all.map((one) => branch('main')(one).map(({ term }) => term))).toEqual([[1], [1], [1]]);
    expect(await rig.ok('safekeeper', 'status')).toMatch(/^ main +3 +1 +0\/\w+ +0\/\w+ +0 bytes$/m);
    expect((await status('2')).map(({ id }) => id)).toEqual([2]);
    expect(await rig.refused('safekeeper', 'status', '4')).toMatch(/safekeeper 4/);
  });

  it('commits go on without any one of them, and it gets what it missed', async () => {
    for (const away of ['1', '2', '3']) {
      await rig.ok('safekeeper', 'stop', away, '--mode', away === '2' ? 'immediate' : 'fast');
      await rig.sql('main', `insert into t select ${away}000 + i, repeat('x', 1000) from generate_series(1, 500) i`);
      expect((await status()).filter(({ state }) => state === 'stopped').map(({ id }) => String(id))).toEqual([away]);
      await rig.ok('safekeeper', 'start', away);
      await caughtUp();
    }
    expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 1500 }]);
  });

  it('a compute starts without one of them', async () => {
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('safekeeper', 'stop', '1');
    await rig.ok('endpoint', 'start', 'main');
    await rig.sql('main', 'insert into t values (1)');
    await rig.ok('safekeeper', 'start', '1');
    await caughtUp();
  });

  it('without a majority reads of cached pages go on, and a commit waits until it is back', async () => {
    const writer = await rig.connect('main');
    const reader = await rig.connect('main');
    await reader.query('select count(*) from t');
    await rig.ok('safekeeper', 'stop', '2');
    await rig.ok('safekeeper', 'stop', '3');
    expect((await rig.run('safekeeper', 'status')).err).toMatch(/Commits wait: 1 of 3 safekeepers answer, 2 must/);
    for (let i = 0; i < 20; i++) {
      expect((await reader.query('select count(*)::int as n from t where id > 1000')).rows).toEqual([{ n: 1500 }]);
    }
    let answered = false;
    const commit = writer.query('insert into t values (2)').then(() => {
      answered = true;
    });
    // As long as it takes to ask all of them.
    await status();
    expect(answered).toBe(false);
    await rig.ok('safekeeper', 'start', '3');
    await commit;
    await rig.ok('safekeeper', 'start', '2');
    await caughtUp();
    expect(await rig.sql('main', 'select id from t where id < 10 order by id')).toEqual([{ id: 1 }, { id: 2 }]);
  });

  it('start goes on with a quorum of them, and says who is missing', async () => {
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('stop');
    // Its disk is not there.
    const dir = join(rig.dir, 'safekeepers/sk2');
    renameSync(dir, `${dir}.away`);
    writeFileSync(dir, '');
    expect(await rig.ok('start')).toMatch(
      /safekeeper 2 did not start: (.|\n)*2 of 3 safekeepers are a quorum: going on/,
    );
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 1502 }]);
    rmSync(dir);
    renameSync(`${dir}.away`, dir);
    await rig.ok('safekeeper', 'start', '2');
    await caughtUp();
  });

  it('a deleted branch is gone from one that was stopped meanwhile, too', async () => {
    await rig.ok('timeline', 'branch', '--branch-name', 'side');
    await rig.endpoint('side', '--branch-name', 'side');
    await rig.sql('side', 'insert into t values (3)');
    const { timeline_id } = (await status()).flatMap(branch('side'))[0]!;
    const folders = () =>
      [1, 2, 3].map((id) => existsSync(join(rig.dir, `safekeepers/sk${id}/${tenant()}/${timeline_id}`)));
    expect(folders()).toEqual([true, true, true]);
    await rig.ok('endpoint', 'stop', 'side', '--destroy');
    await rig.ok('safekeeper', 'stop', '2');
    await rig.ok('timeline', 'delete', '--branch-name', 'side');
    expect(folders()).toEqual([false, false, false]);
    await rig.ok('safekeeper', 'start', '2');
    expect((await status()).flatMap(branch('side'))).toEqual([]);
  });

  it('an older compute is fenced within a commit: 57P01, and what it acknowledged is there', async () => {
    const older = await rig.connect('main');
    let acknowledged = 0;
    const ended = (async () => {
      for (;;) {
        await older.query(`insert into t values (${acknowledged + 100})`);
        acknowledged++;
      }
    })().catch((error: { code?: string; message: string }) => error);
    await rig.ok('endpoint', 'start', 'rival', '--branch-name', 'main', '--allow-multiple');
    expect(await ended).toMatchObject({ code: '57P01', message: expect.stringMatching(/fenced: term \d+ rules/) });
    const [row] = await rig.sql<{ n: number }>(
      'rival',
      'select count(*)::int as n from t where id between 100 and 999',
    );
    // The last one may have become durable without an answer.
    expect([acknowledged, acknowledged + 1]).toContain(row!.n);
    expect(acknowledged).toBeGreaterThan(0);
    await rig.ok('endpoint', 'stop', 'rival', '--destroy');
    await rig.ok('endpoint', 'start', 'main');
  });

  it('one that was away catches up from the others without a compute', async () => {
    await rig.ok('safekeeper', 'stop', '3');
    await rig.sql('main', `insert into t select 10000 + i, repeat('y', 1000) from generate_series(1, 500) i`);
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('safekeeper', 'start', '3');
    await caughtUp();
    await rig.ok('endpoint', 'start', 'main');
  });

  it('one whose disk was put back hears so from the others, and has caught up before it answers a compute', async () => {
    const dir = join(rig.dir, 'safekeepers/sk3');
    await rig.ok('safekeeper', 'stop', '3');
    cpSync(dir, `${dir}.copy`, { recursive: true });
    await rig.ok('safekeeper', 'start', '3');
    await rig.sql('main', `insert into t select 80000 + i, repeat('w', 1000) from generate_series(1, 500) i`);
    await caughtUp();
    const { timeline_id, commit_lsn } = (await status('3')).flatMap(branch('main'))[0]!;
    // The others look once a second.
    for (const { id, pgPort } of safekeepers().slice(0, 2)) {
      const peer = connectSafekeeper({ id, host: '127.0.0.1', port: pgPort });
      const remembered = async () =>
        (await peer.recall(3 as NodeId)).find((one) => one.id.timelineId === timeline_id)?.commitLsn;
      await expect.poll(remembered, { timeout: 10_000 }).toBeGreaterThanOrEqual(parseLsn(commit_lsn));
    }
    await rig.ok('safekeeper', 'stop', '3', '--mode', 'immediate');
    rmSync(dir, { recursive: true });
    renameSync(`${dir}.copy`, dir);
    await rig.ok('safekeeper', 'start', '3');
    // While it is not trusted, and writes go on.
    for (let i = 0; i < 20; i++) await rig.sql('main', `insert into t values (${81_000 + i})`);
    await expect
      .poll(async () => (await status('3')).flatMap(branch('main')).map(({ refused }) => refused), { timeout: 20_000 })
      .toEqual([undefined]);
    const log = readFileSync(join(dir, 'safekeeper.log'), 'utf8');
    expect(log).toMatch(/the disk of this safekeeper is older than what it has shown/);
    expect(log).toMatch(/caught up with all peers/);
    // It is one of the two that are left.
    await rig.ok('safekeeper', 'stop', '1', '--mode', 'immediate');
    expect(await rig.sql('main', 'select count(*)::int as n from t where id > 80000')).toEqual([{ n: 520 }]);
    await rig.sql('main', 'delete from t where id > 80000');
    await rig.ok('safekeeper', 'start', '1');
    await caughtUp();
  });

  it('a disk that was put back while all were stopped is caught up with before a compute starts on it', async () => {
    const dir = join(rig.dir, 'safekeepers/sk3');
    await rig.ok('safekeeper', 'stop', '3');
    cpSync(dir, `${dir}.copy`, { recursive: true });
    await rig.ok('safekeeper', 'start', '3');
    await rig.sql('main', `insert into t select 80000 + i, repeat('v', 1000) from generate_series(1, 500) i`);
    await rig.ok('stop');
    rmSync(dir, { recursive: true });
    renameSync(`${dir}.copy`, dir);
    await rig.ok('start');
    // With the second it is all that the compute has.
    await rig.ok('safekeeper', 'stop', '1', '--mode', 'immediate');
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select count(*)::int as n from t where id > 80000')).toEqual([{ n: 500 }]);
    await rig.sql('main', 'delete from t where id > 80000');
    await rig.ok('safekeeper', 'start', '1');
    await caughtUp();
  });

  it('WAL that is in the remote storage and in layers goes from the disks', async () => {
    for (let i = 0; i < 3; i++) {
      await rig.sql(
        'main',
        `insert into t select ${20_000 + 10_000 * i} + i, repeat('z', 1000) from generate_series(1, 9000) i`,
      );
    }
    await rig.ok('timeline', 'compact', '--branch-name', 'main');
    const { timeline_id } = (await status()).flatMap(branch('main'))[0]!;
    const files = (id: number) =>
      readdirSync(join(rig.dir, `safekeepers/sk${id}/${tenant()}/${timeline_id}`)).filter((name) => /^0000/.test(name));
    await expect.poll(() => [1, 2, 3].map((id) => files(id).length)).toEqual([2, 2, 2]);
    const logs = join(rig.dir, 'local_fs_remote_storage/pageserver/wal', tenant(), timeline_id);
    const sent = readdirSync(join(logs, readdirSync(logs)[0]!)).filter((name) => /^[0-9A-F]{24}$/.test(name));
    expect(sent.length).toBeGreaterThan(1);
    expect(await rig.ok('scrub')).toMatch(/0 missing or damaged/);
  });

  it('a lost one is replaced: what was committed is with the new one, and clients go on', async () => {
    expect(await rig.refused('safekeeper', 'replace', '2')).toMatch(/is running.*not lost/);
    await rig.ok('safekeeper', 'stop', '2', '--mode', 'immediate');
    rmSync(join(rig.dir, 'safekeepers/sk2'), { recursive: true });
    await rig.sql('main', 'insert into t values (90001)');
    expect(await rig.ok('safekeeper', 'replace', '2')).toMatch(/Safekeeper 4 has taken the place of 2/);
    await rig.sql('main', 'insert into t values (90002)');
    await caughtUp();
    expect((await status()).map(({ id, state }) => [id, state])).toEqual([
      [1, 'running'],
      [4, 'running'],
      [3, 'running'],
    ]);
    expect(await rig.refused('safekeeper', 'replace', '2')).toMatch(/no safekeeper 2/);
    // The new one and the one that lags most are all that is left of it.
    await rig.ok('endpoint', 'stop', 'main');
    await rig.ok('safekeeper', 'stop', '1', '--mode', 'immediate');
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select count(*)::int as n from t where id > 90000')).toEqual([{ n: 2 }]);
    await rig.ok('safekeeper', 'start', '1');
    await caughtUp();
  });
});

const config = (): { defaultTenantId: string; safekeepers: { id: NodeId; pgPort: number }[] } =>
  JSON.parse(readFileSync(join(rig.dir, 'config.json'), 'utf8'));
const tenant = () => config().defaultTenantId;
const safekeepers = () => config().safekeepers;
