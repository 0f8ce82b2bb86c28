/**
 * What the console server passes on arrives whole and in order, at the speed of the slower side; an end is passed on after what was sent before it.
 *
 * Attacked by readers that do not read, targets that answer before they have read, that die in the middle, that are not there, and by another process at
 * their port. Real sockets; modelled: the servers behind it.
 */
import { once } from 'node:events';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { type ProxyTarget, proxyHttp, proxyWebSocket } from '../../server/console/proxy.ts';

const open: Server[] = [];
const sockets = new Set<Socket>();
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await Promise.all(
    open.splice(0).map((server) => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    }),
  );
});

async function serve(listener?: RequestListener): Promise<{ server: Server; port: number }> {
  const server = createServer(listener);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  open.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port };
}

/** A proxy to `port`; its own port. */
async function proxyTo(port: number, pid: number | null = 1, path?: string): Promise<number> {
  const target = (url: string): ProxyTarget => ({
    server: 'pageserver',
    host: '127.0.0.1',
    port,
    pid,
    path: path ?? url,
    token: null,
  });
  const front = await serve((asked, response) => {
    void proxyHttp(asked, response, target(asked.url!), { 'x-extra': 'yes' });
  });
  front.server.on('upgrade', (asked: IncomingMessage, socket: Socket, head: Buffer) =>
    proxyWebSocket(asked, socket, head, target(asked.url!)),
  );
  return front.port;
}

const megabyte = 1024 * 1024;
/** More than the buffers of all sockets on the way take. */
const muchBytes = 64 * megabyte;

/** Resolves once nothing more moves: what is counted is the same over many turns of the event loop, each of which looks at all sockets. */
async function settled(count: () => number): Promise<number> {
  for (let before = -1, same = 0; ; ) {
    await new Promise((resolve) => setImmediate(resolve));
    same = count() === before ? same + 1 : 0;
    before = count();
    if (same === 3000) return before;
  }
}

describe('HTTP', () => {
  it('passes method, path, headers and body on, and the answer back', async () => {
    const seen: Record<string, unknown> = {};
    const target = await serve(async (asked, response) => {
      const parts: Buffer[] = [];
      for await (const part of asked) parts.push(part as Buffer);
      Object.assign(seen, { method: asked.method, url: asked.url, headers: asked.headers, body: Buffer.concat(parts) });
      response.writeHead(201, { 'content-type': 'application/json', 'x-target': 'yes' }).end('{"a":1}');
    });
    const port = await proxyTo(target.port, 77);
    const body = Buffer.alloc(3 * megabyte, 'pagelite');
    const response = await fetch(`http://127.0.0.1:${port}/v1/tenant/x?y=1`, {
      method: 'PUT',
      body,
      headers: {
        'content-type': 'application/octet-stream',
        origin: 'http://localhost',
        'x-pagelite-pid': '1',
        'x-own': 'z',
      },
    });
    expect([response.status, await response.text()]).toEqual([201, '{"a":1}']);
    expect([response.headers.get('x-target'), response.headers.get('x-extra')]).toEqual(['yes', 'yes']);
    expect(seen).toMatchObject({ method: 'PUT', url: '/v1/tenant/x?y=1' });
    expect(body.equals(seen.body as Buffer)).toBe(true);
    // The target judges by its own process and its own name.
    expect(seen.headers).toMatchObject({ 'x-pagelite-pid': '77', 'x-own': 'z', host: `127.0.0.1:${target.port}` });
    expect(seen.headers).not.toHaveProperty('origin');
  });

  it('does not read more than a slow target takes', async () => {
    let taking: IncomingMessage | null = null;
    const target = await serve((asked, response) => {
      taking = asked;
      asked.once('end', () => response.end('done'));
    });
    const port = await proxyTo(target.port);
    let sent = 0;
    const upload = request({ host: '127.0.0.1', port, method: 'PUT', path: '/' });
    const answered = once(upload, 'response');
    const write = () => {
      while (sent < muchBytes) {
        sent += megabyte;
        if (!upload.write(Buffer.alloc(megabyte))) {
          upload.once('drain', write);
          return;
        }
      }
      upload.end();
    };
    write();
    expect(await settled(() => sent)).toBeLessThan(muchBytes / 2);
    taking!.resume();
    const [response] = (await answered) as [IncomingMessage];
    expect(response.statusCode).toBe(200);
    expect(sent).toBe(muchBytes);
    response.resume();
  });

  it('does not take more from the target than a slow page reads', async () => {
    let given = 0;
    const target = await serve((_asked, response) => {
      const write = () => {
        while (given < muchBytes) {
          given += megabyte;
          if (!response.write(Buffer.alloc(megabyte))) {
            response.once('drain', write);
            return;
          }
        }
        response.end();
      };
      write();
    });
    const port = await proxyTo(target.port);
    const asked = request({ host: '127.0.0.1', port }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    response.pause();
    expect(await settled(() => given)).toBeLessThan(muchBytes / 2);
    let read = 0;
    response.on('data', (chunk: Buffer) => {
      read += chunk.length;
    });
    response.resume();
    await once(response, 'end');
    expect(read).toBe(muchBytes);
  });

  it('brings the refusal of a target that does not read the body', async () => {
    const target = await serve((_asked, response) => {
      response.writeHead(413, { 'content-type': 'application/json' });
      response.end('{"msg":"the request body is too large"}');
    });
    const port = await proxyTo(target.port);
    const upload = request({ host: '127.0.0.1', port, method: 'PUT', path: '/' });
    upload.on('error', () => {});
    const answered = once(upload, 'response');
    upload.write(Buffer.alloc(16 * megabyte));
    const [response] = (await answered) as [IncomingMessage];
    expect(response.statusCode).toBe(413);
    let text = '';
    for await (const part of response) text += String(part);
    expect(text).toContain('too large');
    upload.destroy();
  });

  it('cuts an answer off that the target did not finish', async () => {
    const target = await serve((_asked, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('half', () => response.socket!.destroy());
    });
    const port = await proxyTo(target.port);
    const response = await fetch(`http://127.0.0.1:${port}/`);
    await expect(response.text()).rejects.toThrow();
  });

  it('tells a target whose page has gone', async () => {
    let gone: Promise<unknown> | null = null;
    const target = await serve((asked, response) => {
      gone = once(response, 'close');
      asked.resume();
      response.write('begun');
    });
    const port = await proxyTo(target.port);
    const asked = request({ host: '127.0.0.1', port }).end();
    asked.on('error', () => {});
    await once(asked, 'response');
    asked.destroy();
    await gone;
  });

  it.each([
    ['is not running', null, /it is not running.*pagelite start/],
    ['does not listen', 1, /ECONNREFUSED.*pagelite start/],
  ])('says that the target %s', async (_what, pid, message) => {
    const gone = await serve();
    await new Promise((resolve) => gone.server.close(resolve));
    const response = await fetch(`http://127.0.0.1:${await proxyTo(gone.port, pid)}/`, { method: 'POST', body: 'x' });
    expect(response.status).toBe(502);
    expect(response.headers.get('x-extra')).toBe('yes');
    expect(await response.json()).toMatchObject({ kind: 'unavailable', msg: expect.stringMatching(message) });
  });

  it('says that another process has its port', async () => {
    const target = await serve((_asked, response) => response.writeHead(421).end('{}'));
    const response = await fetch(`http://127.0.0.1:${await proxyTo(target.port)}/`);
    expect([response.status, await response.json()]).toMatchObject([
      502,
      { kind: 'unavailable', msg: expect.stringMatching(/another process has its port/) },
    ]);
  });
});

describe('WebSockets', () => {
  async function echo(onSocket: (socket: WebSocket) => void): Promise<number> {
    const { server, port } = await serve();
    const acceptor = new WebSocketServer({ noServer: true, maxPayload: 2 * megabyte });
    server.on('upgrade', (asked, socket, head) => {
      if (asked.url !== '/pagestream') {
        socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n');
        return;
      }
      acceptor.handleUpgrade(asked, socket, head, (accepted) => {
        accepted.on('error', () => {});
        onSocket(accepted);
      });
    });
    return proxyTo(port, 1, '/pagestream');
  }

  it('carry messages both ways, of the size that the target takes', async () => {
    const port = await echo((socket) => socket.on('message', (data: Buffer) => socket.send(data)));
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/pagestream`);
    await once(socket, 'open');
    for (const size of [0, 1, 126, 65_536, 2 * megabyte]) {
      const message = Buffer.alloc(size, 'pagelite');
      socket.send(message);
      const [answer] = (await once(socket, 'message')) as [Buffer];
      expect(message.equals(answer)).toBe(true);
    }
    socket.send(Buffer.alloc(2 * megabyte + 1));
    const [code] = await once(socket, 'close');
    expect(code).toBe(1009);
  });

  it("bring the target's reason for closing, and everything before it, to a page that reads slowly", async () => {
    const port = await echo((socket) => {
      for (let i = 0; i < 32; i++) socket.send(Buffer.alloc(megabyte, i));
      socket.close(4001, 'fenced');
    });
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/pagestream`);
    const closed = once(socket, 'close');
    const got: number[] = [];
    socket.on('message', (data: Buffer) => {
      got.push(data[0]!);
      socket.pause();
      setImmediate(() => socket.resume());
    });
    const [code, reason] = (await closed) as [number, Buffer];
    expect([code, reason.toString()]).toEqual([4001, 'fenced']);
    expect(got).toEqual(Array.from({ length: 32 }, (_, i) => i));
  });

  it('slow a target whose page does not read, and a page whose target does not', async () => {
    let far: WebSocket | null = null;
    const port = await echo((socket) => {
      far = socket;
      socket.pause();
    });
    const near = new WebSocket(`ws://127.0.0.1:${port}/v1/pagestream`);
    await once(near, 'open');
    near.pause();
    for (const [from, to] of [
      [near, far!],
      [far!, near],
    ] as const) {
      let got = 0;
      to.on('message', (data: Buffer) => {
        got += data.length;
      });
      for (let i = 0; i < muchBytes / megabyte; i++) from.send(Buffer.alloc(megabyte));
      expect(await settled(() => from.bufferedAmount)).toBeGreaterThan(muchBytes / 2);
      to.resume();
      while (got < muchBytes) await once(to, 'message');
      expect(got).toBe(muchBytes);
      to.pause();
    }
    near.terminate();
  });

  it('end when the target does, and the other way round', async () => {
    const closed: Promise<unknown>[] = [];
    const port = await echo((socket) => {
      closed.push(once(socket, 'close'));
      socket.on('message', () => socket.terminate());
    });
    const first = new WebSocket(`ws://127.0.0.1:${port}/v1/pagestream`);
    await once(first, 'open');
    first.send('die');
    expect((await once(first, 'close'))[0]).toBe(1006);
    const second = new WebSocket(`ws://127.0.0.1:${port}/v1/pagestream`);
    await once(second, 'open');
    second.terminate();
    await Promise.all(closed);
    expect(closed.length).toBe(2);
  });

  it.each([
    ['is not running', null],
    ['does not listen', 1],
  ])('are refused when the target %s', async (_what, pid) => {
    const gone = await serve();
    await new Promise((resolve) => gone.server.close(resolve));
    const socket = connect(await proxyTo(gone.port, pid), '127.0.0.1', () =>
      socket.write('GET /v1/pagestream HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n'),
    );
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    await once(socket, 'close');
    expect(text).toMatch(/^HTTP\/1\.1 502 /);
  });
});
