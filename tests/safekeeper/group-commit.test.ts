/**
 * Group commit, and media that fail: appends that come while a flush runs share the next one, nothing is acknowledged before its flush, and
 * a medium that fails stops the timeline, not the safekeeper.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import {
  MemorySafekeeperStorage,
  type SafekeeperStorage,
  type SegmentStorage,
  type TimelineStorage,
} from '../../engine/safekeeper/storage.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const startLsn = (walSegmentSize + 40) as Lsn;

/** Memory whose flushes wait for `open` while `gated`, and whose calls fail on demand. */
class Medium implements SafekeeperStorage {
  readonly #memory = new MemorySafekeeperStorage();
  #waiting: (() => void)[] = [];
  gated = false;
  flushes = 0;
  failing: 'write' | 'sync' | null = null;

  async openTimeline(id: TenantTimelineId) {
    const storage = await this.#memory.openTimeline(id);
    return storage && this.#wrap(storage);
  }

  async createTimeline(id: TenantTimelineId) {
    return this.#wrap(await this.#memory.createTimeline(id));
  }

  listTimelines() {
    return this.#memory.listTimelines();
  }

  get waitingFlushes(): number {
    return this.#waiting.length;
  }

  open(): void {
    for (const resume of this.#waiting.splice(0)) resume();
  }

  #wrap(storage: TimelineStorage): TimelineStorage {
    const segments: SegmentStorage = {
      list: () => storage.segments.list(),
      create: (name, size) => storage.segments.create(name, size),
      write: (name, offset, bytes) => {
        if (this.failing === 'write') throw new PageliteError('unavailable', 'no space left on device');
        return storage.segments.write(name, offset, bytes);
      },
      sync: async (name) => {
        if (this.failing === 'sync') throw new PageliteError('unavailable', 'input/output error');
        this.flushes++;
        if (this.gated) await new Promise<void>((resolve) => this.#waiting.push(resolve));
        return storage.segments.sync(name);
      },
      read: (name, offset, length) => storage.segments.read(name, offset, length),
      zeroFrom: (name, offset) => storage.segments.zeroFrom(name, offset),
      rename: (from, to) => storage.segments.rename(from, to),
      remove: (name) => storage.segments.remove(name),
    };
    return {
      segments,
      label: storage.label,
      readFile: (name) => storage.readFile(name),
      replaceFile: (name, bytes) => storage.replaceFile(name, bytes),
      overwriteFile: (name, bytes, durable) => storage.overwriteFile(name, bytes, durable),
      close: () => storage.close(),
    };
  }
}

let medium: Medium;
let safekeeper: Safekeeper;
let id: TenantTimelineId;

const turns = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
};

beforeEach(() => {
  medium = new Medium();
  safekeeper = new Safekeeper({ nodeId: 1 as NodeId, storage: medium, log: silentLog });
  id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
});

const elect = () =>
  ProposerDriver.elect({
    id,
    services: [safekeeper],
    startLsnIfEmpty: startLsn,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });

it('appends that come while a flush runs share the next one, and none is acknowledged before', async () => {
  const driver = await elect();
  const wal = new SyntheticWal(startLsn);
  const append = () => {
    const record = wal.next(new Uint8Array(100));
    driver.append(record.startLsn, record.bytes);
    return record;
  };
  medium.gated = true;
  const before = medium.flushes;
  const first = append();
  await turns();
  expect([medium.flushes - before, medium.waitingFlushes]).toEqual([1, 1]);
  for (let i = 0; i < 50; i++) append();
  await turns();
  expect(medium.flushes - before).toBe(1);
  expect(driver.commitLsn).toBe(startLsn);
  expect((await safekeeper.getStatus(id))?.flushLsn).toBe(startLsn);
  medium.open();
  await driver.waitCommit(first.endLsn);
  await turns();
  expect(driver.commitLsn).toBe(first.endLsn);
  expect([medium.flushes - before, medium.waitingFlushes]).toEqual([2, 1]);
  medium.open();
  await driver.waitCommit(wal.endLsn);
  expect(medium.flushes - before).toBe(2);
  driver.close();
});

describe('a medium that fails', () => {
  it('in a write: the timeline is opened anew, and the commit waits until the medium works again', async () => {
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    const record = wal.next(new Uint8Array(100));
    medium.failing = 'write';
    driver.append(record.startLsn, record.bytes);
    let committed = false;
    const waiting = driver.waitCommit(record.endLsn).then(() => {
      committed = true;
    });
    await turns();
    expect(committed).toBe(false);
    expect(await safekeeper.getStatus(id)).toMatchObject({ flushLsn: startLsn });
    medium.failing = null;
    await waiting;
    expect(driver.term).toBe(1);
    driver.close();
  });

  it('in a flush: the timeline takes nothing more, because what the medium has is not known; others go on', async () => {
    const driver = await elect();
    const wal = new SyntheticWal(startLsn);
    const record = wal.next(new Uint8Array(100));
    medium.failing = 'sync';
    driver.append(record.startLsn, record.bytes);
    await turns();
    medium.failing = null;
    await turns();
    expect(driver.commitLsn).toBe(startLsn);
    const reading = safekeeper.readWal(id, startLsn, new AbortController().signal)[Symbol.asyncIterator]();
    await expect(reading.next()).rejects.toMatchObject({ kind: 'unavailable', message: 'input/output error' });
    driver.close();
    id = { ...id, timelineId: newTimelineId(nodeRandom) };
    const other = await elect();
    const next = new SyntheticWal(startLsn).next(new Uint8Array(100));
    other.append(next.startLsn, next.bytes);
    await other.waitCommit(next.endLsn);
    other.close();
  });
});
