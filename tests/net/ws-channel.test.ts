/**
 * A WebSocket is a Channel: whole messages in order, one close event that carries the peer's reason, and a peer that breaks the rules
 * (text, oversized, gone without a word) costs its own connection only. Attacked through a real server on a real port.
 */
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { PageliteError } from '../../engine/errors.ts';
import { channelMessageBytesMax } from '../../engine/limits.ts';
import type { Channel } from '../../engine/services.ts';
import { connectWebSocket, WebSocketAcceptor } from '../../server/net/ws-channel.ts';

let server: Server;
let acceptor: WebSocketAcceptor;
let url: string;
let accepted: Promise<Channel>;
let sockets: Socket[];

beforeEach(async () => {
  sockets = [];
  acceptor = new WebSocketAcceptor();
  server = createServer();
  server.on('connection', (socket) => sockets.push(socket));
  accepted = new Promise((resolve) => {
    server.on('upgrade', (request, socket, head) => acceptor.upgrade(request, socket, head, resolve));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`;
});

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  server.close();
});

const closed = (channel: Channel) =>
  new Promise<Error | undefined>((resolve) => {
    channel.onClose(resolve);
  });

function collect(channel: Channel, count: number): Promise<Uint8Array[]> {
  const messages: Uint8Array[] = [];
  return new Promise((resolve) => {
    channel.onMessage((message) => {
      messages.push(message);
      if (messages.length === count) resolve(messages);
    });
  });
}

it('a handshake that is refused ends it with the reason, as final only if it is about who asks', async () => {
  server.removeAllListeners('upgrade');
  const answers: [status: number, body: string, kind: string, says: string][] = [
    [401, '{"msg":"there is no token"}', 'invalid', 'access refused: there is no token'],
    [403, 'not JSON', 'invalid', 'access refused: the server answered 403'],
    [401, 'x'.repeat(1_000_000), 'invalid', 'access refused'],
    [404, '', 'unavailable', 'the server answered 404'],
    [503, '{"msg":"there is no token"}', 'unavailable', 'the server answered 503'],
  ];
  const seen: (string | undefined)[] = [];
  server.on('upgrade', (request, socket) => {
    socket.on('error', () => {});
    seen.push(request.headers.authorization);
    const [status, body] = answers[seen.length - 1]!;
    socket.end(`HTTP/1.1 ${status} No\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  });
  for (const [, , kind, says] of answers) {
    const client = connectWebSocket(url, 'secret');
    client.send(new Uint8Array(10));
    expect(await closed(client)).toMatchObject({ kind, message: expect.stringContaining(says) });
  }
  expect(seen).toEqual(answers.map(() => 'Bearer secret'));
});

it('delivers whole messages in order, also those sent before it is open or before a handler is there', async () => {
  const client = connectWebSocket(url);
  const sizes = [0, 1, 70_000, 3, 1_000_000];
  for (const [i, size] of sizes.entries()) client.send(new Uint8Array(size).fill(i));
  const peer = await accepted;
  await new Promise((resolve) => setImmediate(resolve));
  const messages = await collect(peer, sizes.length);
  expect(messages.map((message) => message.length)).toEqual(sizes);
  expect(messages.every((message, i) => message.every((byte) => byte === i))).toBe(true);
  expect(messages.every((message) => message.constructor === Uint8Array)).toBe(true);
  peer.send(Uint8Array.of(9));
  expect(await collect(client, 1)).toEqual([Uint8Array.of(9)]);
});

it('tells both sides once that it ended, and nothing can be sent afterwards', async () => {
  const client = connectWebSocket(url);
  client.send(Uint8Array.of(1));
  const peer = await accepted;
  await collect(peer, 1);
  const ends = Promise.all([closed(client), closed(peer)]);
  client.close();
  client.close();
  expect(await ends).toEqual([undefined, undefined]);
  expect(() => client.send(Uint8Array.of(1))).toThrowError(expect.objectContaining({ kind: 'closed' }));
  expect(() => peer.send(Uint8Array.of(1))).toThrowError(expect.objectContaining({ kind: 'closed' }));
});

it('carries the kind and the text of an error in the close', async () => {
  const client = connectWebSocket(url);
  const peer = await accepted;
  const ends = Promise.all([closed(client), closed(peer)]);
  peer.close(new PageliteError('fenced', `${'long '.repeat(40)}ü`));
  const [atClient, atPeer] = await ends;
  expect(atClient).toMatchObject({ kind: 'fenced', message: expect.stringMatching(/^long long/) });
  expect(atPeer).toMatchObject({ kind: 'fenced' });
});

it('delivers what was sent before the close', async () => {
  const client = connectWebSocket(url);
  const peer = await accepted;
  for (let i = 0; i < 100; i++) peer.send(Uint8Array.of(i));
  peer.close(new PageliteError('invalid', 'enough'));
  const messages = await collect(client, 100);
  expect(messages.map((message) => message[0])).toEqual(Array.from({ length: 100 }, (_, i) => i));
  expect(await closed(client)).toMatchObject({ kind: 'invalid', message: 'enough' });
});

it('a peer that dies is an unavailable error', async () => {
  const client = connectWebSocket(url);
  await accepted;
  const end = closed(client);
  for (const socket of sockets) socket.destroy();
  expect(await end).toMatchObject({ kind: 'unavailable' });
});

it('nobody listening is an unavailable error', async () => {
  const client = connectWebSocket('ws://127.0.0.1:1/');
  client.send(Uint8Array.of(1));
  expect(await closed(client)).toMatchObject({ kind: 'unavailable' });
});

it('a text message ends the connection', async () => {
  const raw = new WebSocket(url);
  const ended = new Promise<number>((resolve) => raw.on('close', (code) => resolve(code)));
  const peer = await accepted;
  const atPeer = closed(peer);
  if (raw.readyState !== WebSocket.OPEN) await new Promise((resolve) => raw.once('open', resolve));
  raw.send('hello');
  expect(await atPeer).toMatchObject({ kind: 'invalid', message: 'a text message on a binary channel' });
  expect(await ended).toBe(4002);
});

it('an oversized message ends the connection before it is read, and is refused by its sender', async () => {
  const raw = new WebSocket(url);
  raw.on('error', () => {});
  const peer = await accepted;
  const atPeer = closed(peer);
  peer.onMessage(() => expect.unreachable());
  if (raw.readyState !== WebSocket.OPEN) await new Promise((resolve) => raw.once('open', resolve));
  raw.send(new Uint8Array(channelMessageBytesMax + 1));
  expect(await atPeer).toMatchObject({ kind: 'invalid', message: expect.stringContaining('payload') });
  const other = connectWebSocket(url);
  expect(() => other.send(new Uint8Array(channelMessageBytesMax + 1))).toThrowError(
    expect.objectContaining({ kind: 'invalid' }),
  );
  other.close();
});
