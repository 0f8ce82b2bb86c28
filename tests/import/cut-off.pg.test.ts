/**
 * Imports and exports of a database of some 300 MB that are cut off: the command by kill -9 and by Ctrl-C, the pageserver by kill -9; and how much memory
 * they take when they are not.
 *
 * Must hold: wherever it is cut off there is no timeline, no file under its final name and, after the next import, nothing left in the repository; the
 * next import works; neither command, nor the pageserver, needs memory in proportion to the database. Moments are drawn from a printed seed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { cliEntry, RepositoryRig } from '../support/repository-rig.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const random = new SeededRandom(seed);
/** Of the command: Node, WebAssembly code and some layers; less than the database. */
const commandMemoryMax = 250 * 1024 * 1024;

let rig: RepositoryRig;
let dir: string;
let databaseBytes: number;

beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  dir = mkdtempSync(join(tmpdir(), 'pagelite-large-'));
  const pg = await PGlite.create(join(dir, 'large'));
  await pg.exec('create table large (id int, pad text)');
  for (let i = 0; i < 3; i++) {
    await pg.exec(
      `insert into large select g, repeat(md5(g::text), 60) from generate_series(${i * 50000}, ${i * 50000 + 49999}) g`,
    );
    await pg.exec('checkpoint');
  }
  const { rows } = await pg.query<{ bytes: number }>("select pg_relation_size('large')::float8 as bytes");
  databaseBytes = rows[0]!.bytes;
  await pg.close();
});
afterAll(async () => {
  await rig?.close();
  rmSync(dir, { recursive: true, force: true });
});

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, [cliEntry, ...args], { cwd: rig.cwd, stdio: ['ignore', 'ignore', 'pipe'] });
}

const importArgs = (branch: string) => ['import', '--branch-name', branch, join(dir, 'large')];
const branches = async () =>
  (JSON.parse(await rig.ok('timeline', 'list', '--json')) as { branchName: string }[])
    .map(({ branchName }) => branchName)
    .sort();
const importsLeft = () => (existsSync(join(rig.dir, 'imports')) ? readdirSync(join(rig.dir, 'imports')) : []);
/** Folders of timelines in the pageserver's store. */
const timelineFolders = () => {
  const tenants = join(rig.dir, 'local_fs_remote_storage/pageserver/tenants');
  return readdirSync(tenants).flatMap((tenant) => readdirSync(join(tenants, tenant, 'timelines')));
};

/** Resolves when the work of a command has come as far as this, or the command has ended. */
async function until(child: ChildProcess, condition: () => boolean): Promise<void> {
  while (child.exitCode === null && child.signalCode === null && !condition()) await sleep(2);
}

/** Layers are on their way, and this many bytes of them have arrived. */
const hasArrived = (bytes: number, known: ReadonlySet<string>) => () => {
  const fresh = timelineFolders().filter((name) => !known.has(name));
  return fresh.some((name) => {
    const tenants = join(rig.dir, 'local_fs_remote_storage/pageserver/tenants');
    const folder = readdirSync(tenants)
      .map((tenant) => join(tenants, tenant, 'timelines', name))
      .find((path) => existsSync(path));
    if (folder === undefined) return false;
    let sum = 0;
    for (const file of readdirSync(folder)) sum += statSync(join(folder, file), { throwIfNoEntry: false })?.size ?? 0;
    return sum >= bytes;
  });
};

/** The most memory a process has had. */
const peakBytes = (pid: number): number => {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
};

async function peakOf(child: ChildProcess): Promise<number> {
  let peak = 0;
  while (child.exitCode === null) {
    try {
      peak = Math.max(peak, peakBytes(child.pid!));
    } catch {
      break;
    }
    await sleep(5);
  }
  if (child.exitCode === null) await once(child, 'exit');
  expect(child.exitCode).toBe(0);
  return peak;
}

it('an import takes memory for some layers, not for the database; so does the pageserver', async () => {
  expect(databaseBytes).toBeGreaterThan(280 * 1024 * 1024);
  const before = peakBytes(rig.pid('pageserver'));
  const peak = await peakOf(start(...importArgs('large')));
  const pageserver = peakBytes(rig.pid('pageserver'));
  console.info(
    `import of ${databaseBytes >> 20} MB: command ${peak >> 20} MB, pageserver ${before >> 20} MB, then ${pageserver >> 20} MB`,
  );
  expect(peak).toBeLessThan(commandMemoryMax);
  expect(pageserver - before).toBeLessThan(commandMemoryMax);
  expect(importsLeft()).toEqual([]);
});

it('an export takes memory for some pages', async () => {
  const output = join(dir, 'large.tar');
  const peak = await peakOf(start('export', '--branch-name', 'large', '-o', output));
  console.info(
    `export of ${databaseBytes >> 20} MB: command ${peak >> 20} MB, pageserver ${peakBytes(rig.pid('pageserver')) >> 20} MB`,
  );
  expect(statSync(output).size).toBeGreaterThan(databaseBytes);
  expect(peak).toBeLessThan(commandMemoryMax);
});

it('an export that is killed or stopped leaves nothing under its name', async () => {
  const output = join(dir, 'cut.tar');
  for (const signal of ['SIGKILL', 'SIGINT'] as const) {
    const child = start('export', '--branch-name', 'large', '-o', output);
    const part = () => readdirSync(dir).find((name) => name.startsWith('.cut.tar.'));
    const wanted = Math.floor(random.next() * databaseBytes * 0.8);
    await until(
      child,
      () => part() !== undefined && (statSync(join(dir, part()!), { throwIfNoEntry: false })?.size ?? 0) > wanted,
    );
    child.kill(signal);
    await once(child, 'exit');
    expect(existsSync(output), `seed ${seed}`).toBe(false);
    if (signal === 'SIGINT') expect(part()).toBeUndefined();
    else rmSync(join(dir, part()!));
  }
});

for (const signal of ['SIGKILL', 'SIGINT', 'SIGTERM'] as const) {
  it(`an import that ends by ${signal} leaves no timeline`, async () => {
    const known = new Set(timelineFolders());
    const child = start(...importArgs(`cut_${signal}`));
    const wanted = Math.floor(random.next() * databaseBytes * 0.8);
    await until(child, hasArrived(wanted, known));
    child.kill(signal);
    const [code] = await once(child, 'exit');
    expect(code, `seed ${seed}: it was cut off`).not.toBe(0);
    expect(await branches()).toEqual(['large', 'main']);
    // What a killed one has left is removed by the next.
    if (signal === 'SIGKILL') return;
    expect(importsLeft()).toEqual([]);
    expect(timelineFolders()).toHaveLength(2);
  });
}

it('an import whose pageserver is killed fails, and the next one works and tidies up', async () => {
  const known = new Set(timelineFolders());
  const child = start(...importArgs('orphan'));
  await until(child, hasArrived(Math.floor(random.next() * databaseBytes * 0.8), known));
  process.kill(rig.pid('pageserver'), 'SIGKILL');
  const [code] = await once(child, 'exit');
  expect(code, `seed ${seed}`).not.toBe(0);
  await rig.ok('start');
  expect(await branches()).toEqual(['large', 'main']);
  await rig.ok(...importArgs('after'));
  expect(await branches()).toEqual(['after', 'large', 'main']);
  expect(importsLeft()).toEqual([]);
  await rig.endpoint('after', '--branch-name', 'after');
  expect(await rig.sql('after', 'select count(*)::int as n, sum(id)::float8 as sum from large')).toEqual([
    { n: 150_000, sum: (149_999 * 150_000) / 2 },
  ]);
});
