/**
 * Access to a port of WebSockets: the token is checked before the handshake is answered, and a refusal is an HTTP answer with the same JSON
 * as in the HTTP APIs. Which tenant a connection is for is in its first message, so that is checked then, by `authorize`.
 */
import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import type { Log } from '../../engine/services.ts';
import { HttpError } from '../process/http-error.ts';
import type { Access } from './access.ts';

/** Throws a refusal unless the connection may use this tenant's timelines; null: those of all tenants. */
export type AuthorizeTenant = (tenant: TenantId | null) => void;

const allowAll: AuthorizeTenant = () => {};

/** Calls `accept` with what the connection may use, or answers the request and ends its socket. */
export function admitUpgrade(
  access: Access | null,
  request: IncomingMessage,
  socket: Duplex,
  log: Log,
  accept: (authorize: AuthorizeTenant) => void,
): void {
  if (access === null) {
    accept(allowAll);
    return;
  }
  access.authenticate(request.headers.authorization).then(
    (claims) => accept((tenant) => access.check(claims, tenant)),
    (error: unknown) => {
      log.warn('access refused', { peer: peerOf(request), path: request.url, error: messageOf(error) });
      refuseUpgrade(socket, error);
    },
  );
}

function refuseUpgrade(socket: Duplex, error: unknown): void {
  const status = error instanceof HttpError ? error.status : 500;
  const { kind, data } = isPageliteError(error) ? error : { kind: undefined, data: {} };
  const msg = isPageliteError(error) ? error.message : 'internal error';
  const body = JSON.stringify({ msg, kind, data });
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(body)}`,
    ...(status === 401 ? ['www-authenticate: Bearer'] : []),
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}

function peerOf({ socket }: IncomingMessage): string {
  return `${socket.remoteAddress}:${socket.remotePort}`;
}
