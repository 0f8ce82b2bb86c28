/**
 * The page service over a real WebSocket: the contract of the seam again, and what a socket can bring.
 *
 * Must hold: connections that speak no WebSocket, another path, text, too large messages or half a message end alone, and the listener goes on
 * serving; a listener that goes away and comes back on its port is found again by the reads that wait.
 */
import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { PageliteError } from '../../engine/errors.ts';
import { channelMessageBytesMax } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { PageService } from '../../engine/services.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { listenPagestream, type PagestreamListener } from '../../server/pageserver/pagestream-listener.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { Turns } from '../../server/process/turns.ts';
import { runPageServiceContract } from '../contracts/page-service.ts';
import { createSamplePages, sampleRel, sampleTimeline } from '../support/page-service-fixture.ts';

function listenWith(service: PageService, port = 0): Promise<PagestreamListener> {
  const open = async () => service;
  return listenPagestream({ open, turns: new Turns(), log: silentLog }, '127.0.0.1', port);
}

function remoteAt(port: number): RemotePageService {
  return new RemotePageService({
    id: sampleTimeline,
    connect: () => connectWebSocket(`ws://127.0.0.1:${port}/pagestream`),
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
}

runPageServiceContract('in memory, over a WebSocket', async () => {
  const pages = createSamplePages(nodeClock);
  const listener = await listenWith(pages.service);
  const remote = remoteAt(listener.port);
  const { rel, earlier, later, sizes, expectedPage } = pages;
  return {
    service: remote,
    rel,
    earlier,
    later,
    sizes,
    expectedPage,
    advance: async () => pages.service.advance((later + 0x100) as Lsn),
    close: async () => {
      remote.close();
      await listener.close();
    },
  };
});

describe('the listener', () => {
  it('outlives every kind of broken peer', async () => {
    const pages = createSamplePages(nodeClock);
    const listener = await listenWith(pages.service);
    const url = `ws://127.0.0.1:${listener.port}`;

    expect((await fetch(`http://127.0.0.1:${listener.port}/`)).status).toBe(426);

    const elsewhere = new WebSocket(`${url}/elsewhere`);
    const [refused] = (await once(elsewhere, 'error')) as [Error];
    expect(refused.message).toContain('404');

    const closeCodes: number[] = [];
    const broken = [
      (socket: WebSocket) => socket.send('hello'),
      (socket: WebSocket) => socket.send(new Uint8Array(channelMessageBytesMax + 1)),
      (socket: WebSocket) => socket.send(Uint8Array.of(1, 2, 3)),
      // A text where a frame should be.
      (socket: WebSocket) =>
        (socket as unknown as { _socket: { write(text: string): void } })._socket.write('GET / HTTP'),
    ];
    for (const speak of broken) {
      const socket = new WebSocket(`${url}/pagestream`);
      socket.on('error', () => {});
      await once(socket, 'open');
      speak(socket);
      const [code] = (await once(socket, 'close')) as [number];
      closeCodes.push(code);
    }
    expect(closeCodes.length).toBe(broken.length);

    // Half a frame, then gone.
    const half = connectTcp(listener.port, '127.0.0.1');
    half.write('GET /pagestream HTTP/1.1\r\nupgrade: websocket\r\n');
    await once(half, 'connect');
    half.resetAndDestroy();

    const remote = remoteAt(listener.port);
    expect(await remote.getRelSize({ requestLsn: pages.later, notModifiedSince: pages.later }, sampleRel)).toBe(20);
    remote.close();
    await listener.close();
  });

  it('is found again after it was away', async () => {
    const pages = createSamplePages(nodeClock);
    const first = await listenWith(pages.service);
    const remote = remoteAt(first.port);
    expect((await remote.getStatus()).lastRecordLsn).toBe(pages.later);
    const ahead = (pages.later + 8) as Lsn;
    const waiting = remote.getRelSize({ requestLsn: ahead, notModifiedSince: ahead }, sampleRel);
    await first.close();
    const second = await listenWith(pages.service, first.port);
    pages.service.advance(ahead);
    expect(await waiting).toBe(20);
    remote.close();
    await second.close();
  });

  it('names the port that is taken', async () => {
    const pages = createSamplePages(nodeClock);
    const listener = await listenWith(pages.service);
    const again = listenWith(pages.service, listener.port);
    await expect(again).rejects.toThrow(PageliteError);
    await expect(again).rejects.toThrow(`${listener.port}: the port is taken`);
    await listener.close();
  });
});
