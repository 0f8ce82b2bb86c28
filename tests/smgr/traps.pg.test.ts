/**
 * What goes wrong when pages leave the process and come back as what WAL says of them, one test for each trap.
 *
 * The compute's cache is 64 pages and its shared buffers 32, so pages do leave; storage is the real pageserver and safekeeper in memory, and the
 * pageserver is always 15 ms behind, so that whoever asks for a page at too old an LSN gets an old page.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmbeddedRig, type RigCompute, tiny } from '../support/embedded-rig.ts';

let rig: EmbeddedRig;
beforeAll(async () => {
  rig = await EmbeddedRig.start();
  await rig.storage.call('lag', 15);
});
afterAll(() => rig?.close());

async function rows(compute: RigCompute, sql: string): Promise<unknown[]> {
  return (await compute.pg.query(sql)).rows;
}

/** Killed, and opened again. */
async function reborn(compute: RigCompute, timeline: Awaited<ReturnType<EmbeddedRig['createTimeline']>>) {
  await compute.kill();
  return rig.open(timeline, tiny);
}

describe('command ids', () => {
  it('of a running transaction survive the eviction of its pages', async () => {
    const compute = await rig.open(await rig.createTimeline(), tiny);
    const { pg } = compute;
    await pg.exec("create table t(id int primary key, n int, pad text default repeat('p', 900))");
    const read = compute.pg.cacheCounters.spilled;
    await pg.exec('begin');
    await pg.exec('insert into t(id, n) select g, 0 from generate_series(1, 1500) g');
    await pg.exec('declare c cursor for select id, n from t order by id');
    await pg.exec('update t set n = n + 1');
    await pg.exec('update t set n = n + 1 where id % 2 = 0');
    expect(await rows(compute, 'select n, count(*)::int as c from t group by n order by n')).toEqual([
      { n: 1, c: 750 },
      { n: 2, c: 750 },
    ]);
    // The cursor was opened before the updates: by command ids alone it sees the rows as inserted.
    const seen = await pg.exec('fetch all from c');
    expect(seen[0]!.rows.length).toBe(1500);
    expect(new Set(seen[0]!.rows.map((row) => row.n))).toEqual(new Set([0]));
    await pg.exec('commit');
    expect(compute.pg.cacheCounters.spilled).toBeGreaterThan(read + 100);
    expect(compute.pg.spilledPages).toBeGreaterThan(0);
    await pg.exec('insert into t(id, n) values (0, 0)');
    expect(compute.pg.spilledPages).toBeLessThan(20);
    // Reads that set hint bits and prune: what they write may leave, although no commit flushes its WAL.
    for (let i = 0; i < 5; i++) {
      expect(await rows(compute, 'select sum(n)::int as n from t')).toEqual([{ n: 2250 }]);
      expect(compute.pg.spilledPages).toBeLessThan(2 * 64);
    }
    await compute.close();
  });

  it.each(['gin(a)', 'gist(r)', 'spgist(v)'])(
    'an index build of %s, which writes pages before their WAL',
    async (index) => {
      const compute = await rig.open(await rig.createTimeline(), tiny);
      await compute.pg.exec(
        'create table t as select g as id, array[g % 7, g % 11] as a, int4range(g, g + 5) as r, md5(g::text) as v from generate_series(1, 4000) g',
      );
      await compute.pg.exec(`create index on t using ${index}; set enable_seqscan = off`);
      const probe =
        "select (select count(*)::int from t where a @> array[3, 5]) as gin, (select count(*)::int from t where r @> 1000) as gist, (select count(*)::int from t where v = md5('77')) as spgist";
      const found = (await rows(compute, probe))[0];
      const byHand =
        'select count(*)::int as gin, 5 as gist, 1 as spgist from t where (id % 7 = 3 and id % 11 = 5) or (id % 7 = 5 and id % 11 = 3)';
      expect([found]).toEqual(await rows(compute, byHand));
      await compute.close();
    },
  );
});

describe('what WAL does not say', () => {
  it('blocks of zeros past what the pageserver knows are zeros, also after truncation', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      "create table t(id int, pad text); insert into t select g, repeat('x', 1000) from generate_series(1, 2000) g",
    );
    await compute.pg.exec('delete from t where id > 100');
    await compute.pg.exec('vacuum (truncate) t');
    expect(await rows(compute, "select pg_relation_size('t') / 8192 < 30 as small")).toEqual([{ small: true }]);
    await compute.pg.exec("insert into t select g, repeat('y', 1000) from generate_series(5001, 7000) g");
    const sum = 'select count(*)::int as n, sum(id)::int as s, count(distinct pad)::int as d from t';
    const expected = [{ n: 2100, s: 5050 + (5001 + 7000) * 1000, d: 2 }];
    expect(await rows(compute, sum)).toEqual(expected);
    compute = await reborn(compute, timeline);
    expect(await rows(compute, sum)).toEqual(expected);
    await compute.pg.exec("insert into t select g, 'z' from generate_series(1, 500) g");
    await compute.close();
  });

  it('free space maps and hint bits may be lost in a crash', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      "create table t(id int, pad text); insert into t select g, repeat('x', 500) from generate_series(1, 3000) g",
    );
    for (let round = 0; round < 3; round++) {
      await compute.pg.exec(`delete from t where id % 3 = ${round}`);
      await compute.pg.exec('vacuum t');
      await compute.pg.exec(`insert into t select g, repeat('r', 500) from generate_series(1, 1000) g`);
      compute = await reborn(compute, timeline);
    }
    expect(await rows(compute, 'select count(*)::int >= 1000 as n from t')).toEqual([{ n: true }]);
    await compute.close();
  });
});

describe('what is local only', () => {
  it('an unlogged table is its init fork after a restart, and works before and after', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      "create unlogged table u(id int primary key, pad text); create unlogged sequence us; insert into u select g, repeat('u', 500) from generate_series(1, 3000) g; create index on u(pad)",
    );
    expect(await rows(compute, 'select count(*)::int as n, sum(id)::int as s from u')).toEqual([
      { n: 3000, s: 4501500 },
    ]);
    compute = await reborn(compute, timeline);
    expect(await rows(compute, 'select count(*)::int as n from u')).toEqual([{ n: 0 }]);
    await compute.pg.exec("insert into u select g, 'again' from generate_series(1, 500) g");
    expect(await rows(compute, "select count(*)::int as n from u where pad = 'again'")).toEqual([{ n: 500 }]);
    await compute.close();
    compute = await rig.open(timeline, tiny);
    expect(await rows(compute, 'select count(*)::int as n from u')).toEqual([{ n: 0 }]);
    await compute.pg.exec('drop table u');
    await compute.close();
  });

  it('temporary tables, their indexes and sorts never reach the pageserver', async () => {
    const timeline = await rig.createTimeline();
    const compute = await rig.open(timeline, tiny);
    await compute.pg.exec('create table t(id int)');
    await rig.catchUp(timeline);
    const before = await rig.storage.call('counters');
    await compute.pg.exec(
      "create temp table tmp(id int primary key, pad text); insert into tmp select g, repeat('t', 700) from generate_series(1, 4000) g; update tmp set pad = pad || id",
    );
    await compute.pg.exec("set work_mem = '64kB'");
    expect(await rows(compute, 'select count(distinct pad)::int as n from tmp')).toEqual([{ n: 4000 }]);
    const status = await rig.storage.call('status', timeline);
    expect(status.stopped).toBeNull();
    const after = await rig.storage.call('counters');
    // Catalog pages only.
    expect(after.pages - before.pages).toBeLessThan(400);
    await compute.close();
  });
});

describe('the LSN to read at', () => {
  it('a database copied file by file has pages older than itself', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec("create table t as select g as id, repeat('c', 300) as pad from generate_series(1, 2000) g");
    await compute.pg.exec('create database copied2 strategy file_copy');
    // Evicts the copy's pages.
    await compute.pg.exec('update t set pad = pad || id');
    expect(await rows(compute, "select pg_database_size('copied2') > 5000000 as large")).toEqual([{ large: true }]);
    await compute.close();
    compute = await rig.open(timeline, { ...tiny, database: 'copied2' });
    expect(await rows(compute, 'select current_database() as db, count(*)::int > 300 as ok from pg_class')).toEqual([
      { db: 'copied2', ok: true },
    ]);
    await compute.pg.exec('create table here(x int); insert into here values (1)');
    await compute.close();
    compute = await rig.open(timeline, tiny);
    await compute.pg.exec('drop database copied2');
    await compute.close();
    compute = await rig.open(timeline, tiny);
    expect(await rows(compute, "select count(*)::int as n from pg_database where datname = 'copied2'")).toEqual([
      { n: 0 },
    ]);
    await compute.close();
  });

  it('an evicted page is read as it was last written, however fast it changes', async () => {
    const compute = await rig.open(await rig.createTimeline(), tiny);
    await compute.pg.exec(
      "create table t(id int primary key, n int, pad text default repeat('p', 1500)); insert into t(id, n) select g, 0 from generate_series(1, 1500) g",
    );
    for (let round = 1; round <= 6; round++) {
      await compute.pg.exec('update t set n = n + 1 where id % 3 = 0');
      expect(await rows(compute, 'select min(n) as a, max(n) as b from t where id % 3 = 0')).toEqual([
        { a: round, b: round },
      ]);
    }
    await compute.close();
  });
});

describe('what pages do not show in their LSN', () => {
  it('all-visible bits of heap and map: set by VACUUM, cleared by updates, never one without the other', async () => {
    const compute = await rig.open(await rig.createTimeline(), tiny);
    const { pg } = compute;
    await pg.exec(
      "create table t(id int primary key, n int, pad text default repeat('p', 700)); insert into t(id, n) select g, 0 from generate_series(1, 3000) g",
    );
    await pg.exec('create index on t(n, id)');
    await rig.storage.call('lag', 250);
    for (let round = 1; round <= 2; round++) {
      // Marks every heap page all-visible without touching its LSN; the last ones are evicted by the catalog look-ups behind it.
      await pg.exec('vacuum t');
      // Reads each page again at once, marks or not, and clears the map where there was a mark.
      await pg.exec(`update t set n = ${round} where id % 10 = ${round}`);
      const heap = await rows(
        compute,
        'select n, count(*)::int as c from t where pad is not null group by n order by n',
      );
      await pg.exec('set enable_seqscan = off; set enable_bitmapscan = off');
      const plan = JSON.stringify(await rows(compute, 'explain select n from t where n >= 0'));
      expect(plan).toContain('Index Only Scan');
      const index = 'select n, count(*)::int as c from (select n from t where n >= 0 offset 0) x group by n order by n';
      expect(await rows(compute, index)).toEqual(heap);
      expect(heap.length).toBe(round + 1);
      await pg.exec('reset all');
    }
    await rig.storage.call('lag', 15);
    await compute.close();
  });
});

describe('transactions without an end', () => {
  it('read as aborted after a crash, and their xids are not given out again', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      'create table t(id int, xid xid8 default pg_current_xact_id()); insert into t(id) values (1)',
    );
    await compute.pg.exec('begin; insert into t(id) select generate_series(2, 3000)');
    // Makes the transaction's WAL durable without ending it.
    const [{ xid }] = (await rows(compute, 'select pg_current_xact_id()::text as xid')) as [{ xid: string }];
    await compute.pg.exec("select pg_logical_emit_message(false, 'flush', repeat('x', 100000), true)");
    compute = await reborn(compute, timeline);
    expect(await rows(compute, 'select count(*)::int as n from t')).toEqual([{ n: 1 }]);
    await compute.pg.exec('insert into t(id) values (2)');
    const [last] = (await rows(compute, 'select xid::text from t where id = 2')) as [{ xid: string }];
    expect(BigInt(last.xid)).toBeGreaterThan(BigInt(xid));
    expect(await rows(compute, 'select count(*)::int as n from t')).toEqual([{ n: 2 }]);
    await compute.close();
  });

  it('subtransactions and multixacts mean the same after a restart', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      'create table t(id int primary key, n int); insert into t select g, 0 from generate_series(1, 300) g',
    );
    await compute.pg.exec(
      'begin; select count(*) from (select 1 from t for share) x; savepoint a; update t set n = 1 where id < 100; rollback to a; savepoint b; update t set n = 2 where id > 200; commit',
    );
    const expected = [
      { n: 0, c: 200 },
      { n: 2, c: 100 },
    ];
    const probe = 'select n, count(*)::int as c from t group by n order by n';
    expect(await rows(compute, probe)).toEqual(expected);
    compute = await reborn(compute, timeline);
    expect(await rows(compute, probe)).toEqual(expected);
    await compute.pg.exec('update t set n = n + 1');
    await compute.close();
  });
});

describe('sequences', () => {
  it('may skip after a crash, never repeat, and do not skip while the compute lives', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec(
      "create sequence s; create table filler as select g, repeat('f', 1000) from generate_series(1, 1500) g",
    );
    const values: number[] = [];
    const next = async () =>
      values.push(Number(((await rows(compute, "select nextval('s')::int as v")) as [{ v: number }])[0].v));
    for (let i = 0; i < 5; i++) {
      await next();
      await compute.pg.exec('select count(*) from filler');
    }
    expect(values).toEqual([1, 2, 3, 4, 5]);
    compute = await reborn(compute, timeline);
    await next();
    expect(values.at(-1)).toBeGreaterThan(5);
    expect(values.at(-1)).toBeLessThanOrEqual(34);
    await compute.close();
  });
});

describe('prepared transactions', () => {
  it('survive a kill and can be committed by the next compute', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline, tiny);
    await compute.pg.exec('create table t(id int)');
    await compute.pg.exec("begin; insert into t select generate_series(1, 10); prepare transaction 'p1'");
    compute = await reborn(compute, timeline);
    expect(await rows(compute, 'select gid from pg_prepared_xacts')).toEqual([{ gid: 'p1' }]);
    expect(await rows(compute, 'select count(*)::int as n from t')).toEqual([{ n: 0 }]);
    await compute.pg.exec("commit prepared 'p1'");
    expect(await rows(compute, 'select count(*)::int as n from t')).toEqual([{ n: 10 }]);
    await compute.close();
  });
});
