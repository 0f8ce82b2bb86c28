/**
 * A real pg_dump of a Debian PostgreSQL 15, restored by real psql into a branch: every table holds the same rows, views, functions, triggers and
 * constraints work, after a restart of the endpoint and on a branch of the branch too.
 */
import { spawnSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasPostgres15, Postgres15 } from '../support/postgres-15.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const possible = hasPostgres15 && spawnSync('psql', ['--version']).status === 0;
if (!possible)
  console.info(
    'restore of a dump is not tested: the packages postgresql-15 and postgresql-client-15 are not installed',
  );

const films = 4_000;
const rentals = 60_000;
const shop = `
  create extension if not exists plpgsql;
  create schema shop;
  create type shop.rating as enum ('G', 'PG', 'R');
  create domain shop.year as integer check (value between 1901 and 2155);
  create table shop.language(language_id serial primary key, name char(20) not null unique);
  create table shop.film(
    film_id serial primary key, title text not null, description text, release_year shop.year, rating shop.rating default 'G',
    language_id int not null references shop.language, price numeric(6, 2) not null check (price >= 0), features text[], extra jsonb,
    words tsvector, changed timestamptz not null default '2020-01-01');
  create index film_words on shop.film using gin (words);
  create index film_extra on shop.film using gin (extra);
  create index film_title on shop.film (lower(title)) where price > 1;
  create table shop.customer(customer_id serial primary key, email text unique, active boolean not null default true, photo bytea);
  create table shop.rental(
    rental_id bigint generated always as identity, film_id int not null references shop.film, customer_id int not null references shop.customer,
    day date not null, returned tsrange, primary key (rental_id, day)) partition by range (day);
  create table shop.rental_2024 partition of shop.rental for values from ('2024-01-01') to ('2025-01-01');
  create table shop.rental_2025 partition of shop.rental for values from ('2025-01-01') to ('2026-01-01');
  create index on shop.rental (customer_id);
  create function shop.set_words() returns trigger language plpgsql as $f$
    begin new.words := to_tsvector('english', new.title || ' ' || coalesce(new.description, '')); return new; end $f$;
  create trigger film_words before insert or update on shop.film for each row execute function shop.set_words();
  create function shop.spent(who int) returns numeric language sql stable as
    'select coalesce(sum(f.price), 0) from shop.rental r join shop.film f using (film_id) where r.customer_id = who';
  create view shop.popular as select f.title, count(*) as n from shop.rental r join shop.film f using (film_id) group by f.title;
  create materialized view shop.by_rating as select rating, count(*) as n, sum(price) as total from shop.film group by rating;
  create unique index on shop.by_rating (rating);
  create sequence shop.ticket start 1000 increment 7;
  insert into shop.language(name) values ('English'), ('Deutsch'), ('日本語');
  insert into shop.film(title, description, release_year, rating, language_id, price, features, extra)
    select 'Film ' || g, repeat(md5(g::text) || E' tab\\there, back\\\\slash, "quotes" and \\nlines ', 8), 1950 + g % 70,
      (array['G', 'PG', 'R']::shop.rating[])[1 + g % 3], 1 + g % 3, (g % 900) / 10.0,
      case when g % 5 = 0 then null else array['a' || g, null, 'c,d'] end, jsonb_build_object('n', g, 'list', jsonb_build_array(g, null, true))
    from generate_series(1, ${films}) g;
  insert into shop.customer(email, active, photo)
    select 'c' || g || '@example.com', g % 7 <> 0, decode(repeat(md5(g::text), 40), 'hex') from generate_series(1, 1000) g;
  insert into shop.rental(film_id, customer_id, day, returned)
    select 1 + g % ${films}, 1 + g % 1000, date '2024-01-01' + g % 700, case when g % 4 <> 0 then tsrange(now()::timestamp, null) end
    from generate_series(1, ${rentals}) g;
  refresh materialized view shop.by_rating;
  select nextval('shop.ticket');
  select lo_from_bytea(0, decode(repeat('abcdef', 20000), 'hex'));
`;

/** One row of text per table or view: its name, how many rows, and a checksum over them. */
const fingerprint = `
  set timezone = 'UTC'; set search_path = '';
  ${['language', 'film', 'customer', 'rental', 'popular', 'by_rating']
    .map(
      (name) =>
        `select '${name}' as t, count(*)::text as n, md5(string_agg(md5(r::text), '' order by md5(r::text))) as sum from shop.${name} r`,
    )
    .join(' union all ')}
  union all select 'large objects', count(*)::text, md5(string_agg(encode(data, 'hex'), '' order by pageno)) from pg_catalog.pg_largeobject
  union all select 'spent', '1', shop.spent(17)::text
  union all select 'sequence', last_value::text, is_called::text from shop.ticket order by 1`;

describe.runIf(possible)('a dump of PostgreSQL 15', () => {
  const rig = new RepositoryRig();
  let source: Postgres15;
  let expected: string[];
  const rows = async (endpoint: string) =>
    (await rig.sql<{ t: string; n: string; sum: string }>(endpoint, fingerprint)).map(
      ({ t, n, sum }) => `${t}|${n}|${sum}`,
    );

  beforeAll(async () => {
    source = new Postgres15();
    source.psql(shop);
    expected = source.psql(fingerprint).trim().split('\n');
    await rig.start();
    await rig.ok('timeline', 'branch', '--branch-name', 'restored');
    await rig.endpoint('restored', '--branch-name', 'restored');
  });
  afterAll(async () => {
    source?.stop();
    await rig.close();
  });

  it('is restored by psql into a branch', async () => {
    const dump = source.dump();
    expect(dump.length).toBeGreaterThan(5_000_000);
    expect(dump).toMatch(/^COPY shop\.rental_2024/m);
    const { code, err } = await rig.psql('restored', dump, '-q', '-v', 'ON_ERROR_STOP=1');
    expect([code, err]).toEqual([0, '']);
    expect(expected.length).toBe(9);
    expect(await rows('restored')).toEqual(expected);
  });

  it('has working constraints, triggers, sequences and functions', async () => {
    await expect(
      rig.sql('restored', "insert into shop.rental(film_id, customer_id, day) values (-1, 1, '2024-05-05')"),
    ).rejects.toThrow(/foreign key/);
    await expect(rig.sql('restored', 'update shop.film set release_year = 3000 where film_id = 1')).rejects.toThrow(
      /check/,
    );
    const found = await rig.sql(
      'restored',
      `begin; insert into shop.film(title, language_id, price) values ('Zebra crossing', 1, 2);
       select title from shop.film where words @@ to_tsquery('english', 'zebras'); `,
    );
    expect(found).toEqual([{ title: 'Zebra crossing' }]);
    expect(await rig.sql('restored', "select nextval('shop.ticket')::int as v")).toEqual([{ v: 1007 }]);
  });

  it('is there after a restart, and on a branch of the branch', async () => {
    const before = await rows('restored');
    await rig.ok('endpoint', 'stop', 'restored');
    await rig.ok('endpoint', 'start', 'restored');
    const after = await rows('restored');
    // A sequence may skip over a restart, never go back.
    const data = (all: string[]) => all.filter((row) => !row.startsWith('sequence'));
    expect(data(after)).toEqual(data(before));
    await rig.ok('timeline', 'branch', '--branch-name', 'twig', '--ancestor-branch-name', 'restored');
    await rig.endpoint('twig', '--branch-name', 'twig');
    expect(data(await rows('twig'))).toEqual(data(before));
    await rig.sql('twig', 'delete from shop.rental where customer_id = 5');
    expect(data(await rows('restored'))).toEqual(data(before));
  });
});
