/** A second writer on a timeline fences the first: that one commits nothing more, reads nothing more, and says why. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmbeddedRig } from '../support/embedded-rig.ts';

describe('fencing', () => {
  let rig: EmbeddedRig;
  beforeAll(async () => {
    rig = await EmbeddedRig.start('silent');
  });
  afterAll(() => rig?.close());

  it('ends the older compute with a clear reason and loses nothing that either has committed', async () => {
    const timeline = await rig.createTimeline();
    const older = await rig.open(timeline);
    await older.pg.exec('create table t(who text)');
    await older.pg.query("insert into t values ('older')");
    const newer = await rig.open(timeline);
    await newer.pg.query("insert into t values ('newer')");

    const fenced = new RegExp(`this endpoint was fenced: term 2 rules timeline ${timeline}`);
    await expect(older.pg.query("insert into t values ('too late')")).rejects.toThrow(fenced);
    await expect(older.pg.query('select 1')).rejects.toThrow(fenced);
    await expect(older.pg.query('select 1')).rejects.toMatchObject({ kind: 'fenced' });
    expect(await older.failure()).toMatch(fenced);
    await older.close();

    expect((await newer.pg.query('select who from t order by who')).rows).toEqual([{ who: 'newer' }, { who: 'older' }]);
    await newer.close();
  });

  it('ends a compute in the middle of a commit that can never be: no answer but the reason, and the next one decides', async () => {
    const timeline = await rig.createTimeline();
    const compute = await rig.open(timeline);
    await compute.pg.exec('create table t(v int); insert into t values (1)');
    await compute.loseCommits(200);
    await expect(compute.pg.query('insert into t values (2)')).rejects.toMatchObject({ kind: 'closed' });
    await expect(compute.pg.query('select 1')).rejects.toMatchObject({ kind: 'closed' });
    await compute.pg.close();
    const next = await rig.open(timeline);
    const { rows } = await next.pg.query<{ v: number }>('select v from t order by v');
    // The insert was never acknowledged: it may be there or not.
    expect([[1], [1, 2]]).toContainEqual(rows.map(({ v }) => v));
    await next.close();
  });

  it('stops a compute whose I/O host has gone, instead of letting it wait for ever', async () => {
    const compute = await rig.open(await rig.createTimeline());
    await compute.pg.exec('create table t(v int)');
    await compute.kill();
    await expect(compute.pg.query('insert into t values (1)')).rejects.toMatchObject({ kind: 'closed' });
    await compute.pg.close();
  });
});
