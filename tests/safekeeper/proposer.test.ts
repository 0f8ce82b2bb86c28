/**
 * The proposer's decisions, one by one and with three safekeepers: quorums, where two logs part, who is the donor, and that a safekeeper
 * that was away gets what it missed, from memory or from a donor, while commits go on or wait as they must.
 */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { concatBytes } from '../../engine/bytes.ts';
import { walInFlightBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { committedLsn, quorumOf } from '../../engine/model/quorum.ts';
import { highestCommonLsn, historyUpTo, type Term, type TermHistory } from '../../engine/model/term.ts';
import { createChannelPair } from '../../engine/remote/channel-pair.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { Channel, WalService } from '../../engine/services.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { equal } from '../contracts/wal-service.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const lsns = (...values: number[]) => values as Lsn[];
const history = (...entries: [number, number][]): TermHistory =>
  entries.map(([term, lsn]) => ({ term: term as Term, lsn: lsn as Lsn }));

describe('quorum', () => {
  it('any two share a member', () => {
    expect([1, 2, 3, 4, 5].map(quorumOf)).toEqual([1, 2, 2, 3, 3]);
  });

  it('the committed LSN is what the slowest member of the fastest quorum has', () => {
    expect(committedLsn(lsns(500), 100 as Lsn)).toBe(500);
    expect(committedLsn(lsns(500, 300, 0), 100 as Lsn)).toBe(300);
    expect(committedLsn(lsns(0, 500, 0), 100 as Lsn)).toBe(0);
    expect(committedLsn(lsns(500, 300, 400, 200, 100), 100 as Lsn)).toBe(300);
  });

  it('who has not reached the start of the term does not count, as in figure 8 of the Raft paper', () => {
    expect(committedLsn(lsns(500, 300, 299), 300 as Lsn)).toBe(300);
    expect(committedLsn(lsns(500, 299, 299), 300 as Lsn)).toBe(0);
  });
});

describe('where two logs part', () => {
  const end = 400 as Lsn;
  it.each<[string, TermHistory, TermHistory, number | null]>([
    ['the same terms: at the end of the acceptor', history([1, 100], [3, 200]), history([1, 100], [3, 200]), 400],
    ['the proposer goes on: at the end of the acceptor', history([1, 100], [3, 500]), history([1, 100]), 400],
    [
      'the acceptor wrote beyond what was agreed: where the next term begins',
      history([1, 100], [3, 250]),
      history([1, 100]),
      250,
    ],
    [
      'another term after a common one: where the first of them begins',
      history([1, 100], [3, 300]),
      history([1, 100], [2, 200]),
      200,
    ],
    ['nothing held', history([1, 100]), history(), null],
    ['no term in common', history([2, 100]), history([1, 100]), null],
  ])('%s', (_, proposer, acceptor, expected) => {
    expect(highestCommonLsn(proposer, acceptor, end)).toBe(expected);
  });

  it('a term that starts at two places is refused', () => {
    expect(() => highestCommonLsn(history([1, 100]), history([1, 200]), end)).toThrowError(
      expect.objectContaining({ kind: 'invalid' }),
    );
  });

  it('a switch exactly at the end of the log counts', () => {
    expect(historyUpTo(history([1, 100], [2, 400], [3, 401]), end)).toEqual(history([1, 100], [2, 400]));
  });
});

describe('three safekeepers', () => {
  const startLsn = (walSegmentSize + 40) as Lsn;
  let id: TenantTimelineId;
  let nodes: Gate[];
  let drivers: ProposerDriver[];

  /** A safekeeper that can be taken off the network. */
  class Gate implements WalService {
    readonly nodeId: NodeId;
    readonly #safekeeper: Safekeeper;
    readonly #channels = new Set<Channel>();
    reads = 0;
    up = true;

    constructor(nodeId: number) {
      this.nodeId = nodeId as NodeId;
      this.#safekeeper = new Safekeeper({
        nodeId: this.nodeId,
        storage: new MemorySafekeeperStorage(),
        log: silentLog,
      });
    }

    connectProposer(timeline: TenantTimelineId): Channel {
      if (!this.up) {
        const [near, far] = createChannelPair();
        far.close();
        return near;
      }
      const channel = this.#safekeeper.connectProposer(timeline);
      this.#channels.add(channel);
      return channel;
    }

    readWal(timeline: TenantTimelineId, from: Lsn, signal: AbortSignal, term?: number) {
      this.reads++;
      return this.#safekeeper.readWal(timeline, from, signal, term);
    }

    getStatus(timeline: TenantTimelineId) {
      return this.#safekeeper.getStatus(timeline);
    }

    reportConsistent(timeline: TenantTimelineId, lsn: Lsn) {
      return this.#safekeeper.reportConsistent(timeline, lsn);
    }

    down(): void {
      this.up = false;
      for (const channel of this.#channels) channel.close();
      this.#channels.clear();
    }
  }

  beforeEach(() => {
    id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
    nodes = [new Gate(1), new Gate(2), new Gate(3)];
    drivers = [];
  });

  afterEach(() => {
    for (const driver of drivers) driver.close();
  });

  async function elect(): Promise<ProposerDriver> {
    const driver = await ProposerDriver.elect({
      id,
      services: nodes,
      startLsnIfEmpty: startLsn,
      systemIdentifier: syntheticSystemIdentifier,
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    drivers.push(driver);
    return driver;
  }

  async function write(driver: ProposerDriver, wal: SyntheticWal, sizes: readonly number[]): Promise<Uint8Array> {
    const records = sizes.map((size, i) => wal.next(new Uint8Array(size).fill(i + 1)));
    for (const record of records) {
      while (driver.inFlightBytes > walInFlightBytesMax / 2) await driver.waitCommit((driver.commitLsn + 1) as Lsn);
      driver.append(record.startLsn, record.bytes);
    }
    await driver.waitCommit(wal.endLsn);
    return concatBytes(records.map(({ bytes }) => bytes));
  }

  /** Resolves once the node has, and knows to be committed, all WAL up to `lsn`. */
  async function caughtUp(node: Gate, lsn: Lsn): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let at: number = startLsn;
    for await (const { bytes } of node.readWal(id, startLsn, new AbortController().signal)) {
      parts.push(bytes);
      at += bytes.length;
      if (at >= lsn) break;
    }
    return concatBytes(parts);
  }

  it('commits go on without one of them; it gets what it missed from memory when it returns', async () => {
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    const first = await write(driver, wal, [10]);
    nodes[2]!.down();
    const second = await write(driver, wal, [20, 9000]);
    nodes[2]!.up = true;
    expect(equal(await caughtUp(nodes[2]!, wal.endLsn), concatBytes([first, second]))).toBe(true);
    expect(nodes[0]!.reads + nodes[1]!.reads).toBe(0);
  });

  it('what is no longer in memory comes from a donor, whichever of the others is left', async () => {
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    await write(driver, wal, [10]);
    nodes[1]!.down();
    await write(driver, wal, new Array(Math.ceil(walInFlightBytesMax / 1_000_000) + 12).fill(1_000_000) as number[]);
    nodes[1]!.up = true;
    const { reads } = nodes[0]!;
    const log = await caughtUp(nodes[1]!, wal.endLsn);
    expect(nodes[0]!.reads + nodes[2]!.reads).toBeGreaterThan(reads);
    expect(equal(log, await caughtUp(nodes[0]!, wal.endLsn))).toBe(true);
    expect(driver.inFlightBytes).toBe(0);
  });

  it('without a quorum a commit waits, and is there once the quorum is back', async () => {
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    await write(driver, wal, [10]);
    nodes[0]!.down();
    nodes[2]!.down();
    const committed = driver.commitLsn;
    const record = wal.next(new Uint8Array(100));
    driver.append(record.startLsn, record.bytes);
    let done = false;
    const waiting = driver.waitCommit(record.endLsn).then(() => {
      done = true;
    });
    const abort = new AbortController();
    const given = driver.waitCommit(record.endLsn, abort.signal);
    abort.abort();
    await expect(given).rejects.toMatchObject({ kind: 'cancelled' });
    expect([done, driver.commitLsn]).toEqual([false, committed]);
    nodes[0]!.up = true;
    await waiting;
    expect(driver.commitLsn).toBe(record.endLsn);
  });

  it('the next proposer takes over from the most advanced of the voters, and the others follow', async () => {
    const first = await elect();
    const wal = new SyntheticWal(startLsn);
    await write(first, wal, [10, 2000]);
    nodes[0]!.down();
    await write(first, wal, [3000]);
    first.close();
    // Node 3 is away: node 1 lags, node 2 has everything.
    nodes[2]!.down();
    nodes[0]!.up = true;
    const second = await elect();
    expect(second.startLsn).toBe(wal.endLsn);
    const next = SyntheticWal.afterBoot(second.startLsn);
    await write(second, next, [5]);
    nodes[2]!.up = true;
    const logs = await Promise.all(nodes.map((node) => caughtUp(node, next.endLsn)));
    expect(logs.every((log) => equal(log, logs[0]!))).toBe(true);
    expect((await nodes[0]!.getStatus(id))?.termHistory).toEqual((await nodes[1]!.getStatus(id))?.termHistory);
  });

  it('what only a minority has is cut off when another log wins', async () => {
    const first = await elect();
    const wal = new SyntheticWal(startLsn);
    await write(first, wal, [10]);
    const agreed = wal.endLsn;
    nodes[1]!.down();
    nodes[2]!.down();
    const lost = wal.next(new Uint8Array(700));
    first.append(lost.startLsn, lost.bytes);
    while ((await nodes[0]!.getStatus(id))!.flushLsn < lost.endLsn)
      await new Promise((resolve) => setImmediate(resolve));
    first.close();
    nodes[0]!.down();
    nodes[1]!.up = true;
    nodes[2]!.up = true;
    const second = await elect();
    expect(second.startLsn).toBe(agreed);
    const next = SyntheticWal.afterBoot(agreed);
    await write(second, next, [40]);
    nodes[0]!.up = true;
    const logs = await Promise.all(nodes.map((node) => caughtUp(node, next.endLsn)));
    expect(logs.every((log) => equal(log, logs[1]!))).toBe(true);
  });

  it('a record larger than all that may be in flight passes', async () => {
    nodes = [nodes[0]!];
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    const record = wal.next(new Uint8Array(2 * walInFlightBytesMax + 5_000_000));
    for (let at = 0; at < record.bytes.length; at += 1_000_000) {
      driver.append((startLsn + at) as Lsn, record.bytes.subarray(at, at + 1_000_000));
    }
    await driver.waitCommit(record.endLsn);
    expect(driver.commitLsn).toBe(record.endLsn);
  });

  it('a compute whose WAL is garbage is stopped before a byte of it leaves', async () => {
    const driver = await elect();
    expect(() => driver.append(startLsn, new Uint8Array(100).fill(9))).toThrowError(
      expect.objectContaining({ kind: 'invalid', message: expect.stringContaining("the compute's WAL is garbage") }),
    );
    expect(() => driver.append((startLsn + 8) as Lsn, new Uint8Array(8))).toThrowError(
      expect.objectContaining({ kind: 'invalid' }),
    );
  });

  it('an election is cancelled by its signal', async () => {
    for (const node of nodes) node.down();
    const abort = new AbortController();
    const election = ProposerDriver.elect({
      id,
      services: nodes,
      startLsnIfEmpty: startLsn,
      systemIdentifier: 0n,
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
      signal: abort.signal,
    });
    abort.abort();
    await expect(election).rejects.toMatchObject({ kind: 'cancelled' });
  });

  it('one safekeeper under two names is no quorum', async () => {
    const impostor = new Gate(1);
    Object.defineProperty(impostor, 'nodeId', { value: 2 });
    nodes = [new Gate(1), impostor];
    await expect(elect()).rejects.toMatchObject({
      kind: 'invalid',
      message: expect.stringContaining('safekeeper 1 answers'),
    });
  });
});
