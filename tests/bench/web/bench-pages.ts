/** The pages of the benchmarks and PGlite's own build, cross-origin isolated, on a port of their own. */
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { serveStatic } from '@hono/node-server/serve-static';
import { Hono } from 'hono';
import { packageRoot } from '../../../server/process/package-root.ts';
import { listen } from '../../../server/process/ports.ts';

export interface BenchPages {
  readonly origin: string;
  close(): void;
}

export async function serveBenchPages(): Promise<BenchPages> {
  const app = new Hono();
  app.use(async (c, next) => {
    await next();
    c.header('cross-origin-opener-policy', 'same-origin');
    c.header('cross-origin-embedder-policy', 'require-corp');
    // As a site serves what its build has named after its content: a reload does not ask again.
    if (c.req.path.startsWith('/pglite/')) c.header('cache-control', 'public, max-age=31536000, immutable');
  });
  const folder = (prefix: string, path: string) =>
    app.use(
      `${prefix}*`,
      serveStatic({
        root: join(packageRoot(), path),
        rewriteRequestPath: (requested) => requested.slice(prefix.length - 1),
      }),
    );
  folder('/pglite/', 'node_modules/@electric-sql/pglite/dist');
  folder('/', 'tests/bench/web');
  const server: Server = createServer(getRequestListener(app.fetch));
  const port = await listen(server, '127.0.0.1', 0);
  return {
    origin: `http://127.0.0.1:${port}`,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
