/**
 * A running statement can be stopped, wherever it is; the session lives on, and so do all others.
 *
 * Attack: loops in the executor and in PL/pgSQL that make no system call, sleeps, sorts; cancelled by CancelRequest and by
 * PostgreSQL's own timeouts; a backend that dies.
 */
import { connect } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { requestCode } from '../../server/compute/pg-frames.ts';
import { connectClient, errorOf, startTestEndpoint, value } from '../support/wire-client.ts';

let endpoint: Endpoint;
let restarts: string[];

beforeAll(async () => {
  restarts = [];
  endpoint = await startTestEndpoint({
    onRestart: async (reason) => {
      restarts.push(reason);
    },
  });
});
afterAll(() => endpoint.close());

const endless = [
  ['a loop in the executor', 'select count(*) from generate_series(1, 100000000000)'],
  ['a join that never ends', 'select count(*) from pg_class a, pg_class b, pg_class c, pg_class d'],
  ['a loop in PL/pgSQL', 'do $$ begin loop end loop; end $$'],
  [
    'a loop that catches errors',
    'do $$ begin loop begin perform 1/0; exception when division_by_zero then null; end; end loop; end $$',
  ],
  ['pg_sleep', 'select pg_sleep(1000)'],
  ['a sort', 'select count(*) from (select random() r from generate_series(1, 100000000) order by r) s'],
] as const;

test.each(endless)('statement_timeout ends %s', async (_, sql) => {
  const client = await connectClient(endpoint);
  await client.query("set statement_timeout = '100ms'");
  const error = await errorOf(client.query(sql));
  expect(error.code).toBe('57014');
  expect(error.message).toContain('statement timeout');
  expect(await value(client, 'select 1')).toBe(1);
  await client.end();
});

test('a later timeout strikes, too, after an earlier one that was not needed', async () => {
  const client = await connectClient(endpoint);
  await client.query("set statement_timeout = '60ms'");
  await client.query('select 1');
  await client.query("set statement_timeout = '200ms'");
  expect((await errorOf(client.query('select pg_sleep(1000)'))).code).toBe('57014');
  await client.end();
});

function sendCancel(processId: number, secret: number): Promise<void> {
  const request = Buffer.alloc(16);
  request.writeUInt32BE(16, 0);
  request.writeUInt32BE(requestCode.cancel, 4);
  request.writeUInt32BE(processId, 8);
  request.writeUInt32BE(secret, 12);
  return new Promise((resolve) => {
    const socket = connect(endpoint.port, '127.0.0.1', () => socket.end(request));
    socket.on('close', () => resolve());
    socket.resume();
  });
}

test.each(endless)('CancelRequest ends %s', async (_, sql) => {
  const client = await connectClient(endpoint);
  const other = await connectClient(endpoint);
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  await client.query('begin; set local work_mem = 64');
  const running = errorOf(client.query(sql));
  const waiting = other.query('select 1');
  await sendCancel(processID, secretKey ^ 1);
  expect(endpoint.stats().waiting).toBe(1);
  await sendCancel(processID, secretKey);
  const error = await running;
  expect(error.code).toBe('57014');
  expect(error.message).toContain('user request');
  await client.query('rollback');
  await waiting;
  await client.end();
  await other.end();
});

test('a statement that waits for its turn can be cancelled, too', async () => {
  const holder = await connectClient(endpoint);
  const waiter = await connectClient(endpoint);
  await holder.query('begin');
  const { processID, secretKey } = waiter as unknown as { processID: number; secretKey: number };
  const waiting = errorOf(waiter.query('select 1'));
  while (endpoint.stats().waiting === 0) await new Promise((resolve) => setImmediate(resolve));
  await sendCancel(processID, secretKey);
  expect((await waiting).code).toBe('57014');
  await holder.query('commit');
  expect(await value(waiter, 'select 2')).toBe(2);
  await holder.end();
  await waiter.end();
});

test('a cancel that comes too late cancels nothing', async () => {
  const client = await connectClient(endpoint);
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  await client.query('select 1');
  await sendCancel(processID, secretKey);
  expect(await value(client, 'select 2')).toBe(2);
  await client.end();
});

test('a client that dies in a running statement frees the backend', async () => {
  const client = await connectClient(endpoint);
  const other = await connectClient(endpoint);
  const running = errorOf(client.query('select count(*) from generate_series(1, 100000000000)'));
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  expect(await value(other, 'select 1')).toBe(1);
  await running;
  await other.end();
});

test('idle_in_transaction_session_timeout and idle_session_timeout end the connection', async () => {
  for (const [sql, code] of [
    ["set idle_in_transaction_session_timeout = '100ms'; begin", '25P03'],
    ["set idle_session_timeout = '100ms'", '57P05'],
  ] as const) {
    const client = await connectClient(endpoint);
    const ended = new Promise<{ code?: string }>((resolve) => client.once('error', resolve));
    await client.query(sql);
    expect((await ended).code).toBe(code);
  }
});

test('a backend that ends is started again, and everybody is told', async () => {
  const client = await connectClient(endpoint);
  const other = await connectClient(endpoint);
  const otherEnded = new Promise<{ code?: string }>((resolve) => other.once('error', resolve));
  // PostgreSQL ends the backend when this timeout strikes; there is only the one.
  await client.query("set transaction_timeout = '50ms'; begin");
  expect((await errorOf(client.query('select pg_sleep(100)'))).code).toMatch(/^(25P04|57P02)$/);
  expect((await otherEnded).code).toBe('57P02');
  const later = await connectClient(endpoint);
  expect(await value(later, 'select 1')).toBe(1);
  expect(restarts.length).toBe(1);
  expect(endpoint.stats().restarts).toBe(1);
  await later.end();
});

test('an endpoint that closes says why, and passes nothing on that the backend says meanwhile', async () => {
  const closing = await startTestEndpoint();
  const client = await connectClient(closing);
  // The older connection hears of the end first, and its leaving lets the other's answer through.
  const idle = await connectClient(closing);
  const asking = await connectClient(closing);
  await client.query('select 1');
  const before = closing.stats().turns;
  const error = errorOf(asking.query('select pg_sleep(0.1)'));
  while (closing.stats().turns === before) await new Promise((resolve) => setImmediate(resolve));
  // This thread serves the endpoint, too: the answer is there, and nobody has taken it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
  const closed = closing.close({ code: '57P01', message: 'the end' });
  expect(await error).toMatchObject({ code: '57P01', message: 'the end' });
  await closed;
  await Promise.all([client.end(), idle.end()]);
});
