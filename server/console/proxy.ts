/**
 * Passing requests on to the repository's pageserver and safekeepers, so that a page needs one origin: HTTP as streams in both directions, and
 * WebSockets as the bytes of their connection.
 *
 * Invariants
 * - nothing is buffered beyond the sockets' own windows: a slow side slows the other one
 * - when one side ends, the other does; a target that is not there is 502, with the command that starts it
 */
import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { localhost } from '../control-plane/repository.ts';
import { forPidHeader } from '../process/http-errors.ts';

/** RFC 9110, 7.6.1: they are about one connection. */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'origin',
]);

/** To the process `pid`, and to nobody else that has its port by now. `extra` are headers of the answer. */
export async function proxyHttp(
  request: IncomingMessage,
  response: ServerResponse,
  { port, pid }: { readonly port: number; readonly pid: number | null },
  extra: OutgoingHttpHeaders,
): Promise<void> {
  const headers = { ...endToEnd(request.headers), [forPidHeader]: String(pid) };
  const target = httpRequest({
    host: localhost,
    port,
    path: request.url,
    method: request.method,
    headers,
    agent: false,
  });
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    target.on('response', resolve);
    target.on('error', reject);
  });
  const sent = pipeline(request, target).catch((error: unknown) => {
    target.destroy(error as Error);
  });
  // Whoever asked is gone.
  response.on('close', () => target.destroy());
  let answer: IncomingMessage;
  try {
    answer = await answered;
  } catch (error) {
    refuse(response, 502, error as Error, extra);
    return;
  }
  response.writeHead(answer.statusCode ?? 502, { ...endToEnd(answer.headers), ...extra });
  await pipeline(answer, response).catch(() => response.destroy());
  await sent;
}

/** The upgrade request as it came, with another path, and from then on bytes. */
export function proxyWebSocket(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  target: { readonly port: number; readonly path: string },
): void {
  const upstream = connect(target.port, localhost);
  const drop = () => {
    socket.destroy();
    upstream.destroy();
  };
  socket.on('error', drop);
  upstream.on('error', () => {
    if (upstream.bytesRead === 0 && socket.writable)
      socket.end('HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n');
    drop();
  });
  upstream.once('connect', () => {
    upstream.setNoDelay(true);
    upstream.write(upgradeRequest(request, target));
    if (head.length > 0) upstream.write(head);
    socket.pipe(upstream);
    upstream.pipe(socket);
  });
  socket.on('close', drop);
  upstream.on('close', drop);
}

function upgradeRequest(request: IncomingMessage, { port, path }: { port: number; path: string }): string {
  const lines = [`GET ${path} HTTP/1.1`, `Host: ${localhost}:${port}`];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const name = request.rawHeaders[i]!;
    if (/^(host|origin)$/i.test(name)) continue;
    lines.push(`${name}: ${request.rawHeaders[i + 1]}`);
  }
  return `${lines.join('\r\n')}\r\n\r\n`;
}

function endToEnd(headers: IncomingMessage['headers']): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !hopByHop.has(name)));
}

function refuse(response: ServerResponse, status: number, error: Error, extra: OutgoingHttpHeaders): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const msg = `the pageserver does not answer (${error.message}). Start it with: pagelite start`;
  response.writeHead(status, { 'content-type': 'application/json', ...extra });
  response.end(JSON.stringify({ msg, kind: 'unavailable', data: {} }));
}
