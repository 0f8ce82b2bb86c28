/**
 * The console server: one HTTP origin for pages that work on the repository's branches.
 *
 *   /                      the console (dist/console)
 *   /pagelite/             the browser's modules, workers and PGlite's files (dist/browser-bundle)
 *   /examples/             browser/examples
 *   /api/v1/...            control-api.ts
 *   /api/v1/bridge/...     bridge-sessions.ts: for pages without shared memory
 *   /v1/tenant/...         the pageserver's HTTP API
 *   WS /v1/pagestream      the pageserver's page service
 *   WS /v1/safekeeper/:id/proposer|wal
 *
 * Every page of it is cross-origin isolated (COOP, COEP), so that computes get shared memory; what other origins load carries CORP and CORS.
 * Who may use it is origin-policy.ts. It has no passwords, so it listens on loopback addresses only; where the repository has access control, it
 * passes requests on with the repository's own tokens.
 *
 * Invariant: requests reach the pageserver and the safekeepers of this repository, on the ports that config.json names at that moment.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import { checkListenHost } from '../auth/listen-policy.ts';
import type { Repository } from '../control-plane/repository.ts';
import { HttpStorage } from '../control-plane/storage-clients.ts';
import { pagestreamPath, safekeeperPaths } from '../net/url.ts';
import type { HostPort } from '../pageserver/config.ts';
import { runningPid } from '../process/pid-file.ts';
import { listen } from '../process/ports.ts';
import { BridgeSessions, bridgePath } from './bridge-sessions.ts';
import { controlApi } from './control-api.ts';
import { corsHeaders, isAllowedHost, isAllowedOrigin, type OriginPolicy } from './origin-policy.ts';
import { endSocket, type ProxyTarget, proxyHttp, proxyWebSocket } from './proxy.ts';
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
  'x-content-type-options': 'nosniff',
};

export async function serveConsole(options: ConsoleServerOptions): Promise<ConsoleServer> {
  const { repository, log } = options;
  checkListenHost('console', options.listen.host, false, 'It has no passwords: reach it through a tunnel (ssh -L)');
  const storage = new HttpStorage(repository);
  const api = controlApi({ repository, storage, version: options.version, log });
  const serveApi = getRequestListener(api.fetch);
  const bridges = new BridgeSessions(repository, log);
  const serveFile = getRequestListener(staticFiles().fetch);

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { origin } = request.headers;
    const refusal = refusalOf(options, request);
    if (refusal !== null) {
      refuse(response, 403, refusal);
      return;
    }
    const headers = { ...isolation, ...corsHeaders(origin) };
    if (request.method === 'OPTIONS') {
      response.writeHead(204, headers).end();
      return;
    }
    const url = urlOf(request);
    if (url === null) {
      refuse(response, 400, 'the address of the request is malformed');
      return;
    }
    const path = url.pathname;
    if (path.startsWith('/v1/tenant/')) {
      await proxyHttp(request, response, pageserverApi(repository, url), headers);
      return;
    }
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    if (path.startsWith(bridgePath)) {
      await bridges.handle(request, response);
      return;
    }
    await (path.startsWith('/api/') ? serveApi : serveFile)(request, response);
  };

  const sockets = new Set<Socket>();
  const upgrade = (request: IncomingMessage, socket: Socket, head: Buffer): void => {
    socket.on('error', () => socket.destroy());
    if (refusalOf(options, request) !== null) {
      endSocket(socket, '403 Forbidden');
      return;
    }
    let target: ProxyTarget | null;
    try {
      target = targetOf(repository, urlOf(request));
    } catch (error) {
      log.error('a connection failed', { path: request.url, error: messageOf(error) });
      endSocket(socket, '503 Service Unavailable');
      return;
    }
    if (target === null) {
      endSocket(socket, '404 Not Found');
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
  // The server listens on TCP only.
  server.on('upgrade', (request, socket, head) => upgrade(request, socket as Socket, head));
  const port = await listen(server, options.listen.host, options.listen.port);
  return {
    port,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      for (const socket of sockets) socket.destroy();
      await bridges.close();
      await closed;
    },
  };
}

/** Why the request is not for this server, or its page may not make it; null if all is well. */
function refusalOf(policy: OriginPolicy, { headers: { host, origin } }: IncomingMessage): string | null {
  if (!isAllowedHost(policy, host)) {
    return `the host name "${host}" is not one of this server. Allow it with: --allow-origin http://${host}`;
  }
  if (isAllowedOrigin(policy, origin, host)) return null;
  return `pages of ${origin} may not use this server. Allow it with: --allow-origin ${origin}`;
}

/** With `..` resolved, so that what begins with a path is below it. */
function urlOf({ url = '/' }: IncomingMessage): URL | null {
  const path = url.startsWith('/') ? `http://localhost${url}` : url;
  return URL.canParse(path) ? new URL(path) : null;
}

function pageserverApi(repository: Repository, { pathname, search }: URL): ProxyTarget {
  const port = repository.readConfig().pageserver.httpPort;
  return {
    server: 'pageserver',
    host: repository.connectHost,
    port,
    pid: runningPid(repository.pageserverPidFile),
    path: pathname + search,
    token: repository.tokensFor('pageserver')(),
  };
}

/** Where a WebSocket goes; null if nowhere. */
function targetOf(repository: Repository, url: URL | null): ProxyTarget | null {
  const { pageserver, safekeepers } = repository.readConfig();
  if (url?.pathname === '/v1/pagestream') {
    const pid = runningPid(repository.pageserverPidFile);
    const token = repository.tokensFor('pageserver')();
    return {
      server: 'pageserver',
      host: repository.connectHost,
      port: pageserver.pgPort,
      pid,
      path: pagestreamPath,
      token,
    };
  }
  const match = /^\/v1\/safekeeper\/(\d{1,9})(\/[a-z]+)$/.exec(url?.pathname ?? '');
  const safekeeper = match && safekeepers.find(({ id }) => id === Number(match[1]));
  const path = Object.values(safekeeperPaths).find((known) => known === match?.[2]);
  if (!safekeeper || !path) return null;
  const pid = runningPid(repository.safekeeperPidFile(safekeeper.id));
  return {
    server: `safekeeper ${safekeeper.id}`,
    host: repository.connectHost,
    port: safekeeper.pgPort,
    pid,
    path,
    token: repository.tokensFor('safekeeper')(),
  };
}

function refuse(response: ServerResponse, status: number, msg: string): void {
  response.writeHead(status, { 'content-type': 'application/json', 'x-content-type-options': 'nosniff' });
  response.end(JSON.stringify({ msg, kind: status < 500 ? 'invalid' : 'unavailable', data: {} }));
}
