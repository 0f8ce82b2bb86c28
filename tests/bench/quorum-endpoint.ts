/**
 * What three safekeepers cost a client of Postgres, against one: whole repositories with all of their processes, through an endpoint. The commits are those of
 * small transactions one after another, the WAL that of a load in one statement, from its beginning until it is committed.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import { type BenchContext, interleave, median, type Row, spread } from './harness.ts';
import { Place } from './place.ts';

const commitsPerRun = 25;
/** Until Postgres, the compute and the safekeepers run as they do later. */
const warmUpRuns = 8;
const pauseMs = 100;
const loadRows = 100_000;
/** What was written last is ingested and flushed until then. */
const settleMs = 2_000;

export async function endpointRows(context: BenchContext): Promise<Row[]> {
  const places = [1, 3].map(
    (count) => new Place(join(context.folder, `sql-${count}`), '--num-safekeepers', `${count}`),
  );
  try {
    const clients: Client[] = [];
    for (const place of places) clients.push(await place.endpoint('main'));
    for (const client of clients) {
      await client.query('create table t (id int generated always as identity primary key, v text)');
      await client.query('create table loaded (id int, v text)');
    }
    const rows = [await commitRow(clients, context), await loadRow(clients, context)];
    for (const client of clients) await client.end();
    return rows;
  } finally {
    for (const place of places) place.stop();
  }
}

async function commitRow(clients: readonly Client[], { rounds, scale, say }: BenchContext): Promise<Row> {
  const runs = Math.max(2, Math.round(8 * scale)) * rounds;
  say(`safekeepers: ${runs * commitsPerRun} commits through an endpoint, of one and of three`);
  const times: number[][] = clients.map(() => []);
  for (let run = -warmUpRuns; run < runs; run++) {
    for (const [side, client] of clients.entries()) {
      for (let i = 0; i < commitsPerRun; i++) {
        const start = performance.now();
        await client.query("insert into t (v) values ('a small transaction')");
        if (run >= 0) times[side]!.push(performance.now() - start);
      }
      await sleep(pauseMs);
    }
  }
  const [one, three] = times.map(median) as [number, number];
  return {
    what: 'an INSERT through an endpoint, 3 safekeepers',
    measured: `${three.toFixed(2)} ms`,
    against: 'the same, 1 safekeeper',
    baseline: `${one.toFixed(2)} ms`,
    ratio: three / one,
    target: { op: '<=', bound: 1.3 },
    note: `spread ${spread(times[1]!)} ms, ${spread(times[0]!)} ms`,
  };
}

async function loadRow(clients: readonly Client[], { rounds, scale, say }: BenchContext): Promise<Row> {
  const count = Math.max(20_000, Math.round(loadRows * scale));
  say(`safekeepers: ${count} rows through an endpoint, of one and of three`);
  const load = async (client: Client) => {
    const at = async () => {
      const { rows } = await client.query<{ lsn: string }>("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as lsn");
      return Number(rows[0]!.lsn);
    };
    const before = await at();
    const start = performance.now();
    await client.query(`insert into loaded select g, repeat(md5(g::text), 10) from generate_series(1, ${count}) g`);
    const ms = performance.now() - start;
    const megabytes = ((await at()) - before) / 1e6;
    await client.query('truncate loaded');
    await sleep(settleMs);
    return megabytes / (ms / 1000);
  };
  const rates = await interleave(
    rounds + 1,
    clients.map((client) => () => load(client)),
  );
  // The first round grows the files.
  const [one, three] = rates.map((all) => median(all.slice(1))) as [number, number];
  return {
    what: 'WAL of a load through an endpoint, 3 safekeepers',
    measured: `${three.toFixed(0)} MB/s`,
    against: 'the same, 1 safekeeper',
    baseline: `${one.toFixed(0)} MB/s`,
    ratio: three / one,
    target: { op: '>=', bound: 0.7 },
    note: `spread ${spread(rates[1]!.slice(1))} MB/s, ${spread(rates[0]!.slice(1))} MB/s`,
  };
}
