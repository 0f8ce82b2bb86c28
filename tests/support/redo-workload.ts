/**
 * SQL that makes Postgres change pages by every kind of WAL record that it writes here: all access methods, all ends of transactions, DDL.
 *
 * Each string is one `exec` (so one implicit transaction unless it says otherwise). Nothing of the access methods' part is rewritten later:
 * a rewrite logs whole pages, and redo would have nothing to do.
 */
const words = (g: string) => `md5((${g})::text) || ' common ' || chr(97 + (${g}) % 26) || ' w' || (${g}) % 50`;

const heap = [
  'create table h(id int, v text, n int default 0) with (fillfactor = 80)',
  `insert into h select g, md5(g::text), 0 from generate_series(1, 4000) g`,
  `copy (select g, 'copied' || g, 1 from generate_series(5000, 7000) g) to '/tmp/h.txt'`,
  `copy h from '/tmp/h.txt'`,
  'update h set n = n + 1 where id % 3 = 0',
  'update h set n = n + 1 where id % 5 = 0',
  'select count(*) from h',
  'delete from h where id % 7 = 0',
  'vacuum h',
  `update h set v = repeat(v, 8) where id % 50 = 0`,
  'begin; select count(*) from (select 1 from h where id < 300 for update) x; commit',
  'begin; select count(*) from (select 1 from h where id between 200 and 400 for key share) x; savepoint a; update h set n = 7 where id between 300 and 350; commit',
  'vacuum (freeze) h',
  'update h set n = -1 where id in (1, 900, 1800)',
  'delete from h where id in (2, 901, 1801)',
  'vacuum (freeze, index_cleanup off) h',
  'create table wide(id int primary key, big text); alter table wide alter big set storage external',
  'insert into wide select g, repeat(md5(g::text), 400) from generate_series(1, 60) g',
  `update wide set big = big || 'y' where id % 2 = 0`,
  'delete from wide where id % 3 = 0',
  'vacuum wide',
  `insert into wide values (1, 'x'), (1000, 'y') on conflict do nothing`,
  `insert into wide select g, 'z' from generate_series(1, 90) g on conflict (id) do update set big = 'again'`,
];

const btree = [
  'create table b(id serial primary key, k int, v text)',
  'create index b_k on b(k)',
  'create index b_v on b(v) with (fillfactor = 60)',
  `insert into b(k, v) select g % 40, md5(g::text) || repeat('k', 40) from generate_series(1, 8000) g`,
  `insert into b(k, v) select g, lpad(g::text, 80, '0') from generate_series(1, 4000) g`,
  `insert into b(k, v) select -g, lpad((100000 - g)::text, 80, '0') from generate_series(1, 3000) g`,
  'update b set k = k + 1 where id % 9 = 0',
  'set enable_seqscan = off',
  'delete from b where k between 10 and 14',
  'select count(*) from b where k between 10 and 14',
  'insert into b(k, v) select 12, g::text from generate_series(1, 1500) g',
  'delete from b where id between 8500 and 11500',
  'vacuum b',
  'delete from b where id > 12000',
  'vacuum b',
  'vacuum b',
  'reset enable_seqscan',
  // Deep, then almost empty: the fast root moves down, and up again.
  'create table d(id int, v text); create index d_v on d(v)',
  `insert into d select g, lpad(g::text, 500, '0') from generate_series(1, 4000) g`,
  'delete from d where id < 3990',
  'vacuum d',
  'vacuum d',
  `insert into d select g, lpad(g::text, 500, '0') from generate_series(4001, 4400) g`,
  `insert into b(k, v) select g % 3, g::text from generate_series(1, 3000) g`,
];

const hash = [
  'create table x(id int, n int)',
  'create index x_n on x using hash (n)',
  'insert into x select g, g % 3000 from generate_series(1, 6000) g',
  'insert into x select g, 77 from generate_series(1, 3000) g',
  'set enable_seqscan = off; set enable_bitmapscan = off',
  'delete from x where n = 77 and id % 2 = 0',
  'select count(*) from x where n = 77',
  'insert into x select g, 77 from generate_series(1, 1500) g',
  'reset enable_seqscan; reset enable_bitmapscan',
  'delete from x where n = 77 or id % 3 = 0',
  'vacuum x',
  'insert into x select g, g from generate_series(1, 3000) g',
];

const gin = [
  'create table g(id int, v tsvector, tags int[])',
  'create index g_v on g using gin (v)',
  'create index g_tags on g using gin (tags) with (fastupdate = off)',
  `insert into g select g, to_tsvector('simple', ${words('g')}), array[g % 5, g % 300, g] from generate_series(1, 3000) g`,
  `select gin_clean_pending_list('g_v')`,
  `insert into g select g, to_tsvector('simple', ${words('g')}), array[1, 2, g % 20] from generate_series(3001, 5000) g`,
  'vacuum g',
  'delete from g where id % 3 = 0',
  'vacuum g',
  'delete from g where id < 4500',
  'vacuum g',
  // One posting tree of many pages, emptied in the middle.
  'create table gp as select array[1] as tags, g as id from generate_series(1, 60000) g; create index gp_tags on gp using gin (tags)',
  'delete from gp where id between 100 and 59000',
  'vacuum gp',
  'insert into g select g, $$common more$$, array[1] from generate_series(1, 3000) g',
];

const gist = [
  'create table r(id int, p point, b box)',
  'create index r_p on r using gist (p)',
  'create index r_b on r using gist (b)',
  'insert into r select g, point(g * 7919 % 10007, g * 104729 % 10009), box(point(g, g), point(g + g % 100, g + g % 77)) from generate_series(1, 5000) g',
  'update r set p = point(id, -id) where id % 4 = 0',
  'set enable_seqscan = off; set enable_bitmapscan = off',
  'delete from r where id between 1000 and 1200',
  'select count(*) from r where b && box(point(1000, 1000), point(1200, 1200))',
  'insert into r select g, point(g, g), box(point(g % 1200, g % 1200), point(g % 1200, g % 1200)) from generate_series(1000, 4000) g',
  'reset enable_seqscan; reset enable_bitmapscan',
  'delete from r where id > 2000',
  'vacuum r',
  'vacuum r',
  'insert into r select g, point(g, g), box(point(g, g), point(g, g)) from generate_series(1, 500) g',
];

const spgist = [
  'create table q(id int, v text, p point)',
  'create index q_v on q using spgist (v)',
  'create index q_p on q using spgist (p)',
  `insert into q select g, repeat(chr(97 + g % 5), 1 + g % 40) || g, point(g * 7919 % 1009, g * 104729 % 1013) from generate_series(1, 4000) g`,
  `insert into q select g, 'https://example.org/' || md5(g::text), point(g % 3, g % 7) from generate_series(1, 2000) g`,
  `insert into q select g, 'https://exampl' || g, point(0, 0) from generate_series(1, 300) g`,
  `insert into q select g, chr(33 + g % 90) || chr(33 + g % 89) || g, point(g, 0.5) from generate_series(1, 1500) g`,
  'delete from q where id % 3 = 0',
  'vacuum q',
  `insert into q select g, 'after ' || g, point(-g, -g) from generate_series(1, 500) g`,
  'vacuum q',
  // All in the root page.
  'create table qr(p point); create index qr_p on qr using spgist (p); insert into qr select point(g, g) from generate_series(1, 20) g',
  'delete from qr where p[0] < 15',
  'vacuum qr',
];

const brin = [
  'create table n(id int, n int, pad text); alter table n alter pad set storage plain',
  'create index n_n on n using brin (n) with (pages_per_range = 1)',
  'create index n_id on n using brin (id int4_minmax_multi_ops) with (pages_per_range = 2, autosummarize = off)',
  `insert into n select g, g, repeat('p', 5000) from generate_series(1, 1500) g`,
  `select brin_summarize_new_values('n_n'), brin_summarize_new_values('n_id')`,
  'update n set n = n * 100 where id % 100 = 0',
  'update n set id = -id where id % 90 = 0',
  `select brin_desummarize_range('n_n', 5)`,
  `select brin_summarize_range('n_n', 5)`,
  'vacuum n',
];

const sequences = [
  'create sequence q1; select nextval($$q1$$) from generate_series(1, 100); alter sequence q1 restart with 5; select nextval($$q1$$)',
  'create sequence q2 cache 20; select setval($$q2$$, 1000); select nextval($$q2$$) from generate_series(1, 70)',
];

/** Only where the extension is loaded. */
export const genericWorkload: readonly string[] = [
  'create extension bloom',
  'create table bl(id int, a int, b text)',
  'insert into bl select g, g % 100, md5(g::text) from generate_series(1, 2000) g',
  'create index bl_ab on bl using bloom (a, b)',
  'insert into bl select g, g % 100, md5(g::text) from generate_series(1, 4000) g',
  'delete from bl where id % 4 = 0',
  'vacuum bl',
  'insert into bl select g, g % 100, md5(g::text) from generate_series(1, 500) g',
];

const transactions = [
  'create table s(id int primary key, n int)',
  'insert into s select g, 0 from generate_series(1, 500) g',
  'begin; update s set n = 1 where id < 10; savepoint a; update s set n = 2 where id < 20; rollback to a; savepoint b; update s set n = 3 where id = 30; release b; commit',
  'begin; update s set n = 9; rollback',
  // Key share by the transaction and an update by its subtransaction: a multixact.
  ...Array.from(
    { length: 20 },
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
  // A row that a transaction under way has updated is locked along its chain.
  `begin; update s set n = 4 where id = 7; prepare transaction 'updated'`,
  'select 1 from s where id = 7 for key share',
  `commit prepared 'updated'`,
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
  'alter table cut add column extra int default 5, alter column x type bigint',
  'create table c(id int primary key, n int); insert into c select g, -g from generate_series(1, 2000) g',
  'cluster c using c_pkey',
  'reindex table c',
  'vacuum full pg_class',
  'vacuum full c',
  'create unlogged table u(x int primary key); insert into u select generate_series(1, 100)',
  'create unlogged table ui(n int, p point, v tsvector); create index on ui using hash (n); create index on ui using gist (p); create index on ui using gin (v); create index on ui using spgist (p); create index on ui using brin (n)',
  'create temp table tmp(x int); insert into tmp values (1)',
  'select lo_from_bytea(0, repeat($$large object $$, 5000)::bytea)',
  'create materialized view mv as select n, count(*) from s group by n; refresh materialized view mv',
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

/** Every page record that Postgres writes without an extension. */
export const accessMethodWorkload: readonly string[] = [
  ...heap,
  ...btree,
  ...hash,
  ...gin,
  ...gist,
  ...spgist,
  ...brin,
  ...sequences,
];

export const redoWorkload: readonly string[] = [
  ...accessMethodWorkload,
  ...transactions,
  ...files,
  ...databases,
  `insert into h select g, 'last', g from generate_series(1, 500) g`,
];
