/**
 * Sessions of pages without shared memory, over HTTP, before a repository's real processes.
 *
 * Attacked by malformed requests, WAL that leaves a gap, another writer, and a page that is gone. What must hold: a wrong request costs itself, a session that
 * cannot go on says so and why, one that nobody shows life of ends and fences nobody any more.
 */
import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeSessions, bridgePath } from '../../server/console/bridge-sessions.ts';
import { branchesOf } from '../../server/control-plane/branches.ts';
import { Repository } from '../../server/control-plane/repository.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { listen } from '../../server/process/ports.ts';
import { op } from '../../smgr-plugin/bridge/bridge-layout.ts';
import { type BridgeError, decodeStart, encodeRequest, flushOp } from '../../smgr-plugin/bridge/http-bridge.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const rig = new RepositoryRig();
const servers: { server: Server; sessions: BridgeSessions }[] = [];
let open: { tenantId: string; timelineId: string };

beforeAll(async () => {
  await rig.start();
  const config = Repository.open(rig.dir).readConfig();
  const [branch] = branchesOf(config, config.defaultTenantId as never);
  open = { tenantId: config.defaultTenantId!, timelineId: branch!.timelineId };
});
afterAll(async () => {
  for (const { server, sessions } of servers) {
    await sessions.close();
    server.close();
    server.closeAllConnections();
  }
  await rig.close();
});

async function serve(idleMaxMs?: number): Promise<string> {
  const sessions = new BridgeSessions(Repository.open(rig.dir), silentLog, idleMaxMs);
  const server = createServer((request, response) => void sessions.handle(request, response));
  servers.push({ server, sessions });
  return `http://127.0.0.1:${await listen(server, '127.0.0.1', 0)}${bridgePath}`;
}

async function post(
  url: string,
  body: Uint8Array<ArrayBuffer> | string,
): Promise<{ bytes: Uint8Array; error: BridgeError | null }> {
  const response = await fetch(url, { method: 'POST', body });
  const bytes = new Uint8Array(await response.arrayBuffer());
  return { bytes, error: response.status === 200 ? null : JSON.parse(new TextDecoder().decode(bytes)) };
}

async function session(url: string, readOnlyAt: string | null = null): Promise<{ url: string; lsn: number }> {
  const { bytes, error } = await post(url, JSON.stringify({ ...open, readOnlyAt }));
  expect(error).toBeNull();
  const { session: name, start } = decodeStart(bytes);
  return { url: `${url}/${name}`, lsn: start.lsn };
}

const none = new Float64Array(0);
const noWal = new Uint8Array(0);

describe('a session', () => {
  it('answers what a compute asks, and a wrong request costs only itself', async () => {
    const { url, lsn } = await session(await serve());
    const pgClass = Float64Array.of(1663, 5, 1259, 0, 0, 0, lsn);
    const size = await post(url, encodeRequest({ op: op.getRelSize, args: pgClass, walOffset: 0, wal: noWal }));
    expect(new DataView(size.bytes.buffer).getFloat64(0, true)).toBeGreaterThan(5);
    const wrong = [
      Uint8Array.of(1, 2, 3),
      encodeRequest({ op: 55, args: none, walOffset: 0, wal: noWal }),
      encodeRequest({ op: op.more, args: none, walOffset: 0, wal: noWal }),
      // WAL between the start and it is missing.
      encodeRequest({ op: op.ping, args: none, walOffset: 100, wal: Uint8Array.of(1) }),
    ];
    for (const body of wrong) {
      expect((await post(url, body)).error).toMatchObject({ fatal: false, error: { kind: 'invalid' } });
    }
    // An empty request is a sign of life.
    expect(await post(url, '')).toEqual({ bytes: new Uint8Array(0), error: null });
    const flush = await post(url, encodeRequest({ op: flushOp, args: none, walOffset: 0, wal: noWal }));
    expect([...flush.bytes]).toEqual([1]);
    await fetch(url, { method: 'DELETE' });
    expect((await post(url, '')).error).toMatchObject({ fatal: true, error: { kind: 'closed' } });
  });

  it('is fenced by one that writes after it', async () => {
    const base = await serve();
    const first = await session(base);
    expect((await post(first.url, '')).error).toBeNull();
    const second = await session(base);
    // The safekeeper tells the first one when it next hears of it.
    let { error } = await post(first.url, '');
    while (error === null) ({ error } = await post(first.url, ''));
    expect(error).toMatchObject({ fatal: true, error: { kind: 'fenced' } });
    expect((await post(second.url, '')).error).toBeNull();
  });

  it('ends when nothing is heard of its page', async () => {
    const { url } = await session(await serve(50));
    let { error } = await post(url, '');
    const deadline = AbortSignal.timeout(30_000);
    while (error === null) {
      deadline.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, 150));
      ({ error } = await post(url, ''));
    }
    expect(error).toMatchObject({ fatal: true, error: { kind: 'closed' } });
    expect(error.error.message).toMatch(/connect again/);
  });

  it('is not opened for what is not there, or not asked for rightly', async () => {
    const base = await serve();
    const refused = async (body: string) => (await post(base, body)).error;
    expect(await refused('{')).toMatchObject({ fatal: true });
    expect(await refused(JSON.stringify({ ...open, tenantId: '..' }))).toMatchObject({ error: { kind: 'invalid' } });
    const unknown = JSON.stringify({ ...open, timelineId: 'f'.repeat(32), readOnlyAt: null });
    expect(await refused(unknown)).toMatchObject({ error: { kind: 'notFound' } });
    expect((await post(`${base}/nobody`, '')).error).toMatchObject({ fatal: true, error: { kind: 'closed' } });
  });
});
