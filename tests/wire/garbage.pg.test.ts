/**
 * Garbage closes its own connection, with a protocol error where there is somebody to tell, and nothing else.
 *
 * Attack: startup packets and messages that are truncated, oversized, of unknown type, or random (the seed is printed by fast-check).
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { message } from '../../server/compute/pg-frames.ts';
import {
  connectClient,
  errorField,
  RawClient,
  startTestEndpoint,
  startupPacket,
  value,
} from '../support/wire-client.ts';

let endpoint: Endpoint;

beforeAll(async () => {
  endpoint = await startTestEndpoint({ sessionLimits: { startupTimeoutMs: 200, connectionsMax: 20 } });
});
afterAll(() => endpoint.close());

async function stillServes(): Promise<void> {
  const client = await connectClient(endpoint);
  expect(await value(client, 'select 1')).toBe(1);
  await client.end();
}

const int32 = (...words: number[]) => {
  const bytes = Buffer.alloc(4 * words.length);
  for (const [index, word] of words.entries()) bytes.writeUInt32BE(word >>> 0, 4 * index);
  return bytes;
};

test.each([
  ['a length of zero', int32(0, 3 << 16)],
  ['a huge length', int32(0x7fffffff, 3 << 16)],
  ['protocol 2.0', int32(8, 2 << 16)],
  ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ['no terminator', Buffer.concat([int32(13, 3 << 16), Buffer.from('user\0')])],
  ['no user', startupPacket({ database: 'postgres' })],
  ['replication', startupPacket({ user: 'postgres', replication: 'true' })],
  ['options that are none', startupPacket({ user: 'postgres', options: 'what -c' })],
  ['a malformed cancel', int32(12, 80877102, 1)],
])('startup with %s is refused', async (_, bytes) => {
  const raw = await RawClient.open(endpoint);
  raw.send(bytes);
  const [error] = await raw.untilClosed();
  expect(error?.type).toBe('E');
  await stillServes();
});

test('encryption requests are answered with N; bytes sent behind one are not taken', async () => {
  const raw = await RawClient.open(endpoint);
  const first = new Promise<Buffer>((resolve) => raw.socket.once('data', resolve));
  raw.send(int32(8, 80877103));
  expect((await first).toString()).toBe('N');
  raw.send(int32(8, 80877104), startupPacket({ user: 'postgres' }));
  await raw.untilClosed();
  await stillServes();
});

test('a newer minor version is negotiated down', async () => {
  const raw = await RawClient.open(endpoint);
  raw.send(startupPacket({ user: 'postgres', database: 'postgres', '_pq_.new': '1' }, (3 << 16) | 2));
  const messages = await raw.until('Z');
  expect(messages[0]?.type).toBe('v');
  raw.socket.destroy();
});

test('a connection that says nothing is closed, and too many are refused', async () => {
  const silent = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(endpoint)));
  const refused = await RawClient.open(endpoint);
  const [error] = await refused.untilClosed();
  expect(errorField(error!.body, 'C')).toBe('53300');
  await Promise.all(silent.map((each) => each.untilClosed()));
  await stillServes();
});

test.each([
  ['an unknown type', Buffer.concat([Buffer.from('?'), int32(4)])],
  ['a control message', Buffer.concat([Buffer.from([3]), int32(20), Buffer.from('{"client":12345}')])],
  ['a length below four', Buffer.concat([Buffer.from('Q'), int32(3)])],
  ['a huge length', Buffer.concat([Buffer.from('Q'), int32(0x7fffffff)])],
  ['a Sync with a large body', Buffer.concat([Buffer.from('S'), int32(1_000_000)])],
])('%s ends the connection', async (_, bytes) => {
  const raw = await RawClient.start(endpoint);
  raw.send(bytes);
  const [error] = await raw.untilClosed();
  expect(errorField(error!.body, 'C')).toBe('08P01');
  await stillServes();
});

test('malformed bodies are errors of the backend, and the connection goes on', async () => {
  const raw = await RawClient.start(endpoint);
  for (const type of ['P', 'B', 'D', 'E', 'C']) {
    raw.send(message(type, Buffer.from([1, 2, 3])), message('S'));
    const answer = await raw.until('Z');
    expect(answer[0]?.type).toBe('E');
  }
  raw.send(message('Q', Buffer.from('no terminator')));
  expect((await raw.until('Z'))[0]?.type).toBe('E');
  raw.query('select 1');
  expect((await raw.until('Z')).map((each) => each.type).join('')).toBe('TDCZ');
  raw.socket.destroy();
});

test('a query behind a failed Bind is skipped with it, and whoever comes next is served', async () => {
  const raw = await RawClient.start(endpoint);
  const query = message('Q', Buffer.from('select 1\0'));
  // PostgreSQL skips to the next Sync: nothing answers the query, and the connection rests inside the pipeline.
  raw.send(message('B', Buffer.from([1, 2, 3])), query);
  await raw.until('E');
  raw.socket.end();
  await raw.untilClosed();
  await stillServes();

  const other = await RawClient.start(endpoint);
  other.send(message('B', Buffer.from([1, 2, 3])), query, message('S'), query);
  expect((await other.until('Z')).map((each) => each.type).join('')).toBe('EZ');
  expect((await other.until('Z')).map((each) => each.type).join('')).toBe('TDCZ');
  other.socket.destroy();
});

test('random messages never reach another client', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          type: fc.constantFrom(...'QPBEDCSHdcfF?x'),
          body: fc.uint8Array({ maxLength: 40 }),
          cut: fc.integer({ min: 0, max: 60 }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
      async (messages) => {
        const raw = await RawClient.start(endpoint);
        for (const { type, body, cut } of messages)
          raw.send(message(type, body).subarray(0, cut < 50 ? undefined : cut - 50));
        raw.socket.end();
        await raw.untilClosed();
        await stillServes();
      },
    ),
    { numRuns: 60 },
  );
  expect(endpoint.stats().restarts).toBe(0);
});
