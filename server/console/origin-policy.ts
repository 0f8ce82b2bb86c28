/**
 * Which web pages may use the console server: it has no password, and any page that a browser shows can send requests to localhost.
 *
 * Invariants
 * - a request that names an origin (`Origin`) is served if that is the server's own, a loopback one, or one that the user allowed
 * - a request without one comes from no page (curl, Node), or is a plain GET of the same origin
 * - `Host` is a loopback name, an address of this machine or one that the user allowed: a name that an attacker's DNS points here is none
 */
import { isIP } from 'node:net';

export interface OriginPolicy {
  /** Origins such as `https://example.com`, besides loopback ones. */
  readonly allowOrigins: readonly string[];
}

const loopbackNames = new Set(['localhost', '127.0.0.1', '[::1]']);

export function isAllowedOrigin(policy: OriginPolicy, origin: string | undefined): boolean {
  if (origin === undefined) return true;
  if (policy.allowOrigins.includes(origin)) return true;
  if (!URL.canParse(origin)) return false;
  const { hostname, protocol } = new URL(origin);
  return (protocol === 'http:' || protocol === 'https:') && isLoopback(hostname);
}

export function isAllowedHost(policy: OriginPolicy, host: string | undefined): boolean {
  if (host === undefined || !URL.canParse(`http://${host}`)) return false;
  const { hostname } = new URL(`http://${host}`);
  if (isLoopback(hostname) || isIP(hostname.replace(/^\[|\]$/g, '')) !== 0) return true;
  return policy.allowOrigins.some((origin) => new URL(origin).hostname === hostname);
}

function isLoopback(hostname: string): boolean {
  return loopbackNames.has(hostname) || hostname.endsWith('.localhost') || hostname.startsWith('127.');
}

/** What a page of another origin needs to be told. */
export function corsHeaders(origin: string | undefined): Record<string, string> {
  if (origin === undefined) return {};
  return {
    'access-control-allow-origin': origin,
    'access-control-allow-methods': 'GET, POST, PUT, DELETE, HEAD',
    'access-control-allow-headers': '*',
    'access-control-expose-headers': '*',
    // Chromium asks for it when a public page reaches for a private address.
    'access-control-allow-private-network': 'true',
    'access-control-max-age': '600',
    vary: 'Origin',
  };
}
