/**
 * A safekeeper's ports as others meet them: its HTTP API, and what strangers and broken peers get. Whatever they send, the process lives
 * and serves the next one.
 */
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { channelMessageBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { encodeWalStreamRequest } from '../../engine/protocol/wal-stream.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { parseSafekeeperArgs } from '../../server/safekeeper/config.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { type SafekeeperServer, startSafekeeper } from '../../server/safekeeper/safekeeper-server.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const host = '127.0.0.1';
const startLsn = (walSegmentSize + 40) as Lsn;
let dir: string;
let server: SafekeeperServer;
let id: TenantTimelineId;

const start = () =>
  startSafekeeper({ dir, nodeId: 7 as NodeId, listen: { host, port: 0 }, http: { host, port: 0 }, log: silentLog });

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'pagelite-safekeeper-'));
  server = await start();
  id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
});

afterEach(async () => {
  await server.close();
  await rm(dir, { recursive: true });
});

const elect = () =>
  ProposerDriver.elect({
    id,
    services: [connectSafekeeper({ id: 7 as NodeId, host, port: server.ports.listen })],
    startLsnIfEmpty: startLsn,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });

/** Writes one record; returns the end of WAL. */
async function commit(): Promise<Lsn> {
  const driver = await elect();
  const record = SyntheticWal.afterBoot(driver.startLsn).next(new Uint8Array(83));
  driver.append(record.startLsn, record.bytes);
  await driver.waitCommit(record.endLsn);
  driver.close();
  return record.endLsn;
}

async function get(path: string): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`http://${host}:${server.ports.http}${path}`);
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('json');
  return { status: response.status, body: isJson ? JSON.parse(text) : text };
}

describe('HTTP', () => {
  it('tells the status of the node, its timelines and one of them', async () => {
    expect(await get('/v1/status')).toEqual({ status: 200, body: { id: 7 } });
    expect(await get('/v1/tenant/timeline')).toEqual({ status: 200, body: [] });
    await commit();
    expect((await get('/v1/tenant/timeline')).body).toEqual([{ tenant_id: id.tenantId, timeline_id: id.timelineId }]);
    expect((await get(`/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`)).body).toMatchObject({
      tenant_id: id.tenantId,
      timeline_id: id.timelineId,
      acceptor_state: { term: 1, epoch: 1, term_history: [{ term: 1, lsn: '0/1000028' }] },
      timeline_start_lsn: '0/1000028',
      flush_lsn: '0/1000098',
    });
    const metrics = (await get('/metrics')).body as string;
    expect(metrics).toContain(
      `safekeeper_flush_lsn{tenant_id="${id.tenantId}",timeline_id="${id.timelineId}"} 16777368`,
    );
  });

  it('deletes a timeline: its proposer ends with the reason, and a new one of the same id begins anew', async () => {
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;
    const remove = async () => (await fetch(`http://${host}:${server.ports.http}${path}`, { method: 'DELETE' })).status;
    const driver = await elect();
    const wal = SyntheticWal.afterBoot(driver.startLsn);
    const first = wal.next(new Uint8Array(83));
    driver.append(first.startLsn, first.bytes);
    await driver.waitCommit(first.endLsn);
    expect(await remove()).toBe(200);
    const second = wal.next(new Uint8Array(83));
    try {
      driver.append(second.startLsn, second.bytes);
    } catch (error) {
      // It has heard of it already.
      expect(error).toMatchObject({ kind: 'notFound' });
    }
    await expect(driver.waitCommit(second.endLsn)).rejects.toMatchObject({
      kind: 'notFound',
      message: expect.stringMatching(/was deleted: this compute cannot write to it any more/),
    });
    expect((await get(path)).status).toBe(404);
    expect(await readdir(join(dir, id.tenantId))).toEqual([]);
    // Again, and what was never there: a deletion that was cut off is repeated.
    expect(await remove()).toBe(200);
    // As of a branch that is pushed once more.
    const again = await elect();
    expect(again.startLsn).toBe(startLsn);
    again.close();
    await commit();
    expect(await remove()).toBe(200);
  });

  it('says clearly what is not there, malformed or damaged', async () => {
    expect(await get(`/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`)).toMatchObject({
      status: 404,
      body: { kind: 'notFound', msg: expect.stringContaining(id.timelineId) },
    });
    expect(await get('/v1/tenant/xyz/timeline/1')).toMatchObject({
      status: 400,
      body: { msg: 'malformed tenant id "xyz": expected 32 hex digits' },
    });
    expect((await get('/v2')).status).toBe(404);
    await commit();
    await server.close();
    await writeFile(join(dir, id.tenantId, id.timelineId, 'safekeeper.control'), 'not a control file');
    server = await start();
    expect(await get(`/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`)).toMatchObject({
      status: 500,
      body: { kind: 'corrupt', msg: expect.stringContaining('safekeeper.control') },
    });
  });
});

describe('the WAL port', () => {
  /** Sends messages and returns how the connection ended. */
  function ending(path: string, messages: readonly (Uint8Array | string)[]): Promise<{ code: number; reason: string }> {
    return new Promise((resolve) => {
      const socket = new WebSocket(`ws://${host}:${server.ports.listen}${path}`, { perMessageDeflate: false });
      socket.on('open', () => {
        for (const message of messages) socket.send(message);
      });
      let failure = '';
      socket.on('error', (error) => {
        failure = error.message;
      });
      socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() || failure }));
    });
  }

  it.each<[string, string, (Uint8Array | string)[], RegExp]>([
    ['an unknown path', '/elsewhere', [], /404/],
    ['text', '/proposer', ['hello'], /text message/],
    ['garbage', '/proposer', [new Uint8Array(40).fill(7)], /malformed proposer-acceptor message/],
    ['an empty message', '/wal', [new Uint8Array(0)], /cut short: 0 bytes/],
    ['garbage of a reader', '/wal', [new Uint8Array(5000).fill(200)], /malformed WAL stream message/],
    [
      'progress before a request',
      '/wal',
      [encodeWalStreamRequest({ kind: 'consumed', lsn: 5 as Lsn })],
      /more than was sent/,
    ],
  ])('%s is answered with an error; the next one is served', async (_, path, messages, reason) => {
    expect((await ending(path, messages)).reason).toMatch(reason);
    await commit();
  });

  it('an oversized message ends its connection before it is read', async () => {
    const socket = new WebSocket(`ws://${host}:${server.ports.listen}/proposer`, { perMessageDeflate: false });
    await once(socket, 'open');
    const closed = once(socket, 'close');
    // The header of a masked binary frame that announces too much: nothing else is ever sent.
    const header = Buffer.alloc(14);
    header.writeUInt16BE(0x82ff);
    header.writeBigUInt64BE(BigInt(channelMessageBytesMax) + 1n, 2);
    (socket as unknown as { _socket: Socket })._socket.write(header);
    expect((await closed)[0]).toBe(1009);
    await commit();
  });

  it('plain HTTP is told what this port is', async () => {
    const response = await fetch(`http://${host}:${server.ports.listen}/`);
    expect(response.status).toBe(426);
    expect(await response.text()).toContain('/proposer and /wal');
  });

  it('a taken port is named, and nothing is left behind', async () => {
    const options = { dir, nodeId: 7 as NodeId, listen: { host, port: 0 }, log: silentLog };
    await expect(startSafekeeper({ ...options, http: { host, port: server.ports.listen } })).rejects.toMatchObject({
      kind: 'unavailable',
      message: expect.stringContaining(`${host}:${server.ports.listen}: the port is taken`),
    });
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('arguments', () => {
  it("default to Neon's ports, and name the flag that is wrong", () => {
    expect(parseSafekeeperArgs(['-D', '/data', '--id', '3'])).toEqual({
      dir: '/data',
      nodeId: 3,
      listen: { host, port: 5454 },
      http: { host, port: 7676 },
      peers: [],
      backup: null,
    });
    const cluster = ['--remote-storage', 'file:///tmp/bucket', '--cluster-id', '0123456789abcdef'];
    expect(
      parseSafekeeperArgs(['-D', '/data', '--peers', '2=10.0.0.2:5454,3=10.0.0.3:5455', ...cluster]),
    ).toMatchObject({
      peers: [
        { id: 2, host: '10.0.0.2', port: 5454 },
        { id: 3, host: '10.0.0.3', port: 5455 },
      ],
      backup: { remoteStorage: { kind: 'folder', path: '/tmp/bucket' }, cluster: '0123456789abcdef' },
    });
    const wrong: [string[], RegExp][] = [
      [[], /-D DIR is missing/],
      [['-D', '/data', '--id', 'x'], /--id: "x"/],
      [['-D', '/data', '--listen-pg', 'a:b'], /--listen-pg: "a:b"/],
      [['-D', '/data', '--peers', '1=a:1'], /--peers: 1 is this safekeeper itself/],
      [['-D', '/data', '--peers', '2=a:1,2=b:1'], /--peers: an id is there twice/],
      [['-D', '/data', '--remote-storage', 'file:///tmp/bucket'], /--cluster-id: expected 16 hex digits/],
      [['-D', '/data', '--nonsense'], /nonsense/],
    ];
    for (const [args, message] of wrong) expect(() => parseSafekeeperArgs(args)).toThrowError(message);
  });
});
