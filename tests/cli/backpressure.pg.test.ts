/** A pageserver that does not get on holds writers up once they are far ahead of it, not before; nothing is lost. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findFreePort } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

let rig: RepositoryRig;
let client: Awaited<ReturnType<RepositoryRig['connect']>>;
beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  const port = String(await findFreePort(23_700));
  await rig.endpoint('main', '--pg-port', port, '--max-replication-write-lag', '8');
  await rig.sql('main', 'create table t(id int primary key, filler text)');
  await rig.sql('main', 'insert into t select i from generate_series(1, 100) i');
  client = await rig.connect('main');
  await write(900, 1);
});
afterAll(() => rig.close());

const log = () => readFileSync(join(rig.dir, 'endpoints/main/compute.log'), 'utf8');
/** WAL that changes no page: nothing of it is read. */
const write = (from: number, megabytes: number) =>
  client.query(
    `insert into t values (${from}); select pg_logical_emit_message(true, 'test', repeat('x', 1000000)) from generate_series(1, ${megabytes})`,
  );

it('a writer far ahead of the pageserver waits until that has caught up', async () => {
  const pageserver = rig.pid('pageserver');
  process.kill(pageserver, 'SIGSTOP');
  try {
    // Commits need the safekeepers only, as long as that is little.
    await write(1000, 2);
    let done = 0;
    const writing = (async () => {
      for (let i = 0; i < 10; i++) {
        await write(2000 + i, 2);
        done++;
      }
    })();
    await expect.poll(log, { timeout: 60_000 }).toMatch(/writers wait for the pageserver/);
    expect(done).toBeLessThan(10);
    process.kill(pageserver, 'SIGCONT');
    await writing;
    expect(done).toBe(10);
  } finally {
    process.kill(pageserver, 'SIGCONT');
  }
  expect(await rig.sql('main', 'select count(*)::int as n from t')).toEqual([{ n: 112 }]);
  await expect.poll(log).toMatch(/writers go on: the pageserver has caught up/);
});

it('one that keeps up holds nobody up', async () => {
  const before = log().length;
  for (let i = 0; i < 10; i++) await write(3000 + i, 2);
  expect(log().slice(before)).not.toMatch(/pageserver does not get on/);
  expect(await rig.refused('endpoint', 'create', 'other', '--max-replication-write-lag', 'much')).toMatch(
    /number of MB/,
  );
});
