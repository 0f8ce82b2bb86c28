/**
 * Branches reset, renamed and deleted by a program that has them open in its own process.
 *
 * Must hold: what is connected is not taken away; a reset loses nothing; the history has the commits at LSNs where they are seen.
 */
import { rmSync } from 'node:fs';
import type { Pagelite } from 'pagelite';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openLibrary } from '../support/library.ts';

let dir: string;
let lite: Pagelite;
beforeAll(async () => {
  ({ dir, lite } = await openLibrary());
});
afterAll(async () => {
  await lite.close();
  rmSync(dir, { recursive: true, force: true });
});

async function rowsOf(branch: string, lsn?: string): Promise<number[]> {
  const pg = await lite.connect(branch, lsn === undefined ? {} : { lsn });
  try {
    return (await pg.query<{ n: number }>('select n from t order by n')).rows.map(({ n }) => n);
  } finally {
    await pg.close();
  }
}

it('history, reset and back, rename, delete', async () => {
  const main = await lite.connect('main');
  await main.exec('create table t (n int)');
  await main.exec('insert into t values (1)');
  const [one] = (await main.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')).rows;
  await main.exec('insert into t values (2)');
  await expect(lite.reset('main', { lsn: one!.lsn })).rejects.toThrow(/"main" is connected for writing/);
  await expect(lite.delete('main')).rejects.toThrow(/"main" is connected for writing/);
  await main.close();

  await expect.poll(async () => (await lite.history('main')).commits.length).toBeGreaterThanOrEqual(3);
  const { commits } = await lite.history('main');
  expect(await rowsOf('main', commits.at(-1)!.lsn)).toEqual([1, 2]);
  expect(await rowsOf('main', commits.at(-2)!.lsn)).toEqual([1]);

  const reset = await lite.reset('main', { lsn: one!.lsn, preserveAs: 'before' });
  expect(reset).toMatchObject({ name: 'main', ancestor: { name: 'before' } });
  expect(await rowsOf('main')).toEqual([1]);
  expect(await rowsOf('before')).toEqual([1, 2]);
  await lite.reset('main', { preserveAs: 'mistake' });
  expect(await rowsOf('main')).toEqual([1, 2]);
  await expect(lite.reset('before')).rejects.toThrow(/no parent to be reset to/);

  expect(await lite.rename('mistake', 'wrong')).toMatchObject({ name: 'wrong' });
  const look = await lite.connect('wrong', { lsn: (await lite.branches()).find(({ name }) => name === 'wrong')!.lsn });
  await expect(lite.delete('wrong')).rejects.toThrow(/connected read-only/);
  await look.close();
  await lite.delete('wrong');
  await expect(lite.delete('before')).rejects.toThrow(/main branched from it/);
  await expect(lite.delete('wrong')).rejects.toThrow(/no branch "wrong"/);
  expect((await lite.branches()).map(({ name }) => name)).toEqual(['before', 'main']);
});
