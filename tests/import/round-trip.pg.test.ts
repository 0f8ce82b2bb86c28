/**
 * A plain PGlite database to a branch and back: the command line of the build, real processes, real PGlites.
 *
 * Must hold: an endpoint on the branch shows row for row what the plain PGlite did, system catalogs included, whichever way its data directory came
 * (shut down, not shut down, tarball of a running one); the folder is as it was; what is exported at an LSN is row for row what the endpoint showed
 * there, is not corrupt by amcheck, and goes on as any PGlite: it takes writes, VACUUM, REINDEX and a restart. Every index access method, TOAST, large
 * objects, multixacts, prepared transactions, several databases and unlogged tables are in it.
 */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { amcheck } from '@electric-sql/pglite/contrib/amcheck';
import { hstore } from '@electric-sql/pglite/contrib/hstore';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { computeStartParams } from '../../engine/basebackup/compute-params.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { decodeIndexPart } from '../../engine/timeline/index-part.ts';
import { broadWorkload } from '../support/broad-workload.ts';
import {
  corruptions,
  type DatabaseFacts,
  databaseFacts,
  type Query,
  relationSizes,
} from '../support/database-facts.ts';
import { RepositoryRig } from '../support/repository-rig.ts';
import { newestIndexFile } from '../support/stored-files.ts';

const extensions = { amcheck, hstore };

let rig: RepositoryRig;
let dir: string;
/** Of the source: database postgres, and another one. */
let facts: DatabaseFacts;
let otherFacts: DatabaseFacts;
let sizes: object[];

const path = (name: string) => join(dir, name);
const queryOf =
  (pg: PGlite): Query =>
  async <Row extends object>(sql: string) =>
    (await pg.query<Row>(sql)).rows;
const queryEndpoint =
  (endpoint: string): Query =>
  (sql) =>
    rig.sql(endpoint, sql);

async function openPlain(options: ConstructorParameters<typeof PGlite>[0]): Promise<PGlite> {
  return PGlite.create({ extensions, ...(options as object) });
}

function tarball(name: string): File {
  return new File([readFileSync(path(name))], name);
}

/** Of every file. */
function digestOf(folder: string): string {
  const hash = createHash('sha256');
  for (const name of (readdirSync(folder, { recursive: true }) as string[]).sort()) {
    hash.update(name);
    if (statSync(join(folder, name)).isFile()) hash.update(readFileSync(join(folder, name)));
  }
  return hash.digest('hex');
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-import-'));
  rig = new RepositoryRig();
  await rig.start();
  const pg = await openPlain({ dataDir: path('clean'), startParams: computeStartParams(['full_page_writes=on']) });
  for (const { name, sql } of broadWorkload) if (name !== 'drop everything') await pg.exec(sql);
  await pg.exec(`create role alice login password 'secret' connection limit 3; create role bob; grant alice to bob;
    alter role alice set work_mem = '7MB'; alter database kept set search_path = elsewhere; comment on database kept is 'a comment';
    create extension hstore; create table pairs (h hstore); insert into pairs select hstore('k', g::text) from generate_series(1, 500) g;
    create index on pairs using gin (h); create unlogged table forgotten (id int primary key, t text);
    insert into forgotten select g, 'gone' from generate_series(1, 1000) g; create sequence unused; create table empty_table (x int);`);
  await pg.exec(`begin; insert into pairs values ('k=>prepared'); prepare transaction 'waits'`);
  facts = await databaseFacts(queryOf(pg));
  sizes = await relationSizes(queryOf(pg));
  // As it lies on disk while a PGlite has it open, twice: the folder, and what dumpDataDir makes of it.
  cpSync(path('clean'), path('crashed'), { recursive: true });
  writeFileSync(path('running.tar.gz'), new Uint8Array(await (await pg.dumpDataDir('gzip')).arrayBuffer()));
  await pg.close();
  const other = await openPlain({ dataDir: path('clean'), database: 'kept', startParams: computeStartParams() });
  otherFacts = await databaseFacts(queryOf(other));
  writeFileSync(path('kept.tar'), new Uint8Array(await (await other.dumpDataDir('none')).arrayBuffer()));
  await other.close();
});
afterAll(async () => {
  await rig?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** All but what is forgotten. */
function withoutUnlogged(all: DatabaseFacts): DatabaseFacts {
  const { 'public.forgotten': forgotten, ...rest } = all;
  expect(forgotten).toMatchObject({ rows: 1000 });
  return rest;
}

describe('import', () => {
  const sources = [
    { what: 'a folder that was shut down', source: 'clean', branch: 'from_clean', wasRecovered: false },
    { what: 'a folder that was not shut down', source: 'crashed', branch: 'from_crashed', wasRecovered: true },
    { what: 'a tarball of a running PGlite', source: 'running.tar.gz', branch: 'from_tarball', wasRecovered: true },
  ];
  for (const { what, source, branch, wasRecovered } of sources) {
    it(`${what}: an endpoint shows the same`, async () => {
      const before = source.endsWith('.gz') ? '' : digestOf(path(source));
      const result = JSON.parse(await rig.ok('import', '--branch-name', branch, '--json', path(source)));
      expect(result).toMatchObject({ branchName: branch, wasRecovered, layers: 1 });
      expect(result.warnings).toEqual([expect.stringMatching(/^\d+ unlogged relations begin empty/)]);
      if (before !== '') expect(digestOf(path(source))).toBe(before);
      expect(readdirSync(join(rig.dir, 'imports'))).toEqual([]);
      const timeline = join(
        rig.dir,
        'local_fs_remote_storage/pageserver/tenants',
        result.tenantId,
        'timelines',
        result.timelineId,
      );
      const { layers, startLsn } = decodeIndexPart(readFileSync(newestIndexFile(timeline)), 'index');
      expect(layers.map(({ isComplete }) => isComplete)).toEqual([true]);
      expect(formatLsn(startLsn)).toBe(result.startLsn);
      await rig.endpoint(branch, '--branch-name', branch);
      const shown = await databaseFacts(queryEndpoint(branch));
      const { 'public.forgotten': forgotten, ...rest } = shown;
      expect(forgotten).toMatchObject({ rows: 0 });
      expect(rest).toEqual(withoutUnlogged(facts));
      expect(await relationSizes(queryEndpoint(branch))).toEqual(sizes);
      if (branch !== 'from_clean') await rig.ok('endpoint', 'stop', branch);
    });
  }
});

describe('export', () => {
  let lsn: string;
  let factsThen: DatabaseFacts;

  it('is what the endpoint showed at the LSN, and not corrupt', async () => {
    const query = queryEndpoint('from_clean');
    await query(`create table later as select g as id, md5(g::text) as t from generate_series(1, 4000) g`);
    await query("create index on later using gist (int4range(id, id, '[]'))");
    await query("update person set name = name || ' moved' where id % 5 = 0");
    await query('insert into forgotten select g, 1 from generate_series(1, 50) g');
    await query('vacuum (analyze) person');
    await query("commit prepared 'waits'");
    factsThen = await databaseFacts(query);
    lsn = (await query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn'))[0]!.lsn;
    await query('drop table later');
    await query('delete from person where id < 5000');
    await rig.ok('timeline', 'branch', '--branch-name', 'child', '--ancestor-branch-name', 'from_clean');
    await rig.ok('export', '--branch-name', 'from_clean', '--lsn', lsn, '-o', path('then.tar.gz'));
    const plain = await openPlain({ loadDataDir: tarball('then.tar.gz') });
    const { 'public.forgotten': _, ...expected } = factsThen;
    const { 'public.forgotten': forgotten, ...shown } = await databaseFacts(queryOf(plain));
    expect(shown).toEqual(expected);
    expect(forgotten).toMatchObject({ rows: 0 });
    expect(await corruptions(queryOf(plain))).toEqual([]);
    await plain.close();
  });

  it('goes on as any PGlite does', async () => {
    let plain = await openPlain({ loadDataDir: tarball('then.tar.gz') });
    await plain.exec(`insert into forgotten values (1, 'new'); insert into later select g, 'x' from generate_series(1, 20000) g;
      delete from person where id % 2 = 0; insert into pairs select hstore('k', 'again') from generate_series(1, 3000)`);
    await plain.exec('vacuum (full, analyze) person');
    await plain.exec('vacuum (freeze)');
    await plain.exec('reindex schema public');
    await plain.exec('checkpoint');
    expect(await corruptions(queryOf(plain))).toEqual([]);
    const before = await databaseFacts(queryOf(plain));
    const dumped = await plain.dumpDataDir('none');
    await plain.close();
    plain = await openPlain({ loadDataDir: dumped });
    expect((await databaseFacts(queryOf(plain)))['public.later']).toEqual(before['public.later']);
    expect((await plain.query('select * from forgotten')).rows).toEqual([]);
    await plain.close();
  });

  it('of a branch reaches back into its ancestor, and has all databases', async () => {
    await rig.ok('export', '--branch-name', 'child', '--lsn', lsn, '-o', path('child.tar'));
    const plain = await openPlain({ loadDataDir: tarball('child.tar'), database: 'kept' });
    // Shared catalogs have changed since: who was granted what is told in the other database, too.
    expect(await databaseFacts(queryOf(plain))).toMatchObject(onlyOwn(otherFacts));
    await plain.close();
  });

  it('with a prepared transaction starts, and the transaction can be committed', async () => {
    await rig.ok('export', '--branch-name', 'from_tarball', '-o', path('prepared.tar.gz'));
    const plain = await openPlain({ loadDataDir: tarball('prepared.tar.gz') });
    expect((await plain.query('select gid from pg_prepared_xacts')).rows).toEqual([{ gid: 'waits' }]);
    await plain.exec("commit prepared 'waits'");
    expect((await plain.query("select count(*)::int as n from pairs where h -> 'k' = 'prepared'")).rows).toEqual([
      { n: 1 },
    ]);
    await plain.close();
  });

  it('is imported again as it is', async () => {
    await rig.ok('import', '--branch-name', 'again', path('then.tar.gz'));
    await rig.endpoint('again', '--branch-name', 'again');
    const { 'public.forgotten': _, ...expected } = factsThen;
    const { 'public.forgotten': __, ...shown } = await databaseFacts(queryEndpoint('again'));
    expect(shown).toEqual(expected);
    await rig.ok('endpoint', 'stop', 'again');
  });
});

/** Tables of the database itself. */
function onlyOwn(all: DatabaseFacts): DatabaseFacts {
  return Object.fromEntries(
    Object.entries(all).filter(([name]) => name.startsWith('pg_toast.') || name.startsWith('public.')),
  );
}
