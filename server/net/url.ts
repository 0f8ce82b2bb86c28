/** Addresses of our servers as URLs, and the paths of their WebSockets. */

/** As it stands in an URL. */
export const urlHost = (host: string): string => (host.includes(':') ? `[${host}]` : host);

/** `host` may be an IPv6 address. */
export function wsUrl(host: string, port: number, path: string): string {
  return `ws://${urlHost(host)}:${port}${path}`;
}

/** Where computes read pages: `ws://host:64000/pagestream`. */
export const pagestreamPath = '/pagestream';

/** A safekeeper's: `ws://host:5454/proposer` and `ws://host:5454/wal`. */
export const safekeeperPaths = { proposer: '/proposer', wal: '/wal' } as const;
