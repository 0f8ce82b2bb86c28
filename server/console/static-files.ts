/**
 * The files of the console, of the browser build and of the examples, from the package's own folders. What the build names after its content may be
 * kept by a browser for good; everything else is asked for again.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { serveStatic } from '@hono/node-server/serve-static';
import { Hono } from 'hono';
import { packageRoot } from '../process/package-root.ts';

const hashed = /[-.][A-Za-z0-9_-]{8,}\.(?:js|css|wasm|data|woff2)$/;

const notBuilt = `<!doctype html><meta charset="utf-8"><title>Pagelite</title>
<p>The console is not built. In the checkout: <code>npm run build</code>. The API is at <a href="/api/v1/status">/api/v1/status</a>.`;

export function staticFiles(): Hono {
  const app = new Hono();
  const root = packageRoot();
  app.use(async (c, next) => {
    await next();
    const kept = hashed.test(c.req.path) && c.res.status === 200;
    c.header('cache-control', kept ? 'public, max-age=31536000, immutable' : 'no-cache');
  });
  const folder = (prefix: string, path: string) =>
    app.use(
      `${prefix}*`,
      serveStatic({ root: resolve(root, path), rewriteRequestPath: (requested) => requested.slice(prefix.length - 1) }),
    );
  folder('/pagelite/', 'dist/browser-bundle');
  folder('/examples/', 'browser/examples');
  folder('/', 'dist/console');
  app.get('/', (c) => (existsSync(join(root, 'dist/console/index.html')) ? c.notFound() : c.html(notBuilt, 503)));
  app.notFound((c) => c.json({ msg: `there is no ${c.req.path}`, kind: 'notFound', data: {} }, 404));
  return app;
}
