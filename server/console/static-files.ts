/**
 * The files of the console, of the browser build and of the examples, from the package's own folders. What the build names after its content may be
 * kept by a browser for good; of everything else it asks whether it is still the same.
 *
 * Paths cannot leave the folders: `..`, `.`, `\` and `%` in one are not found, before a file is looked for.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { serveStatic } from '@hono/node-server/serve-static';
import { type Context, Hono, type MiddlewareHandler } from 'hono';
import { answerNotFound } from '../process/http-errors.ts';
import { packageRoot } from '../process/package-root.ts';

/** Eight characters of base64 from Vite. A word of lower-case letters is none, and is asked for again. */
const hashed = /[-.](?=[a-z-]*[A-Z0-9_])[A-Za-z0-9_-]{8}\.(?:js|css|wasm|data|woff2)$/;

const notBuilt = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Pagelite</title>
<h1>The console is not built</h1>
<p>In the checkout: <code>npm run build</code>, then load this page again.
<p>The API is there: <a href="/api/v1/status">/api/v1/status</a>.`;

const folders = [
  { prefix: '/pagelite/', path: 'dist/browser-bundle' },
  { prefix: '/examples/', path: 'browser/examples' },
  { prefix: '/', path: 'dist/console' },
] as const;

export function staticFiles(root: string = packageRoot()): Hono {
  const app = new Hono();
  app.use(async (c, next) => {
    await next();
    const kept = hashed.test(c.req.path) && c.res.status === 200;
    c.header('cache-control', kept ? 'public, max-age=31536000, immutable' : 'no-cache');
    await answerUnchanged(c);
  });
  for (const { prefix, path } of folders) {
    if (prefix !== '/') app.get(prefix.slice(0, -1), (c) => c.redirect(prefix, 308));
    app.use(`${prefix}*`, folder(prefix, resolve(root, path)));
  }
  app.get('/', (c) => c.html(notBuilt, 503));
  app.notFound(answerNotFound);
  return app;
}

/** The folder may be built, or built again, while the server runs. */
function folder(prefix: string, root: string): MiddlewareHandler {
  let serve: MiddlewareHandler | null = null;
  return (c, next) => {
    if (serve === null && !existsSync(root)) return next();
    serve ??= serveStatic({ root, rewriteRequestPath: (requested) => requested.slice(prefix.length - 1) });
    return serve(c, next);
  };
}

/** The browser has this version of the file. */
async function answerUnchanged(c: Context): Promise<void> {
  const modified = c.res.headers.get('last-modified');
  if (c.res.status !== 200 || modified === null || c.req.header('if-modified-since') !== modified) return;
  const { body, headers } = c.res;
  await body?.cancel();
  headers.delete('content-length');
  c.res = new Response(null, { status: 304, headers });
}
