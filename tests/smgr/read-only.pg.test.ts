/**
 * A read-only compute sees its timeline at one LSN, for ever, and cannot be talked into writing.
 *
 * Attacked through every door that PostgreSQL has: BEGIN READ WRITE, SET, set_config, SET LOCAL, RESET, functions; and with what PostgreSQL
 * writes by itself (hint bits, pruning, VACUUM), with a cache too small to hold it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { EmbeddedRig, type RigCompute, tiny } from '../support/embedded-rig.ts';

describe('a read-only compute', () => {
  let rig: EmbeddedRig;
  let timeline: TimelineId;
  let main: RigCompute;
  let past: RigCompute;
  let at: Lsn;
  beforeAll(async () => {
    rig = await EmbeddedRig.start();
    timeline = await rig.createTimeline();
    main = await rig.open(timeline, tiny);
    await main.pg.exec(`create table t(id int primary key, v text); create sequence s;
      create function writes() returns int language plpgsql set default_transaction_read_only = on as 'begin insert into t values (-1); return 1; end';
      insert into t select g, repeat('v', 200) from generate_series(1, 4000) g; update t set v = 'u' where id % 2 = 0; delete from t where id % 5 = 0`);
    at = await main.lsn();
    past = await rig.open(timeline, { ...tiny, mode: { readOnlyAt: at } });
  });
  afterAll(() => rig?.close());

  const count = 'select count(*)::int as n, count(distinct v)::int as d, sum(id)::int as s from t';

  it('stays as it was while the timeline moves on', async () => {
    const before = (await past.pg.query(count)).rows;
    await main.pg.exec(
      "delete from t where id % 3 = 0; insert into t select g, 'later' from generate_series(9000, 9500) g",
    );
    await main.pg.exec('vacuum t');
    await main.pg.exec('drop sequence s');
    await rig.catchUp(timeline);
    expect((await past.pg.query(count)).rows).toEqual(before);
    expect((await past.pg.query(count)).rows).toEqual(before);
    expect((await main.pg.query(count)).rows).not.toEqual(before);
  });

  it.each([
    'insert into t values (0)',
    'update t set v = 1',
    'delete from t',
    'create table x(y int)',
    'drop table t',
    'truncate t',
    "select nextval('s')",
    'select writes()',
    'create database elsewhere',
  ])('refuses: %s', async (sql) => {
    await expect(past.pg.exec(sql)).rejects.toThrow(/read-only transaction/);
  });

  it.each([
    'set default_transaction_read_only = off',
    'set session characteristics as transaction read write',
    "select set_config('default_transaction_read_only', 'off', false)",
    'begin read write',
    'begin; set transaction read write',
    'begin; set local transaction_read_only = off',
    "begin; select set_config('transaction_read_only', 'off', true)",
    'alter system set default_transaction_read_only = off',
  ])('cannot be made to write by: %s', async (sql) => {
    await past.pg.exec(sql).catch(() => {});
    await expect(past.pg.exec('insert into t values (0)')).rejects.toThrow();
    await past.pg.exec('rollback');
    await past.pg.exec('reset all');
    await past.pg.exec('discard all');
    await expect(past.pg.exec('insert into t values (0)')).rejects.toThrow(/read-only transaction/);
    expect((await past.pg.query('show transaction_read_only')).rows).toEqual([{ transaction_read_only: 'on' }]);
  });

  it('runs explicit read-only transactions, sorts that spill, VACUUM and REINDEX', async () => {
    const before = (await past.pg.query(count)).rows;
    await past.pg.exec('begin transaction isolation level repeatable read, read only; select 1; commit');
    await past.pg.exec("set work_mem = '64kB'; select count(distinct v || id) from t; reset work_mem");
    await past.pg.exec('vacuum t');
    await past.pg.exec('reindex table t');
    expect((await past.pg.query(count)).rows).toEqual(before);
  });

  it('leaves no trace', async () => {
    const committed = await rig.storage.call('commitLsn', timeline);
    await past.close();
    expect(await rig.storage.call('commitLsn', timeline)).toBe(committed);
    await main.close();
    const again = await rig.open(timeline, { ...tiny, mode: { readOnlyAt: at } });
    await expect(again.pg.exec('insert into t values (0)')).rejects.toThrow(/read-only transaction/);
    await again.close();
  });
});
