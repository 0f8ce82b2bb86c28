/**
 * `pagelite dev`, which is `npm start`: one process with everything, as a newcomer meets it.
 *
 * Must hold: the printed connection string works as soon as it is printed; other commands work beside it; a port that is taken is moved on; Ctrl-C
 * ends it in order, killed it loses nothing; the folder is the same for `dev`, the library and `pagelite start`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Pagelite } from 'pagelite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listen } from '../../server/process/ports.ts';
import { cliEntry, RepositoryRig, runProgram } from '../support/repository-rig.ts';

let rig: RepositoryRig;
/** Its repository is made with three safekeepers. */
let several: RepositoryRig;
beforeAll(async () => {
  rig = new RepositoryRig();
  mkdirSync(rig.dir);
  rig.putTemplate();
  several = new RepositoryRig();
  await several.ok('init', '--num-safekeepers', '3');
});
afterAll(async () => {
  for (const dev of running) await dev.end('SIGKILL');
  await rig.close();
  await several.close();
});

const running = new Set<Dev>();

class Dev {
  readonly lines: string[] = [];
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown[]>;

  constructor(args: readonly string[] = [], { dir, cwd } = rig) {
    const env = { ...process.env, PAGELITE_REPO_DIR: dir };
    this.#child = spawn(process.execPath, [cliEntry, 'dev', ...args], { cwd, env });
    this.#ended = once(this.#child, 'close');
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      createInterface(stream).on('line', (line) => this.lines.push(line));
    }
    running.add(this);
  }

  /** The port of the printed connection string. */
  async ready(): Promise<number> {
    for (;;) {
      const found = /postgresql:\/\/cloud_admin@127\.0\.0\.1:(\d+)\/postgres/.exec(this.lines.join('\n'));
      if (found) return Number(found[1]);
      const output = this.#child.exitCode === null ? once(createInterface(this.#child.stdout!), 'line') : null;
      if (!(await Promise.race([output, this.#ended.then(() => null)]))) {
        throw new Error(`pagelite dev has ended: ${this.lines.join('\n')}`);
      }
    }
  }

  /** Its exit code. */
  async end(signal: NodeJS.Signals | null = null): Promise<number | null> {
    if (signal) this.#child.kill(signal);
    await this.#ended;
    running.delete(this);
    return this.#child.exitCode;
  }
}

describe('pagelite dev', () => {
  it('honours access control: its ports want tokens, its Postgres wants passwords, commands work beside it', async () => {
    const guarded = new RepositoryRig();
    try {
      await guarded.ok('init', '--auth');
      guarded.putTemplate();
      const dev = new Dev([], guarded);
      await dev.ready();
      await expect.poll(() => dev.lines.join('\n')).toContain('The console is at');
      expect(dev.lines.join('\n')).toContain('pagelite endpoint set-password main');
      const { pageserver, safekeepers } = JSON.parse(readFileSync(join(guarded.dir, 'config.json'), 'utf8'));
      for (const [port, path] of [
        [pageserver.httpPort, '/v1/tenant'],
        [safekeepers[0].httpPort, '/v1/tenant/timeline'],
      ]) {
        expect((await fetch(`http://127.0.0.1:${port}${path}`)).status).toBe(401);
      }
      expect(await guarded.ok('timeline', 'list')).toContain('main');
      await expect(guarded.sql('main', 'select 1')).rejects.toThrow(/password/);
      const { code } = await runProgram(
        process.execPath,
        [cliEntry, 'endpoint', 'set-password', 'main'],
        guarded.cwd,
        'x\n',
      );
      expect(code).toBe(0);
      expect(await dev.end('SIGINT')).toBe(0);
    } finally {
      await guarded.close();
    }
  });

  it('makes a repository, serves main, and ends with Ctrl-C', async () => {
    const dev = new Dev();
    const port = await dev.ready();
    rig.keepTemplate();
    expect(port).toBe(rig.port('main'));
    await rig.sql('main', 'create table t (n int); insert into t values (1)');
    expect(await dev.end('SIGINT')).toBe(0);
    expect(dev.lines.at(-1)).toMatch(/^Stopped\. Everything that was committed is there/);
  });

  it('has the data again, beside other commands and endpoints', async () => {
    const dev = new Dev();
    await dev.ready();
    expect(await rig.sql('main', 'select n from t')).toEqual([{ n: 1 }]);
    const second = new Dev();
    expect(await second.end()).toBe(1);
    expect(second.lines.join('\n')).toMatch(/is in use by process \d+/);
    expect(await rig.refused('start')).toMatch(
      /is in use inside process \d+\. End that first: pagelite dev with Ctrl-C/,
    );
    expect(await rig.refused('stop')).toMatch(/is in use inside process/);

    await rig.ok('timeline', 'branch', '--branch-name', 'beside');
    expect(await rig.ok('timeline', 'list')).toMatch(/^\(L\) ┗━ @0\/[0-9A-F]+: beside/m);
    await rig.ok('endpoint', 'start', 'beside', '--branch-name', 'beside');
    await rig.sql('beside', 'insert into t values (2)');
    expect(await rig.sql('main', 'select n from t')).toEqual([{ n: 1 }]);
    expect(await rig.sql('beside', 'select n from t order by n')).toEqual([{ n: 1 }, { n: 2 }]);
    expect(await dev.end('SIGTERM')).toBe(0);
    expect(dev.lines.join('\n')).toMatch(/Stopping endpoint beside, which was started beside this/);
    expect(
      JSON.parse(await rig.ok('endpoint', 'list', '--json')).map(({ status }: { status: string }) => status),
    ).toEqual(['stopped', 'stopped']);
  });

  it('loses nothing when it is killed, moves on from a port that is taken, and refuses one that was asked for', async () => {
    const killed = new Dev();
    await killed.ready();
    await rig.sql('main', 'insert into t values (3)');
    await killed.end('SIGKILL');

    const taker = createServer();
    const taken = rig.port('main');
    // If another test's endpoint has it by now, it is taken as well.
    await listen(taker, '127.0.0.1', taken).catch(() => {});
    try {
      const asked = new Dev(['--pg-port', String(taken)]);
      expect(await asked.end()).toBe(1);
      expect(asked.lines.join('\n')).toMatch(/the port is taken\. Choose another --pg-port, or leave it out/);
      const dev = new Dev();
      expect(await dev.ready()).not.toBe(taken);
      expect(await rig.sql('main', 'select n from t order by n')).toEqual([{ n: 1 }, { n: 3 }]);
      expect(await dev.end('SIGINT')).toBe(0);
    } finally {
      taker.close();
    }
  });

  it('serves the same folder as the library and as pagelite start', async () => {
    const lite = await Pagelite.open(rig.dir);
    const main = await lite.connect('main');
    await main.query('insert into t values (4)');
    expect(await rig.refused('start')).toMatch(/is in use inside process/);
    await lite.close();
    await rig.ok('start');
    await rig.ok('endpoint', 'start', 'main');
    expect(await rig.sql('main', 'select n from t order by n')).toEqual([{ n: 1 }, { n: 3 }, { n: 4 }]);
    await expect(Pagelite.open(rig.dir)).rejects.toThrow(/is in use by process \d+.*pagelite stop/);
    const dev = new Dev();
    expect(await dev.end()).toBe(1);
    expect(dev.lines.join('\n')).toMatch(/is in use by process \d+.*pagelite stop/);
    await rig.ok('stop');
  });

  it('serves a folder with three safekeepers, as the library and pagelite start do', async () => {
    several.putTemplate();
    const dev = new Dev([], several);
    await dev.ready();
    await several.sql('main', 'create table t (n int); insert into t values (1)');
    const status = JSON.parse(await several.ok('safekeeper', 'status', '--json'));
    expect(status.map(({ timelines }: { timelines: { lag_bytes: number }[] }) => timelines.length)).toEqual([1, 1, 1]);
    await dev.end('SIGKILL');
    const lite = await Pagelite.open(several.dir);
    await (await lite.connect('main')).query('insert into t values (2)');
    await lite.close();
    await several.ok('start');
    await several.ok('safekeeper', 'stop', '2');
    await several.ok('endpoint', 'start', 'main');
    expect(await several.sql('main', 'select n from t order by n')).toEqual([{ n: 1 }, { n: 2 }]);
    await several.ok('stop');
  });
});
