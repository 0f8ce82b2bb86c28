/**
 * Exports at LSNs that nobody chose: in the middle of records and of transactions, at the ends of WAL pages and segments, while an endpoint writes.
 *
 * Must hold: whatever the LSN is, plain PGlite opens the tarball, its indexes and tables are sound by amcheck, and transactions are there whole or not
 * at all: money only moves between accounts, each transfer in a transaction with a subtransaction that is rolled back. The LSNs come from a printed seed,
 * and those around a WAL segment's end are always among them.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { amcheck } from '@electric-sql/pglite/contrib/amcheck';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { walSegmentSize } from '../../engine/limits.ts';
import { formatLsn, parseLsn } from '../../engine/model/lsn.ts';
import { corruptions } from '../support/database-facts.ts';
import { RepositoryRig } from '../support/repository-rig.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const random = new SeededRandom(seed);
const accounts = 2000;

let rig: RepositoryRig;
let dir: string;
let first: number;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-anywhere-'));
  rig = new RepositoryRig();
  await rig.start();
  await rig.endpoint('main');
  await rig.sql('main', 'create table account (id int primary key, amount int, note text)');
  await rig.sql('main', `insert into account select g, 100, repeat('n', 200) from generate_series(1, ${accounts}) g`);
  await rig.sql(
    'main',
    "create index on account (amount); create index on account using gist (int4range(amount, amount, '[]'))",
  );
  first = await currentLsn();
});
afterAll(async () => {
  await rig?.close();
  rmSync(dir, { recursive: true, force: true });
});

async function currentLsn(): Promise<number> {
  const [row] = await rig.sql<{ lsn: string }>('main', 'select pg_current_wal_insert_lsn()::text as lsn');
  return parseLsn(row!.lsn);
}

const transfers = (count: number) => `do $$ declare a int; b int; begin
  for i in 1..${count} loop
    a := 1 + floor(random() * ${accounts}); b := 1 + floor(random() * ${accounts});
    update account set amount = amount - 1 where id = a;
    begin update account set amount = amount + 1000 where id = b; raise exception 'no'; exception when raise_exception then null; end;
    update account set amount = amount + 1, note = repeat('m', 100 + i % 300) where id = b;
  end loop; end $$`;

async function checkExport(lsn: number, name: string): Promise<void> {
  const file = join(dir, `${name}.tar.gz`);
  const what = `seed ${seed}, ${name}, ${formatLsn(lsn)}`;
  await rig.ok('export', '--branch-name', 'main', '--lsn', formatLsn(lsn), '-o', file);
  const plain = await PGlite.create({
    loadDataDir: new File([readFileSync(file)], 'main.tar.gz'),
    extensions: { amcheck },
  });
  const query = async <Row extends object>(sql: string) => (await plain.query<Row>(sql)).rows;
  const sums = 'select count(*)::int as n, sum(amount)::int as sum from account';
  expect(await query(sums), what).toEqual([{ n: accounts, sum: accounts * 100 }]);
  expect(await corruptions(query), what).toEqual([]);
  await plain.exec('update account set amount = amount + 0');
  await plain.exec('vacuum account');
  expect(await query(sums), what).toEqual([{ n: accounts, sum: accounts * 100 }]);
  await plain.exec('checkpoint');
  await plain.close();
  rmSync(file);
}

it('while an endpoint writes', async () => {
  const client = await rig.connect('main');
  let isDone = false;
  const writing = (async () => {
    for (let i = 0; i < 60; i++) {
      await client.query(transfers(50));
      if (i % 20 === 10) await client.query('vacuum account');
    }
  })().finally(() => {
    isDone = true;
  });
  for (let i = 0; i < 3 || !isDone; i++) {
    const last = await currentLsn();
    await checkExport(first + Math.floor(random.next() * (last - first)), `moving ${i}`);
    if (i === 6) break;
  }
  await writing;
  await client.end();
});

it('at the ends of WAL pages and segments', async () => {
  while ((await currentLsn()) < Math.ceil(first / walSegmentSize) * walSegmentSize + 8192)
    await rig.sql('main', transfers(1000));
  const segment = Math.ceil(first / walSegmentSize) * walSegmentSize;
  for (const offset of [-8, -90, 0, 40]) await checkExport(segment + offset, `segment ${offset}`);
  const page = segment - 8192 * (1 + Math.floor(random.next() * 20));
  for (const offset of [-24, 24]) await checkExport(page + offset, `page ${offset}`);
  await checkExport(segment - Math.floor(random.next() * 100_000), 'anywhere');
});
