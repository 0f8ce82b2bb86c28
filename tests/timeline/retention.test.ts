/**
 * What was promised to stay stays: leases outlive the process that gave them, whoever reads a stretch of history reads all of it, and what the store says is
 * kept is in the store.
 *
 * Attacked with restarts, a store that fails or loses answers, another owner, garbage collection at the worst moment.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { lsnLeaseLengthMs } from '../../engine/limits.ts';
import { newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { type Faults, FaultyObjectStore, objectKind, type StoreOperation } from '../support/faulty-object-store.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { HurriedClock } from '../support/test-clock.ts';
import { allKeys, isReadable, type ModelTimeline, modelValue, TimelineRig } from '../support/timeline-rig.ts';

/** Fails what a test says, and counts the indexes that are stored. */
class IndexFaults implements Faults {
  fails: 'before' | 'after' | null = null;
  puts = 0;

  async before(operation: StoreOperation, key: string): Promise<void> {
    if (operation !== 'put' || objectKind(key) !== 'index') return;
    this.puts++;
    if (this.fails === 'before') throw new PageliteError('unavailable', 'the network is down');
  }

  async after(operation: StoreOperation, key: string): Promise<void> {
    if (operation !== 'put' || objectKind(key) !== 'index' || this.fails !== 'after') return;
    throw new PageliteError('unavailable', 'the network is down');
  }
}

let stored: MemoryObjectStore;
let faults: IndexFaults;
let store: FaultyObjectStore;
let clock: HurriedClock;
let rig: TimelineRig;
let main: ModelTimeline;

beforeEach(async () => {
  stored = new MemoryObjectStore();
  faults = new IndexFaults();
  store = new FaultyObjectStore(stored, faults);
  clock = new HurriedClock();
  rig = new TimelineRig(new SeededRandom(5), store, clock);
  await rig.createTenant();
  main = await rig.create();
  await rig.restart(store);
});

const running = () => rig.running.get(main.id.timelineId)!;

/** Two images later, of which the newer one is all that is needed at the end. */
async function grow(): Promise<Lsn> {
  await rig.ingest(main, 80);
  await rig.flush(main);
  await rig.compact(main, 'images');
  return main.lastRecordLsn;
}

async function expectReadable(lsn: Lsn, what: string): Promise<void> {
  for (const key of allKeys) {
    if (!isReadable(main, key, lsn)) continue;
    expect(await rig.read(main, key, lsn), `${what} at ${lsn}`).toEqual(modelValue(main, key, lsn));
  }
}

async function collect(): Promise<number> {
  return (await rig.collect(main, main.lastRecordLsn)).layersRemoved;
}

async function restart(): Promise<void> {
  await rig.close();
  await rig.restart(store);
}

describe('a lease', () => {
  it('is renewed after a restart, though the cutoff has passed it', async () => {
    const lsn = await grow();
    await rig.lease(main, lsn);
    await grow();
    await collect();
    expect(running().timeline.gcCutoffLsn).toBeGreaterThan(lsn);
    for (let i = 0; i < 2; i++) {
      await restart();
      await expectReadable(lsn, 'after a restart');
      await clock.sleep(lsnLeaseLengthMs / 3);
      expect(await rig.lease(main, lsn)).toBe(lsnLeaseLengthMs);
      await grow();
      await collect();
      await expectReadable(lsn, 'after garbage collection');
    }
  });

  it('that nobody renews ends, and leaves the index with what it held', async () => {
    const lsn = await grow();
    await rig.lease(main, lsn);
    await grow();
    await collect();
    await clock.sleep(lsnLeaseLengthMs + 1);
    expect(await collect()).toBeGreaterThan(0);
    expect(running().uploads.storedPart.leases).toEqual([]);
    await expect(rig.lease(main, lsn)).rejects.toThrow(/older than what is kept/);
    await restart();
    await expect(rig.lease(main, lsn)).rejects.toThrow(/older than what is kept/);
  });

  it('that ends while no pageserver is there can be renewed at its start', async () => {
    const lsn = await grow();
    await rig.lease(main, lsn);
    await grow();
    await collect();
    await rig.close();
    await clock.sleep(10 * lsnLeaseLengthMs);
    await rig.restart(store);
    await collect();
    await expectReadable(lsn, 'after a long pause');
    await rig.lease(main, lsn);
  });

  it('costs an index for each length of a lease, however often it is renewed', async () => {
    const lsn = await grow();
    const before = faults.puts;
    const lengths = 20;
    for (let i = 0; i < lengths * 3; i++) {
      await rig.lease(main, lsn);
      await clock.sleep(lsnLeaseLengthMs / 3);
    }
    expect(faults.puts - before).toBeLessThanOrEqual(lengths + 1);
  });

  for (const when of ['before', 'after'] as const) {
    it(`is not answered if the store fails ${when} it has it, and the timeline goes on`, async () => {
      const lsn = await grow();
      await restart();
      faults.fails = when;
      await expect(rig.lease(main, lsn)).rejects.toMatchObject({ kind: 'unavailable' });
      await rig.lease(main, lsn).catch(() => {});
      faults.fails = null;
      await rig.lease(main, lsn);
      await grow();
      await collect();
      expect(running().timeline.stopped).toBeNull();
      await restart();
      await expectReadable(lsn, 'after a restart');
    });
  }

  it('is not given by who does not own the tenant any more', async () => {
    const lsn = await grow();
    const stale = running();
    await rig.restart(store);
    await expect(stale.pages.leaseLsn(lsn)).rejects.toMatchObject({ kind: 'fenced' });
    await stale.close();
  });
});

it('the cutoff is not above what is stored: whoever has only the store reads from it on', async () => {
  await grow();
  await rig.ingest(main, 5);
  const stored = running().timeline.diskConsistentLsn;
  expect(main.lastRecordLsn).toBeGreaterThan(stored);
  await collect();
  await running().settled();
  const { gcCutoffLsn, diskConsistentLsn } = running().uploads.storedPart;
  expect([gcCutoffLsn, diskConsistentLsn]).toEqual([stored, stored]);
  // Elsewhere, where the WAL is not.
  main.lastRecordLsn = stored;
  main.log.splice(0, main.log.length, ...main.log.filter(({ lsn }) => lsn <= stored));
  await rig.close();
  await rig.restart(store);
  await expectReadable(stored, 'at the end of what is stored');
});

it('while a stretch of history is read, all of it is there', async () => {
  const start = await grow();
  const middle = await grow();
  const before = await grow();
  await grow();
  const { pages } = running();
  await pages.holdingFrom(start, async () => {
    await collect();
    await rig.collect(main, before);
    expect(running().timeline.gcCutoffLsn).toBe(start);
    await expectReadable(middle, 'inside');
  });
  expect(await collect()).toBeGreaterThan(0);
});

it('a damaged timeline does not keep others of the tenant from garbage collection by the clock', async () => {
  const failed = new Set<unknown>();
  const log = {
    ...silentLog,
    error: (message: string, data?: object) => {
      if (message === 'garbage collection failed') failed.add((data as { timelineId?: string }).timelineId);
    },
  };
  const damaged: Faults = {
    before: async (operation, key) => {
      if (operation === 'get' && objectKind(key) === 'layer') throw new PageliteError('corrupt', `${key} is damaged`);
    },
    after: async () => {},
  };
  const memory = await MemoryPageserver.open({ store: new FaultyObjectStore(new MemoryObjectStore(), damaged), log });
  try {
    const first = await memory.createTimeline();
    const second = { ...first, timelineId: newTimelineId(nodeRandom) };
    await memory.pageserver.createTimeline(second, null);
    await memory.pageserver.setTenantConfig(first.tenantId, { gc_period: 1 });
    await expect.poll(() => failed).toEqual(new Set([first.timelineId, second.timelineId]));
  } finally {
    await memory.close();
  }
});
