/**
 * Bad input to the command line, on a repository that runs: each is refused with exit code 1 and an error that says what to do, and nothing
 * of the repository has changed after it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { claimPidFile } from '../../server/process/pid-file.ts';
import { listen } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

let rig: RepositoryRig;
beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  await rig.ok('endpoint', 'create', 'main');
  await rig.ok('timeline', 'branch', '--branch-name', 'feature');
});
afterAll(() => rig.close());

const unknownId = '0123456789abcdef'.repeat(2);

/** What the commands have to leave as it is. */
async function state(): Promise<unknown> {
  return [
    await rig.runHere('tenant', 'list', '--json'),
    await rig.runHere('timeline', 'list', '--json'),
    await rig.runHere('endpoint', 'list', '--json'),
  ];
}

describe('a repository that is not there', () => {
  it.each([['start'], ['stop'], ['tenant list'], ['timeline list'], ['endpoint list'], ['pageserver status']])(
    '%s says how to make one',
    async (command) => {
      const empty = new RepositoryRig();
      try {
        const { code, err } = await empty.runHere(...command.split(' '));
        expect(err).toMatch(/^error: there is no repository in .*\.pagelite\. Make one with: pagelite init/);
        expect(code).toBe(1);
      } finally {
        await empty.close();
      }
    },
  );

  it('is not made twice, and not used before it is started', async () => {
    const fresh = new RepositoryRig();
    try {
      await fresh.ok('init');
      expect(await fresh.refused('init')).toMatch(/is a repository already/);
      expect(await fresh.refused('tenant', 'create')).toMatch(
        /the pageserver does not answer .* Start it with: pagelite start/,
      );
      expect(await fresh.refused('timeline', 'list')).toMatch(/no default tenant/);
    } finally {
      await fresh.close();
    }
  });
});

describe('a port that another repository has by now', () => {
  it('is not written to: the other repository stays as it is', async () => {
    const stranger = new RepositoryRig();
    const before = await state();
    const ports = (dir: string) => JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')).pageserver;
    const move = (file: string) => {
      const config = JSON.parse(readFileSync(file, 'utf8'));
      writeFileSync(file, JSON.stringify({ ...config, pageserver: ports(rig.dir) }));
    };
    try {
      await stranger.ok('init');
      move(join(stranger.dir, 'config.json'));
      expect(await stranger.refused('tenant', 'create')).toMatch(/does not answer .* \(it is not running\)/);
      // As if a process of its own ran, which listens elsewhere: this one.
      const claimed = claimPidFile(join(stranger.dir, 'pageserver_1/pageserver.pid'));
      try {
        expect(await stranger.refused('tenant', 'create')).toMatch(/\(another process has its port\)/);
      } finally {
        claimed.release();
      }
    } finally {
      await stranger.close();
    }
    expect(await state()).toEqual(before);
  });
});

describe('bad input', () => {
  const cases: [string, RegExp][] = [
    ['tenant set-default xyz', /malformed tenant id "xyz": expected 32 hex digits/],
    [`tenant set-default ${unknownId}`, new RegExp(`no tenant ${unknownId}\\. There is: [0-9a-f]{32}`)],
    [
      `timeline list --tenant-id ${unknownId}`,
      new RegExp(`tenant ${unknownId} does not exist\\. pagelite tenant list`),
    ],
    [`endpoint create x --tenant-id ${unknownId}`, new RegExp(`no branch "main" in tenant ${unknownId}.*tenant list`)],
    [`endpoint create x --branch-name ${unknownId}`, new RegExp(`timeline ${unknownId} .*does not exist`)],
    ['timeline branch', /required option '--branch-name <name>'/],
    ['timeline branch --branch-name main', /branch "main" exists .*Choose another name/],
    ['timeline branch --branch-name a..b', /"a\.\.b" cannot be the name of a branch/],
    [
      'timeline branch --branch-name x --ancestor-branch-name nope',
      /no branch "nope" in tenant .* There is: feature, main/,
    ],
    [`timeline branch --branch-name x --ancestor-branch-name ${unknownId}`, new RegExp(unknownId)],
    [
      'timeline branch --branch-name x --ancestor-start-lsn 16B5A50',
      /malformed LSN "16B5A50": expected two hex numbers/,
    ],
    [
      'timeline branch --branch-name x --ancestor-start-lsn 0/8',
      /LSN 0\/8 is before the start of branch "main" at 0\//,
    ],
    ['timeline branch --branch-name x --ancestor-start-lsn F/0', /LSN F\/0 is past the end of branch "main" at 0\//],
    [
      'timeline branch --branch-name x --ancestor-branch-name feature --ancestor-start-lsn 0/8',
      /before the start of branch "feature".*its ancestor "main"/,
    ],
    ['timeline branch --branch-name x --at yesterday', /malformed timestamp "yesterday": expected for example 2026-/],
    ['timeline branch --branch-name x --at 2999-01-01T00:00:00Z', /2999-01-01T00:00:00\.000Z is in the future/],
    ['timeline branch --branch-name x --at 1999-01-01T00:00:00Z', /branch "main" has no commits .*\(1999-01-01T/],
    ['timeline branch --branch-name x --at 2020-01-01 --ancestor-start-lsn 0/8', /not both/],
    ['timeline create --branch-name feature', /branch "feature" exists/],
    ['endpoint create main', /endpoint "main" exists\. Start it with: pagelite endpoint start main/],
    ['endpoint create ../x', /cannot be the name of an endpoint/],
    ['endpoint create x --branch-name nope', /no branch "nope"/],
    ['endpoint create x --lsn zzz', /malformed LSN "zzz"/],
    ['endpoint create x --lsn 0/8', /before the start of branch "main"/],
    ['endpoint create x --lsn F/0', /past the end of branch "main"/],
    ['endpoint create x --pg-port 99999', /"99999" is not a port/],
    ['endpoint start nope', /no endpoint "nope"\. There is: main/],
    ['endpoint stop nope', /no endpoint "nope"/],
    ['endpoint start main --lsn 0/8', /endpoint "main" writes to the end of its branch, not at 0\/8/],
    ['endpoint start main --branch-name feature', /endpoint "main" is on branch main/],
    ['endpoint stop main --mode gently', /Allowed choices are fast, immediate/],
    ['safekeeper start 7', /no safekeeper 7\. There is: 1/],
    ['safekeeper start x', /"x" is not a node id/],
    ['tenant creat', /unknown command 'creat'[\s\S]*create/],
    ['frobnicate', /unknown command 'frobnicate'/],
    ['endpoint create x --frobnicate', /unknown option '--frobnicate'/],
  ];

  it.each(cases)('pagelite %s', async (command, expected) => {
    const before = await state();
    const { code, err, out } = await rig.runHere(...command.split(' '));
    expect(err).toMatch(expected);
    expect(err).not.toMatch(/internal error/);
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(await state()).toEqual(before);
  });

  it('an endpoint is not started without its storage', async () => {
    await rig.ok('safekeeper', 'stop');
    expect(await rig.refused('endpoint', 'start', 'main')).toMatch(
      /the safekeeper 1 does not answer at http.*Start it with: pagelite start/,
    );
    await rig.ok('pageserver', 'stop');
    expect(await rig.refused('endpoint', 'start', 'main')).toMatch(/the pageserver does not answer/);
    expect(await rig.ok('endpoint', 'list')).toMatch(/^ main .* --- +stopped$/m);
    await rig.ok('start');
  });

  it('a port that is taken is named; one that was not chosen is moved on', async () => {
    const server = createServer();
    const port = await listen(server, '127.0.0.1', 0);
    try {
      await rig.ok('endpoint', 'create', 'fixed', '--pg-port', String(port));
      expect(await rig.refused('endpoint', 'create', 'again', '--pg-port', String(port))).toMatch(
        /is endpoint "fixed"'s/,
      );
      expect(await rig.refused('endpoint', 'start', 'fixed')).toMatch(
        new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}: the port is taken.*another --pg-port`),
      );
      await rig.ok('endpoint', 'stop', 'fixed', '--destroy');
    } finally {
      server.close();
    }
    const taker = createServer();
    const taken = rig.port('main');
    // If another test's endpoint has it by now, it is taken as well.
    await listen(taker, '127.0.0.1', taken).catch(() => {});
    try {
      const started = await rig.ok('endpoint', 'start', 'main');
      // It moves on to the first free one, which depends on what other tests hold.
      expect(started).toMatch(new RegExp(`port ${taken} is taken: moving on to \\d+`));
      expect(rig.port('main')).not.toBe(taken);
      expect(started).toContain(`@127.0.0.1:${rig.port('main')}/postgres`);
      expect(await rig.refused('endpoint', 'start', 'main')).toMatch(/endpoint "main" runs already/);
      expect(await rig.sql('main', 'select 1 as one')).toEqual([{ one: 1 }]);
    } finally {
      taker.close();
      await rig.ok('endpoint', 'stop', 'main');
    }
  });
});
