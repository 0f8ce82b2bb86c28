/**
 * A tab on a branch of a server: pages and WAL over WebSockets.
 *
 * Attacked by a Node endpoint beside it, reloads, a browser that is killed, a second tab, a server that goes away in the middle of a scan, and one that
 * speaks another version. What must hold: what was acknowledged is there, whoever asks; what a tab hears of another writer says so.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Repository } from '../../server/control-plane/repository.ts';
import { beginInserts } from './support/counted-inserts.ts';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
  await rig.repository.ok('endpoint', 'create', 'main');
});
afterAll(() => rig?.close());

describe('a branch of a server in a tab', () => {
  it('is queried and written, and a Node endpoint sees it', async () => {
    const page = await rig.tab(await rig.context());
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      const { rows } = await pg.query<{ one: number }>('select 1 as one');
      await pg.exec('create table people (id int primary key, name text)');
      await pg.query('insert into people values ($1, $2)', [1, 'Ada']);
      await lite.close();
      return { rows, isolated: crossOriginIsolated, place: pg.place };
    });
    expect(answer).toEqual({ rows: [{ one: 1 }], isolated: true, place: 'server' });
    // It has told the safekeeper which members it knows: after one was replaced it is refused.
    const { branches, safekeepers } = Repository.open(rig.repository.dir).readConfig();
    const { tenantId, timelineId } = branches.find(({ name }) => name === 'main')!;
    const safekeeper = `http://127.0.0.1:${safekeepers[0]!.httpPort}`;
    const response = await fetch(`${safekeeper}/v1/tenant/${tenantId}/timeline/${timelineId}`);
    expect(await response.json()).toMatchObject({ mconf: { generation: 1, members: [{ id: 1 }] } });
    await rig.repository.ok('endpoint', 'start', 'main');
    expect(await rig.repository.sql('main', 'select * from people')).toEqual([{ id: 1, name: 'Ada' }]);
    await rig.repository.ok('endpoint', 'stop', 'main');
  });

  it('is opened with what boot reads in one answer', async () => {
    const page = await rig.tab(await rig.context());
    const { opened, queried } = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      const opened = await pg.pageCounters();
      await pg.query('select 1');
      const queried = await pg.pageCounters();
      await lite.close();
      return { opened, queried };
    });
    // Less than the template's 30 MB by far, and nothing is left to be fetched page by page.
    expect(opened.bytesFromServer).toBeGreaterThan(100_000);
    expect(opened.bytesFromServer).toBeLessThan(8_000_000);
    expect(queried.bytesFromServer - opened.bytesFromServer).toBeLessThan(64_000);
  });

  it('is apart from what a Node endpoint does on the branch it came from, both ways', async () => {
    const { repository } = rig;
    await repository.ok('endpoint', 'start', 'main');
    await repository.sql('main', 'create table fruit (name text)');
    await repository.sql('main', "insert into fruit values ('apple')");
    const page = await rig.tab(await rig.context());
    const made = await page.evaluate(() => lite.branch('feature', { from: 'main' }));
    expect(made).toMatchObject({ name: 'feature', place: 'server', ancestor: { name: 'main', place: 'server' } });
    await repository.sql('main', "insert into fruit values ('mainly')");
    const seen = await page.evaluate(async () => {
      const pg = await lite.connect('feature');
      await pg.exec("insert into fruit values ('featured')");
      const { rows } = await pg.query<{ name: string }>('select name from fruit order by 1');
      await lite.close();
      return rows.map(({ name }) => name);
    });
    expect(seen).toEqual(['apple', 'featured']);
    expect(await repository.sql('main', 'select name from fruit order by 1')).toEqual([
      { name: 'apple' },
      { name: 'mainly' },
    ]);
    await repository.ok('endpoint', 'stop', 'main');
    const names = await page.evaluate(async (server) => {
      const lite = await pagelite.Pagelite.open({ server });
      const branches = await lite.branches();
      await lite.delete('feature');
      const left = await lite.branches();
      await lite.close();
      return [branches.map(({ name }) => name).sort(), left.map(({ name }) => name)];
    }, rig.server);
    expect(names).toEqual([['feature', 'main'], ['main']]);
  });

  it('goes on after a reload', async () => {
    const page = await rig.tab(await rig.context());
    await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table notes (id serial, text text)');
      await pg.exec("insert into notes (text) values ('before')");
    });
    await page.reload();
    await rig.load(page);
    const rows = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec("insert into notes (text) values ('after')");
      const { rows } = await pg.query('select text from notes order by id');
      await lite.close();
      return rows;
    });
    expect(rows).toEqual([{ text: 'before' }, { text: 'after' }]);
  });

  it('has every acknowledged commit after its browser was killed', async () => {
    const context = await (await rig.ownBrowser()).newContext();
    const page = await rig.tab(context);
    const acknowledged = await beginInserts(page);
    await rig.kill(context);
    await rig.repository.ok('endpoint', 'start', 'main');
    const [row] = await rig.repository.sql<{ n: number; max: number }>(
      'main',
      'select count(*)::int as n, max(n) from counted',
    );
    await rig.repository.ok('endpoint', 'stop', 'main');
    expect(row!.max).toBeGreaterThanOrEqual(acknowledged);
    // No gap, nothing twice.
    expect(row!.n).toBe(row!.max);
  });

  it('is fenced by a second tab that writes, and says so', async () => {
    const context = await rig.context();
    const [first, second] = [await rig.tab(context), await rig.tab(context)];
    await first.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table tabs (name text)');
      Object.assign(globalThis, { pg });
    });
    await second.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec("insert into tabs values ('second')");
    });
    const told = await first.evaluate(async () => {
      const { pg } = globalThis as unknown as { pg: import('../../browser/api.ts').BranchConnection };
      const ended = await pg.ended;
      const refused = await pg.exec("insert into tabs values ('first')").then(
        () => 'accepted',
        (error: Error) => error.message,
      );
      // The tab itself goes on, and takes the branch back.
      const again = await lite.connect('main');
      const { rows } = await again.query('select * from tabs');
      await lite.close();
      return {
        kind: (ended as unknown as { kind: string }).kind,
        message: ended.message,
        refused,
        rows,
        closed: pg.closed,
      };
    });
    expect(told).toMatchObject({ kind: 'fenced', closed: true, rows: [{ name: 'second' }] });
    expect(told.message).toMatch(/this endpoint was fenced: term \d+ rules timeline/);
    expect(told.refused).toBe(told.message);
  });

  it('does not end an endpoint of the server unless it is told to', async () => {
    await rig.repository.ok('endpoint', 'start', 'main');
    const page = await rig.tab(await rig.context());
    const answer = await page.evaluate(async () => {
      const refused = await lite.connect('main').catch((e: Error & { kind?: string }) => `${e.kind}: ${e.message}`);
      const main = (await lite.branches()).find(({ name }) => name === 'main')!;
      const reader = await lite.connect('main', { lsn: main.lsn! });
      const { rows } = await reader.query('select 1 as one');
      await reader.close();
      return { refused, rows };
    });
    expect(answer.refused).toMatch(/^invalid: endpoint "main" of the server writes to branch "main".*takeOver/);
    expect(answer.rows).toEqual([{ one: 1 }]);
    await rig.repository.sql('main', 'create table still_here ()');
    const taken = await page.evaluate(async () => {
      const pg = await lite.connect('main', { takeOver: true });
      await pg.exec('create table taken_over ()');
      await lite.close();
      return pg.place;
    });
    expect(taken).toBe('server');
    await rig.repository.run('endpoint', 'stop', 'main');
  });

  it('refuses a second writer in the same tab, and reads the past beside it', async () => {
    const page = await rig.tab(await rig.context());
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table history (n int)');
      const { rows: lsns } = await pg.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn');
      await pg.exec('insert into history values (1)');
      const second = await lite.connect('main').then(
        () => 'opened',
        (error: Error & { kind?: string }) => `${error.kind}: ${error.message}`,
      );
      const past = await lite.connect('main', { lsn: lsns[0]!.lsn });
      const { rows } = await past.query<{ n: number }>('select count(*)::int as n from history');
      const written = await past.exec('insert into history values (2)').catch((error: Error) => error.message);
      await lite.close();
      return { second, rows, written, readOnly: past.readOnlyLsn === lsns[0]!.lsn, writer: pg.readOnlyLsn };
    });
    expect(answer.second).toMatch(/^invalid: .*connected for writing already in this tab/);
    expect(answer.rows).toEqual([{ n: 0 }]);
    expect(answer.written).toMatch(/read-only transaction/);
    expect([answer.readOnly, answer.writer]).toEqual([true, null]);
  });

  it('ends a scan whose server went away and came back, and commits what waited', async () => {
    const page = await rig.tab(await rig.context());
    await page.evaluate(async () => {
      const pg = await lite.connect('main');
      await pg.exec('create table big as select g, repeat(md5(g::text), 30) as v from generate_series(1, 20000) g');
      await lite.close();
      globalThis.lite = await pagelite.Pagelite.open({ server: location.origin });
      const small = await lite.connect('main', { pageCacheBytes: 4 * 1024 * 1024 });
      await small.query('select v from big limit 1000');
      Object.assign(globalThis, { small });
    });
    await rig.stopConsole();
    await page.evaluate(() => {
      const { small } = globalThis as unknown as { small: import('../../browser/api.ts').BranchConnection };
      const scan = small.query('select count(*)::int as n, sum(length(v))::text as sum from big');
      const commit = scan.then(() => small.exec('create table after_outage ()'));
      Object.assign(globalThis, { scan, commit });
    });
    await rig.startConsole();
    const { rows } = await page.evaluate(async () => {
      const { scan, commit } = globalThis as unknown as { scan: Promise<{ rows: unknown[] }>; commit: Promise<void> };
      const { rows } = await scan;
      await commit;
      await lite.close();
      return { rows };
    });
    expect(rows).toEqual([{ n: 20000, sum: String(20000 * 960) }]);
  });

  it('is not opened on a server of another version; the reason and the way out are told', async () => {
    const context = await rig.context();
    // The wire is changed, not the server: its own answer, with another number in it.
    await context.route('**/api/v1/status', async (route) => {
      const response = await route.fetch();
      const status = (await response.json()) as { protocols: { pagestream: number } };
      await route.fulfill({
        response,
        json: { ...status, protocols: { ...status.protocols, pagestream: status.protocols.pagestream + 1 } },
      });
    });
    const page = await rig.tab(context);
    const told = await page.evaluate(async () => {
      const of = (run: Promise<unknown>) =>
        run.then(() => 'fine').catch((e: Error & { kind?: string }) => `${e.kind}: ${e.message}`);
      return [await of(lite.connect('main')), await of(lite.branches()), await of(lite.branches())];
    });
    for (const text of told)
      expect(text).toMatch(/^invalid: the server .* speaks pagestream 3, this page speaks 2\. Reload/);
  });

  it('says which server is not there, and knows a name that does not exist', async () => {
    const page = await rig.tab(await rig.context());
    const told = await page.evaluate(async () => {
      const of = (run: Promise<unknown>) =>
        run.then(() => 'fine').catch((e: Error & { kind?: string }) => `${e.kind}: ${e.message}`);
      const nowhere = await pagelite.Pagelite.open({ server: 'http://127.0.0.1:9' });
      return [
        await of(nowhere.connect('main')),
        await of(lite.connect('nobody')),
        await of(lite.connect('main', { lsn: 'x' })),
      ];
    });
    expect(told[0]).toMatch(/^unavailable: no answer from http:\/\/127\.0\.0\.1:9\//);
    expect(told[1]).toMatch(/^notFound: there is no branch "nobody"/);
    expect(told[2]).toMatch(/^invalid: /);
  });
});
