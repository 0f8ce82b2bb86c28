/**
 * Safekeepers without a compute: one that lags has all WAL after a few rounds of upkeep, whatever its peers have given up; committed WAL is in the object
 * store, whole and sent by one of them; and what is removed from the disks is never anything that somebody still needs.
 *
 * Real: safekeepers, proposers. Modelled: the disks (memory), what is in the records. With every fault at once: tests/simulation.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { partialBackupPauseMs, walMessageBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import { type NodeId, newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { chooseDonor } from '../../engine/safekeeper/peer-recovery.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import { chooseSender, listBackup, parseBackupKey, walLogFolder } from '../../engine/safekeeper/wal-backup.ts';
import type { SafekeeperPeer } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { deletedFile } from '../../engine/timeline/tenant-claims.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { firstBoundaryOf, segmentFileName, segmentStart } from '../../engine/wal/wal-page.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { hostClock, hostRandom, silentLog } from '../support/any-host.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { away } from './away.ts';

const beginLsn = (walSegmentSize + 0x28) as Lsn;
const cluster = 'abcdef0123456789';

class Rig {
  readonly id = { tenantId: newTenantId(hostRandom), timelineId: newTimelineId(hostRandom) };
  readonly store = new MemoryObjectStore();
  readonly storages: MemorySafekeeperStorage[];
  readonly nodes: (Safekeeper | null)[];
  /** Those that do not answer their peers. */
  readonly isDown: boolean[] = [];
  readonly wal = new SyntheticWal(beginLsn);
  readonly written: Uint8Array[] = [];
  storeError: PageliteError | null = null;
  nowMs = 0;

  constructor(count: number) {
    this.storages = Array.from({ length: count }, () => new MemorySafekeeperStorage());
    this.nodes = this.storages.map((_, i) => this.open(i));
  }

  /** Of three: what the third one lacks the others have given up. It is closed. */
  static async withOneAway(): Promise<Rig> {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 100_000);
    await rig.write([0, 1], 3.2 * walSegmentSize);
    await rig.nodes[2]!.close();
    rig.nodes[2] = null;
    await rig.giveUp([0, 1]);
    return rig;
  }

  open(i: number): Safekeeper {
    return new Safekeeper({
      nodeId: (i + 1) as NodeId,
      storage: this.storages[i]!,
      log: silentLog,
      backup: this.#openBackup,
    });
  }

  readonly #openBackup = async () => {
    if (this.storeError) throw this.storeError;
    return { store: this.store, cluster };
  };

  upkeep(i: number, withBackup = false): SafekeeperUpkeep {
    const others = this.nodes.filter((node, other) => node !== null && other !== i) as SafekeeperPeer[];
    const peers = others.map((node): SafekeeperPeer => {
      const gone = away(node.nodeId);
      return new Proxy(node, {
        get: (target, name) => {
          const from = this.isDown[target.nodeId - 1] ? gone : target;
          const value = Reflect.get(from, name);
          return typeof value === 'function' ? value.bind(from) : value;
        },
      });
    });
    return new SafekeeperUpkeep({
      safekeeper: this.nodes[i]!,
      peers,
      backup: withBackup ? this.#openBackup : null,
      clock: { now: () => this.nowMs, sleep: hostClock.sleep },
      log: silentLog,
    });
  }

  /** Written by a compute that knows of all safekeepers and reaches those with the numbers. */
  async write(reached: readonly number[], bytes: number, known?: readonly number[]): Promise<void> {
    const driver = await this.elect(reached, known);
    const end = this.wal.endLsn + bytes;
    while (this.wal.endLsn < end) {
      const size = Math.min(walMessageBytesMax - 1000, Math.max(20, end - this.wal.endLsn));
      const record = this.wal.next(new Uint8Array(size).fill(this.written.length));
      driver.append(record.startLsn, record.bytes);
      this.written.push(record.bytes);
      await driver.waitCommit(this.wal.endLsn);
    }
    // All that are reached hear of the commit.
    for (const i of reached) {
      await expect.poll(async () => (await this.nodes[i]!.getStatus(this.id))?.commitLsn).toBe(this.wal.endLsn);
    }
    driver.close();
  }

  elect(
    reached: readonly number[],
    known: readonly number[] = this.nodes.map((_, i) => i),
    generation = 1,
  ): Promise<ProposerDriver> {
    const services = known.map((i) => (reached.includes(i) ? this.nodes[i]! : away((i + 1) as NodeId)));
    return ProposerDriver.elect({
      id: this.id,
      services,
      startLsnIfEmpty: beginLsn,
      systemIdentifier: syntheticSystemIdentifier,
      configuration: configurationOf(
        generation,
        services.map(({ nodeId }) => nodeId),
      ),
      clock: hostClock,
      random: hostRandom,
      log: silentLog,
    });
  }

  /** What they have is sent, and removed where that is possible. */
  async giveUp(nodes: readonly number[]): Promise<void> {
    for (const i of [...nodes, ...nodes]) {
      await this.nodes[i]!.reportConsistent(this.id, this.wal.endLsn);
      const upkeep = this.upkeep(i, true);
      await upkeep.round();
      await upkeep.idle();
    }
  }

  /** Its WAL from `lsn` on, as a reader gets it. */
  async read(i: number, lsn: Lsn): Promise<Uint8Array> {
    const stop = new AbortController();
    const out = new Uint8Array(this.wal.endLsn - lsn);
    for await (const { startLsn, bytes } of this.nodes[i]!.readWal(this.id, lsn, stop.signal)) {
      out.set(bytes, startLsn - lsn);
      if (startLsn + bytes.length >= this.wal.endLsn) break;
    }
    return out;
  }

  /** All that was written from `lsn` on. */
  all(lsn: Lsn = beginLsn): Uint8Array {
    return Buffer.concat(this.written).subarray(lsn - beginLsn);
  }

  async status(i: number) {
    return (await this.nodes[i]!.getStatus(this.id))!;
  }

  async files(i: number): Promise<string[]> {
    const { segments } = (await this.storages[i]!.openTimeline(this.id))!;
    return (await segments.list()).map(({ name }) => name).sort();
  }

  get backupFolder(): string {
    return walLogFolder(this.id, beginLsn, cluster);
  }
}

async function roundOfEach(all: readonly SafekeeperUpkeep[]): Promise<void> {
  for (const upkeep of all) {
    await upkeep.round();
    await upkeep.idle();
  }
}

const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

describe('a safekeeper that lags', () => {
  it('has all WAL after a round, also what nobody knows to be committed, and votes with it', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 50_000);
    await rig.write([0, 1], 3_000_000);
    expect((await rig.status(2)).flushLsn).toBeLessThan(rig.wal.endLsn);
    const upkeep = rig.upkeep(2);
    await upkeep.round();
    await upkeep.idle();
    const { flushLsn, commitLsn, termHistory } = await rig.status(2);
    expect({ flushLsn, termHistory }).toEqual({
      flushLsn: rig.wal.endLsn,
      termHistory: (await rig.status(0)).termHistory,
    });
    await upkeep.round();
    expect((await rig.status(2)).commitLsn).toBe(rig.wal.endLsn);
    expect(commitLsn).toBeGreaterThan(beginLsn);
    expect(same(await rig.read(2, beginLsn), rig.all())).toBe(true);
    expect(upkeep.counters.recoveries).toBe(1);
    // With the other one gone it is what a compute goes on from.
    const driver = await rig.elect([1, 2]);
    expect(driver.startLsn).toBe(rig.wal.endLsn);
    driver.close();
  });

  it('keeps what it caught up with when it starts again', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 1000);
    await rig.write([0, 1], 100_000);
    const upkeep = rig.upkeep(2);
    await upkeep.round();
    await upkeep.idle();
    await rig.nodes[2]!.close();
    rig.nodes[2] = rig.open(2);
    expect((await rig.status(2)).flushLsn).toBe(rig.wal.endLsn);
    expect(same(await rig.read(2, beginLsn), rig.all())).toBe(true);
  });

  it('gets what its peers have given up from where it was sent; so does whoever reads', async () => {
    const rig = await Rig.withOneAway();
    for (const i of [0, 1]) {
      expect((await rig.status(i)).startLsn).toBeGreaterThan(3 * walSegmentSize);
      expect(same(await rig.read(i, beginLsn), rig.all())).toBe(true);
    }
    rig.nodes[2] = rig.open(2);
    const upkeep = rig.upkeep(2, true);
    await upkeep.round();
    await upkeep.idle();
    await upkeep.round();
    expect(await rig.status(2)).toMatchObject({ flushLsn: rig.wal.endLsn, commitLsn: rig.wal.endLsn });
    expect(same(await rig.read(2, beginLsn), rig.all())).toBe(true);
    await rig.nodes[2]!.close();
    rig.nodes[2] = rig.open(2);
    expect(await rig.status(2)).toMatchObject({ flushLsn: rig.wal.endLsn });
    await rig.write([1, 2], 1000);
  });

  it('gets it from a compute, too, which stays connected all the time', async () => {
    const rig = await Rig.withOneAway();
    rig.nodes[2] = rig.open(2);
    expect((await rig.status(2)).flushLsn).toBeLessThan(2 * walSegmentSize);
    expect((await rig.status(0)).startLsn).toBeGreaterThan(3 * walSegmentSize);
    // The first one is gone: without the third there is no quorum.
    const driver = await rig.elect([1, 2]);
    expect(driver.startLsn).toBe(rig.wal.endLsn);
    driver.close();
    expect(same(await rig.read(2, beginLsn), rig.all())).toBe(true);
  });

  it('that lost its disk is restored from where its WAL was sent; again, after that was cut off, it goes on', async () => {
    const rig = new Rig(1);
    await rig.write([0], 2.2 * walSegmentSize);
    await rig.giveUp([0]);
    const last = rig.upkeep(0, true);
    await last.round();
    await last.idle();
    await last.close(10_000);
    const { flushLsn } = await rig.status(0);
    await rig.nodes[0]!.close();
    rig.storages[0] = new MemorySafekeeperStorage();
    rig.nodes[0] = rig.open(0);
    // The store goes away while it is at it.
    const { store } = rig;
    const read = store.get.bind(store);
    let reads = 0;
    store.get = async (...of) => {
      if (++reads > 5) throw new PageliteError('unavailable', 'the bucket is away');
      return read(...of);
    };
    await expect(rig.upkeep(0, true).restore(rig.id)).rejects.toMatchObject({ message: 'the bucket is away' });
    expect((await rig.status(0)).flushLsn).toBeLessThan(flushLsn);
    store.get = read;
    expect((await rig.upkeep(0, true).restore(rig.id)).flushLsn).toBe(flushLsn);
    expect((await rig.upkeep(0, true).restore(rig.id)).flushLsn).toBe(flushLsn);
    expect(same(await rig.read(0, beginLsn), rig.all())).toBe(true);
  });

  it('hears which object is missing or damaged', async () => {
    const rig = new Rig(1);
    await rig.write([0], 3.2 * walSegmentSize);
    await rig.giveUp([0]);
    const key = rig.backupFolder + segmentFileName(2 * walSegmentSize);
    const { bytes } = (await rig.store.get(key))!;
    const damaged = bytes.slice();
    damaged[5_000_000]! ^= 4;
    await rig.store.put(key, damaged);
    await expect(rig.read(0, beginLsn)).rejects.toMatchObject({ kind: 'corrupt', data: { file: key } });
    await rig.store.delete(key);
    await expect(rig.read(0, beginLsn)).rejects.toMatchObject({ kind: 'unavailable', data: { file: key } });
    rig.storeError = new PageliteError('unavailable', 'the bucket is away');
    await expect(rig.read(0, beginLsn)).rejects.toMatchObject({ message: 'the bucket is away' });
    await rig.store.put(key, bytes);
    rig.storeError = null;
    expect(same(await rig.read(0, beginLsn), rig.all())).toBe(true);
  });

  it('gets timelines that it never heard of, if most have them, and none that was deleted here', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1], 100_000);
    expect(await rig.nodes[2]!.getStatus(rig.id)).toBe(null);
    const upkeep = rig.upkeep(2);
    await upkeep.round();
    await upkeep.idle();
    await upkeep.round();
    expect(same(await rig.read(2, beginLsn), rig.all())).toBe(true);

    await rig.nodes[2]!.deleteTimeline(rig.id, () => rig.storages[2]!.removeTimeline(rig.id));
    await upkeep.round();
    expect(await rig.nodes[2]!.getStatus(rig.id)).toBe(null);
    // One alone that has it may be the one that a deletion has not reached.
    const other = new Rig(3);
    await other.write([0, 1], 1000);
    await other.nodes[0]!.deleteTimeline(other.id, () => other.storages[0]!.removeTimeline(other.id));
    await other.upkeep(2).round();
    expect(await other.nodes[2]!.getStatus(other.id)).toBe(null);
  });

  it('leaves the log to a compute that is connected', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1], 100_000);
    const driver = await rig.elect([0, 2]);
    const before = await rig.status(2);
    const upkeep = rig.upkeep(2);
    await upkeep.round();
    await upkeep.idle();
    expect(upkeep.counters.recoveries).toBe(0);
    expect(before.term).toBe(driver.term);
    driver.close();
  });

  it('goes by the term of the last record, then by its place', () => {
    const at = (lastTerm: number, flushLsn: number) => ({ lastTerm, flushLsn: flushLsn as Lsn });
    expect(chooseDonor(at(2, 100), [at(1, 500), at(2, 100)])).toBe(null);
    expect(chooseDonor(at(2, 100), [at(2, 200), at(3, 50), at(3, 60), at(1, 900)])).toEqual(at(3, 60));
  });
});

describe('a new member', () => {
  const members = (...ids: number[]) => ids.map((id) => id as NodeId);

  it('has all that was committed, in a term in which it votes for nobody, and only proposers of its configuration are heard', async () => {
    const rig = new Rig(4);
    // Of three, the second one is lost, and the third one lags.
    await rig.write([0, 1, 2], 50_000, [0, 1, 2]);
    await rig.write([0, 1], 300_000, [0, 1, 2]);
    const old = await rig.elect([0, 2], [0, 1, 2]);
    const fenced = new Promise<PageliteError>((resolve) => old.onFenced(resolve));
    rig.nodes[1] = null;
    const next = configurationOf(2, members(1, 3, 4));
    for (const i of [0, 2]) await rig.nodes[i]!.configure(rig.id, next);
    const upkeep = rig.upkeep(3);
    await expect(upkeep.pull(rig.id, next, members(1, 2, 3))).rejects.toMatchObject({ kind: 'invalid' });
    expect(await upkeep.pull(rig.id, next, members(1, 3))).toEqual({ flushLsn: rig.wal.endLsn, term: old.term });
    expect(same(await rig.read(3, beginLsn), rig.all())).toBe(true);
    expect(await rig.nodes[3]!.configurationOf(rig.id)).toEqual(next);
    // Again: nothing changes.
    expect(await upkeep.pull(rig.id, next, members(1, 3))).toEqual({ flushLsn: rig.wal.endLsn, term: old.term });

    expect(await fenced).toMatchObject({ kind: 'fenced', data: { outdatedConfiguration: true } });
    await expect(rig.elect([0, 2], [0, 1, 2])).rejects.toMatchObject({ kind: 'fenced' });
    // With the one that lagged, and without any that had all of it.
    const driver = await rig.elect([2, 3], [0, 2, 3], 2);
    expect(driver.startLsn).toBe(rig.wal.endLsn);
    driver.close();
    await rig.nodes[3]!.close();
    rig.nodes[3] = rig.open(3);
    expect(await rig.nodes[3]!.configurationOf(rig.id)).toEqual(next);
  });

  it('refuses proposers whose members are others', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 1000, [0, 1, 2]);
    const refused = { kind: 'invalid' };
    // The same generation with other members, and a newer one that it is no member of.
    await expect(rig.nodes[0]!.configure(rig.id, configurationOf(1, members(1, 2)))).rejects.toMatchObject(refused);
    await expect(rig.nodes[0]!.configure(rig.id, configurationOf(2, members(2, 3)))).rejects.toMatchObject(refused);
    await rig.nodes[0]!.configure(rig.id, configurationOf(5, members(1, 2, 3)));
    await expect(rig.nodes[0]!.configure(rig.id, configurationOf(4, members(1, 2)))).rejects.toMatchObject({
      kind: 'fenced',
    });
    expect(() => configurationOf(1, members(2, 2))).toThrow('not a configuration');
    expect(() => configurationOf(0, members(1))).toThrow('not a configuration');
  });
});

describe('WAL in the object store', () => {
  it('is sent by one safekeeper, full segments at once and the rest when it is quiet, and is what was written', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 2.2 * walSegmentSize);
    const all = [0, 1, 2].map((i) => rig.upkeep(i, true));
    const rounds = () => roundOfEach(all);
    await rounds();
    const names = async () => (await listBackup(rig.store, rig.backupFolder)).map(({ key }) => key.split('/').at(-1));
    const full = [1, 2].map((n) => segmentFileName(n * walSegmentSize));
    expect(await names()).toEqual(full);
    expect(all.map(({ counters }) => counters.backedUpSegments).sort()).toEqual([0, 0, 2]);

    rig.nowMs += partialBackupPauseMs;
    await rounds();
    const partial = (end: number) =>
      `${segmentFileName(segmentStart(end))}.${end.toString(16).padStart(16, '0')}.partial`;
    expect(await names()).toEqual([...full, partial(rig.wal.endLsn)]);

    await rig.write([0, 1, 2], 1000);
    await rounds();
    rig.nowMs += partialBackupPauseMs;
    await rounds();
    expect(await names()).toEqual([...full, partial(rig.wal.endLsn)]);

    const stored = Buffer.alloc(rig.wal.endLsn - walSegmentSize);
    for (const { key, startLsn } of await listBackup(rig.store, rig.backupFolder)) {
      stored.set((await rig.store.get(key))!.bytes, startLsn - walSegmentSize);
    }
    expect(same(stored.subarray(beginLsn - walSegmentSize), rig.all())).toBe(true);
  });

  it('goes on where another safekeeper has ended', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 1.2 * walSegmentSize);
    const sender = chooseSender(
      rig.id,
      [1, 2, 3].map((nodeId) => ({ nodeId: nodeId as NodeId, commitLsn: rig.wal.endLsn })),
    );
    const first = rig.upkeep(sender - 1, true);
    await first.round();
    await first.idle();
    await first.close(1000);
    rig.nodes[sender - 1] = null;
    const left = [0, 1, 2].filter((i) => i !== sender - 1);
    await rig.write(left, walSegmentSize);
    for (const i of left) {
      const upkeep = rig.upkeep(i, true);
      await upkeep.round();
      await upkeep.idle();
    }
    // The partial object that the first one left at its end is gone.
    expect((await listBackup(rig.store, rig.backupFolder)).map(({ isPartial }) => isPartial)).toEqual([false, false]);
  });

  it('is all there when the safekeepers have ended in good order, in whatever order and whoever was to send it', async () => {
    const one = fc.record({ node: fc.integer({ min: 0, max: 2 }), isEnd: fc.boolean() });
    const ends = fc.array(one, { maxLength: 9 });
    await fc.assert(
      fc.asyncProperty(ends, fc.integer({ min: 100, max: 40_000 }), async (steps, bytes) => {
        const rig = new Rig(3);
        await rig.write([0, 1, 2], bytes);
        const running = new Map([0, 1, 2].map((i) => [i, rig.upkeep(i, true)]));
        const end = async (i: number) => {
          await running.get(i)?.close(60_000);
          running.delete(i);
          rig.isDown[i] = true;
        };
        for (const { node, isEnd } of steps) {
          // A round of one that sees who has ended already may take the sending over, and give it up.
          if (isEnd) await end(node);
          else await running.get(node)?.round();
        }
        for (const i of [...running.keys()]) await end(i);
        const objects = await listBackup(rig.store, rig.backupFolder);
        expect(objects.map(({ endLsn }) => endLsn)).toEqual([rig.wal.endLsn]);
      }),
      { numRuns: 50 },
    );
  });

  it('is sent by one that ends and was not to send it, once the store is back', async () => {
    const rig = new Rig(1);
    rig.storeError = new PageliteError('unavailable', 'the bucket is away');
    await rig.write([0], 1000);
    const upkeep = rig.upkeep(0, true);
    await upkeep.round();
    await upkeep.idle();
    await upkeep.close(60_000);
    expect(await listBackup(rig.store, rig.backupFolder)).toEqual([]);
    rig.storeError = null;
    await rig.upkeep(0, true).close(60_000);
    expect((await listBackup(rig.store, rig.backupFolder)).map(({ endLsn }) => endLsn)).toEqual([rig.wal.endLsn]);
  });

  it('has one partial object for each segment, whoever sent those before', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 1000);
    const all = [0, 1, 2].map((i) => rig.upkeep(i, true));
    const rounds = () => roundOfEach(all);
    await rounds();
    for (let i = 0; i < 3; i++) {
      await rig.write([0, 1, 2], 1000);
      // Another one is restarted, and comes back.
      await all[i]!.close(60_000);
      all[i] = rig.upkeep(i, true);
      await rounds();
      expect((await listBackup(rig.store, rig.backupFolder)).map(({ endLsn }) => endLsn)).toEqual([rig.wal.endLsn]);
    }
    await rig.write([0, 1, 2], walSegmentSize);
    await rounds();
    rig.nowMs += partialBackupPauseMs;
    await rounds();
    expect((await listBackup(rig.store, rig.backupFolder)).map(({ isPartial }) => isPartial)).toEqual([false, true]);
  });

  it('is waited for, but not by commits: nothing is removed while the store is away', async () => {
    const rig = new Rig(1);
    rig.storeError = new PageliteError('unavailable', 'the bucket is away');
    await rig.write([0], 2.2 * walSegmentSize);
    await rig.nodes[0]!.reportConsistent(rig.id, rig.wal.endLsn);
    const upkeep = rig.upkeep(0, true);
    await upkeep.round();
    await upkeep.idle();
    expect(upkeep.counters.backupErrors).toBe(1);
    expect((await rig.status(0)).startLsn).toBe(beginLsn);
    rig.storeError = null;
    rig.nowMs += 60_000;
    await upkeep.round();
    await upkeep.idle();
    await upkeep.round();
    // The segment in which the log begins now is stored as a whole.
    expect((await rig.status(0)).startLsn).toBeGreaterThanOrEqual(2 * walSegmentSize);
    expect(await rig.files(0)).toHaveLength(2);
  });

  it('is not there of a tenant that was deleted, whoever did that: also what was on the way then goes', async () => {
    const rig = new Rig(1);
    await rig.write([0], 1000);
    const upkeep = rig.upkeep(0, true);
    await upkeep.round();
    await upkeep.idle();
    await rig.store.put(`tenants/${rig.id.tenantId}/${deletedFile}`, new Uint8Array(1));
    const all = async () => (await rig.store.list('wal/')).length;
    rig.nowMs += partialBackupPauseMs;
    await upkeep.round();
    await upkeep.idle();
    expect(await all()).toBe(0);
    await rig.write([0], 1.5 * walSegmentSize);
    await upkeep.round();
    await upkeep.idle();
    await upkeep.close(60_000);
    expect(await all()).toBe(0);
    expect(upkeep.counters).toMatchObject({ backedUpSegments: 0, backupErrors: 0 });
    // Another process of the safekeeper finds it, too.
    await rig.upkeep(0, true).close(60_000);
    expect(await all()).toBe(0);
  });

  it('goes with the timeline, but for what other clusters have', async () => {
    const rig = new Rig(1);
    await rig.write([0], 1.2 * walSegmentSize);
    const upkeep = rig.upkeep(0, true);
    await upkeep.round();
    await upkeep.idle();
    const other = `${walLogFolder(rig.id, beginLsn, '0'.repeat(16))}${segmentFileName(beginLsn)}`;
    await rig.store.put(other, new Uint8Array(1));
    await rig.nodes[0]!.deleteTimeline(rig.id, () => rig.storages[0]!.removeTimeline(rig.id));
    await upkeep.forget(rig.id);
    expect((await rig.store.list('wal/')).map(({ key }) => key)).toEqual([other]);
  });

  it('has one sender among those that have it, the same for all who know the same', () => {
    const node = fc.record({
      nodeId: fc.integer({ min: 1, max: 9 }),
      commitLsn: fc.integer({ min: 0, max: 10 * walSegmentSize }),
    });
    const nodes = fc.uniqueArray(node, { minLength: 1, selector: ({ nodeId }) => nodeId });
    fc.assert(
      fc.property(nodes, fc.stringMatching(/^[0-9a-f]{32}$/), (list, hex) => {
        const id = { tenantId: newTenantId(hostRandom), timelineId: hex as ReturnType<typeof newTimelineId> };
        const known = list as { nodeId: NodeId; commitLsn: Lsn }[];
        const chosen = chooseSender(id, known);
        expect(chooseSender(id, [...known].reverse())).toBe(chosen);
        const newest = Math.max(...known.map(({ commitLsn }) => commitLsn));
        expect(known.find(({ nodeId }) => nodeId === chosen)!.commitLsn).toBeGreaterThanOrEqual(
          newest - walSegmentSize,
        );
      }),
    );
  });

  it('has keys that say what is in them, and no others', () => {
    const name = segmentFileName(5 * walSegmentSize);
    expect(parseBackupKey(`a/${name}`)).toMatchObject({ startLsn: 5 * walSegmentSize, endLsn: 6 * walSegmentSize });
    const end = (5 * walSegmentSize + 80).toString(16).padStart(16, '0');
    expect(parseBackupKey(`a/${name}.${end}.partial`)).toMatchObject({
      isPartial: true,
      endLsn: 5 * walSegmentSize + 80,
    });
    for (const bad of [`a/${name}.partial`, `a/${name}x`, `a/${name}.${'0'.repeat(16)}.partial`, 'a/b', '']) {
      expect(parseBackupKey(bad)).toBe(null);
    }
  });
});

describe('removal', () => {
  it('waits for the pageserver, for readers and for peers that lag or are away', async () => {
    const rig = new Rig(3);
    await rig.write([0, 1, 2], 100_000);
    await rig.write([0, 1], 2.2 * walSegmentSize);
    const there = rig.nodes[2]!;
    rig.nodes[2] = { ...away(3 as NodeId) } as unknown as Safekeeper;
    await rig.nodes[0]!.reportConsistent(rig.id, rig.wal.endLsn);
    await rig.upkeep(0).round();
    expect((await rig.status(0)).startLsn).toBe(beginLsn);
    rig.nodes[2] = there;
    const upkeep = rig.upkeep(0);
    // The third one is there, and lags.
    await upkeep.round();
    expect((await rig.status(0)).startLsn).toBe(beginLsn);
    const third = rig.upkeep(2);
    await third.round();
    await third.idle();
    // A reader that has not gone on.
    const reading = rig.nodes[0]!.readWal(rig.id, beginLsn, new AbortController().signal);
    await reading.next();
    await upkeep.round();
    expect((await rig.status(0)).startLsn).toBe(beginLsn);
    await reading.return();
    await upkeep.round();
    expect((await rig.status(0)).startLsn).toBeGreaterThanOrEqual(3 * walSegmentSize);
    expect(same(await rig.read(0, (await rig.status(0)).startLsn), rig.all((await rig.status(0)).startLsn))).toBe(true);
  });
});

it('a segment says where its first record begins', () => {
  const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 60_000 })), {
    minLength: 1,
    maxLength: 60,
  });
  fc.assert(
    fc.property(sizes, fc.integer({ min: 1, max: 20_000 }), (list, before) => {
      const segment = (2 * walSegmentSize) as Lsn;
      const from = (segment - 8 * before) as Lsn;
      // A place that is no page header.
      fc.pre(from % 8192 >= 40);
      const wal = new SyntheticWal(from);
      const parts: Uint8Array[] = [];
      let boundary: Lsn | null = null;
      for (const size of list) {
        const record = wal.next(new Uint8Array(size));
        parts.push(record.bytes);
        if (boundary === null && record.endLsn >= segment) boundary = record.endLsn;
      }
      fc.pre(boundary !== null && wal.endLsn >= segment + 40);
      const bytes = Buffer.concat(parts).subarray(segment - from);
      const isContinued = (bytes.readUInt16LE(2) & 1) !== 0;
      const found = firstBoundaryOf(segment, isContinued ? bytes.readUInt32LE(16) : 0);
      expect(found).toBe(boundary);
      const scan = new RecordScan(found);
      expect(scan.feed(bytes.subarray(found - segment))).toBe(true);
      expect(scan.boundaryLsn).toBe(wal.endLsn);
    }),
  );
});
