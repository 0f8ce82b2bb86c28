/**
 * SQL that makes Postgres write every kind of WAL record that it writes here: all access methods, all ends of transactions, DDL.
 *
 * Each string is one `exec` (so one implicit transaction unless it says otherwise). Used wherever "whatever Postgres does" has to hold.
 */
const tables = [
  'create table t(id serial primary key, v text, n int) with (fillfactor = 70)',
  'create index t_v on t(v)',
  `create index t_gin on t using gin (to_tsvector('english', v))`,
  'create index t_hash on t using hash (n)',
  'create index t_brin on t using brin (n) with (pages_per_range = 2)',
  'create index t_gist on t using gist (point(n, n))',
  'create index t_spgist on t using spgist (point(n, n))',
];

const rows = [
  `insert into t(v, n) select 'hello world ' || g || ' ' || md5(g::text), g from generate_series(1, 3000) g`,
  `update t set v = v || 'x' where id % 7 = 0`,
  'delete from t where id % 11 = 0',
  'vacuum t',
  'update t set n = n + 1 where id % 3 = 0',
  'delete from t where id between 500 and 900',
  'vacuum (freeze) t',
  `insert into t(v, n) select 'again ' || g, g from generate_series(1, 2000) g`,
  'update t set n = -n where id % 100 = 0',
  'delete from t where id > 2500',
  'vacuum t',
];

const transactions = [
  'create table s(id int primary key, n int)',
  'insert into s select g, 0 from generate_series(1, 500) g',
  'begin; update s set n = 1 where id < 10; savepoint a; update s set n = 2 where id < 20; rollback to a; savepoint b; update s set n = 3 where id = 30; release b; commit',
  'begin; update s set n = 9; rollback',
  // Key share by the transaction and an update by its subtransaction: a multixact.
  ...Array.from(
    { length: 40 },
    (_, i) =>
      `begin; select 1 from s where id = ${i + 1} for key share; savepoint a; update s set n = n + 1 where id = ${i + 1}; savepoint b; select 1 from s where id = ${i + 2} for share; commit`,
  ),
  // A table of its own: the prepared transaction keeps its locks to the end.
  `create table held(id int)`,
  `begin; insert into held values (1001); prepare transaction 'kept'`,
  `begin; insert into s values (1002, 1); create table made_by_2pc(x int); prepare transaction 'done'`,
  `commit prepared 'done'`,
  `begin; insert into s values (1003, 1); create table lost(x int); prepare transaction 'undone'`,
  `rollback prepared 'undone'`,
  `begin; insert into s select g, 7 from generate_series(2000, 2200) g; ${Array.from({ length: 70 }, (_, i) => `savepoint p${i}; insert into s values (${3000 + i}, 1);`).join(' ')} commit`,
];

const files = [
  'begin; create table gone(x int); insert into gone select generate_series(1, 1000); rollback',
  'create table cut as select g as x from generate_series(1, 20000) g',
  'create index on cut(x)',
  'delete from cut where x > 1000',
  'vacuum cut',
  'truncate cut',
  'insert into cut select generate_series(1, 300)',
  'begin; truncate cut; insert into cut values (1); rollback',
  `create table wide(id int, big text); alter table wide alter big set storage external`,
  `insert into wide select g, repeat(md5(g::text), 500) from generate_series(1, 60) g`,
  `update wide set big = big || 'y' where id % 2 = 0`,
  'alter table wide add column extra int default 5, alter column id type bigint',
  'cluster t using t_pkey',
  'reindex table s',
  'vacuum full pg_class',
  'vacuum full s',
  'create unlogged table u(x int primary key); insert into u select generate_series(1, 100)',
  'create temp table tmp(x int); insert into tmp values (1)',
  'select lo_from_bytea(0, repeat($$large object $$, 5000)::bytea)',
  'create materialized view mv as select n, count(*) from s group by n; refresh materialized view mv',
  'create sequence q; select nextval($$q$$) from generate_series(1, 100); alter sequence q restart with 5; select nextval($$q$$)',
  'create table dropped(x int primary key); insert into dropped select generate_series(1, 1000)',
  'drop table dropped',
  'create table part(id int, v text) partition by range (id); create table part1 partition of part for values from (0) to (100); insert into part select g, g::text from generate_series(0, 99) g',
];

const databases = [
  'create database by_wal strategy wal_log',
  'create database by_copy strategy file_copy',
  'create database dropped_db strategy wal_log',
  'drop database dropped_db',
  'create database dropped_copy strategy file_copy',
  'drop database dropped_copy',
  'create role someone; alter role someone set work_mem = $$8MB$$',
  `select pg_logical_emit_message(true, 'app', 'hello')`,
  `select pg_create_restore_point('here')`,
  'select pg_switch_wal()',
  'checkpoint',
];

export const broadWorkload: readonly string[] = [
  ...tables,
  ...rows,
  ...transactions,
  ...files,
  ...databases,
  `insert into t(v, n) select 'last ' || g, g from generate_series(1, 500) g`,
];
