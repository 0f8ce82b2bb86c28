/**
 * Push and pull in a tab, before a repository's real processes: work offline and bring it to the server; take a branch of the server along.
 *
 * Attacked by a network that goes away in the middle of a push, reloads, and a server that is stopped. What must hold: what was committed in the tab is on the
 * server once a push has resolved, and a Node endpoint reads it; a push or pull that was cut off goes on, and moves only what was missing.
 */
import type { BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BranchConnection, Progress } from '../../browser/api.ts';
import { hasProgram } from '../support/wire-client.ts';
import { WebRig } from './support/web-rig.ts';

declare global {
  var pg: BranchConnection;
}

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
  await rig.repository.endpoint('main');
  await rig.repository.sql('main', 'create table notes (id int primary key, what text)');
  await rig.repository.sql('main', "insert into notes select i, 'note ' || i from generate_series(1, 2000) i");
});
afterAll(() => rig?.close());

/** The network breaks after `parts` parts of layers, until `context.unroute`. */
async function breakAfter(context: BrowserContext, parts: number): Promise<void> {
  let left = parts;
  await context.route(layerPath, (route) => (left-- > 0 ? route.continue() : route.abort()));
}
const layerPath = /\/import\/[0-9a-f]+\/layer\//;

/** One connection for several calls: a new one may need the network for its worker's script. */
const connect = (page: Page, branch: string) =>
  page.evaluate(async (branch) => {
    globalThis.pg = await lite.connect(branch, { place: 'local' });
  }, branch);
const query = (page: Page, sql: string) =>
  page.evaluate(async (sql) => (await pg.query<Record<string, unknown>>(sql)).rows, sql);
const disconnect = (page: Page) => page.evaluate(() => pg.close());

const exec = (page: Page, branch: string, sql: string) =>
  page.evaluate(
    async ([branch, sql]) => {
      const pg = await lite.connect(branch!, { place: 'local' });
      await pg.exec(sql!);
      await pg.close();
    },
    [branch, sql],
  );

const rows = (page: Page, branch: string, sql: string) =>
  page.evaluate(
    async ([branch, sql]) => {
      const pg = await lite.connect(branch!, { place: 'local' });
      const { rows } = await pg.query<Record<string, unknown>>(sql!);
      await pg.close();
      return rows;
    },
    [branch, sql],
  );

/** What a rejection says. */
const failure = (page: Page, kind: 'push' | 'pull', branch: string) =>
  page.evaluate(
    async ([kind, branch]) => {
      try {
        await lite[kind as 'push' | 'pull'](branch!);
        return null;
      } catch (error) {
        return error instanceof pagelite.PageliteError ? error.toJSON() : { kind: 'none', message: String(error) };
      }
    },
    [kind, branch],
  );

describe('a branch that was worked on offline', () => {
  it('is pushed, and a Node endpoint sees its rows', async () => {
    const context = await rig.context();
    const page = await rig.tab(context);
    await page.evaluate(() => lite.branch('travel', { from: 'main', place: 'local' }));
    // What is read now is here later.
    await connect(page, 'travel');
    expect(await query(page, 'select count(*)::int as count from notes')).toEqual([{ count: 2000 }]);
    await query(page, "update notes set what = 'online' where id between 1 and 10");
    await query(page, "insert into notes values (-1, 'online')");
    await context.setOffline(true);
    await query(page, "update notes set what = 'offline' where id between 1 and 10");
    await query(page, "insert into notes values (0, 'new')");
    expect(await failure(page, 'push', 'travel')).toMatchObject({ kind: 'unavailable' });
    await context.setOffline(false);
    await disconnect(page);
    const told: unknown = await page.evaluate(async () => {
      const told: unknown[] = [];
      const branch = await lite.push('travel', { progress: (progress) => told.push(progress) });
      return { pushed: branch.pushed, lsn: branch.lsn, told };
    });
    const lsn = expect.stringMatching(/^0\//);
    expect(told).toMatchObject({ pushed: { name: 'travel', lsn }, lsn });
    expect((told as { told: unknown[] }).told.at(-1)).toMatchObject({ unit: 'bytes', total: expect.any(Number) });
    await rig.repository.endpoint('reader', '--branch-name', 'travel');
    expect(await rig.repository.sql('reader', 'select id, what from notes where id < 2 order by id')).toEqual([
      { id: -1, what: 'online' },
      { id: 0, what: 'new' },
      { id: 1, what: 'offline' },
    ]);
    expect(await rig.repository.sql('main', 'select what from notes where id < 2')).toEqual([{ what: 'note 1' }]);
    if (hasProgram('psql')) {
      const { out, code } = await rig.repository.psql(
        'reader',
        'select what from notes where id < 2 order by id',
        '-At',
      );
      expect([code, out]).toEqual([0, 'online\nnew\noffline\n']);
    }
    await context.close();
  });
});

describe('a database that began in the tab', () => {
  it('is pushed over a network that breaks, goes on after a reload, and is pushed again with what is new', async () => {
    const context = await rig.context();
    const page = await rig.tab(context);
    await page.evaluate(() => lite.branch('diary', { place: 'local' }));
    await exec(page, 'diary', 'create table days (id int primary key, what text)');
    await exec(page, 'diary', 'insert into days select i, repeat(md5(i::text), 4) from generate_series(1, 10000) i');
    await breakAfter(context, 2);
    expect(await failure(page, 'push', 'diary')).toMatchObject({ kind: 'unavailable' });
    await context.unroute(layerPath);
    await page.reload();
    await rig.load(page);
    /** How far a push was when it began to send, and what there was to send. */
    const push = () =>
      page.evaluate(async () => {
        const told: Progress[] = [];
        await lite.push('diary', { progress: (progress) => told.push(progress) });
        const sending = told.find(({ text }) => text.startsWith('Sending'))!;
        return { before: sending.done!, total: sending.total! };
      });
    const first = await push();
    expect(first.before).toBeGreaterThan(6_000_000);
    expect(first.total).toBeGreaterThan(20_000_000);
    await exec(page, 'diary', "insert into days values (0, 'later')");
    expect((await push()).total).toBeLessThan(1_000_000);
    await rig.repository.endpoint('diary', '--branch-name', 'diary');
    const [counted] = await rig.repository.sql('diary', 'select count(*)::int as count, min(what) as first from days');
    expect(counted).toMatchObject({ count: 10_001 });
    // Somebody writes there: the tab hears what it can do.
    await rig.repository.sql('diary', "insert into days values (-1, 'server')");
    await exec(page, 'diary', "insert into days values (-2, 'tab')");
    expect(await failure(page, 'push', 'diary')).toMatchObject({
      kind: 'fenced',
      message: expect.stringMatching(/another name/),
    });
    await page.evaluate(() => lite.push('diary', { as: 'diary2' }));
    await rig.repository.endpoint('diary2', '--branch-name', 'diary2');
    expect(await rig.repository.sql('diary2', 'select id from days where id < 0')).toEqual([{ id: -2 }]);
    await context.close();
  });
});

describe('a branch of the server that is pulled', () => {
  it('works without the server and after a reload, and is pushed back', async () => {
    const context = await rig.context();
    const page = await rig.tab(context);
    const pulled = await page.evaluate(async () => {
      const told: { done?: number; total?: number }[] = [];
      const info = await lite.pull('main', { as: 'copy', progress: (progress) => told.push(progress) });
      return { info, first: told[0], last: told.at(-1) };
    });
    expect(pulled.info).toMatchObject({ name: 'copy', place: 'local', broken: null });
    expect(pulled.last!.done).toBe(pulled.last!.total);
    expect(pulled.first!.done).toBeLessThan(pulled.first!.total!);
    await rig.stopConsole();
    await connect(page, 'copy');
    expect(await query(page, 'select count(*)::int as count from notes')).toEqual([{ count: 2000 }]);
    await query(page, "insert into notes values (-1, 'from the copy')");
    await rig.startConsole();
    await page.reload();
    await rig.load(page);
    // The page's own scripts come from the server, too.
    await connect(page, 'copy');
    await rig.stopConsole();
    expect(await query(page, 'select what from notes where id < 1')).toEqual([{ what: 'from the copy' }]);
    await rig.startConsole();
    await page.evaluate(() => lite.push('copy'));
    await rig.repository.endpoint('copy', '--branch-name', 'copy');
    expect(await rig.repository.sql('copy', 'select id, what from notes where id < 1')).toEqual([
      { id: -1, what: 'from the copy' },
    ]);
    await context.close();
  });

  it('that finds no room says so, and goes on once there is', async () => {
    // What the browser cannot compress.
    const noise = `create table noise as select i, (select decode(string_agg(md5(i || ' ' || j), ''), 'hex')
      from generate_series(1, 60) j) from generate_series(1, 25000) i`;
    await rig.repository.sql('main', noise);
    const context = await rig.context();
    const page = await rig.tab(context);
    const protocol = await context.newCDPSession(page);
    const setQuota = (quotaSize?: number) =>
      protocol.send('Storage.overrideQuotaForOrigin', { origin: rig.server, ...(quotaSize && { quotaSize }) });
    // Some layers of the copy have room, and not all of them. Before anything is written: the browser remembers for a while what room there was.
    await setQuota(14_000_000);
    expect(await failure(page, 'pull', 'main')).toMatchObject({
      kind: 'unavailable',
      message: expect.stringMatching(/no room|is full/),
      data: { storageFull: true },
    });
    const names = await page.evaluate(async () => (await lite.branches()).map(({ name, place }) => `${place} ${name}`));
    expect(names).toContain('server main');
    expect(names).not.toContain('local main');
    await setQuota();
    const first = await page.evaluate(async () => {
      const told: number[] = [];
      await lite.pull('main', { as: 'roomy', progress: ({ done }) => told.push(done!) });
      return told[0]!;
    });
    expect(first).toBeGreaterThan(5_000_000);
    expect(await rows(page, 'roomy', 'select count(*)::int as count from notes')).toEqual([{ count: 2000 }]);
    await context.close();
  });

  it('that is cancelled goes on later', async () => {
    const context = await rig.context();
    const page = await rig.tab(context);
    const kind = await page.evaluate(async () => {
      const ending = new AbortController();
      const pulling = lite.pull('main', {
        as: 'later',
        signal: ending.signal,
        progress: ({ done }) => {
          if (done! > 0) ending.abort();
        },
      });
      return pulling.then(
        () => 'pulled',
        (error) => error.kind as string,
      );
    });
    expect(kind).toBe('cancelled');
    expect(await page.evaluate(async () => (await lite.branches()).map(({ name }) => name))).not.toContain('later');
    await page.evaluate(() => lite.pull('main', { as: 'later' }));
    expect(await rows(page, 'later', 'select count(*)::int as count from notes')).toEqual([{ count: 2000 }]);
    await context.close();
  });
});
