/**
 * A compute that boots at the end of any record sees exactly the transactions that had committed by then, and can go on writing.
 *
 * Attacked by: LSNs at random record ends (so, most of them, inside of transactions, with their rows, subtransactions, multixacts, new tables and
 * index pages half written), pages rebuilt by Postgres's redo, and by what a compute does first after a crash: more transactions, VACUUM.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { formatLsn, invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { testTemplate } from '../support/test-template.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

const transactions = 60;
const boots = 12;
const seed = 20_260_722;

/** Transaction number `i`: money moves, a row says so. Its parts are in subtransactions, some of which roll back. */
function transfer(i: number): string {
  const from = (i * 7) % 100;
  const to = (i * 13 + 50) % 100;
  const parts = [
    'begin',
    `select * from account where id in (${from}, ${to}) for share`,
    `savepoint a; update account set balance = balance - ${i} where id = ${from}; release a`,
    `savepoint b; update account set balance = balance + 1000000 where id = ${to}; rollback to b`,
    `update account set balance = balance + ${i} where id = ${to}`,
  ];
  if (i % 6 === 0)
    parts.push(`create table made_${i}(id int primary key)`, `insert into made_${i} select generate_series(1, 300)`);
  if (i % 12 === 6 && i > 6) parts.push(`drop table made_${i - 6}`);
  if (i === 40) parts.push('alter table history alter note type varchar');
  parts.push(`insert into history values (${i}, repeat('note ', 200))`, 'commit');
  return parts.join('; ');
}

interface Commit {
  readonly lsn: Lsn;
  readonly number: number;
}

describe('a compute at any LSN', () => {
  const values = new ValueMap();
  const recordEnds: Lsn[] = [];
  const prevOf = new Map<Lsn, Lsn>();
  const commits: Commit[] = [];
  let redo: PostgresRedo;
  let setUpLsn: Lsn;

  beforeAll(async () => {
    const template = await testTemplate();
    redo = await PostgresRedo.create({ template, log: silentLog });
    importTemplate(template, values);
    const start = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
    const pg = await bootDirectory(await dataDirectory(start, values.reader()), keepWal);
    await pg.exec('create table account(id int primary key, balance bigint)');
    await pg.exec('create table history(number int primary key, note text)');
    await pg.exec('insert into account select g, 0 from generate_series(0, 99) g');
    await pg.exec('vacuum account');
    setUpLsn = await currentLsn(pg);
    for (let number = 1; number <= transactions; number++) {
      await pg.exec(transfer(number));
      commits.push({ lsn: await currentLsn(pg), number });
      if (number % 25 === 0) await pg.exec('vacuum account');
    }
    await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
    const endLsn = await currentLsn(pg);
    const decoder = new WalDecoder(template.lsn);
    decoder.feed(template.lsn, readPgWal(pg, template.lsn, endLsn));
    const ingest = await WalIngest.open(values.reader(undefined, redo), values);
    for (let record = decoder.next(); record !== null; record = decoder.next()) {
      const { lsn, endLsn: end } = record;
      await ingest.ingest(record);
      if (end > setUpLsn) recordEnds.push(end);
      prevOf.set(end, lsn);
    }
    await pg.close();
  });
  afterAll(() => redo?.close());

  const random = new SeededRandom(seed);
  for (let boot = 0; boot < boots; boot++) {
    const place = random.next();
    it(`boots at record ${(place * 100).toFixed(3)}% (seed ${seed})`, async () => {
      const lsn = recordEnds[Math.floor(place * recordEnds.length)]!;
      const reader = values.reader(lsn, redo);
      const basebackup = await buildBasebackup(reader, lsn, prevOf.get(lsn)!);
      const pg = await bootDirectory(await dataDirectory(basebackup, reader));
      try {
        await check(
          pg,
          commits.filter((commit) => commit.lsn <= lsn).map(({ number }) => number),
          lsn,
        );
      } finally {
        await pg.close();
      }
    });
  }

  async function check(pg: PGlite, done: readonly number[], lsn: Lsn): Promise<void> {
    const at = formatLsn(lsn);
    const history = async () =>
      (await pg.query<{ number: number }>('select number from history order by number')).rows.map((row) => row.number);
    const balances = async () =>
      (await pg.query('select count(*)::int as n, sum(balance)::int as total from account')).rows[0];
    expect([at, await history()]).toEqual([at, done]);
    expect([at, await balances()]).toEqual([at, { n: 100, total: 0 }]);
    const tables = await pg.query<{ name: string }>(
      "select relname as name from pg_class where relname ~ '^made_[0-9]+$' order by length(relname), relname",
    );
    const made = done.filter((i) => i % 6 === 0 && !(i % 12 === 0 && done.includes(i + 6))).map((i) => `made_${i}`);
    expect([at, tables.rows.map((row) => row.name)]).toEqual([at, made]);
    for (const table of made) {
      expect((await pg.query(`select count(*)::int as n from ${table}`)).rows).toEqual([{ n: 300 }]);
    }
    // Life goes on: over the leavings of what was in flight.
    await pg.exec(transfer(1000));
    await pg.exec('vacuum');
    await pg.exec(transfer(1001));
    await pg.exec('set enable_seqscan = off');
    expect(await history()).toEqual([...done, 1000, 1001]);
    expect(await balances()).toEqual({ n: 100, total: 0 });
    await pg.exec('checkpoint');
  }
});
