/**
 * A branch in a tab that began on a server's timeline: real pageserver and safekeeper processes, the console server's WebSocket, a repository in Chromium.
 *
 * Attacked by a server that is away from the second load on, a small budget, and a damaged record in the page cache. What must hold: the branch sees the
 * server's timeline as it was at the branch point, fetches each page once, works on what it has without the server, and says which page it lacks.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import type { BranchInfo } from '../../browser/api.ts';
import { databaseName } from '../../browser/stores/database.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import type { ServerBranch, ServerStatus } from '../../engine/protocol/control-api.ts';
import { Chromium, type TabWorker } from './local/chromium.ts';
import type { OpenRepository } from './local/repository-worker.ts';
import { recordLengths } from './support/stored-records.ts';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
let chromium: Chromium;
let source: { id: { tenantId: string; timelineId: string }; lsn: number };

beforeAll(async () => {
  [rig, chromium] = await Promise.all([WebRig.start(), Chromium.launch()]);
  await rig.repository.endpoint('main');
  await rig.repository.sql('main', 'create table people (id int primary key, name text) with (fillfactor = 70)');
  await rig.repository.sql('main', `insert into people select i, md5(i::text) from generate_series(1, 20000) i`);
  const [{ lsn }] = (await rig.repository.sql('main', 'select pg_current_wal_lsn()::text as lsn')) as [{ lsn: string }];
  const { tenantId } = await answer<ServerStatus>('/api/v1/status');
  const { timelineId } = await answer<ServerBranch>('/api/v1/branches/main');
  source = { id: { tenantId, timelineId }, lsn: parseLsn(lsn) };
});
let isAway = false;
async function away(): Promise<void> {
  isAway = true;
  await rig.stopConsole();
}
async function back(): Promise<void> {
  if (isAway) await rig.startConsole();
  isAway = false;
}
afterEach(back);
afterAll(async () => {
  await chromium?.close();
  await rig?.close();
});

async function answer<T>(path: string): Promise<T> {
  const response = await fetch(rig.server + path);
  return (await response.json()) as T;
}

interface Counters {
  readonly memoryHits: number;
  readonly databaseHits: number;
  readonly fetched: number;
  readonly fetches: number;
}

async function openTab(options: Omit<OpenRepository, 'server'>): Promise<TabWorker> {
  onTestFailed(() => console.log(chromium.console.slice(-20).join('\n')));
  const tab = await chromium.open('repository');
  await tab.call('open', { ...options, server: rig.server, serverTimeLimitMs: 5000 });
  return tab;
}

const makeHybrid = (tab: TabWorker, name = 'mine') =>
  tab.call<BranchInfo>('create', name, { kind: 'server', id: source.id, name: 'main', lsn: source.lsn });

const connect = (tab: TabWorker, name = 'mine') =>
  // Little memory of its own: what it reads again, the page cache is asked for.
  tab.call<number>('connect', name, 'end', 1_000_000);

async function reopen(tab: TabWorker, options: Omit<OpenRepository, 'server'>): Promise<void> {
  await tab.page.reload();
  await tab.call('open', { ...options, server: rig.server, serverTimeLimitMs: 5000 });
}

const whole = `select count(*)::int as n, count(*) filter (where name = md5(id::text))::int as right from people`;

describe('a hybrid branch', () => {
  it('sees the server as it was, and neither sees what the other does then', async () => {
    const tab = await openTab({ name: 'isolation' });
    const info = await makeHybrid(tab);
    expect(info).toMatchObject({ place: 'hybrid', ancestor: { name: 'main', place: 'server' } });
    const compute = await connect(tab);
    expect(await tab.call('query', compute, whole)).toEqual([{ n: 20000, right: 20000 }]);
    await tab.call('query', compute, `update people set name = 'tab' where id <= 10`);
    await rig.repository.sql('main', `insert into people values (20001, 'server')`);
    expect(await tab.call('query', compute, whole)).toEqual([{ n: 20000, right: 19990 }]);
    expect(await rig.repository.sql('main', whole)).toEqual([{ n: 20001, right: 20000 }]);
    await rig.repository.sql('main', 'delete from people where id = 20001');
    await tab.call('close');
    await tab.page.close();
  });

  it('fetches a page once, boots again without the server, works on what it has, and names what it lacks', async () => {
    const name = 'offline';
    const tab = await openTab({ name });
    await makeHybrid(tab);
    let compute = await connect(tab);
    // The index and a few pages; most of the table is never read. Its pages have room, so the row can be changed where it is.
    expect(await tab.call('query', compute, 'select name from people where id = 77')).toHaveLength(1);
    const opened = await tab.call<Counters>('counters');
    // A boot is a handful of answers, not one for each page.
    expect(opened.fetches).toBeLessThan(60);
    // What the catalogs have beyond that comes behind it.
    await expect.poll(() => catalogsAreKept(tab, name), { timeout: 20_000 }).toBe(true);
    await tab.call('cacheIdle');

    await away();
    await reopen(tab, { name });
    compute = await connect(tab);
    expect(await tab.call('query', compute, 'select name from people where id = 77')).toHaveLength(1);
    const again = await tab.call<Counters>('counters');
    expect(again.fetched).toBe(0);
    expect(again.databaseHits).toBeGreaterThan(0);
    await tab.call('query', compute, `update people set name = 'offline' where id = 77`);
    await tab.call('query', compute, 'create table notes (id int)');
    // What was never read is named, to whoever asks for it.
    await expect(tab.call('query', compute, whole)).rejects.toMatchObject({
      message: expect.stringMatching(
        /could not read.*block \d+ of relation 1663\/5\/\d+ of timeline .* at [0-9A-F]+\/[0-9A-F]+ is not kept in this tab/s,
      ),
    });
    // The compute goes on, also over another load without the server.
    expect(await tab.call('query', compute, 'select name from people where id = 77')).toEqual([{ name: 'offline' }]);
    await reopen(tab, { name });
    compute = await connect(tab);
    expect(await tab.call('query', compute, 'select name from people where id = 77')).toEqual([{ name: 'offline' }]);
    await back();
    await expect
      .poll(() => tab.call('query', compute, whole), { timeout: 20_000 })
      .toEqual([{ n: 20000, right: 19999 }]);
    const [branch] = (await tab.call<BranchInfo[]>('branches')) as [BranchInfo];
    expect(branch.cachedPages).toBeGreaterThan(100);
    await tab.call('close');
    await tab.page.close();
  });

  it('keeps to its budget, and a branch that is deleted takes its pages with it', async () => {
    const options = { name: 'budget', pageCacheBudgetBytes: 2_000_000, pageCacheMemoryBytes: 500_000 };
    const tab = await openTab(options);
    await makeHybrid(tab);
    const compute = await connect(tab);
    for (let i = 0; i < 3; i++) expect(await tab.call('query', compute, whole)).toEqual([{ n: 20000, right: 20000 }]);
    await tab.call('cacheIdle');
    const { cachedPages } = await tab.call<{ cachedPages: number }>('storage');
    expect(cachedPages * 8192).toBeLessThanOrEqual(options.pageCacheBudgetBytes);
    expect(cachedPages).toBeGreaterThan(0);
    await tab.call('disconnect', compute);
    await tab.call('remove', 'mine');
    expect((await tab.call<{ cachedPages: number }>('storage')).cachedPages).toBe(0);
    await tab.call('close');
    await tab.page.close();
  });

  it('fetches a damaged page again; without the server it says which is damaged', async () => {
    const name = 'damaged-page';
    const tab = await openTab({ name });
    await makeHybrid(tab);
    let compute = await connect(tab);
    expect(await tab.call('query', compute, whole)).toEqual([{ n: 20000, right: 20000 }]);
    const [{ file }] = (await tab.call<{ file: string }[]>(
      'query',
      compute,
      `select pg_relation_filenode('people')::text as file`,
    )) as [{ file: string }];
    await tab.call('close');
    await damagePages(tab, name, Number(file));
    await away();
    await reopen(tab, { name });
    compute = await connect(tab);
    await expect(tab.call('query', compute, whole)).rejects.toMatchObject({
      message: expect.stringMatching(
        new RegExp(`block 0 of relation 1663/5/${file} .* is damaged in this tab .*wrong checksum`),
      ),
    });
    expect(await tab.call('query', compute, 'select 1 as one')).toEqual([{ one: 1 }]);
    await back();
    await expect
      .poll(() => tab.call('query', compute, whole), { timeout: 20_000 })
      .toEqual([{ n: 20000, right: 20000 }]);
    await tab.call('close');
    await tab.page.close();
  });
});

/** The database has the mark that is stored behind the last of the catalogs: a record of small values with nothing else in it. */
async function catalogsAreKept(tab: TabWorker, name: string): Promise<boolean> {
  // The count, the key and the length of one value of no bytes.
  return (await recordLengths(tab.page, name, 'pages')).includes(4 + 18 + 4);
}

/** Changes a byte of the first cached extent of a relation. The repository is closed. */
async function damagePages(tab: TabWorker, name: string, file: number): Promise<void> {
  const damaged = await tab.page.evaluate(
    async ({ database, relation }) => {
      const wait = <T>(request: IDBRequest<T>) =>
        new Promise<T>((resolve, reject) => {
          request.onsuccess = () => resolve(request.result);
          request.onerror = () => reject(request.error);
        });
      const open = await wait(indexedDB.open(database));
      const pages = open.transaction('pages', 'readwrite').objectStore('pages');
      const keys = (await wait(pages.getAllKeys())) as [string, string, number][];
      // The prefix of a relation page: kind, tablespace, database, relation, fork.
      const chosen = keys.filter(([, prefix, extent]) => extent === 0 && prefix.endsWith(`${relation}00`));
      for (const key of chosen) {
        const record = await wait(pages.get(key));
        record.bytes[record.bytes.length >> 1] ^= 1;
        await wait(pages.put(record, key));
      }
      open.close();
      return chosen.length;
    },
    { database: databaseName(name), relation: file.toString(16).toUpperCase().padStart(8, '0') },
  );
  expect(damaged).toBe(1);
}
