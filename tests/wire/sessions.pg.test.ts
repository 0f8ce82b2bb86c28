/**
 * What belongs to a client's session stays with it, although all clients share one backend.
 *
 * Attack: two or more clients take turns, statement by statement, each with state of the same name as the other's.
 */
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { message } from '../../server/compute/pg-frames.ts';
import { distUrl } from '../support/dist.ts';
import { connectClient, errorOf, RawClient, startTestEndpoint, value } from '../support/wire-client.ts';

let endpoint: Endpoint;
const clients: pg.Client[] = [];

async function client(config: pg.ClientConfig = {}): Promise<pg.Client> {
  const made = await connectClient(endpoint, config);
  clients.push(made);
  return made;
}

beforeAll(async () => {
  endpoint = await startTestEndpoint({
    sessionLimits: { pinnedWaitMs: 200 },
    openBackend: {
      workerUrl: distUrl('server/compute/compute-worker.js'),
      workerData: {
        backendModule: distUrl('tests/support/wire-backend.js').href,
        backendData: { setUp: "create table set_up as select 'before serving' as text; set statement_timeout = 0" },
      },
    },
  });
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((each) => each.end()));
});
afterAll(() => endpoint.close());

test('the backend comes from a module that sets it up first', async () => {
  expect(await value(await client(), 'select text from set_up')).toBe('before serving');
});

test('a taken port is found at once', async () => {
  const error = await startTestEndpoint({ port: endpoint.port }).catch((reason) => reason);
  expect(error.message).toContain(`cannot listen on port ${endpoint.port}`);
  expect(error.kind).toBe('unavailable');
});

test('settings: SET, set_config in a function, startup options, RESET', async () => {
  const a = await client({ application_name: 'a', options: '-c work_mem=7MB -c DateStyle=German' });
  const b = await client({ application_name: 'b' });
  await a.query("set timezone = 'Asia/Tokyo'; set my.own = 'a'; set random_page_cost = 1.5");
  await b.query("do $$ begin perform set_config('statement_timeout', '12345', false); end $$");
  expect(await value(b, 'show timezone')).not.toBe('Asia/Tokyo');
  expect(await value(b, 'show work_mem')).not.toBe('7MB');
  expect(await value(b, "select current_setting('my.own', true)")).not.toBe('a');
  expect(await value(a, 'show application_name')).toBe('a');
  expect(await value(a, 'show timezone')).toBe('Asia/Tokyo');
  expect(await value(a, 'show random_page_cost')).toBe('1.5');
  expect(await value(a, "select current_setting('my.own')")).toBe('a');
  expect(await value(a, 'show statement_timeout')).toBe('0');
  expect(await value(b, 'show statement_timeout')).toBe('12345ms');
  await a.query("set work_mem = '9MB'");
  expect(await value(b, 'show application_name')).toBe('b');
  expect(await value(a, 'show work_mem')).toBe('9MB');
  await a.query('reset all');
  expect(await value(b, 'show statement_timeout')).toBe('12345ms');
  expect(await value(a, 'show work_mem')).toBe('7MB');
  expect(await value(a, 'show datestyle')).toContain('German');
  const later = await client();
  expect(await value(later, 'show work_mem')).not.toBe('7MB');
  expect(await value(later, 'show datestyle')).not.toContain('German');
  expect(await value(later, 'show application_name')).toBe('');
});

test('ParameterStatus tells each client its own settings, and no other', async () => {
  const a = await RawClient.start(endpoint, { TimeZone: 'Asia/Tokyo' });
  const b = await RawClient.start(endpoint, {});
  b.query("set timezone = 'Europe/Rome'");
  const statuses = (await b.until('Z')).filter((each) => each.type === 'S').map((each) => each.body.toString());
  expect(statuses).toEqual(['TimeZone\0Europe/Rome\0']);
  a.query('select 1');
  expect((await a.until('Z')).map((each) => each.type).join('')).toBe('TDCZ');
  a.socket.destroy();
  b.socket.destroy();
});

test('prepared statements of the same name, by protocol and by SQL', async () => {
  const a = await client();
  const b = await client();
  const named = (who: pg.Client, text: string) => who.query({ name: 's', text, rowMode: 'array' });
  for (let round = 0; round < 3; round++) {
    expect((await named(a, "select 'of a'")).rows).toEqual([['of a']]);
    expect((await named(b, "select 'of b', 2")).rows).toEqual([['of b', 2]]);
  }
  await a.query("prepare p as select 'pa'");
  await b.query("prepare p as select 'pb'");
  expect(await value(a, 'execute p')).toBe('pa');
  expect(await value(b, 'execute p')).toBe('pb');
  expect(await value(a, "select string_agg(name, ',' order by name) from pg_prepared_statements")).toBe('p,s');
  await a.query('deallocate all');
  expect(await value(b, 'execute p')).toBe('pb');
  expect((await errorOf(a.query('execute p'))).code).toBe('26000');
});

test('an unnamed statement outlives other clients turns', async () => {
  const raw = await RawClient.start(endpoint);
  raw.send(message('P', '', "select 'mine'", new Uint8Array(2)), message('S'));
  await raw.until('Z');
  const other = await client();
  await other.query('select $1::int', [1]);
  await other.query('create temp table in_between(a int)');
  raw.send(message('B', '', '', new Uint8Array(6)), message('E', '', 0), message('S'));
  const rows = (await raw.until('Z')).filter((each) => each.type === 'D');
  expect(rows[0]?.body.toString()).toContain('mine');
  raw.socket.destroy();
});

test('temporary tables: same name, own rows, ON COMMIT, indexes, after VACUUM of the other', async () => {
  await (await client()).query("create table if not exists x(a text); insert into x values ('public')");
  const a = await client();
  const b = await client();
  const c = await client();
  await a.query(
    "create temp table x(a text primary key, big text); insert into x values ('a', repeat('long', 100000))",
  );
  await b.query("create temp table x(a text) on commit delete rows; begin; insert into x values ('b')");
  expect(await value(b, 'select a from x')).toBe('b');
  await b.query('commit');
  expect(await value(b, 'select count(*)::int from x')).toBe(0);
  await b.query('vacuum');
  expect(await value(a, 'select a || length(big) from x')).toBe('a400000');
  await a.query('create index on x(big) where length(big) < 10; analyze');
  await b.query("begin; insert into x values ('b2'); savepoint s; rollback to s");
  expect(await value(b, 'select a from x')).toBe('b2');
  await b.query('commit');
  await b.query('vacuum full');
  expect(await value(c, 'select a from x')).toBe('public');
  expect(await value(a, "select a from x where a = 'a'")).toBe('a');
  await a.end();
  expect(await value(b, 'select count(*)::int from x')).toBe(0);
  // The schema of a client that has gone serves the next one, empty.
  const d = await client();
  expect(await value(d, 'select a from x')).toBe('public');
  await d.query("create temp table x(a text); insert into x values ('d')");
  expect(await value(d, 'select a from x')).toBe('d');
  expect(await value(b, 'select count(*)::int from x')).toBe(0);
});

test('many clients with temporary tables, one after the other', async () => {
  for (let round = 0; round < 40; round++) {
    const each = await connectClient(endpoint);
    await each.query(`create temp table many(a int); insert into many values (${round})`);
    expect(await value(each, 'select a from many')).toBe(round);
    await each.end();
  }
});

test('cursors WITH HOLD', async () => {
  const a = await client();
  const b = await client();
  await a.query('declare c cursor with hold for select generate_series(1, 10)');
  expect(await value(a, 'fetch c')).toBe(1);
  await b.query('declare c cursor with hold for select generate_series(101, 110)');
  expect(await value(b, 'fetch c')).toBe(101);
  expect(await value(a, 'fetch c')).toBe(2);
  await b.query('close all');
  expect(await value(a, 'fetch c')).toBe(3);
  expect((await errorOf(b.query('fetch c'))).code).toBe('34000');
  await a.end();
  expect(await value(b, 'select count(*)::int from pg_cursors')).toBe(0);
});

test('currval and lastval', async () => {
  const a = await client();
  const b = await client();
  await a.query('create sequence if not exists sq');
  const first = Number(await value(a, "select nextval('sq')"));
  expect((await errorOf(b.query("select currval('sq')"))).code).toBe('55000');
  await b.query("select nextval('sq')");
  expect(Number(await value(a, "select currval('sq')"))).toBe(first);
  expect(Number(await value(b, 'select lastval()'))).toBe(first + 1);
});

test('LISTEN belongs to a client, NOTIFY reaches all who listen, idle or not', async () => {
  const a = await client();
  const b = await client();
  const c = await client();
  const heard: string[] = [];
  let arrived = () => {};
  const watch = (name: string, who: pg.Client) =>
    who.on('notification', ({ channel, payload }) => {
      heard.push(`${name} ${channel} ${payload}`);
      arrived();
    });
  watch('a', a);
  watch('b', b);
  watch('c', c);
  await a.query('listen one; listen two');
  await b.query('listen two');
  expect(await value(a, "select string_agg(pg_listening_channels, ',') from pg_listening_channels()")).toBe('one,two');
  await c.query("notify one, 'x'");
  await c.query("begin; notify two, 'y'");
  await c.query('commit');
  await c.query("begin; notify two, 'never'; rollback");
  const until = async (count: number) => {
    while (heard.length < count) {
      await new Promise<void>((resolve) => {
        arrived = resolve;
      });
    }
  };
  await until(3);
  expect(heard.sort()).toEqual(['a one x', 'a two y', 'b two y']);
  heard.length = 0;
  await b.query('unlisten *');
  await c.query("notify two, 'z'");
  await until(1);
  await b.query('select 1');
  expect(heard).toEqual(['a two z']);
  heard.length = 0;
  await a.end();
  await c.query("listen two; notify two, 'own'");
  await until(1);
  expect(heard).toEqual(['c two own']);
});

test('roles and session authorization', async () => {
  const admin = await client();
  await admin.query('drop role if exists alice; create role alice login; alter role alice set work_mem = 123456');
  await admin.query('drop role if exists nologin; create role nologin');
  const alice = await client({ user: 'alice' });
  expect(await value(alice, "select session_user || ' ' || current_user")).toBe('alice alice');
  expect(await value(alice, 'show work_mem')).toBe('123456kB');
  expect(await value(admin, 'select session_user::text')).toBe('postgres');
  await admin.query('set role alice');
  const other = await client();
  expect(await value(other, 'select current_user::text')).toBe('postgres');
  expect(await value(admin, "select session_user || ' ' || current_user")).toBe('postgres alice');
  await admin.query('reset role; set session authorization alice');
  expect(await value(other, 'select session_user::text')).toBe('postgres');
  expect(await value(admin, 'select session_user::text')).toBe('alice');
  expect((await errorOf(alice.query('create role bob'))).code).toBe('42501');
  expect((await errorOf(connectClient(endpoint, { user: 'nologin' }))).code).toBe('28000');
  expect((await errorOf(connectClient(endpoint, { user: 'nobody' }))).code).toBe('28000');
});

test('a role becomes no other one, by no way', async () => {
  const admin = await client();
  await admin.query('create role visitor login; create role member login; create role team; grant team to member');
  const visitor = await client({ user: 'visitor' });
  for (const text of [
    'set session authorization postgres',
    "set local session authorization 'postgres'",
    'set role team',
  ]) {
    expect((await errorOf(visitor.query(text))).code).toBe('42501');
  }
  const setConfig = "select set_config('session_authorization', 'postgres', false)";
  expect((await errorOf(visitor.query(setConfig))).code).toBe('42501');
  // Turns of a superuser between give it nothing.
  await admin.query('set role team');
  expect((await errorOf(visitor.query('set session authorization postgres'))).code).toBe('42501');
  expect(await value(admin, 'select current_user::text')).toBe('team');
  await admin.query('reset role; set session authorization member; set session authorization default');
  expect((await errorOf(visitor.query('set role postgres'))).code).toBe('42501');
  await visitor.query('set session authorization default; set session authorization visitor; reset role');
  await visitor.query('discard all');
  expect(await value(visitor, "select session_user || ' ' || current_user")).toBe('visitor visitor');
  // Nor does its startup packet.
  for (const setting of [
    'role=postgres',
    'session_authorization=postgres',
    'Session_Authorization=postgres',
    'log_statement=all',
  ]) {
    const refused = await errorOf(connectClient(endpoint, { user: 'visitor', options: `-c ${setting}` }));
    expect([setting, refused.code]).toEqual([setting, '42501']);
  }
  const member = await client({ user: 'member', options: '-c role=team' });
  for (const other of [admin, visitor, admin]) {
    await other.query('select 1');
    expect(await value(member, "select session_user || ' ' || current_user")).toBe('member team');
  }
  await admin.query('set role visitor');
  expect(await value(member, 'select current_user::text')).toBe('team');
  expect(await value(admin, 'select current_user::text')).toBe('visitor');
});

test('whose search_path stands first is not who decides about logins', async () => {
  const admin = await client();
  await admin.query('create role mallory login; create role locked; create schema evil authorization mallory');
  const mallory = await client({ user: 'mallory' });
  await mallory.query(`create function evil.always(name, name) returns boolean language sql as 'select true';
    create operator evil.= (leftarg = name, rightarg = name, function = evil.always);
    set search_path = evil, pg_catalog`);
  expect((await errorOf(connectClient(endpoint, { user: 'nobody' }))).message).toContain('does not exist');
  expect((await errorOf(connectClient(endpoint, { user: 'locked' }))).code).toBe('28000');
  expect(await value(await client({ user: 'mallory' }), 'select current_user::text')).toBe('mallory');
});

test('temporary tables of a role that is no superuser', async () => {
  const admin = await client();
  await admin.query('create role temporary login');
  const restarts = endpoint.stats().restarts;
  const own = await client({ user: 'temporary' });
  await own.query('create temp table t(a int); insert into t values (1)');
  expect(await value(admin, 'select 1')).toBe(1);
  expect(await value(own, 'select a from t')).toBe(1);
  await own.end();
  clients.splice(clients.indexOf(own), 1);
  expect(await value(admin, "select to_regclass('pg_temp.t')")).toBe(null);
  expect(endpoint.stats().restarts).toBe(restarts);
});

test('another database is refused with a way out', async () => {
  const a = await client();
  await a.query('create database other');
  const existing = await errorOf(connectClient(endpoint, { database: 'other' }));
  expect(existing.code).toBe('3D000');
  expect(existing.message).toContain('not served by this endpoint');
  const missing = await errorOf(connectClient(endpoint, { database: 'nowhere' }));
  expect(missing.code).toBe('3D000');
  expect(missing.message).toContain('does not exist');
  expect((await errorOf(connectClient(endpoint, { options: '-c no_such_setting=1' }))).code).toBe('42704');
  expect((await errorOf(connectClient(endpoint, { options: '-c work_mem=plenty' }))).message).toContain('work_mem');
  expect(await value(a, 'select 1')).toBe(1);
});

test('a client with session-level advisory locks keeps the backend; others are told', async () => {
  const a = await client();
  const b = await client();
  await a.query('select pg_advisory_lock(42)');
  const refused = await errorOf(b.query('select 1'));
  expect(refused.code).toBe('55P03');
  expect(refused.message).toContain('advisory locks');
  expect(await value(a, 'select pg_advisory_unlock(42)')).toBe(true);
  expect(await value(b, 'select pg_try_advisory_lock(42)')).toBe(true);
  await b.end();
  expect(await value(a, 'select pg_try_advisory_lock(42)')).toBe(true);
  await a.query('select pg_advisory_unlock_all()');
});

test('a client that dies in a transaction is rolled back and leaves nothing', async () => {
  const watcher = await client();
  await watcher.query('create table if not exists dead(a int)');
  const raw = await RawClient.start(endpoint);
  raw.query(
    'begin; insert into dead values (1); select pg_advisory_lock(7); create temp table x1(a int); prepare q as select 1',
  );
  await raw.until('Z');
  const count = watcher.query('select count(*)::int from dead');
  raw.socket.destroy();
  expect((await count).rows).toEqual([{ count: 0 }]);
  expect(await value(watcher, "select count(*)::int from pg_class where relname = 'x1'")).toBe(0);
  expect(await value(watcher, "select count(*)::int from pg_locks where locktype = 'advisory'")).toBe(0);
});

test('hundreds of clients, in order', async () => {
  const many = await Promise.all(Array.from({ length: 300 }, () => connectClient(endpoint)));
  await many[0]!.query('create table if not exists counter(n int); truncate counter; insert into counter values (0)');
  await Promise.all(
    many.map(async (each) => {
      await each.query('begin');
      const n = Number(await value(each, 'select n from counter'));
      await each.query('update counter set n = $1', [n + 1]);
      await each.query('commit');
    }),
  );
  expect(await value(many[0]!, 'select n from counter')).toBe(300);
  await Promise.all(many.map((each) => each.end()));
});
