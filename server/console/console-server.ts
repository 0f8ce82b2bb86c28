/**
 * The console server: one HTTP origin for pages that work on the repository's branches.
 *
 *   /                      the console (dist/console)
 *   /pagelite/             the browser's modules, workers and PGlite's files (dist/browser-bundle)
 *   /examples/             browser/examples
 *   /api/v1/...            control-api.ts
 *   /v1/tenant/...         the pageserver's HTTP API
 *   WS /v1/pagestream      the pageserver's page service
 *   WS /v1/safekeeper/:id/proposer|wal
 *
 * Every page of it is cross-origin isolated (COOP, COEP), so that computes get shared memory; what other origins load carries CORP and CORS.
 * Who may use it is origin-policy.ts.
 *
 * Invariant: requests reach the pageserver and the safekeepers of this repository, on the ports that config.json names at that moment.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { getRequestListener } from '@hono/node-server';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import type { Repository } from '../control-plane/repository.ts';
import { HttpStorage } from '../control-plane/storage-clients.ts';
import type { HostPort } from '../pageserver/config.ts';
import { pagestreamPath } from '../pageserver/pagestream-listener.ts';
import { runningPid } from '../process/pid-file.ts';
import { listen } from '../process/ports.ts';
import { safekeeperPaths } from '../safekeeper/connect.ts';
import { controlApi } from './control-api.ts';
import { corsHeaders, isAllowedHost, isAllowedOrigin, type OriginPolicy } from './origin-policy.ts';
import { proxyHttp, proxyWebSocket } from './proxy.ts';
import { staticFiles } from './static-files.ts';

export interface ConsoleServerOptions extends OriginPolicy {
  readonly repository: Repository;
  readonly listen: HostPort;
  /** Of the npm package. */
  readonly version: string;
  readonly log: Log;
}

export interface ConsoleServer {
  readonly port: number;
  close(): Promise<void>;
}

const isolation = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'cross-origin',
};

export async function serveConsole(options: ConsoleServerOptions): Promise<ConsoleServer> {
  const { repository, log } = options;
  const storage = new HttpStorage(repository);
  const api = controlApi({ repository, storage, version: options.version, log });
  const serveApi = getRequestListener(api.fetch);
  const serveFile = getRequestListener(staticFiles().fetch);

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { origin, host } = request.headers;
    if (!isAllowedHost(options, host)) {
      refuse(response, 403, `the host name "${host}" is not one of this server. Allow it with --allow-origin`);
      return;
    }
    if (!isAllowedOrigin(options, origin)) {
      refuse(response, 403, `pages of ${origin} may not use this server. Allow it with --allow-origin ${origin}`);
      return;
    }
    const headers = { ...isolation, ...corsHeaders(origin) };
    if (request.method === 'OPTIONS') {
      response.writeHead(204, headers).end();
      return;
    }
    const path = request.url ?? '/';
    if (path.startsWith('/v1/tenant/')) {
      const target = {
        port: repository.readConfig().pageserver.httpPort,
        pid: runningPid(repository.pageserverPidFile),
      };
      await proxyHttp(request, response, target, headers);
      return;
    }
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    await (path.startsWith('/api/') ? serveApi : serveFile)(request, response);
  };

  const sockets = new Set<Duplex>();
  const upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on('error', () => socket.destroy());
    const { origin, host } = request.headers;
    const target =
      isAllowedHost(options, host) && isAllowedOrigin(options, origin) ? targetOf(repository, request) : null;
    if (target === null) {
      socket.end('HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n');
      return;
    }
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    proxyWebSocket(request, socket, head, target);
  };

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      log.error('a request failed', { request: `${request.method} ${request.url}`, error: messageOf(error) });
      if (response.headersSent) response.destroy();
      else refuse(response, isPageliteError(error) ? 503 : 500, messageOf(error));
    });
  });
  server.on('upgrade', upgrade);
  const port = await listen(server, options.listen.host, options.listen.port);
  return {
    port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** Where a WebSocket goes; null if nowhere. */
function targetOf(repository: Repository, request: IncomingMessage): { port: number; path: string } | null {
  const { pathname } = new URL(request.url ?? '/', 'http://localhost');
  const { pageserver, safekeepers } = repository.readConfig();
  if (pathname === '/v1/pagestream') return { port: pageserver.pgPort, path: pagestreamPath };
  const match = /^\/v1\/safekeeper\/(\d+)(\/[a-z]+)$/.exec(pathname);
  const safekeeper = match && safekeepers.find(({ id }) => id === Number(match[1]));
  const path = Object.values(safekeeperPaths).find((known) => known === match?.[2]);
  return safekeeper && path ? { port: safekeeper.pgPort, path } : null;
}

function refuse(response: ServerResponse, status: number, msg: string): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ msg, kind: status === 403 ? 'invalid' : 'unavailable', data: {} }));
}
