/**
 * PostgreSQL's own programs work against an endpoint: psql with \copy and restores, pgbench in all its query modes.
 * The programs are those of any PostgreSQL from 14 on; where one is not installed, its test says so and is left out.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { connectClient, hasProgram, runProgram, startTestEndpoint, value } from '../support/wire-client.ts';
import { restoreScript } from './restore-script.ts';

let endpoint: Endpoint;

beforeAll(async () => {
  endpoint = await startTestEndpoint();
});
afterAll(() => endpoint.close());

describe.runIf(hasProgram('psql'))('psql', () => {
  const psql = (input: string, ...options: string[]) =>
    runProgram(endpoint, 'psql', ['-X', '-v', 'ON_ERROR_STOP=1', '-At', ...options], input);

  test('statements, \\d, \\copy in both directions, \\c', async () => {
    const script = [
      'create table people(id int primary key, name text);',
      '\\copy people from stdin',
      '1\tAda',
      '2\tGrace',
      '\\.',
      '\\copy (select name from people order by id) to stdout',
      '\\d people',
      '\\c postgres postgres',
      "select 'still', count(*) from people;",
      '\\set AUTOCOMMIT off',
      "insert into people values (3, 'Edsger'); rollback;",
      'select count(*) from people;',
    ].join('\n');
    const { code, stdout, stderr } = await psql(script, '-q');
    expect(stderr).not.toContain('ERROR');
    expect(code).toBe(0);
    expect(stdout.split('\n').slice(0, 2)).toEqual(['Ada', 'Grace']);
    expect(stdout).toContain('id|integer||not null|');
    expect(stdout.trim().split('\n').slice(-2)).toEqual(['still|2', '2']);
  });

  test('a dump of PostgreSQL 15 is restored', async () => {
    const { code, stderr } = await psql(restoreScript(20_000), '-q');
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const client = await connectClient(endpoint);
    expect(await value(client, 'select count(*)::int from shop.orders')).toBe(20_000);
    expect(await value(client, 'select total from shop.order_totals where customer_id = 1')).toBe('2858.00');
    expect(
      await value(client, "select conname from pg_constraint where conname = 'orders_customer_id_fkey'"),
    ).toBeTruthy();
    await client.end();
  });
});

describe.runIf(hasProgram('pgbench'))('pgbench', () => {
  beforeAll(async () => {
    const { code, stderr } = await runProgram(endpoint, 'pgbench', ['-i', '-q']);
    expect(code, stderr).toBe(0);
  });

  test.each(['simple', 'extended', 'prepared'])('-c 8 -j 2 -M %s', async (mode) => {
    const client = await connectClient(endpoint);
    const { code, stdout, stderr } = await runProgram(endpoint, 'pgbench', [
      '-n',
      '-c',
      '8',
      '-j',
      '2',
      '-t',
      '25',
      '-M',
      mode,
    ]);
    expect(stderr).not.toContain('error');
    expect(code).toBe(0);
    expect(stdout).toContain('number of transactions actually processed: 200/200');
    const sums = 'select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)';
    expect(await value(client, sums)).toBe(true);
    await client.end();
  });
});

test.runIf(hasProgram('pg_dump'))(
  'pg_dump of an older PostgreSQL refuses a newer server, as it always does',
  async () => {
    const { code, stderr } = await runProgram(endpoint, 'pg_dump', ['-s']);
    if (code !== 0) expect(stderr).toContain('server version mismatch');
  },
);
