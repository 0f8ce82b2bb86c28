/**
 * A compute is a PGlite: what it commits is there for the next one, in order or after a kill, and on branches.
 *
 * Attacked with restarts and kills between statements; storage is the real pageserver and safekeeper in memory.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmbeddedRig, tiny } from '../support/embedded-rig.ts';

let rig: EmbeddedRig;
beforeAll(async () => {
  rig = await EmbeddedRig.start();
});
afterAll(() => rig?.close());

describe('a compute', () => {
  it('boots at the template, writes, and its successor sees it all', async () => {
    const timeline = await rig.createTimeline();
    const first = await rig.open(timeline, tiny);
    await first.pg.exec('create table t(id serial primary key, v text)');
    await first.pg.exec('insert into t(v) select md5(g::text) from generate_series(1, 20000) g');
    const before = await first.pg.query("select count(*)::int, md5(string_agg(v, ',' order by id)) from t");
    await first.close();

    const second = await rig.open(timeline, tiny);
    expect((await second.pg.query("select count(*)::int, md5(string_agg(v, ',' order by id)) from t")).rows).toEqual(
      before.rows,
    );
    await second.pg.query("insert into t(v) values ('next')");
    expect((await second.pg.query("select id > 20000 as later from t where v = 'next'")).rows).toEqual([
      { later: true },
    ]);
    await second.close();
  });

  it('loses nothing that was committed when it is killed, and everything that was not', async () => {
    const timeline = await rig.createTimeline();
    const first = await rig.open(timeline);
    await first.pg.exec('create table t(id int primary key)');
    await first.pg.exec('insert into t select generate_series(1, 5000)');
    await first.pg.exec('begin; insert into t select generate_series(5001, 9000)');
    await first.kill();
    const second = await rig.open(timeline);
    expect((await second.pg.query('select count(*)::int as n, max(id) from t')).rows).toEqual([{ n: 5000, max: 5000 }]);
    await second.pg.exec('insert into t select generate_series(5001, 5010)');
    await second.close();
  });

  it('sees a branch without what its parent did later, and the other way round', async () => {
    const timeline = await rig.createTimeline();
    const main = await rig.open(timeline);
    await main.pg.exec("create table t(who text); insert into t values ('both')");
    await rig.catchUp(timeline);
    const branch = await rig.open(await rig.branch(timeline, await main.lsn()));
    await main.pg.exec("insert into t values ('main')");
    await branch.pg.exec("insert into t values ('branch')");
    expect((await main.pg.query('select who from t order by who')).rows).toEqual([{ who: 'both' }, { who: 'main' }]);
    expect((await branch.pg.query('select who from t order by who')).rows).toEqual([
      { who: 'both' },
      { who: 'branch' },
    ]);
    await branch.close();
    await main.close();
  });
});
