/**
 * A PGlite killed with -9 in the middle of its work, and one that is at work while its folder is imported.
 *
 * Must hold: what was acknowledged is in the branch, and the branch is what a plain PGlite makes of the same folder by its own recovery; of a folder that
 * somebody writes to, the import is refused, or what it took is consistent; the folder itself is not touched. A read-only endpoint on a branch on
 * which none has written serves it. Kills come after a number of commits from a printed seed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { PGlite } from '@electric-sql/pglite';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { databaseFacts } from '../support/database-facts.ts';
import { RepositoryRig } from '../support/repository-rig.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const random = new SeededRandom(seed);

/** Commits rows in pairs for ever, with a checkpoint and a VACUUM now and then, and says which are committed. */
const writer = `import { PGlite } from ${JSON.stringify(
  createRequire(import.meta.url)
    .resolve('@electric-sql/pglite')
    .replace(/index\.cjs$/, 'index.js'),
)};
const pg = await PGlite.create(process.argv[2]);
await pg.exec('create table if not exists pair (id int, side int, pad text, primary key (id, side))');
const { rows } = await pg.query('select coalesce(max(id), 0)::int as last from pair');
for (let id = rows[0].last + 1; ; id++) {
  await pg.exec("begin; insert into pair values (" + id + ", 1, repeat('p', 300)); update pair set pad = repeat('q', 300) where id = " + (id - 7) + "; insert into pair values (" + id + ", 2, repeat(md5('" + id + "'), 100)); commit");
  if (id % 97 === 0) await pg.exec('checkpoint');
  if (id % 61 === 0) await pg.exec('vacuum pair');
  process.stdout.write(id + '\\n');
}`;

let rig: RepositoryRig;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-crashed-'));
  writeFileSync(join(dir, 'writer.mjs'), writer);
  rig = new RepositoryRig();
  await rig.start();
});
afterAll(async () => {
  await rig?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Resolves when so many more are acknowledged. */
async function startWriter(
  folder: string,
  commits: number,
): Promise<{ child: ChildProcess; acknowledged: () => number }> {
  const child = spawn(process.execPath, [join(dir, 'writer.mjs'), folder], { stdio: ['ignore', 'pipe', 'inherit'] });
  let last = 0;
  let count = 0;
  await new Promise<void>((resolve, reject) => {
    createInterface(child.stdout!).on('line', (line) => {
      last = Number(line);
      if (++count === commits) resolve();
    });
    child.on('exit', () => reject(new Error('the writer has ended')));
  });
  return { child, acknowledged: () => last };
}

const pairs = `select count(*)::int as n, max(id)::int as last, (select count(*)::int from (select id from pair group by id having count(*) <> 2) x) as torn from pair`;

it('killed in the middle of its work: what was acknowledged is there', async () => {
  const folder = join(dir, 'killed');
  for (let round = 0; round < 3; round++) {
    const { child, acknowledged } = await startWriter(folder, 20 + Math.floor(random.next() * 150));
    child.kill('SIGKILL');
    await once(child, 'exit');
    const copy = join(dir, `copy-${round}`);
    cpSync(folder, copy, { recursive: true });
    const branch = `killed_${round}`;
    expect(JSON.parse(await rig.ok('import', '--branch-name', branch, '--json', folder))).toMatchObject({
      wasRecovered: true,
    });
    await rig.endpoint(branch, '--branch-name', branch);
    const [shown] = await rig.sql<{ n: number; last: number; torn: number }>(branch, pairs);
    expect(shown, `seed ${seed}, round ${round}`).toMatchObject({ torn: 0, n: shown!.last * 2 });
    expect(shown!.last, `seed ${seed}, round ${round}`).toBeGreaterThanOrEqual(acknowledged());
    const plain = await PGlite.create(copy);
    const expected = await databaseFacts(async (sql) => (await plain.query(sql)).rows as never);
    await plain.close();
    expect(await databaseFacts((sql) => rig.sql(branch, sql)), `seed ${seed}, round ${round}`).toEqual(expected);
    await rig.ok('endpoint', 'stop', branch);
    rmSync(copy, { recursive: true });
  }
});

it('at work: refused, or consistent', async () => {
  const folder = join(dir, 'at-work');
  const { child, acknowledged } = await startWriter(folder, 30);
  let refusals = 0;
  for (let i = 0; i < 4; i++) {
    const before = acknowledged();
    const branch = `at_work_${i}`;
    const { code, err } = await rig.run('import', '--branch-name', branch, folder);
    if (code !== 0) {
      expect(err).toMatch(/is in use/);
      refusals++;
      continue;
    }
    await rig.endpoint(branch, '--branch-name', branch);
    const [shown] = await rig.sql<{ n: number; last: number; torn: number }>(branch, pairs);
    expect(shown).toMatchObject({ torn: 0, n: shown!.last * 2 });
    expect(shown!.last).toBeGreaterThanOrEqual(before);
    await rig.ok('endpoint', 'stop', branch);
  }
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(refusals).toBeGreaterThan(0);
  await rig.ok('import', '--branch-name', 'at_rest', folder);
});

it('a read-only endpoint serves a branch that no endpoint has written to', async () => {
  const { startLsn } = (
    JSON.parse(await rig.ok('timeline', 'list', '--json')) as { branchName: string; startLsn: string }[]
  ).find(({ branchName }) => branchName === 'at_rest')!;
  await rig.ok('endpoint', 'start', 'past', '--branch-name', 'at_rest', '--lsn', startLsn);
  const client = new Client({ host: '127.0.0.1', port: rig.port('past'), user: 'postgres', database: 'postgres' });
  await client.connect();
  expect((await client.query(pairs)).rows).toEqual([expect.objectContaining({ torn: 0 })]);
  await expect(client.query('create table x (i int)')).rejects.toThrow(/read-only/);
  await client.end();
});
