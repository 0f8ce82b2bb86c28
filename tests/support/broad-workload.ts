/**
 * SQL that touches much of PostgreSQL's storage, with results that depend on nothing but the data: no times, oids, xids, plans or physical order.
 *
 * Steps run one after another on one connection; each may return rows of several statements. Larger than a cache of 64 pages throughout.
 */
export interface WorkloadStep {
  readonly name: string;
  readonly sql: string;
}

const digest = (table: string, columns: string, order: string) =>
  `select count(*)::int as n, md5(string_agg(concat_ws('|', ${columns}), ',' order by ${order})) as digest from ${table};`;

export const broadWorkload: readonly WorkloadStep[] = [
  {
    name: 'heap and btree',
    sql: `create table person(id serial primary key, name text not null, born int, note text);
      insert into person(name, born, note) select md5(g::text), 1900 + g % 120, repeat(chr(97 + g % 26), g % 300) from generate_series(1, 12000) g;
      create index person_name on person(name); create unique index person_born_id on person(born, id);
      ${digest('person', 'id, name, born, note', 'id')}
      select name from person where name > 'f' order by name limit 5; select born, count(*)::int from person group by born order by born limit 7;`,
  },
  {
    name: 'updates, HOT and not, deletes, vacuum',
    sql: `update person set note = 'hot ' || id where id % 3 = 0; update person set name = name || 'x' where id % 7 = 0; delete from person where id % 11 = 0;`,
  },
  { name: 'vacuum', sql: 'vacuum person' },
  { name: 'after vacuum', sql: digest('person', 'id, name, born, note', 'id') },
  { name: 'vacuum freeze analyze', sql: 'vacuum (freeze, analyze) person' },
  {
    name: 'after freeze',
    sql: `insert into person(name, born, note) select 'refill' || g, g % 50, null from generate_series(1, 3000) g; ${digest('person', 'id, name, born, note', 'id')}`,
  },
  {
    name: 'command ids: a transaction that reads what it changes',
    sql: `begin; create table counter(id int primary key, n int, pad text); insert into counter select g, 0, repeat('p', 700) from generate_series(1, 2000) g;
      update counter set n = n + 1; update counter set n = n + id % 3; insert into counter select id + 10000, n, pad from counter where n % 2 = 0;
      savepoint a; update counter set n = n * 2 where id < 500; delete from counter where id between 100 and 200; rollback to a;
      update counter set n = n + 5 where id < 50; savepoint b; delete from counter where id > 11500; release b;
      ${digest('counter', 'id, n', 'id')} commit; ${digest('counter', 'id, n', 'id')}`,
  },
  {
    name: 'a cursor keeps its snapshot while its transaction changes the table',
    sql: `begin; declare c no scroll cursor for select id, n from counter order by id; fetch 3 from c; update counter set n = -1; fetch 3 from c; move 1500 in c; fetch 3 from c;
      declare h cursor with hold for select id from counter where n = -1 order by id; commit; fetch 2 from h; close h;`,
  },
  {
    name: 'insert into itself and returning',
    sql: `with moved as (delete from counter where id % 5 = 0 returning id, n) insert into counter select id + 50000, n, 'moved' from moved; ${digest('counter', 'id, n', 'id')}
      with u as (update counter set pad = 'seen' where id < 20 returning id) select array_agg(id order by id) from u;`,
  },
  {
    name: 'rollback of everything',
    sql: `begin; truncate person; create table never(x int); insert into never select generate_series(1, 5000); drop table counter; rollback; ${digest('person', 'id, name, born, note', 'id')} ${digest('counter', 'id, n', 'id')} select to_regclass('never') is null as gone;`,
  },
  {
    name: 'gin',
    sql: `create table doc(id int primary key, words tsvector, tags text[], body jsonb);
      insert into doc select g, to_tsvector('simple', 'w' || g % 97 || ' w' || g % 89 || ' common'), array['t' || g % 13, 't' || g % 17], jsonb_build_object('k', g % 31, 'l', array[g % 5, g % 3]) from generate_series(1, 4000) g;
      create index doc_words on doc using gin(words); create index doc_tags on doc using gin(tags); create index doc_body on doc using gin(body jsonb_path_ops); analyze doc;
      set enable_seqscan = off; select count(*)::int from doc where words @@ to_tsquery('simple', 'w3 & w5'); select count(*)::int from doc where tags @> array['t3', 't5']; select count(*)::int from doc where body @> '{"k": 4, "l": [2]}';
      insert into doc select g, to_tsvector('simple', 'late w' || g % 97), array['late'], '{}' from generate_series(4001, 5000) g; select count(*)::int from doc where words @@ to_tsquery('simple', 'late & w3'); reset enable_seqscan;`,
  },
  {
    name: 'gist and spgist',
    sql: `create table place(id int primary key, p point, b box, r int4range, path text);
      insert into place select g, point(g % 101, g % 97), box(point(g % 50, g % 40), point(g % 50 + 3, g % 40 + 2)), int4range(g, g + g % 20 + 1), 'a/' || g % 37 || '/' || g from generate_series(1, 3000) g;
      create index place_b on place using gist(b); create index place_r on place using gist(r); create index place_p on place using spgist(p); create index place_path on place using spgist(path); create index place_pg on place using gist(p);
      analyze place; set enable_seqscan = off; select count(*)::int from place where b && box(point(10, 10), point(12, 12)); select count(*)::int from place where r @> 777; select count(*)::int from place where p <@ box(point(3, 3), point(9, 9));
      select count(*)::int from place where path ^@ 'a/5/'; select id from place order by p <-> point(50, 50), id limit 4; delete from place where id % 4 = 0; reset enable_seqscan;`,
  },
  { name: 'vacuum of gist and spgist', sql: 'vacuum place' },
  {
    name: 'gist and spgist again',
    sql: `set enable_seqscan = off; select count(*)::int from place where b && box(point(10, 10), point(12, 12)); select count(*)::int from place where path ^@ 'a/5/'; reset enable_seqscan;`,
  },
  {
    name: 'brin and hash',
    sql: `create table reading(at int, sensor text, v float8); insert into reading select g, 's' || g % 50, sqrt(g) from generate_series(1, 15000) g;
      create index reading_at on reading using brin(at) with (pages_per_range = 4); create index reading_sensor on reading using hash(sensor);
      set enable_seqscan = off; select count(*)::int, round(sum(v)::numeric, 4) from reading where at between 4000 and 4500; select count(*)::int from reading where sensor = 's7';
      insert into reading select g, 's' || g % 500, sqrt(g) from generate_series(15001, 20000) g; select brin_summarize_new_values('reading_at') >= 0 as ok; select count(*)::int from reading where at > 19000; select count(*)::int from reading where sensor = 's7'; reset enable_seqscan;`,
  },
  {
    name: 'toast',
    sql: `create table big(id int primary key, v text, c text); alter table big alter c set storage external;
      insert into big select g, string_agg(md5((g * 1000 + i)::text), '' order by i), repeat('x' || g, 2000) from generate_series(1, 60) g, generate_series(1, 300) i group by g;
      update big set v = v || 'tail' where id % 2 = 0; delete from big where id % 9 = 0; select count(*)::int, sum(length(v))::int, sum(length(c))::int, md5(string_agg(md5(v || c), ',' order by id)) from big;`,
  },
  {
    name: 'large objects',
    sql: `select lo_from_bytea(70001, decode(repeat('deadbeef', 20000), 'hex')) = 70001 as made; select lo_put(70001, 40000, 'patched'::bytea); select length(lo_get(70001)), md5(lo_get(70001)); select lo_unlink(70001);`,
  },
  {
    name: 'sequences',
    sql: `create sequence s start 10 increment 3 cache 5; select nextval('s'), nextval('s'), currval('s'); select setval('s', 100); select nextval('s'); alter sequence s increment -7; select nextval('s'); create table ident(id int generated always as identity, v int); insert into ident(v) select generate_series(1, 100); select max(id) from ident;`,
  },
  {
    name: 'temporary and unlogged tables',
    sql: `create temp table tmp as select g as id, repeat('t', 500) as pad from generate_series(1, 3000) g; create index on tmp(id); update tmp set pad = 'u' where id % 2 = 0; ${digest('tmp', 'id, pad', 'id')}
      create unlogged table ul(id int primary key, pad text); insert into ul select g, repeat('u', 400) from generate_series(1, 3000) g; delete from ul where id % 3 = 0; ${digest('ul', 'id, pad', 'id')} truncate tmp; select count(*)::int from tmp; drop table tmp;
      alter table ul set logged; ${digest('ul', 'id, pad', 'id')}`,
  },
  {
    name: 'COPY out and in, also into a table made in the same transaction',
    sql: `copy (select id, name, born from person where id % 2 = 0 order by id) to '/tmp/person.txt'; begin; create table frozen(id int primary key, name text, born int); copy frozen from '/tmp/person.txt' (freeze); commit; create table loaded(id int, name text, born int); create index loaded_name on loaded(name); copy loaded from '/tmp/person.txt'; copy loaded from '/tmp/person.txt';
      ${digest('frozen', 'id, name, born', 'id')} ${digest('loaded', 'id, name, born', 'id, name')}`,
  },
  {
    name: 'large objects that stay, and a part of one',
    sql: `select lo_from_bytea(70002, decode(repeat('c0ffee', 30000), 'hex')) = 70002 as made; select lo_put(70002, 50000, repeat('patched', 500)::bytea); select length(lo_get(70002)), md5(lo_get(70002));`,
  },
  {
    name: 'multixacts: rows locked by a transaction and updated by its subtransactions',
    sql: `${Array.from({ length: 12 }, (_, i) => `begin; select id from frozen where id = ${i * 2 + 2} for key share; savepoint a; update frozen set born = -born where id = ${i * 2 + 2}; savepoint b; select count(*)::int from (select 1 from frozen where id < 40 for share) x; commit;`).join(' ')} ${digest('frozen', 'id, name, born', 'id')}`,
  },
  {
    name: 'rewrites: alter table, cluster, vacuum full, reindex',
    sql: `alter table person add column age int default 7; alter table person alter column born type bigint; ${digest('person', 'id, name, born, age', 'id')} cluster person using person_name; ${digest('person', 'id, name, born', 'id')} reindex table person;`,
  },
  { name: 'vacuum full', sql: 'vacuum full person' },
  { name: 'after vacuum full', sql: digest('person', 'id, name, born, age', 'id') },
  { name: 'truncation by vacuum: delete', sql: 'delete from reading where at > 5000' },
  { name: 'truncation by vacuum', sql: 'vacuum (truncate) reading' },
  {
    name: 'growth after truncation',
    sql: `${digest('reading', 'at, sensor', 'at')} insert into reading select g, 'again', g from generate_series(100000, 108000) g; ${digest('reading', 'at, sensor', 'at')} select pg_relation_size('reading') > 400000 as large;`,
  },
  {
    name: 'truncate and refill in one transaction',
    sql: `begin; truncate reading; insert into reading select g, 'new', g from generate_series(1, 3000) g; ${digest('reading', 'at, sensor', 'at')} savepoint x; truncate reading; select count(*)::int from reading; rollback to x; ${digest('reading', 'at, sensor', 'at')} commit; ${digest('reading', 'at, sensor', 'at')}`,
  },
  {
    name: 'prepare',
    sql: `begin; update counter set n = 4242 where id < 30; insert into ident(v) values (777); prepare transaction 'one'`,
  },
  {
    name: 'prepared and waiting',
    sql: 'select count(*)::int from counter where n = 4242; select gid from pg_prepared_xacts',
  },
  { name: 'commit prepared', sql: "commit prepared 'one'" },
  {
    name: 'after commit prepared',
    sql: 'select count(*)::int from counter where n = 4242; select count(*)::int from ident where v = 777',
  },
  { name: 'prepare again', sql: `begin; delete from counter; prepare transaction 'two'` },
  { name: 'rollback prepared', sql: "rollback prepared 'two'" },
  { name: 'after rollback prepared', sql: digest('counter', 'id, n', 'id') },
  {
    name: 'foreign keys, triggers, row locks',
    sql: `create table parent(id int primary key); create table child(id int primary key, parent int references parent on delete cascade);
      insert into parent select generate_series(1, 500); insert into child select g, g % 500 + 1 from generate_series(1, 3000) g; begin; select count(*)::int from (select 1 from parent for share) x; savepoint k; select count(*)::int from (select 1 from parent where id < 100 for no key update) x; release k; select count(*)::int from (select 1 from parent where id < 50 for update) x; commit;
      delete from parent where id % 10 = 0; select count(*)::int from child;
      create function note_it() returns trigger language plpgsql as 'begin new.id := new.id + 100000; return new; end'; create trigger t before insert on child for each row execute function note_it(); insert into child values (1, 1); select max(id) from child;`,
  },
  {
    name: 'partitions, views, recursion, windows',
    sql: `create table part(id int, v int) partition by range (id); create table part_1 partition of part for values from (0) to (1000); create table part_2 partition of part for values from (1000) to (9000); insert into part select g, g % 7 from generate_series(0, 5000) g; select tableoid::regclass::text, count(*)::int from part group by 1 order by 1;
      create materialized view mv as select v, count(*)::int as n from part group by v; refresh materialized view mv; select * from mv order by v; alter table part detach partition part_2; drop table part_2; select count(*)::int from part;
      with recursive r(n, f) as (select 1, 1::numeric union all select n + 1, f * (n + 1) from r where n < 25) select max(f) from r; select id, sum(v) over (order by id rows 3 preceding) from part order by id limit 6;`,
  },
  {
    name: 'sorts, hashes and sets that spill to files',
    sql: `set work_mem = '64kB'; select md5(string_agg(a.name, ',' order by a.name desc, a.id)) from person a join person b on a.born = b.born and a.id = b.id + 12; select count(*)::int from (select name from person union select pad from counter) x; select count(distinct md5(note || id))::int from person; reset work_mem;`,
  },
  {
    name: 'plpgsql that catches errors: many subtransactions',
    sql: `create table tried(id int primary key); do $$ begin for i in 1..300 loop begin insert into tried values (i % 100); exception when unique_violation then null; end; end loop; end $$; select count(*)::int, sum(id)::int from tried;`,
  },
  { name: 'checkpoint', sql: 'checkpoint' },
  { name: 'create database by file copy', sql: 'create database copied strategy file_copy' },
  { name: 'create database by WAL', sql: 'create database logged strategy wal_log' },
  {
    name: 'sizes of databases',
    sql: `select datname, pg_database_size(oid) > 5000000 as large from pg_database where datname in ('copied', 'logged') order by 1;`,
  },
  { name: 'create another by file copy', sql: 'create database kept strategy file_copy' },
  { name: 'drop database', sql: 'drop database copied' },
  { name: 'the other is there', sql: `select datname from pg_database where datname in ('copied', 'logged');` },
  {
    name: 'catalog',
    sql: `select relkind, count(*)::int from pg_class where relnamespace = 'public'::regnamespace group by relkind order by relkind; select count(*)::int from pg_attribute a join pg_class c on c.oid = a.attrelid where c.relnamespace = 'public'::regnamespace;`,
  },
  {
    name: 'drop everything',
    sql: `drop table frozen, loaded, person, counter, doc, place, reading, big, ident, ul, parent, child, part, tried cascade; drop sequence s; select count(*)::int from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'i');`,
  },
];
