/**
 * Pagelite as a library, from the build, as a program imports it: a folder, branches, and PGlites on them in this thread.
 *
 * Must hold: what PGlite can do a branch can (queries, transactions, LISTEN, extensions, an ORM's driver); several branches are open at once and
 * isolated; what was committed is there when the folder is opened again, closed in order or not; a place in time is what was committed then.
 */
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { pg_trgm } from '@electric-sql/pglite/contrib/pg_trgm';
import { live } from '@electric-sql/pglite/live';
import { eq } from 'drizzle-orm';
import { integer, pgTable, text } from 'drizzle-orm/pg-core';
import { drizzle } from 'drizzle-orm/pglite';
import { Pagelite } from 'pagelite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openLibrary } from '../support/library.ts';

let dir: string;
let lite: Pagelite;
beforeAll(async () => {
  ({ dir, lite } = await openLibrary());
});
afterAll(async () => {
  await lite.close();
  rmSync(dir, { recursive: true, force: true });
});

const names = async (pg: { query<T>(sql: string): Promise<{ rows: T[] }> }) =>
  (await pg.query<{ name: string }>('select name from person order by id')).rows.map(({ name }) => name);

describe('a branch in this process', () => {
  it('is a PGlite, and branches are isolated', async () => {
    const main = await lite.connect('main');
    await main.exec('create table person (id int primary key, name text)');
    await main.query('insert into person values ($1, $2)', [1, 'Ada']);
    const made = await lite.branch('feature');
    expect(made.ancestor?.name).toBe('main');

    const feature = await lite.connect('feature');
    await feature.transaction(async (tx) => {
      await tx.query('update person set name = $1', ['Grace']);
      await tx.sql`insert into person values (${2}, ${'Barbara'})`;
    });
    await main.query('insert into person values ($1, $2)', [3, 'Radia']);
    expect(await names(main)).toEqual(['Ada', 'Radia']);
    expect(await names(feature)).toEqual(['Grace', 'Barbara']);
    expect((await lite.branches()).map(({ name }) => name)).toEqual(['feature', 'main']);

    const heard: string[] = [];
    await feature.listen('news', (payload) => heard.push(payload));
    await feature.exec("notify news, 'hello'");
    expect(heard).toEqual(['hello']);
    await feature.close();
    await main.close();
  });

  it('takes extensions, with their types', async () => {
    const main = await lite.connect('main', { extensions: { pg_trgm, live }, settings: { work_mem: '8MB' } });
    await main.exec(
      'create extension pg_trgm; create table word (w text); create index on word using gin (w gin_trgm_ops)',
    );
    await main.exec("insert into word values ('compute'), ('pageserver')");
    const { rows } = await main.query<{ w: string }>("select w from word where w % 'computer'");
    expect(rows).toEqual([{ w: 'compute' }]);
    expect((await main.query('show work_mem')).rows).toEqual([{ work_mem: '8MB' }]);
    let seen: unknown[] = [];
    const query = await main.live.query<{ n: number }>('select count(*)::int as n from person', [], ({ rows: now }) => {
      seen = now;
    });
    await main.exec("insert into person values (4, 'Frances')");
    await expect.poll(() => seen).toEqual([{ n: 3 }]);
    await query.unsubscribe();
    await main.close();
  });

  it('takes an ORM', async () => {
    await lite.branch('orm');
    const pg = await lite.connect('orm');
    const person = pgTable('person', { id: integer().primaryKey(), name: text() });
    const db = drizzle(pg);
    await db.transaction(async (tx) => {
      await tx.insert(person).values({ id: 10, name: 'Katherine' });
      await tx.update(person).set({ name: 'Ada L.' }).where(eq(person.id, 1));
    });
    await expect(
      db.transaction(async (tx) => {
        await tx.delete(person);
        throw new Error('changed my mind');
      }),
    ).rejects.toThrow('changed my mind');
    expect(await db.select({ name: person.name }).from(person).orderBy(person.id)).toEqual([
      { name: 'Ada L.' },
      { name: 'Radia' },
      { name: 'Frances' },
      { name: 'Katherine' },
    ]);
    await pg.close();
  });
});

describe('time travel', () => {
  it('is a connection or a branch at an LSN or a Date', async () => {
    const main = await lite.connect('main');
    await main.exec('create table tick (n int); insert into tick values (1)');
    const { rows } = await main.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
    const lsn = rows[0]!.lsn;
    await sleep(20);
    const at = new Date();
    await sleep(20);
    await main.exec('insert into tick select generate_series(2, 1000); delete from tick where n = 1');

    const past = await lite.connect('main', { lsn });
    expect((await past.query('select n from tick')).rows).toEqual([{ n: 1 }]);
    await expect(past.query('insert into tick values (0)')).rejects.toThrow(/read-only/);
    const moment = await lite.connect('main', { at });
    expect((await moment.query('select n from tick')).rows).toEqual([{ n: 1 }]);
    await lite.branch('then', { from: 'main', at });
    await lite.branch('there', { from: 'main', at: lsn });
    for (const name of ['then', 'there']) {
      const pg = await lite.connect(name);
      await pg.exec('insert into tick values (7)');
      expect((await pg.query('select n from tick order by n')).rows).toEqual([{ n: 1 }, { n: 7 }]);
      await pg.close();
    }
    await main.exec('vacuum tick');
    await main.exec('insert into tick values (0)');
    expect((await past.query('select n from tick')).rows).toEqual([{ n: 1 }]);
    expect((await main.query('select count(*)::int as n from tick')).rows).toEqual([{ n: 1000 }]);
    await Promise.all([main.close(), past.close(), moment.close()]);
  });
});

describe('what is refused', () => {
  it('a second writer, unknown and taken names, places that a branch does not have', async () => {
    const main = await lite.connect('main');
    await expect(lite.connect('main')).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringMatching(/connected for writing already/),
    });
    await expect(lite.connect('nope')).rejects.toMatchObject({ kind: 'notFound', message: /There is: .*main/ });
    await expect(lite.branch('main')).rejects.toThrow(/"main" exists/);
    await expect(lite.branch('x', { from: 'nope' })).rejects.toThrow(/no branch "nope"/);
    await expect(lite.connect('main', { lsn: '0/8' })).rejects.toThrow(/before the start of branch "main"/);
    await expect(lite.connect('main', { lsn: 'F/0' })).rejects.toThrow(/past the end of branch "main"/);
    await expect(lite.branch('x', { at: new Date('1999-01-01') })).rejects.toThrow(/no commits that are as old/);
    await expect(lite.branch('x', { at: new Date(Date.now() + 1e9) })).rejects.toThrow(/in the future/);
    await expect(lite.branch('x', { at: 'yesterday' })).rejects.toThrow(/malformed LSN/);
    await expect(lite.branch('x', { at: new Date(), lsn: '0/8' })).rejects.toThrow(/not both/);
    expect((await lite.branches()).some(({ name }) => name === 'x')).toBe(false);
    // An SQL error is PGlite's own, and the connection goes on.
    await expect(main.query('select * from nowhere')).rejects.toMatchObject({ code: '42P01' });
    expect((await main.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await main.close();
    await (await lite.connect('main')).close();
  });

  it('a folder that is open already, here or in another process', async () => {
    await expect(Pagelite.open(dir)).rejects.toThrow(/in use by process .*open in this process already/);
  });
});

describe('the folder', () => {
  it('holds what was committed when it is opened again', async () => {
    await lite.close();
    await expect(lite.branches()).rejects.toMatchObject({ kind: 'closed' });
    lite = await Pagelite.open(dir);
    const main = await lite.connect('main', { extensions: { pg_trgm } });
    expect(await names(main)).toEqual(['Ada', 'Radia', 'Frances']);
    expect((await main.query("select w from word where w % 'page server'")).rows).toEqual([{ w: 'pageserver' }]);
    await main.close();
  });

  it('holds what was committed by a process that was killed', async () => {
    await lite.close();
    const script = `
      import { Pagelite } from 'pagelite';
      const lite = await Pagelite.open(${JSON.stringify(dir)});
      const pg = await lite.connect('feature');
      await pg.exec("insert into person values (50, 'Margaret')");
      process.kill(process.pid, 'SIGKILL');
    `;
    const cwd = join(import.meta.dirname, '../..');
    const run = promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { cwd });
    await expect(run).rejects.toMatchObject({ signal: 'SIGKILL', stderr: '' });
    lite = await Pagelite.open(dir);
    const feature = await lite.connect('feature');
    expect(await names(feature)).toEqual(['Grace', 'Barbara', 'Margaret']);
  });
});
