/**
 * Bytes stream both ways with back-pressure, and a client that dies or stops in the middle costs its own transaction, nobody else's.
 *
 * Attack: COPY cut at any byte, results larger than all buffers that nobody reads, statements larger than the rings, clients that
 * hang in a transaction, in a message, in front of their results.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { message } from '../../server/compute/pg-frames.ts';
import { connectClient, errorField, RawClient, startTestEndpoint, value } from '../support/wire-client.ts';

let endpoint: Endpoint;

beforeAll(async () => {
  endpoint = await startTestEndpoint({ sessionLimits: { idleInTransactionMs: 300, stalledClientMs: 300 } });
  const client = await connectClient(endpoint);
  await client.query('create table copied(a int, b text)');
  await client.end();
});
afterAll(() => endpoint.close());

/** Does something that takes a client its turn, and waits until it has it. */
async function inTurn(send: () => void): Promise<void> {
  const before = endpoint.stats().turns;
  send();
  while (endpoint.stats().turns === before) await new Promise((resolve) => setImmediate(resolve));
}

test('COPY FROM STDIN streams more than the rings hold, cut anywhere', async () => {
  const raw = await RawClient.start(endpoint);
  raw.query('truncate copied; copy copied from stdin');
  await raw.until('G');
  const line = `1\t${'x'.repeat(1000)}\n`;
  const data = message('d', Buffer.from(line.repeat(100)));
  const all = Buffer.concat([...Array.from({ length: 30 }, () => data), message('c')]);
  for (let at = 0; at < all.length; at += 61_111) raw.send(all.subarray(at, at + 61_111));
  const answer = await raw.until('Z');
  expect(answer[0]?.body.toString()).toContain('COPY 3000');
  raw.socket.destroy();
});

test('COPY in the extended protocol, while others wait', async () => {
  const raw = await RawClient.start(endpoint);
  const other = await connectClient(endpoint);
  raw.send(message('P', '', 'copy copied from stdin', new Uint8Array(2)), message('B', '', '', new Uint8Array(6)));
  raw.send(message('E', '', 0), message('S'));
  await raw.until('G');
  const waiting = other.query('select 1');
  raw.send(message('d', Buffer.from('5\tfive\n')), message('c'), message('S'));
  expect((await raw.until('Z')).map((each) => each.type).join('')).toBe('CZ');
  await waiting;
  await other.end();
  raw.socket.destroy();
});

test("CopyFail, and a wrong line, are the statement's errors", async () => {
  const raw = await RawClient.start(endpoint);
  raw.query('copy copied from stdin');
  await raw.until('G');
  raw.send(message('d', Buffer.from('7\tseven\n')), message('f', 'changed my mind'));
  const failed = await raw.until('Z');
  expect(errorField(failed[0]!.body, 'C')).toBe('57014');
  raw.query('copy copied from stdin');
  await raw.until('G');
  raw.send(message('d', Buffer.from('seven\tseven\n')), message('c'));
  expect(errorField((await raw.until('Z'))[0]!.body, 'C')).toBe('22P02');
  raw.query('select 1');
  expect((await raw.until('Z')).map((each) => each.type).join('')).toBe('TDCZ');
  raw.socket.destroy();
});

test.each([
  ['between messages of a COPY', (raw: RawClient) => raw.send(message('d', Buffer.from('8\teight\n')))],
  [
    'in the middle of a message of a COPY',
    (raw: RawClient) => raw.send(message('d', Buffer.alloc(300_000, 'x')).subarray(0, 250_000)),
  ],
])('a client that dies %s leaves no row', async (_, send) => {
  const watcher = await connectClient(endpoint);
  await watcher.query('truncate copied');
  const raw = await RawClient.start(endpoint);
  raw.query('copy copied from stdin');
  await raw.until('G');
  send(raw);
  raw.socket.destroy();
  expect(await value(watcher, 'select count(*)::int from copied')).toBe(0);
  await watcher.end();
});

test('a statement larger than the in ring arrives whole; half of one is never run', async () => {
  const watcher = await connectClient(endpoint);
  const big = 'y'.repeat(5_000_000);
  expect(await value(watcher, 'select length($1::text)', [big])).toBe(big.length);
  expect(await value(watcher, `select length('${big}')`)).toBe(big.length);
  await watcher.query("truncate copied; insert into copied values (1, 'stays')");
  const raw = await RawClient.start(endpoint);
  const padding = ' '.repeat(400_000);
  const statement = message('Q', `delete from copied ${padding} where false`);
  raw.send(statement.subarray(0, statement.length - ' where false'.length - 1));
  raw.socket.destroy();
  expect(await value(watcher, 'select count(*)::int from copied')).toBe(1);
  await watcher.end();
});

test('a result larger than all buffers waits for its reader', async () => {
  const raw = await RawClient.start(endpoint);
  raw.socket.pause();
  raw.query("select repeat('z', 10000) from generate_series(1, 5000)");
  // Nobody reads 50 MB: the listener must not take them either.
  const before = process.memoryUsage().rss;
  await new Promise((resolve) => setImmediate(resolve));
  expect(process.memoryUsage().rss - before).toBeLessThan(30_000_000);
  raw.socket.resume();
  const rows = (await raw.until('Z')).filter((each) => each.type === 'D');
  expect(rows.length).toBe(5000);
  raw.socket.destroy();
});

test('COPY TO STDOUT of a client that goes away ends, and others go on', async () => {
  const raw = await RawClient.start(endpoint);
  raw.query("copy (select repeat('z', 10000), generate_series(1, 100000000)) to stdout");
  await raw.until('d');
  raw.socket.destroy();
  const other = await connectClient(endpoint);
  expect(await value(other, 'select 1')).toBe(1);
  await other.end();
});

test('pipelined statements keep their order and end with their Sync', async () => {
  const raw = await RawClient.start(endpoint);
  const other = await connectClient(endpoint);
  const execute = (sql: string) => [
    message('P', '', sql, new Uint8Array(2)),
    message('B', '', '', new Uint8Array(6)),
    message('E', '', 0),
  ];
  raw.send(
    ...execute("insert into copied values (100, 'p')"),
    ...execute('selec'),
    ...execute('select 1'),
    message('S'),
  );
  raw.send(...execute('select 2'), message('S'), message('Q', 'select 3'));
  const waiting = other.query('select 4');
  const types = async () => (await raw.until('Z')).map((each) => each.type).join('');
  expect(await types()).toBe('12CEZ');
  expect(await types()).toBe('12DCZ');
  expect(await types()).toBe('TDCZ');
  await waiting;
  expect(await value(other, 'select count(*)::int from copied where a = 100')).toBe(0);
  await other.end();
  raw.socket.destroy();
});

test.each([
  ['sits in a transaction', '25P03', (raw: RawClient) => raw.query('begin; insert into copied values (200)')],
  ['stops in the middle of a COPY', '57P01', (raw: RawClient) => raw.query('copy copied from stdin')],
  [
    'stops in the middle of a message',
    '57P01',
    (raw: RawClient) => raw.send(message('Q', `select '${'x'.repeat(200_000)}'`).subarray(0, 150_000)),
  ],
  [
    'stops in the middle of a pipeline',
    '25P03',
    (raw: RawClient) => raw.send(message('P', '', 'select 1', new Uint8Array(2))),
  ],
])('while others wait, a client that %s is let go', async (_, code, hang) => {
  const raw = await RawClient.start(endpoint);
  const other = await connectClient(endpoint);
  await inTurn(() => hang(raw));
  expect(await value(other, 'select count(*)::int from copied where a = 200')).toBe(0);
  const messages = await raw.untilClosed();
  const fatal = messages.find((each) => each.type === 'E');
  expect(errorField(fatal!.body, 'S')).toBe('FATAL');
  expect(errorField(fatal!.body, 'C')).toBe(code);
  await other.end();
});

test('while others wait, a client that does not read its results is let go', async () => {
  const raw = await RawClient.start(endpoint);
  const other = await connectClient(endpoint);
  raw.socket.pause();
  await inTurn(() => raw.query("select repeat('z', 10000) from generate_series(1, 5000)"));
  expect(await value(other, 'select 1')).toBe(1);
  raw.socket.destroy();
  await other.end();
});
