/**
 * A compute is a PGlite in every way that a program uses one, and what fails behind it is an error of the statement, with its reason.
 */
import { existsSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { btree_gin } from '@electric-sql/pglite/contrib/btree_gin';
import { pg_trgm } from '@electric-sql/pglite/contrib/pg_trgm';
import { pg_walinspect } from '@electric-sql/pglite/contrib/pg_walinspect';
import { live } from '@electric-sql/pglite/live';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Log } from '../../engine/services.ts';
import { FileSpill } from '../../server/compute/file-spill.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { EmbeddedRig, tiny } from '../support/embedded-rig.ts';

let rig: EmbeddedRig;
beforeAll(async () => {
  rig = await EmbeddedRig.start('silent');
});
afterAll(() => rig?.close());

describe('a compute as a PGlite', () => {
  it('queries, transactions, parameters, arrays, listen and notify', async () => {
    const { pg, close } = await rig
      .open(await rig.createTimeline())
      .then((c) => ({ pg: c.pg, close: () => c.close() }));
    expect(pg).toBeInstanceOf(PGlite);
    await pg.exec('create table t(id int primary key, tags text[])');
    await pg.transaction(async (tx) => {
      await tx.query('insert into t values ($1, $2)', [1, ['a', 'b']]);
    });
    await expect(
      pg.transaction(async (tx) => {
        await tx.query('insert into t values (2, null)');
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    expect((await pg.sql`select * from t where id = ${1}`).rows).toEqual([{ id: 1, tags: ['a', 'b'] }]);
    const heard: string[] = [];
    const stop = await pg.listen('news', (payload) => heard.push(payload));
    await pg.exec("notify news, 'first'");
    await stop();
    expect(heard).toEqual(['first']);
    await expect(pg.query('select 1/0')).rejects.toThrow('division by zero');
    const copied = await pg.query("copy (select * from t) to '/dev/blob'");
    expect(await copied.blob!.text()).toBe('1\t{a,b}\n');
    await pg.query("copy t from '/dev/blob'", [], { blob: new Blob(['7\t{x}\n8\t\\N\n']) });
    expect((await pg.query('select count(*)::int as n from t')).rows).toEqual([{ n: 3 }]);
    await close();
    expect(pg.closed).toBe(true);
  });

  it('has extensions, which are there for the next compute too', async () => {
    const timeline = await rig.createTimeline();
    const extensions = { pg_trgm, btree_gin, pg_walinspect };
    const first = await rig.open(timeline, { ...tiny, extensions });
    await first.pg.exec(
      'create extension pg_trgm; create extension btree_gin; create table words(w text, n int); create index on words using gin(w gin_trgm_ops, n)',
    );
    await first.pg.exec('insert into words select md5(g::text), g from generate_series(1, 3000) g');
    await first.close();
    const second = await rig.open(timeline, { ...tiny, extensions: { ...extensions, live } });
    await second.pg.exec('set enable_seqscan = off');
    const found = await second.pg.query("select n from words where w like '%abcd%' order by n");
    await second.pg.exec('set enable_seqscan = on; set enable_bitmapscan = off');
    expect((await second.pg.query("select n from words where w like '%abcd%' order by n")).rows).toEqual(found.rows);
    await second.close();
  });

  it('knows other databases and roles', async () => {
    const timeline = await rig.createTimeline();
    const first = await rig.open(timeline);
    await first.pg.exec('create database other');
    await first.close();
    const second = await rig.open(timeline, { database: 'other', username: 'cloud_admin' });
    expect((await second.pg.query('select current_database() as d, current_user::text as u')).rows).toEqual([
      { d: 'other', u: 'cloud_admin' },
    ]);
    await second.close();
    await expect(rig.open(timeline, { database: 'nowhere' })).rejects.toThrow();
  });

  it('refuses tablespaces', async () => {
    const { pg, close } = await rig
      .open(await rig.createTimeline())
      .then((c) => ({ pg: c.pg, close: () => c.close() }));
    await expect(pg.exec("create tablespace far location '/tmp'")).rejects.toThrow();
    await pg.exec('set allow_in_place_tablespaces = on');
    await expect(pg.exec("create tablespace near location ''")).rejects.toThrow(/Operation not permitted/);
    await pg.exec('create table t(x int)');
    await close();
  });
});

describe('when storage fails', () => {
  it('a read that fails costs its statement, and is logged with its reason', async () => {
    const timeline = await rig.createTimeline();
    const writer = await rig.open(timeline);
    await writer.pg.exec("create table t as select g as id, repeat('x', 1000) as pad from generate_series(1, 2000) g");
    await writer.close();
    const logged: string[] = [];
    const log: Log = { ...silentLog, error: (_message, data) => logged.push(JSON.stringify(data)) };
    const compute = await rig.open(timeline, { ...tiny, log });
    await compute.pg.query('select 1');
    await rig.storage.call('failReads', {
      kind: 'corrupt',
      message: 'layer 00__01 is damaged',
      data: { file: '00__01' },
    });
    await expect(compute.pg.query('select count(pad) from t')).rejects.toThrow(/could not read blocks? .*I\/O error/);
    expect(logged.join()).toContain('layer 00__01 is damaged');
    await rig.storage.call('failReads', null);
    expect((await compute.pg.query('select count(pad)::int as n from t')).rows).toEqual([{ n: 2000 }]);
    await compute.close();
  });
});

describe('pages that must stay and have no room', () => {
  it('go to a file that leaves nothing behind, sorts included', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'pagelite-test-'));
    const spill = new FileSpill(dir);
    const compute = await rig.open(await rig.createTimeline(), { ...tiny, spill });
    await compute.pg.exec(
      "begin; create table t as select g as id, repeat('x', 1000) as pad from generate_series(1, 3000) g; update t set pad = id || pad",
    );
    expect(compute.pg.spilledPages).toBeGreaterThan(200);
    expect(readdirSync(dir)).toEqual([]);
    expect((await compute.pg.query('select sum(length(pad))::int as n from t')).rows).toEqual([
      { n: 3000 * 1000 + 9 + 180 + 2700 + 8004 },
    ]);
    await compute.pg.exec('commit');
    const before = compute.pg.cacheCounters.spilled;
    await compute.pg.exec("set work_mem = '64kB'");
    const large =
      'select count(*)::int as n, md5(max(pad)) as m from (select distinct pad, id from t order by pad desc) x';
    const sorted = await compute.pg.query(large);
    expect(compute.pg.cacheCounters.spilled).toBeGreaterThan(before + 100);
    await compute.pg.exec("set work_mem = '100MB'");
    expect((await compute.pg.query(large)).rows).toEqual(sorted.rows);
    await compute.close();
    expect(existsSync(dir)).toBe(true);
    await rm(dir, { recursive: true });
  });
});
