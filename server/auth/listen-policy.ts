/** A server that trusts everybody is for this machine alone. */
import { isIPv4 } from 'node:net';
import { PageliteError } from '../../engine/errors.ts';

export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

/** Throws `invalid` unless the address is a loopback one, or whoever connects is asked who they are. */
export function checkListenHost(server: string, host: string, asksWho: boolean, wayOut: string): void {
  if (asksWho || isLoopbackHost(host)) return;
  const text = `the ${server} does not listen on ${host} without authentication: others could read and change everything`;
  throw new PageliteError('invalid', `${text}. ${wayOut}, or listen on 127.0.0.1`, { host });
}

export const storageWayOut = 'Give it public keys with --auth-validation-public-key-path (pagelite init --auth does)';
