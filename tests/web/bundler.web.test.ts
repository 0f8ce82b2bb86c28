/**
 * `import { Pagelite } from 'pagelite/browser'` in an application that Vite builds: the package's exports, its workers and PGlite's files come through a bundler,
 * and work on the application's own origin.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { pg_trgm } from '@electric-sql/pglite/contrib/pg_trgm';
import type { live } from '@electric-sql/pglite/live';
import type { Page } from 'playwright-core';
import { build, type PreviewServer, preview } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebRig } from './support/web-rig.ts';

const packageRoot = resolve(import.meta.dirname, '../..');
const root = mkdtempSync(join(tmpdir(), 'pagelite-app-'));
const headers = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

declare global {
  /** What the application imports of PGlite. */
  var extensions: { live: typeof live; pg_trgm: typeof pg_trgm };
}

let rig: WebRig;
let app: PreviewServer;
beforeAll(async () => {
  rig = await WebRig.start();
  mkdirSync(join(root, 'node_modules'));
  symlinkSync(packageRoot, join(root, 'node_modules/pagelite'));
  symlinkSync(join(packageRoot, 'node_modules/@electric-sql'), join(root, 'node_modules/@electric-sql'));
  writeFileSync(join(root, 'package.json'), '{"type": "module"}');
  writeFileSync(
    join(root, 'index.html'),
    '<!doctype html><title>App</title><script type="module" src="./main.js"></script>',
  );
  writeFileSync(
    join(root, 'main.js'),
    `import * as pagelite from 'pagelite/browser';
    import { live } from '@electric-sql/pglite/live';
    import { pg_trgm } from '@electric-sql/pglite/contrib/pg_trgm';
    globalThis.extensions = { live, pg_trgm };
    globalThis.pagelite = pagelite;`,
  );
  await build({ root, configFile: false, logLevel: 'error', worker: { format: 'es' } });
  app = await preview({
    root,
    configFile: false,
    logLevel: 'error',
    preview: { host: '127.0.0.1', port: 0, headers },
  });
});
afterAll(async () => {
  await app?.close();
  await rig?.close();
  rmSync(root, { recursive: true, force: true });
});

async function openApp(): Promise<Page> {
  const page = await (await rig.context()).newPage();
  const address = app.httpServer.address() as { port: number };
  await page.goto(`http://127.0.0.1:${address.port}/`);
  await page.waitForFunction('globalThis.pagelite !== undefined');
  return page;
}

describe('an application that is built by Vite', () => {
  it('opens a branch of a server and a database of its own', async () => {
    const page = await openApp();
    const answer = await page.evaluate(async (server) => {
      const lite = await pagelite.Pagelite.open({ server });
      const there = await lite.connect('main');
      await there.exec('create table from_the_app (n int)');
      await lite.branch('mine', { from: 'main', place: 'local' });
      const here = await lite.connect('mine');
      const { rows } = await here.query('select count(*)::int as n from from_the_app');
      const places = [there.place, here.place];
      await lite.close();
      return { rows, places, isolated: crossOriginIsolated };
    }, rig.server);
    expect(answer).toEqual({ rows: [{ n: 0 }], places: ['server', 'hybrid'], isolated: true });
  });

  it("hands over PGlite's extensions: live queries, and a module with files", async () => {
    const page = await openApp();
    const answer = await page.evaluate(async (server) => {
      const lite = await pagelite.Pagelite.open({ server });
      await lite.branch('alive', { place: 'local' });
      const pg = await lite.connect('alive', { extensions });
      await pg.exec('create extension pg_trgm; create table t (n int)');
      const counts: number[] = [];
      let isThere = () => {};
      const arrived = new Promise<void>((resolve) => {
        isThere = resolve;
      });
      const counted = await pg.live.query<{ n: number }>('select count(*)::int as n from t', [], ({ rows }) => {
        counts.push(rows[0]!.n);
        if (rows[0]!.n === 2) isThere();
      });
      await pg.query('insert into t values ($1), ($2)', [1, 2]);
      await arrived;
      await counted.unsubscribe();
      const { rows } = await pg.query("select round(similarity('branch', 'branches')::numeric, 2)::text as alike");
      await lite.close();
      return { counts, rows };
    }, rig.server);
    expect(answer).toEqual({ counts: [0, 2], rows: [{ alike: '0.60' }] });
  });
});
