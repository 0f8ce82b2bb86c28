/**
 * What every WalService promises, in the same thread or across a socket: an election creates a timeline and finds its end of WAL, a commit
 * is readable and survives a restart, readers see committed WAL only and wake by themselves, a newer term fences the older, a peer that
 * breaks the protocol loses its connection and nothing else.
 */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { concatBytes } from '../../engine/bytes.ts';
import { isPageliteError, type PageliteError } from '../../engine/errors.ts';
import { pgVersionNumber, walMessageBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import {
  type AcceptorMessage,
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerId,
  type ProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../../engine/protocol/version.ts';
import type { Channel, WalChunk, WalService } from '../../engine/services.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { hostClock, hostRandom, silentLog } from '../support/any-host.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

export interface WalServiceSetup {
  readonly service: WalService;
  /** Ends what is behind the service cleanly and starts it again on what it stored. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

const startLsn = (walSegmentSize + 0x28) as Lsn;

export function runWalServiceContract(name: string, setup: () => Promise<WalServiceSetup>): void {
  describe(`WalService: ${name}`, () => {
    let host: WalServiceSetup;
    let service: WalService;
    let id: TenantTimelineId;
    let drivers: ProposerDriver[];
    let stop: AbortController;

    beforeEach(async () => {
      host = await setup();
      service = host.service;
      id = { tenantId: newTenantId(hostRandom), timelineId: newTimelineId(hostRandom) };
      drivers = [];
      stop = new AbortController();
    });

    afterEach(async () => {
      stop.abort();
      for (const driver of drivers) driver.close();
      await host.close();
    });

    async function elect(options: { startLsnIfEmpty?: Lsn; systemIdentifier?: bigint } = {}): Promise<ProposerDriver> {
      const driver = await ProposerDriver.elect({
        id,
        services: [service],
        startLsnIfEmpty: startLsn,
        systemIdentifier: syntheticSystemIdentifier,
        clock: hostClock,
        random: hostRandom,
        log: silentLog,
        signal: stop.signal,
        ...options,
      });
      drivers.push(driver);
      return driver;
    }

    /** Appends records of these sizes and waits until they are committed; returns their bytes. */
    async function write(driver: ProposerDriver, wal: SyntheticWal, sizes: readonly number[]): Promise<Uint8Array> {
      const parts = sizes.map((size, i) => wal.next(new Uint8Array(size).fill(i + 1)));
      for (const { startLsn, bytes } of parts) driver.append(startLsn, bytes);
      await driver.waitCommit(wal.endLsn);
      return concatBytes(parts.map(({ bytes }) => bytes));
    }

    async function read(from: Lsn, to: Lsn, term?: number): Promise<Uint8Array> {
      const reading = new AbortController();
      const parts: Uint8Array[] = [];
      let at: number = from;
      for await (const chunk of service.readWal(id, from, reading.signal, term)) {
        expect(chunk.startLsn).toBe(at);
        parts.push(chunk.bytes.slice());
        at += chunk.bytes.length;
        if (at >= to) break;
      }
      return concatBytes(parts).subarray(0, to - from);
    }

    it('knows nothing of a timeline that no proposer has created', async () => {
      expect(await service.getStatus(id)).toBe(null);
      await expect(read(startLsn, (startLsn + 1) as Lsn)).rejects.toMatchObject({ kind: 'notFound' });
    });

    it('an election creates the timeline at the LSN that the proposer gives', async () => {
      const driver = await elect();
      expect(driver.term).toBe(1);
      expect(driver.startLsn).toBe(startLsn);
      expect(driver.commitLsn).toBe(startLsn);
      expect(await service.getStatus(id)).toEqual({
        term: 1,
        flushLsn: startLsn,
        commitLsn: startLsn,
        startLsn,
        backupLsn: 0,
        remoteConsistentLsn: 0,
        configuration: noConfiguration,
        termHistory: [[1, startLsn]],
      });
    });

    it('remembers the furthest place up to which the pageserver needs no WAL, and knows nothing of a timeline that is not here', async () => {
      await service.reportConsistent(id, startLsn);
      expect(await service.getStatus(id)).toBe(null);
      const driver = await elect();
      await write(driver, new SyntheticWal(startLsn), [100]);
      await service.reportConsistent(id, driver.commitLsn);
      await service.reportConsistent(id, startLsn);
      expect(await service.getStatus(id)).toMatchObject({ remoteConsistentLsn: driver.commitLsn });
    });

    it('committed WAL is read back byte for byte, over page and segment ends', async () => {
      const from = (2 * walSegmentSize - 20_000) as Lsn;
      const driver = await elect({ startLsnIfEmpty: from });
      const wal = new SyntheticWal(from);
      const bytes = await write(driver, wal, [10, 8000, 3, 20_000, 100_000, 1]);
      expect(driver.commitLsn).toBe(wal.endLsn);
      expect(driver.inFlightBytes).toBe(0);
      expect(equal(await read(from, wal.endLsn), bytes)).toBe(true);
    });

    it('a reader that follows wakes for every commit and sees nothing before it is committed', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      const reader = service.readWal(id, startLsn, stop.signal)[Symbol.asyncIterator]();
      for (const size of [5, 9000, 70]) {
        const next = reader.next();
        const bytes = await write(driver, wal, [size]);
        const chunk = (await next).value as WalChunk;
        expect(equal(chunk.bytes, bytes)).toBe(true);
        expect(chunk.commitLsn).toBeGreaterThanOrEqual(chunk.startLsn + chunk.bytes.length);
      }
      const last = reader.next();
      stop.abort();
      expect((await last).done).toBe(true);
    });

    it('half a record is neither flushed nor committed until its rest arrives', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      const first = wal.next(new Uint8Array(100));
      const { bytes, startLsn: at } = wal.next(new Uint8Array(30_000));
      driver.append(first.startLsn, first.bytes);
      driver.append(at, bytes.subarray(0, 20_000));
      // Waits for whole records only.
      await driver.waitCommit((at + 20_000) as Lsn);
      expect(driver.commitLsn).toBe(first.endLsn);
      expect((await service.getStatus(id))?.flushLsn).toBe(first.endLsn);
      driver.append((at + 20_000) as Lsn, bytes.subarray(20_000));
      await driver.waitCommit(wal.endLsn);
      expect(driver.commitLsn).toBe(wal.endLsn);
    });

    it('a new proposer starts where the last record ended, in a higher term, and cuts off half a record', async () => {
      const first = await elect();
      const wal = new SyntheticWal(startLsn);
      await write(first, wal, [100, 200]);
      const agreed = wal.endLsn;
      const half = wal.next(new Uint8Array(50_000)).bytes.subarray(0, 40_000);
      first.append(agreed, half);
      const second = await elect();
      expect(second.term).toBe(2);
      expect(second.startLsn).toBe(agreed);
      const other = new SyntheticWal(agreed);
      const bytes = await write(second, other, [7, 7, 7]);
      expect(equal(await read(agreed, other.endLsn), bytes)).toBe(true);
      expect((await service.getStatus(id))?.termHistory).toEqual([
        [1, startLsn],
        [2, agreed],
      ]);
    });

    it('an older proposer is fenced by a newer one, and told by whom', async () => {
      const first = await elect();
      const wal = new SyntheticWal(startLsn);
      await write(first, wal, [100]);
      const fenced = new Promise<PageliteError>((resolve) => first.onFenced(resolve));
      const second = await elect();
      const { startLsn: at, bytes } = wal.next(new Uint8Array(100));
      let refusal: unknown;
      try {
        first.append(at, bytes);
        await first.waitCommit(wal.endLsn);
      } catch (error) {
        refusal = error;
      }
      expect(refusal).toMatchObject({ kind: 'fenced', data: { term: 1, newerTerm: second.term } });
      expect((await fenced).data.node).toBe(service.nodeId);
      expect(() => first.append(wal.endLsn, bytes)).toThrowError(expect.objectContaining({ kind: 'fenced' }));
      await expect(first.waitCommit(wal.endLsn)).rejects.toMatchObject({ kind: 'fenced' });
      await write(second, new SyntheticWal(at), [1]);
    });

    it('what was acknowledged survives a restart, and the proposer goes on in its term', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      const before = await write(driver, wal, [300, 40_000]);
      const acknowledged = wal.endLsn;
      // That it is readable says that the service, too, knows it to be committed.
      await read(startLsn, acknowledged);
      await host.restart();
      expect(await service.getStatus(id)).toMatchObject({ term: 1, flushLsn: acknowledged, commitLsn: acknowledged });
      const after = await write(driver, wal, [500]);
      expect(driver.term).toBe(1);
      expect(equal(await read(startLsn, wal.endLsn), concatBytes([before, after]))).toBe(true);
    });

    it('more WAL than fits the window and the cache arrives whole at a slow reader', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      const reader = service.readWal(id, startLsn, stop.signal)[Symbol.asyncIterator]();
      const payload = new Uint8Array(walMessageBytesMax - 1000);
      for (let i = 0; i < 24; i++) {
        const record = wal.next(payload.fill(i));
        driver.append(record.startLsn, record.bytes);
        if (driver.inFlightBytes > 8 * walMessageBytesMax) await driver.waitCommit(record.startLsn);
      }
      await driver.waitCommit(wal.endLsn);
      const again = new SyntheticWal(startLsn);
      const expected = concatBytes(Array.from({ length: 24 }, (_, i) => again.next(payload.fill(i)).bytes));
      for (let at = startLsn; at < wal.endLsn; ) {
        const { bytes } = (await reader.next()).value as WalChunk;
        expect(bytes.length).toBeLessThanOrEqual(walMessageBytesMax);
        if (!equal(bytes, expected.subarray(at - startLsn, at - startLsn + bytes.length)))
          expect.unreachable(`at ${at}`);
        at = (at + bytes.length) as Lsn;
      }
    });

    it('refuses to read from an LSN that it does not hold', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      await write(driver, wal, [100]);
      for (const from of [startLsn - 8, wal.endLsn + 8]) {
        await expect(read(from as Lsn, (from + 100) as Lsn)).rejects.toMatchObject({ kind: 'invalid' });
      }
    });

    it('a term that the last record is not of reads nothing uncommitted', async () => {
      const driver = await elect();
      const wal = new SyntheticWal(startLsn);
      const bytes = await write(driver, wal, [100]);
      expect(equal(await read(startLsn, wal.endLsn, driver.term), bytes)).toBe(true);
      await expect(read(startLsn, wal.endLsn, driver.term + 1)).rejects.toMatchObject({ kind: 'fenced' });
    });

    it('the WAL of another system is refused for good', async () => {
      (await elect()).close();
      await expect(elect({ systemIdentifier: 42n })).rejects.toMatchObject({
        kind: 'invalid',
        message: expect.stringContaining('system identifier 42'),
      });
    });

    describe('a proposer that breaks the protocol', () => {
      const proposerId = 'ab'.repeat(16) as ProposerId;
      const greeting = (): ProposerMessage => ({
        kind: 'proposerGreeting',
        version: proposerAcceptorVersion,
        timeline: id,
        proposerId,
        systemIdentifier: syntheticSystemIdentifier,
        pgVersion: pgVersionNumber,
        walSegmentBytes: walSegmentSize,
        configuration: noConfiguration,
      });

      /** Sends messages one after another, each once the one before was answered if it is to be, and returns the error that ends it. */
      async function refusal(messages: readonly (ProposerMessage | Uint8Array)[]): Promise<PageliteError> {
        const raw = new RawProposer(service.connectProposer(id));
        for (const message of messages) {
          raw.send(message);
          const kind = message instanceof Uint8Array ? '' : message.kind;
          if (kind !== 'proposerGreeting' && kind !== 'voteRequest') continue;
          const answer = await raw.answer();
          if (answer.kind === 'error') return answer.error;
        }
        for (;;) {
          const answer = await raw.answer();
          if (answer.kind !== 'error') continue;
          await raw.closed;
          return answer.error;
        }
      }

      const term = 5 as Term;
      const vote: ProposerMessage = { kind: 'voteRequest', term, proposerId };
      const elected = (): ProposerMessage => ({
        kind: 'proposerElected',
        term,
        startStreamingAt: startLsn,
        termHistory: [{ term, lsn: startLsn }],
      });
      const append = (beginLsn: number, bytes: Uint8Array, inTerm = term): ProposerMessage => ({
        kind: 'appendRequest',
        term: inTerm,
        beginLsn: beginLsn as Lsn,
        commitLsn: 0 as Lsn,
        mustReply: false,
        bytes,
      });
      const record = new SyntheticWal(startLsn).next(new Uint8Array(100));

      it.each<[string, () => (ProposerMessage | Uint8Array)[], RegExp]>([
        ['no greeting', () => [vote], /voteRequest before the greeting/],
        ['two greetings', () => [greeting(), greeting()], /second greeting|before the greeting/],
        [
          'an append before it was elected',
          () => [greeting(), append(startLsn, record.bytes)],
          /before its proposerElected/,
        ],
        [
          'an append in the term of nobody',
          () => [greeting(), vote, elected(), append(startLsn, record.bytes, 6 as Term)],
          /term 6/,
        ],
        [
          'a gap',
          () => [greeting(), vote, elected(), append(startLsn + 8, record.bytes)],
          /would leave a gap after 0\/1000028/,
        ],
        [
          'an overwrite',
          () => [greeting(), vote, elected(), append(startLsn, record.bytes), append(startLsn, record.bytes)],
          /would overwrite/,
        ],
        [
          'garbage as WAL',
          () => [greeting(), vote, elected(), append(startLsn, new Uint8Array(500).fill(0xee))],
          /garbage at 0\/1000028/,
        ],
        ['zeros as WAL', () => [greeting(), vote, elected(), append(startLsn, new Uint8Array(500))], /length zero/],
        ['no message at all', () => [Uint8Array.of(1, 2, 3)], /cut short: 3 bytes/],
        ['a truncated message', () => [encodeProposerMessage(greeting()).subarray(0, 50)], /its header says/],
        ['a changed message', () => [changed(encodeProposerMessage(greeting()), 30)], /wrong checksum/],
        ['a message of the other side', () => [encodeProposerMessage(vote).fill(131, 0, 1)], /wrong checksum/],
      ])('%s ends its connection with an error; the timeline and the service go on', async (_, messages, error) => {
        const driver = await elect();
        driver.close();
        const thrown = await refusal(messages());
        expect(thrown.message).toMatch(error);
        expect(['invalid', 'corrupt']).toContain(thrown.kind);
        const next = await elect();
        const status = await service.getStatus(id);
        expect(status?.termHistory.at(-1)).toEqual([next.term, next.startLsn]);
        await write(next, new SyntheticWal(next.startLsn), [10]);
      });
    });
  });
}

/** A proposer's end of a channel, message by message. */
class RawProposer {
  readonly #channel: Channel;
  readonly #answers: AcceptorMessage[] = [];
  #wake: (() => void) | null = null;
  readonly closed: Promise<Error | undefined>;

  constructor(channel: Channel) {
    this.#channel = channel;
    channel.onMessage((bytes) => {
      this.#answers.push(decodeAcceptorMessage(bytes));
      this.#wake?.();
    });
    this.closed = new Promise((resolve) => channel.onClose(resolve));
  }

  send(message: ProposerMessage | Uint8Array): void {
    try {
      this.#channel.send(message instanceof Uint8Array ? message : encodeProposerMessage(message));
    } catch (error) {
      if (!isPageliteError(error, 'closed')) throw error;
    }
  }

  async answer(): Promise<AcceptorMessage> {
    while (this.#answers.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#answers.shift()!;
  }
}

function changed(bytes: Uint8Array, at: number): Uint8Array {
  bytes[at]! ^= 1;
  return bytes;
}

/** As toEqual on large arrays is slow. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
