/**
 * Which web pages may use the console server: it has no password, and any page that a browser shows can send requests to localhost.
 *
 * Invariants
 * - a request that names an origin (`Origin`) is served if that is the server's own, a loopback one, or one that the user allowed
 * - a request without one comes from no page (curl, Node), or is a plain GET, which changes nothing
 * - `Host` is a loopback name, an address or one that the user allowed: a name that an attacker's DNS points here is none
 *
 * Loopback names are those that browsers never ask a DNS server for. `127.evil.example` is a name like any other.
 */
import { isIP, isIPv4 } from 'node:net';

export interface OriginPolicy {
  /** Origins such as `https://example.com`, besides loopback ones. */
  readonly allowOrigins: readonly string[];
}

/** Of a request whose host is allowed. */
export function isAllowedOrigin(policy: OriginPolicy, origin: string | undefined, host: string | undefined): boolean {
  if (origin === undefined || policy.allowOrigins.includes(origin)) return true;
  if (!URL.canParse(origin)) return false;
  const url = new URL(origin);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return false;
  return isLoopback(url.hostname) || (host !== undefined && url.host === hostOf(host)?.host);
}

export function isAllowedHost(policy: OriginPolicy, host: string | undefined): boolean {
  const hostname = host === undefined ? undefined : hostOf(host)?.hostname;
  if (hostname === undefined) return false;
  if (isLoopback(hostname) || isIP(hostname.replace(/^\[|\]$/g, '')) !== 0) return true;
  return policy.allowOrigins.some((origin) => new URL(origin).hostname === hostname);
}

/** Null for what is no `host[:port]`. */
function hostOf(host: string): URL | null {
  return /^[\w.:[\]-]+$/.test(host) && URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : null;
}

function isLoopback(hostname: string): boolean {
  if (hostname === 'localhost' || hostname.endsWith('.localhost') || hostname === '[::1]') return true;
  return isIPv4(hostname) && hostname.startsWith('127.');
}

/** What a page of another origin needs to be told. */
export function corsHeaders(origin: string | undefined): Record<string, string> {
  if (origin === undefined) return { vary: 'Origin' };
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
