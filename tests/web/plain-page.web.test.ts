/**
 * A page of another origin without cross-origin isolation: no shared memory, so its compute blocks on synchronous XMLHttpRequests to the console server,
 * which runs the I/O host.
 *
 * What must hold: the same as with shared memory. A commit is acknowledged when it is durable; the server going away and coming back costs no acknowledged
 * commit, and is told; a branch of the tab's own is refused with the way out.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BranchConnection } from '../../browser/api.ts';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
  await rig.repository.ok('endpoint', 'create', 'main');
});
afterAll(() => rig?.close());

describe("a branch of a server on somebody's page without isolation", () => {
  it('is queried and written, page by page and in large transactions, and a Node endpoint sees it', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('main', { pageCacheBytes: 2 * 1024 * 1024 });
      await pg.exec('create table people (id int primary key, name text)');
      await pg.query('insert into people values ($1, $2)', [1, 'Ada']);
      // More WAL than one request takes, more pages than the cache and PostgreSQL's buffers hold.
      await pg.exec('create table big as select g, repeat(md5(g::text), 60) as v from generate_series(1, 12000) g');
      const { rows } = await pg.query('select count(*)::int as n, sum(length(v))::text as sum from big');
      const counters = await pg.pageCounters();
      await lite.close();
      return { rows, counters, isolated: crossOriginIsolated, memory: typeof SharedArrayBuffer };
    });
    expect(answer.isolated).toBe(false);
    expect(answer.memory).toBe('undefined');
    expect(answer.rows).toEqual([{ n: 12000, sum: String(12000 * 1920) }]);
    expect(answer.counters.fromServer).toBeGreaterThan(300);
    expect(answer.counters.bytesFromServer).toBeGreaterThan(1_000_000);
    await rig.repository.ok('endpoint', 'start', 'main');
    const seen = 'select (select count(*)::int from people) as people, (select count(*)::int from big) as big';
    expect(await rig.repository.sql('main', seen)).toEqual([{ people: 1, big: 12000 }]);
    await rig.repository.ok('endpoint', 'stop', 'main');
  });

  it('is read cold', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    const rows = await page.evaluate(async () => {
      const pg = await lite.connect('main', { pageCacheBytes: 2 * 1024 * 1024 });
      const { rows } = await pg.query('select count(*)::int as n, sum(length(v))::text as sum from big');
      await lite.close();
      return rows;
    });
    expect(rows).toEqual([{ n: 12000, sum: String(12000 * 1920) }]);
  });

  it('is fenced by another writer, and says so', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table fenced ()');
      Object.assign(globalThis, { pg });
    });
    await rig.repository.ok('endpoint', 'start', 'main');
    const told = await page.evaluate(async () => {
      const { pg } = globalThis as unknown as { pg: BranchConnection };
      const refused = await pg.exec('create table refused ()').catch((error: Error) => error.message);
      return { refused, ended: (await pg.ended).message };
    });
    expect(told.refused).toMatch(/this endpoint was fenced/);
    expect(told.ended).toMatch(/this endpoint was fenced/);
    const [row] = await rig.repository.sql<{ n: number }>(
      'main',
      "select count(*)::int as n from pg_class where relname = 'refused'",
    );
    await rig.repository.ok('endpoint', 'stop', 'main');
    expect(row).toEqual({ n: 0 });
  });

  it('ends, and says so, when the server was started again; what was committed is there', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table kept (n int)');
      await pg.exec('insert into kept values (1)');
      Object.assign(globalThis, { pg });
    });
    await rig.stopConsole();
    await rig.startConsole();
    const answer = await page.evaluate(async () => {
      const { pg } = globalThis as unknown as { pg: BranchConnection };
      const lost = await pg.exec('insert into kept values (2)').catch((error: Error) => error.message);
      const again = await lite.connect('main');
      const { rows } = await again.query('select n from kept');
      await lite.close();
      return { lost, rows };
    });
    expect(answer.lost).toMatch(/session of this page has ended.*connect again/);
    expect(answer.rows).toEqual([{ n: 1 }]);
  });

  it('does once what it was asked twice, when answers are lost on the way', async () => {
    const context = await rig.context();
    let lost = 0;
    let count = 0;
    // The server has done what it was asked; every third answer does not arrive.
    await context.route(/\/api\/v1\/bridge\/./, async (route) => {
      const response = await route.fetch();
      if (++count % 3 !== 0) return route.fulfill({ response });
      lost++;
      return route.abort();
    });
    const page = await rig.tab(context, { page: 'plain' });
    const rows = await page.evaluate(async () => {
      const pg = await lite.connect('main', { pageCacheBytes: 2 * 1024 * 1024 });
      await pg.exec('create table twice (n int)');
      for (let n = 1; n <= 30; n++) await pg.query('insert into twice values ($1)', [n]);
      await pg.exec('insert into twice select g from generate_series(31, 20000) g');
      await pg.close();
      const again = await lite.connect('main');
      const { rows } = await again.query('select count(*)::int as n, sum(n)::int as sum from twice');
      await lite.close();
      return rows;
    });
    expect(lost).toBeGreaterThan(5);
    expect(rows).toEqual([{ n: 20000, sum: (20000 * 20001) / 2 }]);
  });

  it("refuses a branch of the tab's own, and says which headers it needs", async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    const told = await page.evaluate(async () => {
      await lite.branch('mine', { place: 'local' });
      return lite.connect('mine').catch((error: Error & { kind?: string }) => `${error.kind}: ${error.message}`);
    });
    expect(told).toMatch(/^invalid: .*Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy/);
  });
});

describe("somebody's page that isolates itself with the service worker", () => {
  const isolate = (workerUrl: string) => pagelite.isolatePage(workerUrl).catch((error: Error) => error.message);

  it('has branches of its own, also after a reload', async () => {
    rig.documents.set('/isolation-worker.js', readFileSync('dist/browser-bundle/isolation-worker.js', 'utf8'));
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    const reloaded = page.waitForEvent('load');
    // The page is gone before it resolves.
    await page.evaluate(isolate, '/isolation-worker.js').catch(() => {});
    await reloaded;
    for (const reload of [false, true]) {
      if (reload) await page.reload();
      await rig.load(page);
      const answer = await page.evaluate(async () => {
        await pagelite.isolatePage('/isolation-worker.js');
        const isNew = !(await lite.branches()).some(({ name }) => name === 'mine');
        if (isNew) await lite.branch('mine', { place: 'local' });
        const pg = await lite.connect('mine');
        await pg.exec('create table if not exists n (i int); insert into n values (1)');
        const { rows } = await pg.query<{ n: number }>('select count(*)::int as n from n');
        await lite.close();
        return { isolated: crossOriginIsolated, ...rows[0] };
      });
      expect(answer).toEqual({ isolated: true, n: reload ? 2 : 1 });
    }
  });

  it('is isolated where the browser does not know `credentialless`, too', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    const reloaded = page.waitForEvent('load');
    await page.evaluate(isolate, '/isolation-worker.js?coep=require-corp').catch(() => {});
    await reloaded;
    const policy = await page.evaluate(async () => {
      const { headers } = await fetch(location.href);
      const frame = document.createElement('iframe');
      frame.src = location.href;
      document.body.append(frame);
      await new Promise((resolve) => frame.addEventListener('load', resolve));
      return [
        crossOriginIsolated,
        frame.contentWindow!.crossOriginIsolated,
        headers.get('cross-origin-embedder-policy'),
      ];
    });
    // A fetch is none of its business.
    expect(policy).toEqual([true, true, null]);
  });

  it('is told why it is not isolated: no such worker, or one of another folder', async () => {
    const page = await rig.tab(await rig.context(), { page: 'plain' });
    expect(await page.evaluate(isolate, `${rig.server}/pagelite/isolation-worker.js`)).toMatch(
      /^this page cannot be isolated: .*Have its server send Cross-Origin-Opener-Policy/,
    );
    rig.documents.set('/folder/isolation-worker.js', rig.documents.get('/isolation-worker.js')!);
    const reloaded = page.waitForEvent('load');
    await page.evaluate(isolate, '/folder/isolation-worker.js').catch(() => {});
    await reloaded;
    await rig.load(page);
    expect(await page.evaluate(isolate, '/folder/isolation-worker.js')).toMatch(/not in the scope of/);
  });
});

describe("a branch of a server on somebody's isolated page", () => {
  it('has shared memory, from a bundle of another origin', async () => {
    const page = await rig.tab(await rig.context(), { page: 'isolated' });
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      const { rows } = await pg.query('select 1 as one');
      await lite.close();
      return { rows, isolated: crossOriginIsolated };
    });
    expect(answer).toEqual({ rows: [{ one: 1 }], isolated: true });
  });
});
