/**
 * The page service over a channel: the contract of the seam, and what a wire adds to it.
 *
 * Must hold: reads survive the loss of their connection and end when the caller says so or the time limit passes; errors keep their kind
 * and data; a peer that breaks the protocol costs its own connection only; damaged pages are never handed out; a basebackup streams
 * between page answers. Connections are pairs in memory; their loss, damage and silence are made by hand. Time is a clock of the test's.
 */
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { basebackupChunkBytes, pageSize, pagestreamInFlightMax } from '../../engine/limits.ts';
import { timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import {
  decodeResponse,
  encodeRequest,
  type PagestreamResponse,
  pagestreamVersion,
} from '../../engine/protocol/pagestream.ts';
import { createChannelPair } from '../../engine/remote/channel-pair.ts';
import { RemotePageService, type RemotePageServiceOptions } from '../../engine/remote/remote-page-service.ts';
import type { Channel, PageService } from '../../engine/services.ts';
import { type PagestreamHost, servePagestream } from '../../server/pageserver/pagestream-handler.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { Turns } from '../../server/process/turns.ts';
import { runPageServiceContract } from '../contracts/page-service.ts';
import { createSamplePages, type SamplePages, sampleRel, sampleTimeline } from '../support/page-service-fixture.ts';
import { TestClock } from '../support/test-clock.ts';

function hostOf(service: PageService): PagestreamHost {
  return {
    open: async (id) => {
      if (id.timelineId === service.id.timelineId) return service;
      throw new PageliteError('notFound', `timeline ${id.timelineId} does not exist`, { ...id });
    },
    turns: new Turns(),
    log: silentLog,
  };
}

/** Connects to `host` in memory; keeps the client ends so that a test can cut them. */
function connectorTo(host: PagestreamHost): { connect: () => Channel; channels: Channel[] } {
  const channels: Channel[] = [];
  const connect = () => {
    const [client, server] = createChannelPair();
    channels.push(client);
    servePagestream(server, host, 'test');
    return client;
  };
  return { connect, channels };
}

function remoteOf(connect: () => Channel, more: Partial<RemotePageServiceOptions> = {}): RemotePageService {
  const options = { id: sampleTimeline, clock: nodeClock, random: nodeRandom, log: silentLog, connect };
  return new RemotePageService({ ...options, ...more });
}

function fixtureOver(service: PageService, pages: SamplePages, close: () => void) {
  const { rel, earlier, later, sizes, expectedPage } = pages;
  return {
    service,
    rel,
    earlier,
    later,
    sizes,
    expectedPage,
    advance: async () => pages.service.advance((later + 0x100) as Lsn),
    close: async () => close(),
  };
}

runPageServiceContract('in memory', async () => {
  const pages = createSamplePages(nodeClock);
  return fixtureOver(pages.service, pages, () => {});
});

runPageServiceContract('in memory, over a channel', async () => {
  const pages = createSamplePages(nodeClock);
  const remote = remoteOf(connectorTo(hostOf(pages.service)).connect);
  return fixtureOver(remote, pages, () => remote.close());
});

const exactly = (lsn: Lsn) => ({ requestLsn: lsn, notModifiedSince: lsn });

/** Lets everything that is ready run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe('a lost connection', () => {
  it('is replaced under the reads that were waiting', async () => {
    const pages = createSamplePages(nodeClock);
    const { connect, channels } = connectorTo(hostOf(pages.service));
    const remote = remoteOf(connect);
    const ahead = (pages.later + 8) as Lsn;
    const reads = [remote.getRelSize(exactly(ahead), sampleRel), remote.getRelSize(exactly(ahead), sampleRel)];
    await settle();
    for (let i = 0; i < 3; i++) {
      expect(channels.length).toBe(i + 1);
      channels[i]!.close();
      while (channels.length === i + 1) await settle();
      await settle();
    }
    pages.service.advance(ahead);
    expect(await Promise.all(reads)).toEqual([20, 20]);
    remote.close();
  });

  it('is given up after the time limit, with pauses that grow', async () => {
    const clock = new TestClock();
    let attempts = 0;
    const connect = () => {
      attempts++;
      throw new PageliteError('unavailable', 'connection refused');
    };
    const remote = remoteOf(connect, { clock, retryTimeLimitMs: 60_000 });
    const read = remote.getStatus().catch((error: unknown) => error);
    await clock.runUntilIdle();
    expect(await read).toMatchObject({ kind: 'unavailable', message: expect.stringContaining('connection refused') });
    expect(clock.now()).toBeGreaterThanOrEqual(60_000);
    expect(attempts).toBeGreaterThan(30);
    expect(attempts).toBeLessThan(80);
    remote.close();
  });

  it('is given up when the caller aborts, or closes the service', async () => {
    const clock = new TestClock();
    const connect = () => {
      throw new PageliteError('unavailable', 'connection refused');
    };
    const remote = remoteOf(connect, { clock });
    const abort = new AbortController();
    const read = remote.getStatus(abort.signal);
    const other = remote.getStatus();
    await settle();
    abort.abort();
    await expect(read).rejects.toMatchObject({ kind: 'cancelled' });
    remote.close();
    await expect(other).rejects.toMatchObject({ kind: 'closed' });
    await expect(remote.getStatus()).rejects.toMatchObject({ kind: 'closed' });
  });

  it('is noticed when the peer says nothing', async () => {
    const clock = new TestClock();
    let attempts = 0;
    const connect = () => {
      attempts++;
      return createChannelPair()[0];
    };
    const remote = remoteOf(connect, { clock, silenceMaxMs: 10_000, retryTimeLimitMs: 25_000 });
    const read = remote.getStatus().catch((error: unknown) => error);
    await clock.runUntilIdle();
    expect(await read).toMatchObject({
      kind: 'unavailable',
      message: expect.stringContaining('no answer for 10000 ms'),
    });
    expect(attempts).toBe(3);
    remote.close();
  });
});

describe('errors cross the wire', () => {
  it('with kind and data, and the connection lives on', async () => {
    const pages = createSamplePages(nodeClock);
    const { connect, channels } = connectorTo(hostOf(pages.service));
    const remote = remoteOf(connect);
    const error = await remote.getRelSize(exactly(8 as Lsn), sampleRel).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(PageliteError);
    expect(error).toMatchObject({ kind: 'invalid', data: { ...sampleTimeline, lsn: '0/8' } });
    expect(await remote.getRelSize(exactly(pages.later), sampleRel)).toBe(20);
    expect(channels.length).toBe(1);
    remote.close();
  });

  it('a timeline that does not exist is notFound at once', async () => {
    const pages = createSamplePages(nodeClock);
    const { connect } = connectorTo(hostOf(pages.service));
    const remote = remoteOf(connect, { id: { ...sampleTimeline, timelineId: timelineId('33'.repeat(16)) } });
    await expect(remote.getStatus()).rejects.toMatchObject({ kind: 'notFound', data: { timelineId: '33'.repeat(16) } });
    remote.close();
  });

  it('a bug behind the seam is answered and logged, and costs that request', async () => {
    const pages = createSamplePages(nodeClock);
    const logged: string[] = [];
    const host = hostOf(pages.service);
    const { connect } = connectorTo({ ...host, log: { ...silentLog, error: (message) => logged.push(message) } });
    pages.service.listRels = () => Promise.reject(new TypeError('x is undefined'));
    const remote = remoteOf(connect);
    await expect(remote.listRels(exactly(pages.later), 1663, 5)).rejects.toMatchObject({
      kind: 'unavailable',
      message: 'internal error of the pageserver: x is undefined',
    });
    expect(logged).toEqual(['internal error']);
    expect(await remote.getRelSize(exactly(pages.later), sampleRel)).toBe(20);
    remote.close();
  });
});

describe('damage on the way', () => {
  it('a page whose checksum fails is corrupt, and other reads are asked again', async () => {
    const pages = createSamplePages(nodeClock);
    let damage = true;
    const { connect, channels } = connectorTo(hostOf(pages.service));
    const remote = remoteOf(() => {
      const channel = connect();
      return {
        ...boundChannel(channel),
        onMessage: (handler) =>
          channel.onMessage((message) => {
            if (damage && message.length > pageSize) {
              damage = false;
              message[5000]! ^= 1;
            }
            handler(message);
          }),
      };
    });
    const damaged = remote.getPages(exactly(pages.later), sampleRel, 0, 1);
    const other = remote.getPages(exactly(pages.later), sampleRel, 2, 1);
    await expect(damaged).rejects.toMatchObject({ kind: 'corrupt' });
    expect(await other).toEqual(pages.expectedPage(pages.later, 2));
    expect(channels.length).toBe(2);
    remote.close();
  });
});

/** A channel's methods as own properties, to be replaced one by one. */
function boundChannel(channel: Channel): Channel {
  return {
    send: (message) => channel.send(message),
    get bufferedBytes() {
      return channel.bufferedBytes;
    },
    onMessage: (handler) => channel.onMessage(handler),
    onClose: (handler) => channel.onClose(handler),
    close: (error) => channel.close(error),
  };
}

describe('the server end', () => {
  /** Speaks raw messages; collects the answers and whether the connection was closed. */
  function rawClient(host: PagestreamHost) {
    const [client, server] = createChannelPair();
    servePagestream(server, host, 'raw');
    const answers: PagestreamResponse[] = [];
    const state = { closed: false };
    client.onMessage((message) => answers.push(decodeResponse(message)));
    client.onClose(() => {
      state.closed = true;
    });
    return { client, answers, state };
  }
  const hello = encodeRequest({ kind: 'hello', id: 0, version: pagestreamVersion, timeline: sampleTimeline });
  const status = (id: number) => encodeRequest({ kind: 'getStatus', id });

  it.each([
    ['noise', [Uint8Array.of(1, 2, 3)], 'invalid', /cut short/],
    ['a request before hello', [status(1)], 'invalid', /getStatus before hello/],
    ['two hellos', [hello, hello], 'invalid', /second hello/],
    [
      'another version',
      [encodeRequest({ kind: 'hello', id: 0, version: 99, timeline: sampleTimeline })],
      'invalid',
      /version 99/,
    ],
    ['an id that is taken', [hello, status(5), status(5)], 'invalid', /id 5 is taken/],
    ['a damaged request', [hello, status(5).map((byte, i) => (i === 5 ? 1 : byte))], 'corrupt', /checksum/],
    ['a request that is too long', [hello, new Uint8Array(100_000)], 'invalid', /limit/],
    [
      'too many requests',
      [hello, ...Array.from({ length: pagestreamInFlightMax + 1 }, (_, i) => status(i + 1))],
      'invalid',
      /not answered/,
    ],
  ])('%s ends its connection with an error and leaves the others', async (_name, messages, kind, text) => {
    const pages = createSamplePages(nodeClock);
    const host = hostOf(pages.service);
    const good = remoteOf(connectorTo(host).connect);
    await good.getStatus();
    const { client, answers, state } = rawClient(host);
    for (const message of messages) client.send(message.slice());
    await settle();
    const last = answers.at(-1);
    expect(last).toMatchObject({ kind: 'error', id: 0, error: { kind } });
    expect((last as { error: Error }).error.message).toMatch(text);
    expect(state.closed).toBe(true);
    expect(await good.getRelSize(exactly(pages.later), sampleRel)).toBe(20);
    good.close();
  });

  it('a cancelled request is answered once, and its id is free again', async () => {
    const pages = createSamplePages(nodeClock);
    const { client, answers } = rawClient(hostOf(pages.service));
    client.send(hello);
    const ahead = exactly((pages.later + 8) as Lsn);
    client.send(encodeRequest({ kind: 'getRelSize', id: 7, at: ahead, rel: sampleRel }));
    await settle();
    client.send(encodeRequest({ kind: 'cancel', id: 7 }));
    client.send(encodeRequest({ kind: 'cancel', id: 8 }));
    await settle();
    expect(answers).toMatchObject([{ kind: 'welcome' }, { kind: 'error', id: 7, error: { kind: 'cancelled' } }]);
    client.send(encodeRequest({ kind: 'getRelSize', id: 7, at: exactly(pages.later), rel: sampleRel }));
    await settle();
    expect(answers.at(-1)).toEqual({ kind: 'relSize', id: 7, size: 20 });
    client.close();
  });

  it('page answers pass between the chunks of a basebackup when the peer reads slowly', async () => {
    const pages = createSamplePages(nodeClock);
    let unread = 0;
    const [client, server] = createChannelPair();
    const slow = { ...boundChannel(server) };
    Object.defineProperty(slow, 'bufferedBytes', { get: () => unread });
    slow.send = (message) => {
      // The peer reads nothing after each chunk until it is told to.
      if (message.length > basebackupChunkBytes) unread = Number.MAX_SAFE_INTEGER;
      server.send(message);
    };
    servePagestream(slow, hostOf(pages.service), 'slow');
    const answers: PagestreamResponse[] = [];
    client.onMessage((message) => answers.push(decodeResponse(message)));
    client.send(hello);
    client.send(encodeRequest({ kind: 'getBasebackup', id: 1, lsn: null }));
    client.send(status(2));
    const kinds = () => answers.map((answer) => answer.kind);
    while (!kinds().includes('basebackupChunk')) await settle();
    expect(kinds()).toEqual(['welcome', 'basebackupChunk']);
    while (answers.length < 5) {
      await settle();
      unread = 0;
    }
    expect(kinds()).toEqual(['welcome', 'basebackupChunk', 'basebackupChunk', 'status', 'basebackupChunk']);
    client.close();
  });
});
