/**
 * The console server as a process: what it serves on one origin, to whom, and how it starts, stops and survives the processes behind it.
 *
 * Attacked by hosts, origins and paths that it must refuse, by a pageserver that is killed under a connection that goes through it, by taken ports. In order.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { nodeId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { ServerBranch, ServerStatus } from '../../engine/protocol/control-api.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { runningPid } from '../../server/process/pid-file.ts';
import { listen } from '../../server/process/ports.ts';
import { ConsoleClient } from '../support/console-client.ts';
import { cliEntry, RepositoryRig } from '../support/repository-rig.ts';

let rig: RepositoryRig;
let server: ConsoleClient;
beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  server = new ConsoleClient(rig.dir);
});
afterAll(() => rig.close());

async function mainId(): Promise<TenantTimelineId> {
  const status = await server.ok<ServerStatus>('GET', '/api/v1/status');
  const branch = await server.ok<ServerBranch>('GET', '/api/v1/branches/main');
  return { tenantId: tenantId(status.tenantId), timelineId: timelineId(branch.timelineId) };
}

const socketTo = (path: string, headers: Record<string, string> = {}) =>
  new WebSocket(`ws://127.0.0.1:${server.port}${path}`, { headers });

/** 101, or with what the handshake was refused. */
function handshake(path: string, headers: Record<string, string> = {}): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = socketTo(path, headers);
    socket.on('open', () => {
      socket.terminate();
      resolve(101);
    });
    socket.on('unexpected-response', (request, response) => {
      request.destroy();
      resolve(response.statusCode!);
    });
    socket.on('error', reject);
  });
}

describe('pages', () => {
  it('are cross-origin isolated, and what others load says that they may', async () => {
    for (const path of ['/', '/api/v1/status', '/nothing']) {
      const { headers } = await server.ask('GET', path);
      expect(headers).toMatchObject({
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
        'cross-origin-resource-policy': 'cross-origin',
        'x-content-type-options': 'nosniff',
      });
    }
  });

  it.each([
    ['http://localhost:5173', 200],
    ['http://127.0.0.1:1', 200],
    ['https://evil.example', 403],
    ['http://127.evil.example', 403],
    ['null', 403],
  ])('of %s: %d', async (origin, status) => {
    const answer = await server.ask('GET', '/api/v1/status', undefined, { origin });
    expect(answer.status).toBe(status);
    expect(answer.headers['access-control-allow-origin']).toBe(status === 200 ? origin : undefined);
    const { tenantId } = await mainId();
    expect((await server.ask('GET', `/v1/tenant/${tenantId}`, undefined, { origin })).status).toBe(status);
    expect(await handshake('/v1/pagestream', { origin })).toBe(status === 200 ? 101 : 403);
    expect(await handshake('/v1/safekeeper/1/wal', { origin })).toBe(status === 200 ? 101 : 403);
    if (status === 403) expect(answer.body.msg).toContain('--allow-origin');
  });

  it('ask beforehand what they may', async () => {
    const asked = {
      origin: 'http://localhost:5173',
      'access-control-request-method': 'PUT',
      'access-control-request-headers': 'content-type',
      'access-control-request-private-network': 'true',
    };
    const answer = await server.ask('OPTIONS', '/api/v1/branches/x', undefined, asked);
    expect(answer).toMatchObject({
      status: 204,
      headers: {
        'access-control-allow-origin': 'http://localhost:5173',
        'access-control-allow-methods': expect.stringContaining('PUT'),
        'access-control-allow-headers': '*',
        'access-control-allow-private-network': 'true',
        vary: 'Origin',
      },
    });
    const evil = await server.ask('OPTIONS', '/api/v1/branches/x', undefined, {
      ...asked,
      origin: 'https://evil.example',
    });
    expect([evil.status, evil.headers['access-control-allow-origin']]).toEqual([403, undefined]);
  });

  it.each(['evil.example', 'evil.example:9899', '127.evil.example', 'localhost.evil.example:9899'])(
    'of a name that a DNS server of others brought here are refused: %s',
    async (host) => {
      const answer = await server.ask('GET', '/api/v1/status', undefined, { host });
      expect([answer.status, answer.body.kind]).toEqual([403, 'invalid']);
      expect((await server.ask('DELETE', '/api/v1/branches/main', undefined, { host })).status).toBe(403);
      expect(await handshake('/v1/pagestream', { host })).toBe(403);
    },
  );

  it.each([
    '/../package.json',
    '/pagelite/../../package.json',
    '/pagelite/%2e%2e/%2e%2e/package.json',
    '/examples/..%2f..%2fpackage.json',
    '/v1/tenant/../status',
    '/v1/tenant/%2e%2e/status',
    '/v1/tenant/x/../../status',
    '/v1/status',
    '/metrics',
    '//v1/tenant/x',
    'http://[/',
  ])('do not reach what is not served: %s', async (path) => {
    const { status, text } = await server.ask('GET', path);
    expect([400, 404]).toContain(status);
    expect(text).not.toContain('"dependencies"');
  });

  it.each([
    ['/v1/pagestream', 101],
    ['/v1/safekeeper/1/proposer', 101],
    ['/v1/safekeeper/1/wal', 101],
    ['/v1/safekeeper/2/wal', 404],
    ['/v1/safekeeper/1/metrics', 404],
    ['/v1/safekeeper/1/../wal', 404],
    ['/v1/other', 404],
    ['/', 404],
  ])('have WebSockets at %s: %d', async (path, status) => {
    expect(await handshake(path)).toBe(status);
  });
});

describe('the storage through it', () => {
  it("the pageserver's API, with its own refusals", async () => {
    const { tenantId: tenant, timelineId: timeline } = await mainId();
    const path = `/v1/tenant/${tenant}/timeline/${timeline}`;
    expect(await server.ok('GET', path)).toMatchObject({ timeline_id: timeline, state: 'Active' });
    expect(await server.ask('GET', `/v1/tenant/${tenant}/timeline/${'0'.repeat(32)}`)).toMatchObject({
      status: 404,
      body: { kind: 'notFound' },
    });
    const large = await server.ask('POST', `/v1/tenant/${tenant}/timeline`, { x: 'x'.repeat(100_000) });
    expect([large.status, large.body.msg]).toEqual([413, expect.stringMatching(/too large/)]);
  });

  it('pages and WAL; a page service goes on after the pageserver was killed and started again', async () => {
    const id = await mainId();
    const pages = new RemotePageService({
      id,
      connect: () => connectWebSocket(`ws://127.0.0.1:${server.port}/v1/pagestream`),
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    const wal = new RemoteWalService({
      nodeId: nodeId(1),
      connect: (endpoint) => connectWebSocket(`ws://127.0.0.1:${server.port}/v1/safekeeper/1/${endpoint}`),
    });
    const before = await pages.getStatus();
    await rig.endpoint('main');
    await rig.sql('main', 'create table t (n int)');
    const { commitLsn } = (await wal.getStatus(id))!;
    expect(commitLsn).toBeGreaterThan(before.lastRecordLsn);

    const socket = socketTo('/v1/pagestream');
    await once(socket, 'open');
    const closed = once(socket, 'close');
    process.kill(rig.pid('pageserver'), 'SIGKILL');
    await closed;
    const branches = await server.ask('GET', '/api/v1/branches');
    expect(branches).toMatchObject({
      status: 503,
      body: { kind: 'unavailable', msg: expect.stringMatching(/pageserver does not answer.*pagelite start/) },
    });
    expect((await server.ask('GET', '/api/v1/status')).status).toBe(200);
    expect(await server.ask('GET', `/v1/tenant/${id.tenantId}`)).toMatchObject({
      status: 502,
      body: { kind: 'unavailable', msg: expect.stringMatching(/pageserver does not answer.*pagelite start/) },
    });
    expect(await handshake('/v1/pagestream')).toBe(502);
    const metrics = await server.ok<{ node: string }[]>('GET', '/api/v1/metrics');
    expect(new Set(metrics.map(({ node }) => node))).toEqual(new Set(['safekeeper 1']));

    // Waits for the pageserver, and then for what it has to read again from the safekeeper.
    const catalog = { spc: 1663, db: 5, rel: 1259, fork: 0 } as const;
    const again = pages.getRelSize({ requestLsn: commitLsn, notModifiedSince: commitLsn }, catalog);
    expect(await rig.ok('start')).toMatch(/console is already running, pid: \d+\nThe console is at http:/);
    expect(await again).toBeGreaterThan(0);
    expect((await pages.getStatus()).lastRecordLsn).toBeGreaterThanOrEqual(commitLsn);
    pages.close();
    await rig.ok('endpoint', 'stop', 'main');
  });
});

describe('the process', () => {
  const address = () => `http://127.0.0.1:${server.port}`;

  it('is told by pagelite console', async () => {
    expect(await rig.ok('console', '--no-open')).toBe(`${address()}\n`);
    expect(JSON.parse(await rig.ok('console', '--json'))).toEqual({ url: address(), pid: server.pid });
  });

  it('ends in order while pages are connected', async () => {
    const { pid } = server;
    const socket = socketTo('/v1/pagestream');
    await once(socket, 'open');
    const closed = once(socket, 'close');
    expect(await rig.ok('stop')).toMatch(
      new RegExp(`^Stopping console with pid ${pid} gracefully\\.\\.\nconsole stopped\nStopping pageserver`, 'm'),
    );
    await closed;
    expect(existsSync(server.pidFile)).toBe(false);
    expect(await rig.refused('console')).toMatch(/the console is not running\. Start it with: pagelite start/);
    const started = await rig.ok('start');
    expect(started.split('\n').at(-2)).toBe(`The console is at ${address()}`);
    expect((await server.ask('GET', '/api/v1/status')).status).toBe(200);
    expect(readFileSync(join(rig.dir, 'console/console.log'), 'utf8')).not.toMatch(/"level":"error"|"level":50/);
  });

  it('moves on from a port that is taken, and starts again after it was killed', async () => {
    const { port } = server;
    process.kill(server.pid, 'SIGKILL');
    const other = createServer();
    const taken = () => listen(other, '127.0.0.1', port).then(() => port);
    // The killed process may still hold it.
    await expect.poll(() => taken().catch(() => null), { timeout: 30_000 }).toBe(port);
    try {
      await rig.ok('start');
      expect(server.port).not.toBe(port);
      expect((await server.ask('GET', '/api/v1/status')).status).toBe(200);
    } finally {
      other.close();
    }
  });

  it('serves pages of an origin that the user allows', async () => {
    await rig.ok('stop');
    await rig.ok('start', '--allow-origin', 'https://app.example.com');
    const origin = 'https://app.example.com';
    const answer = await server.ask('GET', '/api/v1/status', undefined, { origin });
    expect([answer.status, answer.headers['access-control-allow-origin']]).toEqual([200, origin]);
    expect((await server.ask('GET', '/', undefined, { origin: 'https://other.example.com' })).status).toBe(403);
    expect(await rig.refused('start', '--allow-origin', 'example')).toMatch(/is not an origin such as/);
  });

  it('starts in a repository of before there was a console', async () => {
    await rig.ok('stop');
    const file = join(rig.dir, 'config.json');
    const { console: settings, ...old } = JSON.parse(readFileSync(file, 'utf8'));
    expect(settings).toEqual({ port: expect.any(Number) });
    writeFileSync(file, JSON.stringify(old));
    await rig.ok('start');
    expect((await server.ask('GET', '/api/v1/status')).status).toBe(200);
    await rig.ok('stop', '--mode', 'immediate');
    expect(runningPid(server.pidFile)).toBeNull();
  });
});

describe('pagelite dev', () => {
  it('serves the console itself, and ends with Ctrl-C while pages are connected', async () => {
    const dev = new RepositoryRig();
    try {
      mkdirSync(dev.dir);
      dev.putTemplate();
      const env = { ...process.env, PAGELITE_REPO_DIR: dev.dir };
      const child = spawn(process.execPath, [cliEntry, 'dev'], {
        cwd: dev.cwd,
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(child, 'close');
      let url = '';
      for await (const line of createInterface(child.stdout!)) {
        url ||= /^The console is at (http:\/\/127\.0\.0\.1:\d+)$/.exec(line)?.[1] ?? '';
        if (line.includes('Ctrl-C stops')) break;
      }
      const page = new ConsoleClient(dev.dir);
      expect(url).toBe(`http://127.0.0.1:${page.port}`);
      expect(JSON.parse(await dev.ok('console', '--json'))).toEqual({ url, pid: child.pid });
      await dev.sql('main', 'create table t (n int); insert into t values (1)');
      await page.ok('POST', '/api/v1/branches', { name: 'x', from: 'main' }, 201);
      await Promise.all([
        page.ok('POST', '/api/v1/branches', { name: 'y', from: 'x' }, 201),
        dev.ok('timeline', 'branch', '--branch-name', 'z'),
      ]);
      const refused = await page.ask('POST', '/api/v1/branches/main/reset', {});
      expect(refused.body.msg).toMatch(/endpoint "main" runs on branch "main"/);
      await page.ok('DELETE', '/api/v1/branches/y');
      const socket = new WebSocket(`ws://127.0.0.1:${page.port}/v1/pagestream`);
      await once(socket, 'open');
      const closed = once(socket, 'close');
      child.kill('SIGINT');
      expect((await ended)[0]).toBe(0);
      await closed;
    } finally {
      await dev.close();
    }
  });
});
