/**
 * The pageserver's port for computes: WebSocket connections, each served by pagestream-handler.ts. A plain HTTP request to it is told where it is.
 */
import { createServer, type Server } from 'node:http';
import { PageliteError } from '../../engine/errors.ts';
import type { Access } from '../auth/access.ts';
import { admitUpgrade } from '../auth/upgrade-guard.ts';
import { pagestreamPath } from '../net/url.ts';
import { WebSocketAcceptor } from '../net/ws-channel.ts';
import { listen } from '../process/ports.ts';
import { type PagestreamHost, servePagestream } from './pagestream-handler.ts';

export interface PagestreamListener {
  readonly port: number;
  /** Connections that are open. */
  readonly connectionCount: number;
  /** All that there were. */
  readonly acceptedCount: number;
  /** Closes the port and every connection; computes connect again elsewhere or later. */
  close(): Promise<void>;
}

export async function listenPagestream(
  host: PagestreamHost,
  address: string,
  port: number,
  access: Access | null = null,
): Promise<PagestreamListener> {
  const acceptor = new WebSocketAcceptor();
  const server = createServer((_request, response) => {
    response.writeHead(426, { connection: 'Upgrade', upgrade: 'websocket', 'content-type': 'text/plain' });
    response.end(`This port speaks the pagestream protocol over a WebSocket at ${pagestreamPath}.\n`);
  });
  let connectionCount = 0;
  let acceptedCount = 0;
  server.on('upgrade', (request, socket, head) => {
    // Until the handshake is done errors of the socket are ours.
    socket.on('error', () => socket.destroy());
    if (request.url !== pagestreamPath) {
      socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n');
      return;
    }
    const peer = `${request.socket.remoteAddress}:${request.socket.remotePort}`;
    admitUpgrade(access, request, socket, host.log, (authorize) => {
      const open: PagestreamHost['open'] = (id) => {
        authorize(id.tenantId);
        return host.open(id);
      };
      acceptor.upgrade(request, socket, head, (channel) => {
        connectionCount++;
        acceptedCount++;
        socket.once('close', () => connectionCount--);
        servePagestream(channel, { ...host, open }, peer);
      });
    });
  });
  const bound = await listen(server, address, port);
  return {
    port: bound,
    get connectionCount() {
      return connectionCount;
    },
    get acceptedCount() {
      return acceptedCount;
    },
    close: async () => {
      const closed = closeServer(server);
      acceptor.close(new PageliteError('unavailable', 'the pageserver is stopping'));
      await closed;
    },
  };
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeIdleConnections();
  });
}
