/**
 * S3ObjectStore before servers that differ in what they make of conditions: a model of such a server, over HTTP.
 *
 * Must hold: one that takes no notice of If-None-Match is refused, in words; If-Match is used as the server takes it, and where it does not, a changed object
 * is noticed all the same; a request that is given up is cut; nothing that was tried out stays, also if a try was cut off by a kill.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { S3ObjectStore } from '../../server/object-store/s3.ts';

interface Habits {
  readonly ifNoneMatch: boolean;
  /** With the quotes, without, or not at all: then it is not looked at, or answered by an error. */
  readonly ifMatch: 'quoted' | 'bare' | 'ignored' | 'not implemented';
}

class ModelServer {
  readonly objects = new Map<string, Buffer>();
  readonly #habits: Habits;
  readonly #server: Server;
  /** Requests that put this are not answered. */
  hangs: string | null = null;
  cut = 0;

  constructor(habits: Habits) {
    this.#habits = habits;
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  async open(requestMs = 2_000): Promise<S3ObjectStore> {
    if (!this.#server.listening) await new Promise<void>((done) => this.#server.listen(0, '127.0.0.1', done));
    const { port } = this.#server.address() as AddressInfo;
    const env = {
      AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}`,
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
      AWS_REGION: 'us-east-1',
    };
    Object.assign(process.env, env);
    return S3ObjectStore.open({ bucket: 'b', prefix: '' }, env, { connectMs: 500, requestMs });
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const url = new URL(request.url!, 'http://x');
    const key = url.pathname.slice('/b/'.length);
    const end = (status: number, headers: object = {}, body: string | Buffer = '') =>
      response.writeHead(status, headers as Record<string, string>).end(body);
    const found = this.objects.get(key);
    switch (request.method) {
      case 'PUT': {
        if (key === this.hangs) {
          response.on('close', () => this.cut++);
          return;
        }
        const { 'if-none-match': none, 'if-match': match } = request.headers;
        const { ifNoneMatch, ifMatch } = this.#habits;
        if (match !== undefined && ifMatch === 'not implemented') return void end(501, {}, xml('NotImplemented'));
        if (match !== undefined && ifMatch !== 'ignored') {
          const etag = found && (ifMatch === 'quoted' ? etagOf(found) : etagOf(found).replaceAll('"', ''));
          if (match !== etag) return void end(412, {}, xml('PreconditionFailed'));
        }
        if (none !== undefined && ifNoneMatch && found) return void end(412, {}, xml('PreconditionFailed'));
        const bytes = Buffer.concat(parts);
        this.objects.set(key, bytes);
        end(200, { etag: etagOf(bytes) });
        return;
      }
      case 'DELETE':
        this.objects.delete(key);
        end(204);
        return;
      case 'HEAD':
        if (found) end(200, { etag: etagOf(found), 'content-length': String(found.length) });
        else end(404);
        return;
      default:
        if (url.searchParams.has('list-type'))
          end(200, {}, '<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>');
        else if (found) end(200, { etag: etagOf(found) }, found);
        else end(404, {}, xml('NoSuchKey'));
    }
  }
}

const etagOf = (bytes: Buffer): string => `"${createHash('md5').update(bytes).digest('hex')}"`;
const xml = (code: string): string => `<Error><Code>${code}</Code></Error>`;

let server: ModelServer;
const before = { ...process.env };
const serve = (habits: Partial<Habits> = {}): ModelServer => {
  server = new ModelServer({ ifNoneMatch: true, ifMatch: 'quoted', ...habits });
  return server;
};
afterEach(async () => {
  process.env = { ...before };
  await server.close();
});

const bytes = (...values: number[]) => new Uint8Array(values);

describe('If-None-Match', () => {
  it('a server that knows it is accepted, and nothing stays behind, nor what a try before left when it was killed', async () => {
    const store = await serve().open();
    server.objects.set('access-check', Buffer.from([0]));
    await store.checkAccess();
    expect([...server.objects.keys()]).toEqual([]);
  });

  it('a server that takes no notice of it is refused', async () => {
    const store = await serve({ ifNoneMatch: false }).open();
    await expect(store.checkAccess()).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringMatching(/bucket b at http.* cannot be used: .*If-None-Match/),
    });
    expect([...server.objects.keys()]).toEqual([]);
  });
});

describe('If-Match', () => {
  for (const habit of ['quoted', 'bare', 'ignored', 'not implemented'] as const) {
    it(`${habit}: what was changed by another is not overwritten`, async () => {
      const store = await serve({ ifMatch: habit }).open();
      const first = await store.put('k', bytes(1));
      const second = await store.put('k', bytes(2), { ifVersion: first });
      await expect(store.put('k', bytes(3), { ifVersion: first })).rejects.toMatchObject({ kind: 'fenced' });
      expect(server.objects.get('k')).toEqual(Buffer.from([2]));
      await store.delete('k');
      await expect(store.put('k', bytes(4), { ifVersion: second })).rejects.toMatchObject({ kind: 'fenced' });
      expect([...server.objects.keys()]).toEqual([]);
    });
  }
});

it('a request that is given up is cut', async () => {
  const store = await serve().open(100);
  const first = await store.put('k', bytes(1));
  await store.put('k', bytes(2), { ifVersion: first });
  server.hangs = 'k';
  for (const condition of [{ ifAbsent: true } as const, { ifVersion: first }]) {
    server.cut = 0;
    await expect(store.put('k', bytes(3), condition)).rejects.toMatchObject({ kind: 'unavailable' });
    await expect.poll(() => server.cut).toBeGreaterThan(0);
  }
});
