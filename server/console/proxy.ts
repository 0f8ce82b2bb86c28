/**
 * Passing requests on to the repository's pageserver and safekeepers, so that a page needs one origin: HTTP as streams in both directions, and
 * WebSockets as the bytes of their connection.
 *
 * Invariants
 * - nothing is buffered beyond the sockets' own windows: a slow side slows the other one. Limits of messages and bodies are the target's
 * - when one side ends, the other does, after it has got what was sent before: a refusal's text, a WebSocket's reason for closing
 * - it reaches the process that the repository's pid file names, or nobody: its port may be another program's by now
 */
import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { messageOf } from '../../engine/errors.ts';
import { urlHost } from '../net/url.ts';
import { forPidHeader } from '../process/misdirected.ts';

/** A server of the repository. */
export interface ProxyTarget {
  /** For messages: "pageserver". */
  readonly server: string;
  readonly host: string;
  readonly port: number;
  /** Goes with the request, instead of what the page sends. */
  readonly token: string | null;
  /** Null: it does not run. */
  readonly pid: number | null;
  /** What is asked for there, with the query. */
  readonly path: string;
}

/** About one connection (RFC 9110, 7.6.1), or between this server and the page. */
const notForwarded = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
  'host',
  'origin',
  'authorization',
  forPidHeader,
]);
const misdirected = 421;

/** `extra` are headers of the answer. */
export async function proxyHttp(
  request: IncomingMessage,
  response: ServerResponse,
  target: ProxyTarget,
  extra: OutgoingHttpHeaders,
): Promise<void> {
  const answer = await ask(request, response, target).catch((error: unknown) => messageOf(error));
  // Whoever asked is gone.
  if (response.destroyed) return;
  if (typeof answer === 'string' || answer.statusCode === misdirected) {
    const why = typeof answer === 'string' ? answer : 'another process has its port';
    const msg = `the ${target.server} does not answer (${why}). Start it with: pagelite start`;
    response.writeHead(502, { ...extra, 'content-type': 'application/json' });
    response.end(JSON.stringify({ msg, kind: 'unavailable', data: {} }));
    return;
  }
  response.writeHead(answer.statusCode ?? 502, { ...endToEnd(answer.headers), ...extra });
  // An answer that is cut off is passed on as that.
  await pipeline(answer, response).catch(() => response.destroy());
}

function ask(
  request: IncomingMessage,
  response: ServerResponse,
  { host, port, pid, path, token }: ProxyTarget,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    if (pid === null) {
      reject(new Error('it is not running'));
      return;
    }
    // Kept alive until the answer is here: a target that answers before it has read the body would close, and its answer be lost.
    const headers = {
      ...endToEnd(request.headers),
      [forPidHeader]: String(pid),
      connection: 'keep-alive',
      ...(token !== null && { authorization: `Bearer ${token}` }),
    };
    const asked = httpRequest({ host, port, path, method: request.method, headers, agent: false });
    asked.once('response', resolve);
    // After the answer has begun: a body that the target did not want to read to its end.
    asked.on('error', reject);
    response.once('close', () => asked.destroy());
    request.pipe(asked);
  });
}

/** The upgrade request as it came, with another path, and from then on bytes. */
export function proxyWebSocket(request: IncomingMessage, socket: Socket, head: Buffer, target: ProxyTarget): void {
  if (target.pid === null) {
    endSocket(socket, '502 Bad Gateway');
    return;
  }
  const upstream = connect(target.port, target.host);
  let connected = false;
  upstream.once('connect', () => {
    connected = true;
    upstream.setNoDelay(true);
    upstream.write(upgradeRequest(request, target));
    if (head.length > 0) upstream.write(head);
    socket.pipe(upstream);
    upstream.pipe(socket);
  });
  upstream.on('error', () => {
    if (connected) socket.destroySoon();
    else endSocket(socket, '502 Bad Gateway');
  });
  socket.on('error', () => upstream.destroy());
  upstream.on('close', () => socket.destroySoon());
  socket.on('close', () => upstream.destroySoon());
}

/** Refuses an upgrade. */
export function endSocket(socket: Socket, status: string): void {
  if (socket.writable) socket.write(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
  socket.destroySoon();
}

function upgradeRequest(request: IncomingMessage, { host, port, path, token }: ProxyTarget): string {
  const lines = [`GET ${path} HTTP/1.1`, `Host: ${urlHost(host)}:${port}`];
  if (token !== null) lines.push(`Authorization: Bearer ${token}`);
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const name = request.rawHeaders[i]!;
    if (/^(host|origin|authorization)$/i.test(name)) continue;
    lines.push(`${name}: ${request.rawHeaders[i + 1]}`);
  }
  return `${lines.join('\r\n')}\r\n\r\n`;
}

function endToEnd(headers: IncomingMessage['headers']): OutgoingHttpHeaders {
  const named = (headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase());
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !notForwarded.has(name) && !named.includes(name)),
  );
}
