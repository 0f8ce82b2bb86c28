/**
 * A server that trusts everybody listens on loopback addresses and nowhere else, as a process and as a part of another program; and it says the way out.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { nodeId } from '../../engine/model/ids.ts';
import { isLoopbackHost } from '../../server/auth/listen-policy.ts';
import { serveConsole } from '../../server/console/console-server.ts';
import { Repository } from '../../server/control-plane/repository.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { startSafekeeper } from '../../server/safekeeper/safekeeper-server.ts';
import { distUrl } from '../support/dist.ts';
import { RepositoryRig, runProgram } from '../support/repository-rig.ts';
import { startTestEndpoint } from '../support/wire-client.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-listening-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

it.each([
  ['127.0.0.1', true],
  ['127.8.9.10', true],
  ['::1', true],
  ['localhost', true],
  ['0.0.0.0', false],
  ['::', false],
  ['10.0.0.1', false],
  ['127.evil.example', false],
  ['localhost.evil.example', false],
  ['', false],
])('%j is a loopback address: %s', (host, is) => expect(isLoopbackHost(host)).toBe(is));

describe('a process', () => {
  const open = ['--listen-http', '0.0.0.0:0', '--listen-pg', '127.0.0.1:0'];
  const alsoOpen = ['--listen-http', '127.0.0.1:0', '--listen-pg', '[::]:0'];

  it.each([
    ['pageserver', open],
    ['pageserver', alsoOpen],
    ['safekeeper', open],
    ['safekeeper', alsoOpen],
  ])('%s %s is refused, and has made nothing', async (server, flags) => {
    const { code, out, err } = await runProgram(
      process.execPath,
      [distUrl(`server/${server}/main.js`).pathname, '-D', dir, ...flags],
      dir,
    );
    expect(code).toBe(1);
    expect(out + err).toContain('does not listen on');
    expect(out + err).toContain('--auth-validation-public-key-path');
    expect(readdirSync(dir).filter((name) => !name.endsWith('.pid'))).toEqual([]);
  });
});

it('a safekeeper of another program is refused, too', async () => {
  const http = { host: '127.0.0.1', port: 0 };
  const starting = startSafekeeper({
    dir,
    nodeId: nodeId(1),
    listen: { host: '0.0.0.0', port: 0 },
    http,
    log: silentLog,
  });
  await expect(starting).rejects.toMatchObject({ kind: 'invalid', data: { host: '0.0.0.0' } });
});

it('an endpoint that trusts is refused', async () => {
  await expect(startTestEndpoint({ host: '0.0.0.0' })).rejects.toThrow('--auth scram-sha-256');
});

it('the console is refused whatever the repository has', async () => {
  const repository = await Repository.init(join(dir, 'repository'), { auth: true });
  const options = { repository, allowOrigins: [], version: '0', log: silentLog };
  await expect(serveConsole({ ...options, listen: { host: '0.0.0.0', port: 0 } })).rejects.toThrow(
    'the console does not listen on 0.0.0.0',
  );
});

it('the command line refuses, says the way out, and makes nothing', async () => {
  const rig = new RepositoryRig();
  try {
    const { code, err } = await rig.runHere('init', '--listen-host', '0.0.0.0');
    expect([code, err]).toEqual([1, expect.stringContaining('Add --auth')]);
    expect(readdirSync(rig.cwd)).toEqual([]);
    expect((await rig.runHere('init')).code).toBe(0);
    const without = await rig.runHere('auth', 'generate-token', '--scope', 'pageserverapi');
    expect([without.code, without.err]).toEqual([1, expect.stringContaining('pagelite init --auth')]);
  } finally {
    await rig.close();
  }
});
