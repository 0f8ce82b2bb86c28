/**
 * Files come from their folders and from nowhere else, however a path is written; with the headers that let a browser keep what never changes.
 *
 * Attacked by paths that a browser would never send, over a socket of our own. Secrets lie beside the folders.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { staticFiles } from '../../server/console/static-files.ts';
import { listen } from '../../server/process/ports.ts';

let root: string;
let server: Server;
let port: number;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'pagelite-static-'));
  server = createServer(getRequestListener(staticFiles(root).fetch));
  port = await listen(server, '127.0.0.1', 0);
});
afterEach(() => {
  server.close();
  server.closeAllConnections();
  rmSync(root, { recursive: true });
});

function put(path: string, text: string): void {
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), text);
}

/** The path exactly as it is given. */
function raw(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () =>
      socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`),
    );
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject).on('close', () => resolve(text));
  });
}

const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(`http://127.0.0.1:${port}${path}`, { headers, redirect: 'manual' });

describe('files', () => {
  beforeEach(() => {
    put('dist/console/index.html', '<p>console');
    put('dist/console/assets/index-B7kq3_aD.js', 'kept');
    put('dist/console/assets/pglite-artefacts.js', 'asked for again');
    put('dist/browser-bundle/pagelite.js', 'bundle');
    put('browser/examples/index.html', '<p>example');
    put('secret.txt', 'secret');
    put('dist/secret.txt', 'secret');
    put('browser/secret.txt', 'secret');
  });

  it.each([
    ['/', '<p>console', /^text\/html/],
    ['/assets/index-B7kq3_aD.js', 'kept', /^text\/javascript/],
    ['/pagelite/pagelite.js', 'bundle', /^text\/javascript/],
    ['/examples/', '<p>example', /^text\/html/],
  ])('%s', async (path, text, type) => {
    const response = await get(path);
    expect([response.status, await response.text()]).toEqual([200, text]);
    expect(response.headers.get('content-type')).toMatch(type);
  });

  it('of an immutable name are kept, others are asked for again and not sent again', async () => {
    expect((await get('/assets/index-B7kq3_aD.js')).headers.get('cache-control')).toMatch(/immutable/);
    for (const path of ['/', '/pagelite/pagelite.js', '/assets/pglite-artefacts.js']) {
      const first = await get(path);
      expect(first.headers.get('cache-control')).toBe('no-cache');
      const again = await get(path, { 'if-modified-since': first.headers.get('last-modified')! });
      expect([again.status, await again.text()]).toEqual([304, '']);
    }
    expect((await get('/assets/index-00000000.js')).headers.get('cache-control')).toBe('no-cache');
  });

  it('of a folder without its slash are at the folder, so that their links work', async () => {
    const response = await get('/examples');
    expect([response.status, response.headers.get('location')]).toEqual([308, '/examples/']);
  });

  it.each([
    '/../secret.txt',
    '/../../secret.txt',
    '/pagelite/../secret.txt',
    '/pagelite/../../secret.txt',
    '/pagelite/%2e%2e/secret.txt',
    '/pagelite/..%2fsecret.txt',
    '/pagelite/..%2f..%2fsecret.txt',
    '/pagelite/%2e%2e%2fsecret.txt',
    '/pagelite/%252e%252e/secret.txt',
    String.raw`/pagelite/..\secret.txt`,
    '/pagelite/..%5csecret.txt',
    '/pagelite//../secret.txt',
    '/pagelite/./../secret.txt',
    '/examples/..;/secret.txt',
    '/examples/%c0%ae%c0%ae/secret.txt',
    '/%00',
    '/pagelite/pagelite.js%00.html',
    '//etc/passwd',
    '/pagelite//etc/passwd',
    '/etc/passwd',
    'http://localhost/../secret.txt',
  ])('are not outside of the folders: %s', async (path) => {
    const answer = await raw(path);
    expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
    expect(answer).not.toContain('secret\n');
    expect(answer).not.toMatch(/\r\n\r\n[\s\S]*(?:^|\n)secret/);
    expect(answer).not.toContain('root:');
  });

  it('are read, not written', async () => {
    const response = await fetch(`http://127.0.0.1:${port}/index.html`, { method: 'PUT', body: 'x' });
    expect(response.status).toBe(404);
  });
});

describe('a console that is not built', () => {
  it('is told as a page, and is there once it is built', async () => {
    const before = await get('/');
    expect([before.status, await before.text()]).toEqual([503, expect.stringContaining('npm run build')]);
    put('dist/console/index.html', '<p>built');
    expect(await (await get('/')).text()).toBe('<p>built');
  });
});
