/**
 * `import { Pagelite } from 'pagelite/browser'` in an application that Vite builds: the package's exports, its workers and PGlite's files come through a bundler,
 * and work on the application's own origin.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build, type PreviewServer, preview } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebRig } from './support/web-rig.ts';

const packageRoot = resolve(import.meta.dirname, '../..');
const root = mkdtempSync(join(tmpdir(), 'pagelite-app-'));
const headers = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

let rig: WebRig;
let app: PreviewServer;
beforeAll(async () => {
  rig = await WebRig.start();
  mkdirSync(join(root, 'node_modules'));
  symlinkSync(packageRoot, join(root, 'node_modules/pagelite'));
  writeFileSync(join(root, 'package.json'), '{"type": "module"}');
  writeFileSync(
    join(root, 'index.html'),
    '<!doctype html><title>App</title><script type="module" src="./main.js"></script>',
  );
  writeFileSync(join(root, 'main.js'), "import * as pagelite from 'pagelite/browser'; globalThis.pagelite = pagelite;");
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

describe('an application that is built by Vite', () => {
  it('opens a branch of a server and a database of its own', async () => {
    const page = await (await rig.context()).newPage();
    const address = app.httpServer.address() as { port: number };
    await page.goto(`http://127.0.0.1:${address.port}/`);
    await page.waitForFunction('globalThis.pagelite !== undefined');
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
});
