/**
 * A repository with access control, with real processes: everything works as without, and whoever comes without a token that fits is refused on every
 * surface, by a named error, with the connection closed; nothing has changed then, and the processes live. No token is in a log or in a process list.
 */
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { readdirSync, readFileSync, renameSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { nodeId, type TenantId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { encodeProposerMessage, type ProposerId } from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../../engine/protocol/version.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { Channel } from '../../engine/services.ts';
import {
  generateKeyFiles,
  readPrivateKey,
  signToken,
  type TokenRequest,
  writeTokenFile,
} from '../../server/auth/tokens.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

// So that what is logged at all is seen.
process.env.PAGELITE_LOG_LEVEL = 'debug';

let rig: RepositoryRig;
let id: { tenantId: TenantId; timelineId: TimelineId };
let stranger: TenantId;
let key: KeyObject;
let ports: { pagestream: number; pageserver: number; wal: number; safekeeper: number; console: number };
/** All that were used here. */
const tokens: string[] = [];

function sign(request: TokenRequest, by = key): string {
  const token = signToken(by, request);
  tokens.push(token);
  return token;
}

beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start('--auth');
  await rig.endpoint('main', '--auth', 'trust');
  await rig.sql('main', 'create table t(a int); insert into t select generate_series(1, 1000)');
  const config = JSON.parse(readFileSync(join(rig.dir, 'config.json'), 'utf8'));
  const [branch] = config.branches;
  id = { tenantId: tenantId(branch.tenantId), timelineId: timelineId(branch.timelineId) };
  await rig.ok('tenant', 'create');
  stranger = JSON.parse(await rig.ok('tenant', 'list', '--json'))
    .map((tenant: { tenantId?: string; id?: string }) => tenant.tenantId ?? tenant.id)
    .find((other: string) => other !== id.tenantId);
  key = readPrivateKey(join(rig.dir, 'auth_private_key.pem'));
  const [safekeeper] = config.safekeepers;
  ports = {
    pagestream: config.pageserver.pgPort,
    pageserver: config.pageserver.httpPort,
    wal: safekeeper.pgPort,
    safekeeper: safekeeper.httpPort,
    console: config.console.port,
  };
});
afterAll(() => rig.close());

const http = async (port: number, path: string, token: string | null, init: RequestInit = {}) => {
  const headers = { ...(token !== null && { authorization: `Bearer ${token}` }), ...(init.headers as object) };
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { ...init, headers });
  return { status: response.status, body: (await response.json().catch(() => null)) as { msg?: string } };
};
const timelinePath = () => `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;

/** Everything that a refused request could have changed, and that the processes are those from before. */
async function state(): Promise<unknown> {
  const all = [
    await http(ports.pageserver, `/v1/tenant/${id.tenantId}/timeline`, sign({ scope: 'pageserverapi' })),
    await http(ports.pageserver, '/v1/tenant', sign({ scope: 'pageserverapi' })),
    await http(ports.pageserver, `/v1/tenant/${id.tenantId}/config`, sign({ scope: 'pageserverapi' })),
    await http(ports.safekeeper, '/v1/tenant/timeline', sign({ scope: 'safekeeperdata' })),
    await http(ports.safekeeper, timelinePath(), sign({ scope: 'safekeeperdata' })),
  ];
  for (const { status } of all) expect(status).toBe(200);
  return [all, rig.pid('pageserver'), rig.pid('safekeeper')];
}

/** What does not open the tenant's timeline on the server that has `scope` for everything, and what is said of it. */
function bad(
  scope: 'pageserverapi' | 'safekeeperdata',
): [name: string, token: string | null, status: number, says: RegExp][] {
  const foreignKey = generateKeyPairSync('ed25519').privateKey;
  const otherWhole = scope === 'pageserverapi' ? 'safekeeperdata' : 'pageserverapi';
  return [
    ['no token', null, 401, /there is no token/],
    ['garbage', 'garbage.garbage.garbage', 401, /malformed/],
    ['expired', sign({ scope, expiresAtMs: Date.now() - 1000 }), 401, /expired, at 20/],
    ['foreign', sign({ scope }, foreignKey), 401, /not signed with a key/],
    ['of another tenant', sign({ scope: 'tenant', tenantId: stranger }), 403, /for another tenant/],
    ['of the other server', sign({ scope: otherWhole }), 403, new RegExp(`${otherWhole} opens nothing`)],
    ['admin', sign({ scope: 'admin' }), 403, /admin opens nothing/],
  ];
}

describe('refused, and nothing has changed', () => {
  it('on the HTTP API of the pageserver, whatever is asked', async () => {
    const before = await state();
    const requests: [path: string, init: RequestInit][] = [
      [timelinePath(), {}],
      [timelinePath(), { method: 'DELETE' }],
      [`/v1/tenant/${id.tenantId}`, { method: 'DELETE' }],
      [`/v1/tenant/${id.tenantId}/location_config`, { method: 'PUT', body: '{"mode":"Detached"}' }],
      ['/v1/tenant/config', { method: 'PUT', body: JSON.stringify({ tenant_id: id.tenantId, gc_horizon: 1 }) }],
      ['/v1/tenant/config', { method: 'PATCH', body: JSON.stringify({ tenant_id: id.tenantId, gc_horizon: 1 }) }],
      [`/v1/tenant/${id.tenantId}/timeline`, { method: 'POST', body: '{}' }],
    ];
    for (const [name, token, status, says] of bad('pageserverapi')) {
      for (const [path, init] of requests) {
        const { status: answered, body } = await http(ports.pageserver, path, token, init);
        expect([name, path, answered]).toEqual([name, path, status]);
        expect(body).toMatchObject({ kind: 'invalid', msg: expect.stringMatching(says) });
      }
    }
    for (const path of ['/v1/tenant', '/v1/nothing'])
      expect((await http(ports.pageserver, path, null)).status).toBe(401);
    const own = sign({ scope: 'tenant', tenantId: id.tenantId });
    expect((await http(ports.pageserver, '/v1/tenant', own)).status).toBe(403);
    expect((await http(ports.pageserver, '/v1/tenant', own, { method: 'POST', body: '{}' })).status).toBe(403);
    expect(await state()).toEqual(before);
  });

  it('on every route of the pageserver, as its own description lists them', async () => {
    const { body } = await http(ports.pageserver, '/v1/openapi.json', null);
    const { paths } = body as unknown as { paths: Record<string, Record<string, unknown>> };
    const open = ['/v1/status', '/v1/openapi.json', '/metrics'];
    const before = await state();
    for (const [path, methods] of Object.entries(paths)) {
      const concrete = path
        .replace('{tenant_id}', id.tenantId)
        .replace('{timeline_id}', id.timelineId)
        .replace('{import_id}', '0'.repeat(32))
        .replace('{layer_file_name}', `${'0'.repeat(36)}-${'F'.repeat(36)}__${'0'.repeat(15)}1`)
        .replace(/\{\w+\}/, 'x');
      for (const method of Object.keys(methods)) {
        const init =
          method === 'get' ? {} : { method: method.toUpperCase(), body: JSON.stringify({ tenant_id: id.tenantId }) };
        const without = await http(ports.pageserver, concrete, null, init);
        expect([method, path, without.status]).toEqual([method, path, open.includes(path) ? 200 : 401]);
        if (open.includes(path)) continue;
        const foreign = sign({ scope: 'tenant', tenantId: stranger });
        const other = await http(ports.pageserver, concrete, foreign, init);
        // What a path names is looked at first, so a malformed name is 400.
        expect([method, path, [400, 403].includes(other.status)]).toEqual([method, path, true]);
      }
    }
    expect(await state()).toEqual(before);
  });

  it('on the HTTP API of the safekeeper', async () => {
    const before = await state();
    for (const [name, token, status, says] of bad('safekeeperdata')) {
      for (const init of [{}, { method: 'DELETE' }]) {
        const { status: answered, body } = await http(ports.safekeeper, timelinePath(), token, init);
        expect([name, answered]).toEqual([name, status]);
        expect(body).toMatchObject({ kind: 'invalid', msg: expect.stringMatching(says) });
      }
      const { status: listed } = await http(ports.safekeeper, '/v1/tenant/timeline', token);
      expect([name, listed]).toEqual([name, status]);
    }
    const own = sign({ scope: 'tenant', tenantId: id.tenantId });
    expect((await http(ports.safekeeper, '/v1/tenant/timeline', own)).status).toBe(403);
    expect((await http(ports.safekeeper, '/v1/status', null)).status).toBe(200);
    expect((await fetch(`http://127.0.0.1:${ports.safekeeper}/metrics`)).status).toBe(200);
    expect(await state()).toEqual(before);
  });

  it('at the handshake of every WebSocket: answered, and the connection closed', async () => {
    for (const [port, path] of [
      [ports.pagestream, '/pagestream'],
      [ports.wal, '/proposer'],
      [ports.wal, '/wal'],
    ] as const) {
      for (const [token, says] of [
        [null, 'there is no token'],
        ['garbage', 'malformed'],
      ] as const) {
        const { status, body, closed } = await handshake(port, path, token);
        expect(status).toBe(401);
        expect(JSON.parse(body)).toMatchObject({ kind: 'invalid', msg: expect.stringContaining(says) });
        expect(closed).toBe(true);
      }
    }
  });

  it('pages: the client hears why, at once', async () => {
    const before = await state();
    for (const [name, token, , says] of bad('pageserverapi')) {
      const pages = pagesWith(token);
      const error = await pages.getStatus().catch((reason: unknown) => reason);
      expect([name, error]).toEqual([
        name,
        expect.objectContaining({ kind: 'invalid', message: expect.stringMatching(says) }),
      ]);
      pages.close();
    }
    const pages = pagesWith(sign({ scope: 'tenant', tenantId: id.tenantId }));
    expect((await pages.getStatus()).lastRecordLsn).toBeGreaterThan(0);
    pages.close();
    expect(await state()).toEqual(before);
  });

  it('WAL: neither read nor written, and an election gives up', async () => {
    const before = await state();
    for (const [name, token, , says] of bad('safekeeperdata')) {
      const service = connectSafekeeper({ id: nodeId(1), host: '127.0.0.1', port: ports.wal }, () => token);
      const refused = expect.objectContaining({ kind: 'invalid', message: expect.stringMatching(says) });
      const status = await service.getStatus(id).catch((reason: unknown) => reason);
      expect([name, status]).toEqual([name, refused]);
      const chunk = service
        .readWal(id, 0x1000000 as Lsn, new AbortController().signal)
        [Symbol.asyncIterator]()
        .next();
      expect([name, await chunk.catch((reason: unknown) => reason)]).toEqual([name, refused]);
      const election = ProposerDriver.elect({
        id,
        services: [service],
        startLsnIfEmpty: 0x1000000 as Lsn,
        systemIdentifier: 0n,
        clock: nodeClock,
        random: nodeRandom,
        log: silentLog,
      });
      expect([name, await election.catch((reason: unknown) => reason)]).toEqual([name, refused]);
    }
    expect(await state()).toEqual(before);
  });

  it('a proposer of another tenant makes no timeline there', async () => {
    const before = await state();
    const channel = connectWebSocket(
      `ws://127.0.0.1:${ports.wal}/proposer`,
      sign({ scope: 'tenant', tenantId: stranger }),
    );
    const ended = endOf(channel);
    channel.send(
      encodeProposerMessage({
        kind: 'proposerGreeting',
        version: proposerAcceptorVersion,
        timeline: { tenantId: id.tenantId, timelineId: timelineId('ab'.repeat(16)) },
        proposerId: 'cd'.repeat(16) as ProposerId,
        systemIdentifier: 0n,
        pgVersion: 180_000,
        walSegmentBytes: 16 * 1024 * 1024,
        configuration: noConfiguration,
      }),
    );
    expect(await ended).toMatchObject({ kind: 'invalid', message: expect.stringContaining('for another tenant') });
    expect(await state()).toEqual(before);
  });
});

describe('a repository with access control works', () => {
  it('branches, endpoints, the console, stop and start', async () => {
    await rig.ok('timeline', 'branch', '--branch-name', 'feature');
    await rig.endpoint('feature', '--branch-name', 'feature', '--auth', 'trust');
    await rig.sql('feature', 'delete from t');
    expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 1000 }]);
    expect(await rig.ok('safekeeper', 'status')).toContain('feature');
    expect(await rig.ok('timeline', 'info', '--branch-name', 'main')).toContain('History is kept');
    await rig.ok('layer', 'map', '--branch-name', 'main');
    const branches = await http(ports.console, '/api/v1/branches', null);
    expect(branches.status).toBe(200);
    // What the page sends as a token is not what is passed on.
    for (const token of [null, 'garbage']) {
      expect((await http(ports.console, timelinePath(), token)).status).toBe(200);
    }
    const pages = new RemotePageService({
      id,
      connect: () => connectWebSocket(`ws://127.0.0.1:${ports.console}/v1/pagestream`),
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    expect((await pages.getStatus()).lastRecordLsn).toBeGreaterThan(0);
    pages.close();
    await rig.ok('stop');
    await rig.ok('start');
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 1000 }]);
  });

  it('a tenant token is for its tenant on both servers, and ends nothing when it expires', async () => {
    const token = sign({
      scope: 'tenant',
      tenantId: id.tenantId,
      expiresAtMs: Math.ceil(Date.now() / 1000) * 1000 + 1000,
    });
    const pages = pagesWith(token);
    await pages.getStatus();
    expect((await http(ports.pageserver, timelinePath(), token)).status).toBe(200);
    expect((await http(ports.safekeeper, timelinePath(), token)).status).toBe(200);
    await expect.poll(async () => (await http(ports.safekeeper, timelinePath(), token)).status).toBe(401);
    // The connection from before goes on; a new one is refused.
    expect((await pages.getStatus()).lastRecordLsn).toBeGreaterThan(0);
    pages.close();
    const late = pagesWith(token);
    await expect(late.getStatus()).rejects.toThrow('expired');
    late.close();
  });

  it('keys are changed while everything runs, and connections that are made anew take the new tokens', async () => {
    const own = sign({ scope: 'pageserverapi' });
    const paths = ['private', 'public'].map((kind) => join(rig.dir, `auth_${kind}_key.pem`)) as [string, string];
    for (const path of paths) renameSync(path, `${path}.old`);
    generateKeyFiles(...paths);
    expect((await http(ports.pageserver, '/v1/tenant', own)).status).toBe(401);
    key = readPrivateKey(paths[0]);
    expect((await http(ports.pageserver, '/v1/tenant', sign({ scope: 'pageserverapi' }))).status).toBe(200);
    // Connections stay. Those that are made anew with what is in the files from before are refused: the pageserver says so, commits wait.
    await rig.sql('main', 'insert into t values (0)');
    await rig.ok('safekeeper', 'restart', '--mode', 'immediate');
    const log = () => readFileSync(join(rig.dir, 'pageserver_1/pageserver.log'), 'utf8');
    await expect.poll(log).toContain('a safekeeper refuses this pageserver');
    const committed = rig.sql('main', 'insert into t values (0)');
    writeTokenFile(join(rig.dir, 'endpoints/main/auth_token'), sign({ scope: 'tenant', tenantId: id.tenantId }));
    writeTokenFile(join(rig.dir, 'pageserver_1/auth_token'), sign({ scope: 'safekeeperdata' }));
    await committed;
    await rig.ok('pageserver', 'restart', '--mode', 'immediate');
    expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 1002 }]);
  });

  it('an endpoint whose token does not fit says so instead of waiting', async () => {
    await rig.ok('endpoint', 'stop', 'main');
    const path = join(rig.dir, 'auth_private_key.pem');
    renameSync(path, `${path}.kept`);
    generateKeyFiles(path, `${path}.unused`);
    try {
      expect(await rig.refused('endpoint', 'start', 'main')).toContain('not signed with a key that this server knows');
      expect(await rig.refused('timeline', 'list')).toContain('not signed with a key that this server knows');
    } finally {
      renameSync(`${path}.kept`, path);
    }
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select 1 as one')).toEqual([{ one: 1 }]);
  });
});

it('no token is in a log or in a process list', () => {
  for (const name of ['pageserver_1/auth_token', 'endpoints/main/auth_token', 'endpoints/feature/auth_token']) {
    tokens.push(readFileSync(join(rig.dir, name), 'utf8').trim());
  }
  // A signature is what makes a token; the parts before it are known to everybody.
  const secrets = [...new Set(tokens)].map((token) => token.split('.')[2]!).filter((part) => part.length > 20);
  expect(secrets.length).toBeGreaterThan(10);
  const logs = readdirSync(rig.dir, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.log'));
  expect(logs.length).toBeGreaterThanOrEqual(5);
  for (const name of logs) {
    const text = readFileSync(join(rig.dir, name), 'utf8');
    for (const secret of secrets) expect(text.includes(secret), `${name} has a token`).toBe(false);
  }
  expect(logs.some((name) => readFileSync(join(rig.dir, name), 'utf8').includes('access refused'))).toBe(true);
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const line = commandLineOf(pid);
    for (const secret of secrets) expect(line.includes(secret), `process ${pid} shows a token`).toBe(false);
  }
});

function commandLineOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    // It has ended.
    return '';
  }
}

function pagesWith(token: string | null): RemotePageService {
  return new RemotePageService({
    id,
    connect: () => connectWebSocket(`ws://127.0.0.1:${ports.pagestream}/pagestream`, token),
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
}

const endOf = (channel: Channel) =>
  new Promise((resolve) => {
    channel.onMessage(() => {});
    channel.onClose(resolve);
  });

function handshake(port: number, path: string, token: string | null) {
  return new Promise<{ status: number | undefined; body: string; closed: boolean }>((resolve, reject) => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      'sec-websocket-version': '13',
      ...(token !== null && { authorization: `Bearer ${token}` }),
    };
    const asked = request({ host: '127.0.0.1', port, path, headers });
    asked.on('upgrade', () => reject(new Error('it was let in')));
    asked.on('error', reject);
    asked.on('response', (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.socket.once('close', () => resolve({ status: response.statusCode, body, closed: true }));
    });
    asked.end();
  });
}
