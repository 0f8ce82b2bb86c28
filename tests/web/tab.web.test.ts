/**
 * The tab's API over its own repository: names on both sides, branches of branches, reload, a killed browser, a second tab.
 *
 * What the repository itself survives is in local.web.test.ts; here it is the way from a page to it. What must hold: what was acknowledged is there, a name
 * is never guessed, and whoever cannot have the repository is told who has it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { beginInserts } from './support/counted-inserts.ts';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
});
afterAll(() => rig?.close());

const alone = { open: { server: null } } as const;

describe('a tab without a server', () => {
  it('makes a database, branches of it, and has them after a reload', async () => {
    const page = await rig.tab(await rig.context(), alone);
    const made = await page.evaluate(async () => {
      const texts: string[] = [];
      await lite.close();
      globalThis.lite = await pagelite.Pagelite.open({ progress: ({ text }) => texts.push(text) });
      const before = await lite.branches();
      await lite.branch('main');
      const pg = await lite.connect('main');
      await pg.exec('create table t (n int); insert into t values (1)');
      const { rows } = await pg.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn');
      await pg.exec('insert into t values (2)');
      await pg.close();
      await lite.branch('head', { from: 'main' });
      await lite.branch('past', { from: 'main', lsn: rows[0]!.lsn });
      return { before, texts, place: pg.place };
    });
    // The template came with the bundle.
    expect(made).toEqual({ before: [], texts: [], place: 'local' });
    await page.reload();
    await rig.load(page, alone);
    const seen = await page.evaluate(async () => {
      const count = async (branch: string) => {
        const pg = await lite.connect(branch);
        const { rows } = await pg.query<{ n: number }>('select count(*)::int as n from t');
        const { fromServer, fromTab } = await pg.pageCounters();
        await pg.close();
        return [rows[0]!.n, fromServer, fromTab > 0];
      };
      const counts = [await count('main'), await count('head'), await count('past')];
      const branches = await lite.branches();
      const past = await lite.reset('past');
      const refused = await lite.delete('main').catch((error: Error) => error.message);
      await lite.delete('head');
      const { usedBytes, quotaBytes } = await lite.storage();
      const layers = await lite.layers('past');
      const again = await count('past');
      const left = (await lite.branches()).map(({ name }) => name).sort();
      await lite.close();
      return { counts, branches, past, refused, left, again, room: usedBytes < quotaBytes, layers };
    });
    expect(seen.counts).toEqual([
      [2, 0, true],
      [2, 0, true],
      [1, 0, true],
    ]);
    expect(seen.branches.map(({ name, place }) => `${name} ${place}`).sort()).toEqual([
      'head local',
      'main local',
      'past local',
    ]);
    expect(seen.branches.find(({ name }) => name === 'past')!.ancestor).toMatchObject({ name: 'main', place: 'local' });
    expect(seen.again).toEqual([2, 0, true]);
    expect(seen.refused).toMatch(/began from it/);
    expect(seen).toMatchObject({ left: ['main', 'past'], room: true });
    expect(seen.layers.inMemory.length + seen.layers.files.length).toBeGreaterThan(0);
  });

  it('has every acknowledged commit after its browser was killed', async () => {
    const profile = rig.newProfile();
    const before = await rig.browser(profile);
    const page = await rig.tab(before, alone);
    await page.evaluate(() => lite.branch('main'));
    const acknowledged = await beginInserts(page);
    await rig.kill(before);
    const after = await rig.browser(profile);
    const again = await rig.tab(after, alone);
    const row = await again.evaluate(async () => {
      const pg = await lite.connect('main');
      const { rows } = await pg.query<{ n: number; max: number }>('select count(*)::int as n, max(n) from counted');
      await lite.close();
      return rows[0]!;
    });
    expect(row.max).toBeGreaterThanOrEqual(acknowledged);
    expect(row.n).toBe(row.max);
  });
});

describe('a tab with a server', () => {
  it('lists both sides, and never guesses which branch a name means', async () => {
    const page = await rig.tab(await rig.context());
    const answer = await page.evaluate(async () => {
      const of = (run: Promise<unknown>) =>
        run.then(() => 'fine').catch((error: Error & { kind?: string }) => `${error.kind}: ${error.message}`);
      const mine = await lite.branch('mine', { from: 'main', place: 'local' });
      await lite.branch('main', { place: 'local' });
      const branches = (await lite.branches()).map(({ name, place }) => `${name} ${place}`).sort();
      const unsaid = await of(lite.connect('main'));
      const here = await lite.connect('main', { place: 'local' });
      const there = await lite.connect('main', { place: 'server' });
      const places = [here.place, there.place];
      const taken = await of(lite.branch('mine', { place: 'local' }));
      await lite.close();
      return { mine, branches, unsaid, places, taken };
    });
    expect(answer.mine).toMatchObject({ name: 'mine', place: 'hybrid', ancestor: { name: 'main', place: 'server' } });
    expect(answer.branches).toEqual(['main local', 'main server', 'mine hybrid']);
    expect(answer.unsaid).toMatch(/^invalid: branch "main" is in this tab and on the server/);
    expect(answer.places).toEqual(['local', 'server']);
    expect(answer.taken).toMatch(/^invalid: .*mine/);
  });

  it('lets one tab have the repository; the other has the server, and hears why', async () => {
    const context = await rig.context();
    const first = await rig.tab(context);
    await first.evaluate(() => lite.branch('mine', { from: 'main', place: 'local' }));
    const second = await rig.tab(context);
    const answer = await second.evaluate(async (server) => {
      const texts: string[] = [];
      await lite.close();
      globalThis.lite = await pagelite.Pagelite.open({ server, progress: ({ text }) => texts.push(text) });
      const of = (run: Promise<unknown>) =>
        run.then(() => 'fine').catch((error: Error & { kind?: string }) => `${error.kind}: ${error.message}`);
      const branches = (await lite.branches()).map(({ name, place }) => `${name} ${place}`);
      const mine = await of(lite.connect('mine'));
      const main = await lite.connect('main', { place: 'server' });
      const { rows } = await main.query('select 1 as one');
      const offline = await pagelite.Pagelite.open();
      const alone = await of(offline.branches());
      return { branches, mine, rows, alone, texts };
    }, rig.server);
    expect(answer.branches).toEqual(['main server']);
    expect(answer.mine).toMatch(/^invalid: the repository "pagelite" is open in another tab/);
    expect(answer.alone).toMatch(/^invalid: the repository "pagelite" is open in another tab/);
    expect(answer.texts.join()).toMatch(/open in another tab/);
    expect(answer.rows).toEqual([{ one: 1 }]);
    // Once the first is gone, it is the second's.
    await first.close();
    const after = await second.evaluate(async () =>
      (await lite.branches()).map(({ name, place }) => `${name} ${place}`),
    );
    expect(after).toEqual(['main server', 'mine hybrid']);
  });

  it('has its own branches while the server is away', async () => {
    const page = await rig.tab(await rig.context());
    await page.evaluate(async () => {
      await lite.branch('own', { place: 'local' });
    });
    await rig.stopConsole();
    const away = await page.evaluate(async () => {
      const branches = (await lite.branches()).map(({ name }) => name);
      const first = await lite.connect('own');
      await first.close();
      // Not even a worker's script can be fetched.
      const pg = await lite.connect('own');
      const { rows } = await pg.query('select 1 as one');
      await pg.close();
      const main = await lite.connect('main').catch((error: Error & { kind?: string }) => `${error.kind}`);
      return { branches, rows, main };
    });
    await rig.startConsole();
    const back = await page.evaluate(async () => {
      const branches = (await lite.branches()).map(({ name }) => name).sort();
      await lite.close();
      return branches;
    });
    expect(away).toEqual({ branches: ['own'], rows: [{ one: 1 }], main: 'unavailable' });
    expect(back).toEqual(['main', 'own']);
  });
});

describe('what is not there', () => {
  it('a moment that a branch does not have, or has no more, is refused with the reason, on both sides', async () => {
    const page = await rig.tab(await rig.context());
    const told = await page.evaluate(async () => {
      await lite.branch('mine', { from: 'main', place: 'local' });
      const year = 365 * 24 * 3600 * 1000;
      const moments = [{ lsn: '0/8' }, { lsn: 'F/0' }, { lsn: 'nonsense' }, { at: new Date(Date.now() + year) }];
      const before = { at: new Date('2001-02-03T04:05:06Z') };
      const answers: string[][] = [];
      for (const branch of ['main', 'mine']) {
        const refusals: string[] = [];
        for (const moment of [...moments, before]) {
          const answer = await lite.connect(branch, moment).then(
            (pg) => pg.close().then(() => 'opened'),
            (error: Error & { kind?: string }) => `${error.kind}: ${error.message}`,
          );
          refusals.push(answer);
        }
        answers.push(refusals);
      }
      // The rest goes on.
      const pg = await lite.connect('mine');
      await pg.exec('create table goes_on ()');
      await lite.close();
      return answers;
    });
    expect(told).toEqual([
      [
        expect.stringMatching(/^invalid: LSN 0\/8 is before the start of branch "main" at 0\/[0-9A-F]+/),
        expect.stringMatching(/^invalid: LSN F\/0 is past the end of branch "main" at 0\/[0-9A-F]+/),
        expect.stringMatching(/^invalid: malformed LSN "nonsense"/),
        expect.stringMatching(/^invalid: .* is in the future/),
        expect.stringMatching(/^invalid: branch "main" has no commits/),
      ],
      [
        expect.stringMatching(/^invalid: branch "mine" has no LSN 0\/8: it goes from 0\/[0-9A-F]+ to/),
        expect.stringMatching(/^invalid: branch "mine" has no LSN F\/0: it goes from/),
        expect.stringMatching(/^invalid: malformed LSN "nonsense"/),
        expect.stringMatching(/^invalid: .* is in the future/),
        expect.stringMatching(/^invalid: branch "mine" has no commits/),
      ],
    ]);
  });

  it('pages of a server branch that was deleted are missed by name; what is in the tab works on', async () => {
    await rig.repository.ok('timeline', 'branch', '--branch-name', 'doomed');
    const page = await rig.tab(await rig.context());
    await page.evaluate(async () => {
      const there = await lite.connect('doomed', { place: 'server' });
      await there.exec('create table small as select 1 as n');
      await there.exec('create table big as select g, repeat(md5(g::text), 30) as v from generate_series(1, 5000) g');
      await there.close();
      await lite.branch('orphan', { from: 'doomed', place: 'local' });
      const here = await lite.connect('orphan');
      await here.query('select n from small');
      await here.exec('create table own as select 2 as n');
      await here.close();
    });
    await rig.repository.ok('timeline', 'delete', '--branch-name', 'doomed');
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('orphan');
      const { rows } = await pg.query('select small.n, own.n as own from small, own');
      const lost = await pg
        .query('select sum(length(v)) from big')
        .catch((error: Error & { detail?: string }) => [error.message, error.detail]);
      await pg.exec('insert into own values (3)');
      const { rows: after } = await pg.query('select count(*)::int as n from own');
      const reset = await lite
        .reset('orphan')
        .catch((error: Error & { kind?: string }) => `${error.kind}: ${error.message}`);
      await lite.close();
      return { rows, lost, after, reset };
    });
    expect(answer.rows).toEqual([{ n: 1, own: 2 }]);
    expect(answer.lost).toEqual([
      expect.stringMatching(/could not read blocks/),
      expect.stringMatching(/timeline [0-9a-f]{32}/),
    ]);
    expect(answer.after).toEqual([{ n: 2 }]);
    expect(answer.reset).toMatch(/^notFound: /);
  });
});
