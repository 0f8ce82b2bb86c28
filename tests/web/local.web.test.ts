/**
 * A branch that lives in a tab: the engine, its safekeeper and its layers over IndexedDB, in Chromium.
 *
 * Attacked by reloads, a second tab, a page whose process is killed at seeded moments while it commits, an origin without room, and records that are
 * changed in the database. What must hold: every row that was acknowledged is there; what is wrong is said with what it is about; the rest goes on.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFailed, onTestFinished } from 'vitest';
import type { BranchInfo } from '../../browser/api.ts';
import { databaseName } from '../../browser/stores/database.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { Chromium, type TabWorker } from './local/chromium.ts';
import type { OpenRepository } from './local/repository-worker.ts';
import { recordLengths } from './support/stored-records.ts';

let chromium: Chromium;
beforeAll(async () => {
  chromium = await Chromium.launch();
});
afterAll(() => chromium?.close());

/** Layers of a few hundred kB, so that a short test has flushes and images in it. */
const smallLayers = { openLayerBytesMax: 200_000, imageChainRecordsMin: 4 };

async function openTab(
  options: OpenRepository,
  onAcknowledged?: (id: number) => void,
  { browser = chromium, quotaBytes }: { browser?: Chromium; quotaBytes?: number } = {},
): Promise<TabWorker> {
  onTestFailed(() => console.log(browser.console.slice(-40).join('\n')));
  const tab = await browser.open('repository', onAcknowledged);
  if (quotaBytes !== undefined) await browser.setQuota(tab, quotaBytes);
  await tab.call('open', options);
  return tab;
}

async function closeTab(tab: TabWorker): Promise<void> {
  await tab.call('close');
  await tab.page.close();
}

const count = async (tab: TabWorker, compute: number, table = 't') =>
  (await tab.call<{ n: number }[]>('query', compute, `select count(*)::int as n from ${table}`))[0]!.n;

/** Of all WAL in the database. */
async function walBytes(tab: TabWorker, name: string): Promise<number> {
  return (await recordLengths(tab.page, name, 'wal')).reduce((sum, length) => sum + length, 0);
}

const makeTable = 'create table t (id int primary key, v text)';

describe('a local branch', () => {
  it('is all there after a reload, and so are its branches', async () => {
    const tab = await openTab({ name: 'reload', limits: smallLayers, ownTemplate: true });
    const main = await tab.call<BranchInfo>('create', 'main', { kind: 'new' });
    expect(main).toMatchObject({ place: 'local', ancestor: null, broken: null });
    const compute = await tab.call<number>('connect', 'main', 'end');
    await tab.call('query', compute, makeTable);
    await tab.call('query', compute, `insert into t select i, md5(i::text) from generate_series(1, 5000) i`);
    const [{ lsn }] = (await tab.call<{ lsn: string }[]>(
      'query',
      compute,
      'select pg_current_wal_lsn()::text as lsn',
    )) as [{ lsn: string }];
    await tab.call('create', 'feature/a', { kind: 'local', branch: 'main', at: 'end' });
    await tab.call('query', compute, `update t set v = 'later' where id <= 100`);
    const feature = await tab.call<number>('connect', 'feature/a', 'end');
    await tab.call('query', feature, 'delete from t where id > 4000');
    // Not closed: the page is loaded anew with everything in it open.
    await tab.page.reload();
    await tab.call('open', { name: 'reload', limits: smallLayers });
    const branches = await tab.call<BranchInfo[]>('branches');
    expect(branches.map(({ name, ancestor }) => [name, ancestor?.name])).toEqual([
      ['feature/a', 'main'],
      ['main', undefined],
    ]);
    const again = await tab.call<number>('connect', 'main', 'end');
    expect(
      await tab.call(
        'query',
        again,
        `select count(*)::int as n, count(*) filter (where v = 'later')::int as later from t`,
      ),
    ).toEqual([{ n: 5000, later: 100 }]);
    expect(await count(tab, await tab.call<number>('connect', 'feature/a', 'end'))).toBe(4000);
    const past = { lsn: parseLsn(lsn) };
    const readOnly = await tab.call<number>('connect', 'main', past);
    expect(await tab.call('query', readOnly, `select count(*)::int as n from t where v = 'later'`)).toEqual([{ n: 0 }]);
    await expect(tab.call('query', readOnly, 'delete from t')).rejects.toThrow(/read-only/);
    await closeTab(tab);
  });

  it('is reset to the branch it came from, and deleted with what it took', async () => {
    const tab = await openTab({ name: 'reset' });
    await tab.call('create', 'main', { kind: 'new' });
    const compute = await tab.call<number>('connect', 'main', 'end');
    await tab.call('query', compute, makeTable);
    await tab.call('create', 'work', { kind: 'local', branch: 'main', at: 'end' });
    await tab.call('query', compute, 'insert into t values (1)');
    await expect(tab.call('remove', 'main')).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringMatching(/work began from it/),
    });
    await expect(tab.call('reset', 'main')).rejects.toMatchObject({ kind: 'invalid' });
    await expect(tab.call('create', 'work', { kind: 'new' })).rejects.toMatchObject({
      kind: 'invalid',
      message: /exists/,
    });
    await expect(tab.call('connect', 'none', 'end')).rejects.toMatchObject({
      kind: 'notFound',
      message: expect.stringMatching(/main, work/),
    });
    await tab.call('reset', 'work');
    expect(await count(tab, await tab.call<number>('connect', 'work', 'end'))).toBe(1);
    const future = { timestampMs: Date.now() + 3_600_000 };
    await expect(tab.call('connect', 'main', future)).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringMatching(/future/),
    });
    const moment = { timestampMs: Date.now() };
    await tab.call('create', 'moment', { kind: 'local', branch: 'main', at: moment });
    expect(await count(tab, await tab.call<number>('connect', 'moment', 'end'))).toBe(1);
    await tab.call('remove', 'moment');
    await tab.call('remove', 'work');
    await closeTab(tab);
    const again = await openTab({ name: 'reset' });
    expect((await again.call<BranchInfo[]>('branches')).map(({ name }) => name)).toEqual(['main']);
    await closeTab(again);
  });

  it('gives up WAL that is in layers at the next load', async () => {
    const name = 'trimmed';
    const tab = await openTab({ name });
    await tab.call('create', 'main', { kind: 'new' });
    const compute = await tab.call<number>('connect', 'main', 'end');
    await tab.call('query', compute, makeTable);
    await tab.call('query', compute, 'alter table t alter v set storage plain');
    for (let i = 0; i < 20; i++) {
      await tab.call(
        'query',
        compute,
        `insert into t select i, repeat(md5(i::text), 200) from generate_series(${i * 300}, ${i * 300 + 299}) i`,
      );
    }
    await tab.call('flush', 'main');
    const before = await walBytes(tab, name);
    expect(before).toBeGreaterThan(32 * 1024 * 1024);
    await tab.page.reload();
    await tab.call('open', { name });
    expect(await walBytes(tab, name)).toBeLessThan(before - 16 * 1024 * 1024);
    expect(await count(tab, await tab.call<number>('connect', 'main', 'end'))).toBe(6000);
    await closeTab(tab);
  });

  it('is for one tab at a time, and the other hears so', async () => {
    const first = await openTab({ name: 'locked' });
    const second = await chromium.open('repository');
    await expect(second.call('open', { name: 'locked' })).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringMatching(/open in another tab/),
    });
    // Another repository is not in the way, and the first one goes on.
    await second.call('open', { name: 'not-locked' });
    await first.call('create', 'main', { kind: 'new' });
    await closeTab(first);
    await closeTab(second);
    const third = await openTab({ name: 'locked' });
    expect((await third.call<BranchInfo[]>('branches')).length).toBe(1);
    await closeTab(third);
  });
});

describe('a tab that is killed', () => {
  it.each([11, 12, 13, 14])('keeps every row that was acknowledged (seed %i)', async (seed) => {
    const random = new SeededRandom(seed);
    const name = `killed-${seed}`;
    let known = 0;
    for (let round = 0; round < 3; round++) {
      const target = known + 1 + random.below(round === 0 ? 20 : 250);
      let reached: () => void = () => {};
      const enough = new Promise<void>((resolve) => {
        reached = resolve;
      });
      const before = known;
      const tab = await openTab({ name, limits: smallLayers }, (id) => {
        known = id;
        if (id >= target) reached();
      });
      if (round === 0) await tab.call('create', 'main', { kind: 'new' });
      const compute = await tab.call<number>('connect', 'main', 'end');
      if (round === 0) await tab.call('query', compute, makeTable);
      const there = await count(tab, compute);
      expect(there).toBeGreaterThanOrEqual(before);
      // It ends with the page.
      tab.call('insertOnAndOn', compute, 't', there + 1).catch(() => {});
      await enough;
      await chromium.crash(tab);
    }
    const tab = await openTab({ name, limits: smallLayers });
    // Also a reader, before any compute has taken the branch over.
    const [{ lsn }] = (await tab.call<BranchInfo[]>('branches')) as [BranchInfo];
    const end = { lsn: parseLsn(lsn!) };
    const reader = await tab.call<number>('connect', 'main', end);
    expect(await count(tab, reader)).toBeGreaterThanOrEqual(known);
    const compute = await tab.call<number>('connect', 'main', 'end');
    const rows = await tab.call<{ n: number; last: number; wrong: number }[]>(
      'query',
      compute,
      `select count(*)::int as n, max(id) as last, count(*) filter (where v <> repeat('x', 50 + (id * 37) % 400))::int as wrong from t`,
    );
    expect(rows[0]!.n).toBeGreaterThanOrEqual(known);
    expect(rows[0]).toMatchObject({ last: rows[0]!.n, wrong: 0 });
    await closeTab(tab);
  });
});

describe('an origin without room', () => {
  it('says so, keeps what was acknowledged, reads on, and writes again once there is room', async () => {
    // A browser of its own, and from the first transaction on: Chromium's IndexedDB goes on with what room it once was told of, for half a minute.
    const browser = await Chromium.launch();
    onTestFinished(() => browser.close());
    const tab = await openTab({ name: 'quota' }, undefined, { browser, quotaBytes: 40_000_000 });
    await tab.call('create', 'main', { kind: 'new' });
    let compute = await tab.call<number>('connect', 'main', 'end');
    await tab.call('query', compute, makeTable);
    await tab.call('query', compute, `insert into t select i, 'first' from generate_series(1, 1000) i`);
    let acknowledged = 1000;
    const fill = async () => {
      for (;;) {
        await tab.call(
          'query',
          compute,
          `insert into t select ${acknowledged} + r.i, (select string_agg(md5(r.i || ' ' || g.n || random()), '') from generate_series(1, 300) g(n)) from generate_series(1, 100) r(i)`,
        );
        acknowledged += 100;
      }
    };
    await expect(fill()).rejects.toMatchObject({
      kind: 'unavailable',
      message: expect.stringMatching(/no room|is full/),
      data: { storageFull: true },
    });
    // To write is refused with the same reason, unless compaction has made room meanwhile; to read is not.
    const again = await tab.call<number>('connect', 'main', 'end').catch((error: unknown) => {
      expect(error).toMatchObject({ data: { storageFull: true } });
      return null;
    });
    if (again !== null) await tab.call('disconnect', again);
    const [{ lsn }] = (await tab.call<BranchInfo[]>('branches')) as [BranchInfo];
    const end = { lsn: parseLsn(lsn!) };
    expect(await count(tab, await tab.call<number>('connect', 'main', end))).toBe(acknowledged);
    // Nor is there room for another database, of which nothing stays.
    await expect(tab.call('create', 'second', { kind: 'new' })).rejects.toMatchObject({ data: { storageFull: true } });
    expect((await tab.call<BranchInfo[]>('branches')).map(({ name }) => name)).toEqual(['main']);
    await browser.setQuota(tab, null);
    compute = await tab.call<number>('connect', 'main', 'end');
    expect(await count(tab, compute)).toBe(acknowledged);
    await tab.call('query', compute, `insert into t values (0, 'room')`);
    await tab.page.reload();
    await tab.call('open', { name: 'quota' });
    expect(await count(tab, await tab.call<number>('connect', 'main', 'end'))).toBe(acknowledged + 1);
    await closeTab(tab);
  });
});

describe('a damaged record', () => {
  /** Two databases in one repository, each with rows in layers and in WAL; what happens to one must not reach the other. */
  async function twoBranches(name: string): Promise<TabWorker> {
    const tab = await openTab({ name });
    for (const branch of ['a', 'b']) {
      await tab.call('create', branch, { kind: 'new' });
      const compute = await tab.call<number>('connect', branch, 'end');
      await tab.call('query', compute, makeTable);
      await tab.call('query', compute, `insert into t select i, md5(i::text) from generate_series(1, 3000) i`);
      await tab.call('flush', branch);
      await tab.call('query', compute, `insert into t select i, md5(i::text) from generate_series(3001, 4000) i`);
    }
    return tab;
  }

  /** Changes a byte of the records of `store` whose key, as JSON, matches. The repository is closed. */
  function damage(
    tab: TabWorker,
    name: string,
    store: string,
    pattern: string,
    which: 'all' | 'last' = 'all',
  ): Promise<number> {
    return tab.page.evaluate(
      async ({ database, store, pattern, which }) => {
        const wait = <T>(request: IDBRequest<T>) =>
          new Promise<T>((resolve, reject) => {
            request.onsuccess = () => resolve(request.result);
            request.onerror = () => reject(request.error);
          });
        const open = await wait(indexedDB.open(database));
        const records = open.transaction(store, 'readwrite').objectStore(store);
        const keys = (await wait(records.getAllKeys())).filter((key) => new RegExp(pattern).test(JSON.stringify(key)));
        const chosen = which === 'all' ? keys : keys.slice(-1);
        for (const key of chosen) {
          const record = await wait(records.get(key));
          record.bytes[record.bytes.length >> 1] ^= 0x10;
          await wait(records.put(record, key));
        }
        open.close();
        return chosen.length;
      },
      { database: databaseName(name), store, pattern, which },
    );
  }

  const timelineOf = async (tab: TabWorker, branch: string) =>
    (await tab.call<BranchInfo[]>('branches')).find(({ name }) => name === branch)!.timelineId;

  /** Number of the chunks of an object. */
  function chunksOf(tab: TabWorker, name: string, timeline: string, file: string): Promise<number[]> {
    return tab.page.evaluate(
      async ({ database, timeline, file }) => {
        const wait = <T>(request: IDBRequest<T>) =>
          new Promise<T>((resolve) => (request.onsuccess = () => resolve(request.result)));
        const open = await wait(indexedDB.open(database));
        const objects = open.transaction('objects').objectStore('objects');
        const keys = (await wait(objects.getAllKeys())) as string[];
        const values = (await wait(open.transaction('objects').objectStore('objects').getAll())) as {
          chunks: number;
        }[];
        open.close();
        return keys.flatMap((key, i) => (key.includes(timeline) && key.includes(file) ? [values[i]!.chunks] : []));
      },
      { database: databaseName(name), timeline, file },
    );
  }

  async function reopened(tab: TabWorker, name: string): Promise<TabWorker> {
    await tab.page.reload();
    await tab.call('open', { name });
    return tab;
  }

  it('of a layer stops the reads that need it, and names the object', async () => {
    const name = 'damaged-layer';
    const tab = await twoBranches(name);
    const timeline = await timelineOf(tab, 'a');
    await tab.call('close');
    for (const chunks of await chunksOf(tab, name, timeline, '__')) await damage(tab, name, 'chunks', `^\\[${chunks},`);
    await reopened(tab, name);
    await expect(tab.call('connect', 'a', 'end')).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringMatching(new RegExp(`${timeline}.*is damaged in this tab's database: wrong checksum`)),
    });
    const compute = await tab.call<number>('connect', 'b', 'end');
    expect(await count(tab, compute)).toBe(4000);
    await tab.call('query', compute, 'insert into t values (0)');
    await closeTab(tab);
  });

  it('of an index breaks its branch, which is listed so', async () => {
    const name = 'damaged-index';
    const tab = await twoBranches(name);
    const timeline = await timelineOf(tab, 'a');
    await tab.call('close');
    for (const chunks of await chunksOf(tab, name, timeline, 'index_part'))
      await damage(tab, name, 'chunks', `^\\[${chunks},`);
    await reopened(tab, name);
    const branches = await tab.call<BranchInfo[]>('branches');
    expect(branches.map(({ broken }) => broken)).toEqual([
      expect.stringMatching(/index_part.json.*wrong checksum/),
      null,
    ]);
    expect(await count(tab, await tab.call<number>('connect', 'b', 'end'))).toBe(4000);
    await closeTab(tab);
  });

  it('of WAL is never taken for its end: the branch says which segment, and where', async () => {
    const name = 'damaged-wal';
    const tab = await twoBranches(name);
    const timeline = await timelineOf(tab, 'a');
    await tab.call('close');
    expect(await damage(tab, name, 'wal', timeline, 'last')).toBe(1);
    await reopened(tab, name);
    await expect(tab.call('connect', 'a', 'end')).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringMatching(new RegExp(`WAL segment .*${timeline}.*at offset \\d+.*wrong checksum`)),
    });
    const branches = await tab.call<BranchInfo[]>('branches');
    expect(branches.map(({ broken }) => broken)).toEqual([expect.stringMatching(/wrong checksum/), null]);
    const compute = await tab.call<number>('connect', 'b', 'end');
    expect(await count(tab, compute)).toBe(4000);
    await closeTab(tab);
  });
});
