/**
 * Which requests the console server takes: those of its own pages, of pages on this machine and of origins that the user allowed; by `Host`, none that an
 * attacker's DNS name brought here.
 */
import { describe, expect, it } from 'vitest';
import { parseConsoleArgs } from '../../server/console/config.ts';
import { isAllowedHost, isAllowedOrigin } from '../../server/console/origin-policy.ts';

const policy = { allowOrigins: ['https://app.example.com'] };

describe('Host', () => {
  it.each([
    'localhost:9899',
    'localhost',
    '127.0.0.1:9899',
    '127.1.2.3',
    '[::1]:9899',
    'pagelite.localhost:1',
    '192.168.1.5:9899',
    '[fe80::1]',
    'app.example.com:9899',
  ])('is taken: %s', (host) => {
    expect(isAllowedHost(policy, host)).toBe(true);
  });

  it.each([
    undefined,
    '',
    'evil.example',
    '127.evil.example:9899',
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    'evillocalhost',
    'user@localhost',
    'localhost/x',
    'localhost#',
    'localhost:port',
    'example.com',
    '[::1',
  ])('is refused: %s', (host) => {
    expect(isAllowedHost(policy, host)).toBe(false);
  });
});

describe('Origin', () => {
  it.each([
    [undefined, '127.0.0.1:9899'],
    ['http://localhost:5173', '127.0.0.1:9899'],
    ['https://localhost', '127.0.0.1:9899'],
    ['http://127.0.0.1:9899', '127.0.0.1:9899'],
    ['http://[::1]:80', '127.0.0.1:9899'],
    ['https://app.example.com', '127.0.0.1:9899'],
    ['http://192.168.1.5:9899', '192.168.1.5:9899'],
  ])('is taken: %s at %s', (origin, host) => {
    expect(isAllowedOrigin(policy, origin, host)).toBe(true);
  });

  it.each([
    ['null', '127.0.0.1:9899'],
    ['', '127.0.0.1:9899'],
    ['https://evil.example', '127.0.0.1:9899'],
    ['http://127.evil.example', '127.0.0.1:9899'],
    ['http://localhost.evil.example', '127.0.0.1:9899'],
    ['http://app.example.com', '127.0.0.1:9899'],
    ['https://app.example.com:444', '127.0.0.1:9899'],
    ['https://x.app.example.com', '127.0.0.1:9899'],
    ['file://localhost', '127.0.0.1:9899'],
    ['chrome-extension://localhost', '127.0.0.1:9899'],
    ['http://192.168.1.6:9899', '192.168.1.5:9899'],
    ['http://192.168.1.5:80', '192.168.1.5:9899'],
  ])('is refused: %s at %s', (origin, host) => {
    expect(isAllowedOrigin(policy, origin, host)).toBe(false);
  });
});

describe('settings of the process', () => {
  it('take origins as browsers write them', () => {
    const { allowOrigins, listen } = parseConsoleArgs(['-D', '/x', '--allow-origin', 'https://App.Example.com:443/']);
    expect(allowOrigins).toEqual(['https://app.example.com']);
    expect(listen.port).toBe(9899);
  });

  it.each([['app.example.com'], ['*'], ['null'], ['ftp://example.com']])('refuse the origin %s', (origin) => {
    expect(() => parseConsoleArgs(['-D', '/x', '--allow-origin', origin])).toThrow(/is not an origin such as/);
  });

  it('refuse a missing folder and flags that are not known', () => {
    expect(() => parseConsoleArgs([])).toThrow(/-D DIR is missing/);
    expect(() => parseConsoleArgs(['-D', '/x', '--frob'])).toThrow(/frob/);
  });
});
