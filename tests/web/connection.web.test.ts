/**
 * What `connect` gives is a PGlite: its whole interface over a worker, with nothing lost on the way.
 *
 * Every case is PGlite's documented behaviour, in a tab: values of all kinds in both directions, transactions, errors with PostgreSQL's fields, notices,
 * notifications, COPY with a blob. Cases share one connection, as a page does, one after another.
 */
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BranchConnection } from '../../browser/api.ts';
import { WebRig } from './support/web-rig.ts';

declare global {
  var pg: BranchConnection;
}

let rig: WebRig;
let page: Page;
beforeAll(async () => {
  rig = await WebRig.start();
  page = await rig.tab(await rig.context());
  await page.evaluate(async () => {
    globalThis.pg = await lite.connect('main', { settings: { work_mem: '5MB' } });
  });
});
afterAll(() => rig?.close());

describe('a connection', () => {
  it('takes and gives values of all kinds', async () => {
    const row = await page.evaluate(async () => {
      const values = [1, 'text', true, null, new Date(0), Uint8Array.of(1, 255), [1, 2], ['a', 'b'], { k: 1 }];
      const { rows } = await pg.query<Record<string, unknown>>(
        `select $1::int as int, $2::text as text, $3::bool as bool, $4::int as nothing, $5::timestamptz as moment,
           $6::bytea as bytes, $7::int[] as ints, $8::text[] as texts, $9::jsonb as json, 9007199254740993::int8 as big`,
        values,
      );
      const { moment, bytes, big, ...rest } = rows[0]!;
      return { ...rest, moment: (moment as Date).getTime(), bytes: [...(bytes as Uint8Array)], big: String(big) };
    });
    expect(row).toEqual({
      int: 1,
      text: 'text',
      bool: true,
      nothing: null,
      moment: 0,
      bytes: [1, 255],
      ints: [1, 2],
      texts: ['a', 'b'],
      json: { k: 1 },
      big: '9007199254740993',
    });
  });

  it('has row modes, parsers and serializers of the caller, sql templates and fields', async () => {
    const answer = await page.evaluate(async () => {
      const array = await pg.query('select 1 as a, 2 as b', [], { rowMode: 'array' });
      const parsed = await pg.query('select 5::int as n', [], { parsers: { 23: (text: string) => `<${text}>` } });
      const sent = await pg.query('select $1::int as n', [7], { serializers: { 23: (n: number) => String(n * 2) } });
      const templated = await pg.sql`select ${'x'}::text as x`;
      return [array.rows, array.fields, parsed.rows, sent.rows, templated.rows];
    });
    expect(answer).toEqual([
      [[1, 2]],
      [
        { name: 'a', dataTypeID: 23 },
        { name: 'b', dataTypeID: 23 },
      ],
      [{ n: '<5>' }],
      [{ n: 14 }],
      [{ x: 'x' }],
    ]);
  });

  it('asks serializers of the page, and objects that know how they are written', async () => {
    const answer = await page.evaluate(async () => {
      class Money {
        readonly cents = 1250;
        toString() {
          return String(this.cents / 100);
        }
      }
      const money = await pg.query('select $1::numeric as n', [new Money()]);
      await pg.exec("create type mood as enum ('fine', 'tired')");
      await pg.refreshArrayTypes();
      const moods = await pg.query('select $1::mood[] as moods', [['tired', 'fine']]);
      const few = await pg
        .query('select $1::int + $2::int', [1])
        .catch((error: Error & { code?: string }) => error.code);
      const wrong = await pg
        .query('select $1::int', [{ not: 'a number' }])
        .catch((error: Error) => error instanceof Error);
      const inside = await pg.transaction(async (tx) => [
        (await tx.query('select $1::int as n', [5])).rows,
        (await tx.sql`select ${6}::int as n`).rows,
        tx.closed,
      ]);
      const original = pg.serializers[23]!;
      pg.serializers[23] = (n: number) => String(n + 1);
      const plusOne = await pg.query('select $1::int as n', [1]);
      pg.serializers[23] = original;
      return { money: money.rows, moods: moods.rows, few, wrong, inside, plusOne: plusOne.rows };
    });
    expect(answer).toMatchObject({
      money: [{ n: '12.5' }],
      moods: [{ moods: ['tired', 'fine'] }],
      few: '08P01',
      wrong: true,
      inside: [[{ n: 5 }], [{ n: 6 }], false],
      plusOne: [{ n: 2 }],
    });
  });

  it('gives the results of every statement of a script, and the settings it was opened with', async () => {
    const results = await page.evaluate(async () => {
      const results = await pg.exec(
        'create table script (n int); insert into script values (1), (2); select n from script; show work_mem',
      );
      return results.map(({ rows, affectedRows }) => ({ rows, affectedRows }));
    });
    expect(results.map(({ rows }) => rows)).toEqual([[], [], [{ n: 1 }, { n: 2 }], [{ work_mem: '5MB' }]]);
    expect(results[1]!.affectedRows).toBe(2);
  });

  it("rejects with PostgreSQL's fields and what was asked, and goes on", async () => {
    const answer = await page.evaluate(async () => {
      await pg.exec('create table unique_names (name text primary key, age int check (age > 0))');
      await pg.query("insert into unique_names values ('Ada', 36)");
      type Fields = {
        code: string;
        constraint: string;
        detail: string;
        query: string;
        params: unknown[];
        position: string;
      };
      const of = (run: Promise<unknown>) =>
        run.then(
          () => null,
          (e: Error & Fields) => e,
        );
      const twice = await of(pg.query('insert into unique_names values ($1, 1)', ['Ada']));
      const typo = await of(pg.query('select * frm unique_names'));
      const script = await of(pg.exec('select 1; select nonsense'));
      const value = await of(pg.query('select $1::int', ['x']));
      const { rows } = await pg.query('select count(*)::int as n from unique_names');
      const { code, constraint, detail, query, params, message } = twice!;
      return {
        twice: { code, constraint, detail, query, params, message, isError: twice instanceof Error },
        typo: { code: typo!.code, position: typo!.position, message: typo!.message },
        script: script!.code,
        value: value!.code,
        rows,
      };
    });
    expect(answer.twice).toEqual({
      code: '23505',
      constraint: 'unique_names_pkey',
      detail: 'Key (name)=(Ada) already exists.',
      query: 'insert into unique_names values ($1, 1)',
      params: ['Ada'],
      message: 'duplicate key value violates unique constraint "unique_names_pkey"',
      isError: true,
    });
    expect(answer.typo).toEqual({ code: '42601', position: '10', message: 'syntax error at or near "frm"' });
    expect([answer.script, answer.value, answer.rows]).toEqual(['42703', '22P02', [{ n: 1 }]]);
  });

  it('has transactions: committed, rolled back, and apart from what is asked beside them', async () => {
    const answer = await page.evaluate(async () => {
      await pg.exec('create table ledger (n int)');
      const [kept] = await Promise.all([
        pg.transaction(async (tx) => {
          await tx.query('insert into ledger values ($1)', [1]);
          await tx.exec('insert into ledger values (2)');
          return (await tx.query<{ n: number }>('select count(*)::int as n from ledger')).rows[0]!.n;
        }),
        // Asked while the transaction runs: it waits.
        pg.query('insert into ledger select count(*)::int * 100 from ledger'),
      ]);
      const thrown = await pg
        .transaction(async (tx) => {
          await tx.query('insert into ledger values (3)');
          throw new Error('no');
        })
        .catch((error: Error) => error.message);
      const failed = await pg
        .transaction((tx) => tx.query('select 1 / 0'))
        .catch((error: Error & { code?: string }) => error.code);
      await pg.transaction(async (tx) => {
        await tx.query('insert into ledger values (4)');
        await tx.rollback();
      });
      const { rows } = await pg.query<{ n: number }>('select n from ledger order by n');
      return { kept, thrown, failed, ledger: rows.map(({ n }) => n) };
    });
    expect(answer).toEqual({ kept: 2, thrown: 'no', failed: '22012', ledger: [1, 2, 200] });
  });

  it('describes a query without running it', async () => {
    const answer = await page.evaluate(async () => {
      const { queryParams, resultFields } = await pg.describeQuery('select $1::int as a, $2::text as b');
      const wrong = await pg.describeQuery('selec').catch((error: Error & { code?: string }) => error.code);
      const { rows } = await pg.query('select 1 as one');
      return [queryParams.map((p) => p.dataTypeID), resultFields.map((f) => [f.name, f.dataTypeID]), wrong, rows];
    });
    expect(answer).toEqual([
      [23, 25],
      [
        ['a', 23],
        ['b', 25],
      ],
      '42601',
      [{ one: 1 }],
    ]);
  });

  it('tells notices and notifications', async () => {
    const answer = await page.evaluate(async () => {
      const notices: string[] = [];
      await pg.exec("do $$ begin raise notice 'look'; end $$", {
        onNotice: (notice) => notices.push(notice.message ?? ''),
      });
      const heard: string[] = [];
      const stop = await pg.listen('news', (payload) => heard.push(payload));
      const stopAll = pg.onNotification((channel, payload) => heard.push(`${channel}=${payload}`));
      await pg.query("select pg_notify('news', 'one')");
      await stop();
      stopAll();
      await pg.query("select pg_notify('news', 'two')");
      return { notices, heard };
    });
    expect(answer).toEqual({ notices: ['look'], heard: ['one', 'news=one'] });
  });

  it('copies to and from blobs', async () => {
    const answer = await page.evaluate(async () => {
      await pg.exec('create table copied (n int, t text)');
      const blob = new Blob(['1\tone\n2\ttwo\n']);
      const { affectedRows } = await pg.query("copy copied from '/dev/blob'", [], { blob });
      const out = await pg.query("copy copied to '/dev/blob' (format csv)");
      const next = await pg.query('select 1');
      return { affectedRows, text: await out.blob!.text(), next: next.blob === undefined };
    });
    expect(answer).toEqual({ affectedRows: 2, text: '1,one\n2,two\n', next: true });
  });

  it('carries large results', async () => {
    const sum = await page.evaluate(async () => {
      const { rows } = await pg.query<{ v: string }>("select repeat('x', 10000) as v from generate_series(1, 2000)");
      return rows.reduce((total, { v }) => total + v.length, 0);
    });
    expect(sum).toBe(20_000_000);
  });

  it('says after close that it is closed, and its branch is free again', async () => {
    const answer = await page.evaluate(async () => {
      const last = pg.query('select 1 as last');
      await pg.close();
      const isClosed = pg.closed;
      const after = await pg.query('select 1').catch((error: Error & { kind?: string }) => error.kind);
      globalThis.pg = await lite.connect('main');
      return [(await last).rows, isClosed, after, (await pg.query('select 2 as two')).rows];
    });
    expect(answer).toEqual([[{ last: 1 }], true, 'closed', [{ two: 2 }]]);
  });

  it("has PostgreSQL's contrib modules, also those of a database that an endpoint made", async () => {
    await page.evaluate(async () => {
      await pg.exec("create extension hstore; create table h as select 'a=>1'::hstore as v");
      await pg.close();
    });
    await rig.repository.endpoint('main');
    expect(await rig.repository.sql('main', "select v->'a' as a from h")).toEqual([{ a: '1' }]);
    await rig.repository.sql('main', 'create extension pg_trgm');
    await rig.repository.ok('endpoint', 'stop', 'main', '--destroy');
    const rows = await page.evaluate(async () => {
      globalThis.pg = await lite.connect('main');
      const { rows } = await pg.query("select v->'a' as a, similarity('branch', 'branches') > 0.5 as alike from h");
      return rows;
    });
    expect(rows).toEqual([{ a: '1', alike: true }]);
  });
});
