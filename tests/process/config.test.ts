/** Must hold: flags become settings with Neon's ports as defaults; every bad value is refused with the name of its flag. */
import { expect, it } from 'vitest';
import { diskBudgetBytes } from '../../engine/limits.ts';
import { parsePageserverArgs } from '../../server/pageserver/config.ts';

it('has defaults', () => {
  expect(parsePageserverArgs(['-D', '/data'])).toEqual({
    dir: '/data',
    nodeId: 1,
    listen: { host: '127.0.0.1', port: 64000 },
    http: { host: '127.0.0.1', port: 9898 },
    safekeepers: [],
    remoteStorage: null,
    mayCreateStorage: false,
    diskBudgetBytes,
  });
});

it('reads every flag', () => {
  const args =
    '-D /data --id 7 --listen-pg 0.0.0.0:1 --listen-http 2 --safekeepers 1=a:5454,2=b:5455 --remote-storage s3://my-bucket/a/b --new-remote-storage --disk-budget 3MB --auth-validation-public-key-path /keys --auth-token-path /token'.split(
      ' ',
    );
  expect(parsePageserverArgs(args)).toEqual({
    dir: '/data',
    nodeId: 7,
    listen: { host: '0.0.0.0', port: 1 },
    http: { host: '127.0.0.1', port: 2 },
    safekeepers: [
      { id: 1, host: 'a', port: 5454 },
      { id: 2, host: 'b', port: 5455 },
    ],
    remoteStorage: { kind: 's3', location: { bucket: 'my-bucket', prefix: 'a/b/' } },
    mayCreateStorage: true,
    diskBudgetBytes: 3 * 1024 * 1024,
    publicKeyPath: '/keys',
    tokenPath: '/token',
  });
});

it('an IPv6 address stands in brackets', () => {
  expect(parsePageserverArgs(['-D', '/d', '--listen-pg', '[::1]:5']).listen).toEqual({ host: '::1', port: 5 });
});

it.each([
  [[], /-D DIR is missing/],
  [['-D', '/d', '--id', '0'], /node id 0/],
  [['-D', '/d', '--id', 'x'], /--id: "x"/],
  [['-D', '/d', '--listen-pg', 'host'], /--listen-pg: "host"/],
  [['-D', '/d', '--listen-http', 'h:70000'], /--listen-http: "h:70000"/],
  [['-D', '/d', '--safekeepers', '5454'], /--safekeepers/],
  [['-D', '/d', '--safekeepers', '1=h:1,1=h:2'], /twice/],
  [['-D', '/d', '--unknown'], /unknown/],
  [['-D', '/d', '--remote-storage', 'bucket/x'], /begins with neither s3:\/\/ nor file/],
  [['-D', '/d', '--remote-storage', 's3://UPPER'], /not the name of a bucket/],
  [['-D', '/d', '--remote-storage', 'file://relative'], /not absolute/],
  [['-D', '/d', '--disk-budget', '1.5GB'], /--disk-budget: "1.5GB"/],
])('refuses %j', (args, message) => {
  expect(() => parsePageserverArgs(args)).toThrow(message);
});
