/**
 * A timeline that begins anew in its place (Tenant.rebuildTimeline), with real WAL: its layers are lost, a branch of it stays.
 *
 * Must hold: afterwards every page of it and of its branch is what it was, at every moment; while its WAL is read, its branch waits and never gives an older
 * page; wherever the store goes away or the process ends meanwhile, it is there afterwards as it was, and the store has nothing else.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import type { WalRedo } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { timelineFolder } from '../../engine/timeline/index-part.ts';
import type { PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { type Faults, FaultyObjectStore, type StoreOperation } from '../support/faulty-object-store.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';
import {
  differingFrom,
  type RecordedHistory,
  readAllPages,
  recordHistory,
  threeMoments,
} from '../support/recorded-history.ts';
import { testTemplate } from '../support/test-template.ts';

/** From the `from`th operation on until it is told otherwise, everything fails; deletions wait for as long as they are to. */
class Outage implements Faults {
  from = Number.POSITIVE_INFINITY;
  count = 0;
  waiting = 0;
  /** Lets them go on. */
  goOn = () => {};
  #deletions = Promise.resolve();

  async before(operation: StoreOperation, key: string): Promise<void> {
    if (++this.count >= this.from) throw new PageliteError('unavailable', `object ${key}: the network is down`);
    if (operation !== 'delete') return;
    this.waiting++;
    await this.#deletions;
    this.waiting--;
  }

  holdDeletions(): void {
    this.#deletions = new Promise((resolve) => {
      this.goOn = resolve;
    });
  }

  async after(): Promise<void> {}
}

let postgres: PostgresRedo;
let history: RecordedHistory;
/** Pages of main by moment. */
let expected: Map<string, Uint8Array>[];
let stored: MemoryObjectStore;
let outage: Outage;
let rig: MemoryPageserver;
let main: TenantTimelineId;
let branch: TenantTimelineId;

/** One for all pageservers of this file. */
const redo = (): WalRedo => ({
  redoPage: (request) => postgres.redoPage(request),
  ready: () => postgres.ready(),
  close: async () => {},
});
const open = async (limits: Partial<PageserverLimits> = {}) => {
  rig = await MemoryPageserver.open({
    store: new FaultyObjectStore(stored, outage),
    redo: redo(),
    nodeId: nodeId(1),
    limits: { openLayerBytesMax: 2_000_000, ...limits },
  });
};
const lsnOf = (moment: number): Lsn => must(history.moments[moment]).lsn;
const wal = (until: number) => history.bytes.subarray(0, lsnOf(until) - history.startLsn);
/** Of a branch that began at moment 1. */
const ownWal = () => history.bytes.subarray(lsnOf(1) - history.startLsn, wal(2).length);
const pagesOf = (id: TenantTimelineId) => rig.pageserver.openPages(id);

async function readTo(id: TenantTimelineId, lsn: Lsn): Promise<void> {
  await (await pagesOf(id)).listRels({ requestLsn: lsn, notModifiedSince: lsn }, 1663, history.db);
}

/** WAL of main up to the last moment; the branch has that of the last step as its own. */
function appendAll(): void {
  rig.wal.append(main, history.startLsn, wal(2));
  rig.wal.append(branch, lsnOf(1), ownWal());
}

async function expectAll(what: string): Promise<void> {
  for (const moment of [0, 1, 2]) {
    for (const id of moment === 0 ? [main] : [main, branch]) {
      const differing = await differingFrom(expected[moment]!, await pagesOf(id), history, lsnOf(moment));
      expect(differing, `${what}: ${id === main ? 'main' : 'branch'}, moment ${moment}`).toEqual([]);
    }
  }
}

async function expectWhole(what: string): Promise<void> {
  await rig.pageserver.flush(main);
  const report = async () => {
    const { problems, garbage } = await scrub({ store: stored, tenant: null, isDeep: true });
    return { problems, garbage };
  };
  await expect.poll(report, { message: what }).toEqual({ problems: [], garbage: [] });
}

beforeAll(async () => {
  postgres = await PostgresRedo.create({ template: await testTemplate(), log: silentLog });
  const recorder = await MemoryPageserver.open();
  history = await recordHistory(await recorder.pageserver.openPages(await recorder.createTimeline()), threeMoments);
  await recorder.close();
});
afterAll(() => postgres?.close());

beforeEach(async () => {
  stored = new MemoryObjectStore();
  outage = new Outage();
  await open();
  main = await rig.createTimeline();
  rig.wal.append(main, history.startLsn, wal(2));
  await readTo(main, lsnOf(2));
  expected ??= await Promise.all(
    [0, 1, 2].map(async (moment) => readAllPages(await pagesOf(main), history, lsnOf(moment))),
  );
  branch = await rig.branch(main, lsnOf(1));
  rig.wal.append(branch, lsnOf(1), ownWal());
  await readTo(branch, lsnOf(2));
  for (const id of [main, branch]) {
    await rig.pageserver.flush(id);
    await rig.pageserver.compact(id, 'images');
  }
});
afterEach(() => {
  outage.goOn();
  return rig.close();
});

/** Each of the first steps, and fewer and fewer of the deletions that follow. */
const later = (from: number): number => Math.max(from + 1, Math.floor(from * 1.25));

/** What the store has of main's layers is gone. */
async function loseLayers(): Promise<void> {
  for (const { key } of await stored.list(timelineFolder(main))) if (key.includes('__')) await stored.delete(key);
}

it('has every page again, and so has its branch', async () => {
  // One that has nothing but WAL, and cannot take that in.
  const other = await rig.branch(main, lsnOf(1));
  await rig.close();
  await loseLayers();
  await open();
  appendAll();
  await expect(readAllPages(await pagesOf(main), history, lsnOf(1))).rejects.toMatchObject({ kind: 'corrupt' });
  rig.wal.append(other, lsnOf(1), ownWal());
  await expect(readTo(other, lsnOf(2))).rejects.toMatchObject({ kind: 'corrupt' });
  await rig.pageserver.rebuildTimeline(main, null);
  await expectAll('rebuilt');
  expect(await differingFrom(expected[2]!, await pagesOf(other), history, lsnOf(2)), 'the other branch').toEqual([]);
  await expectWhole('rebuilt');
  // Twice, and the branch, too.
  await rig.pageserver.rebuildTimeline(main, null);
  await rig.pageserver.rebuildTimeline(branch, { timelineId: main.timelineId, lsn: lsnOf(1) });
  await expectAll('rebuilt again');
  await expectWhole('rebuilt again');
  await rig.close();
  await open();
  appendAll();
  await expectAll('after a restart');
});

it('whose index is damaged is there again', async () => {
  await rig.close();
  for (const { key } of await stored.list(timelineFolder(main))) {
    if (key.includes('index_part')) await stored.put(key, new Uint8Array(100));
  }
  await open();
  appendAll();
  await expect(pagesOf(main)).rejects.toMatchObject({ kind: 'corrupt' });
  await rig.pageserver.rebuildTimeline(main, null);
  await expectAll('rebuilt');
  await expectWhole('rebuilt');
});

it('makes its branch wait, and never gives it an older page', async () => {
  await rig.close();
  await open();
  // The WAL of main is not there yet.
  rig.wal.append(main, history.startLsn, wal(0));
  rig.wal.append(branch, lsnOf(1), ownWal());
  await rig.pageserver.rebuildTimeline(main, null);
  let isDone = false;
  const read = pagesOf(branch)
    .then((pages) => differingFrom(expected[1]!, pages, history, lsnOf(1)))
    .then((differing) => {
      isDone = true;
      return differing;
    });
  await readTo(main, lsnOf(0));
  expect(isDone).toBe(false);
  // Once more, under those who wait.
  await rig.pageserver.rebuildTimeline(main, null);
  await readTo(main, lsnOf(0));
  expect(isDone).toBe(false);
  rig.wal.append(main, lsnOf(0), history.bytes.subarray(wal(0).length, wal(2).length));
  expect(await read).toEqual([]);
});

it('makes its branch wait also while its layers are removed, and reads that were under way end', async () => {
  await rig.close();
  await open();
  appendAll();
  const pages = await pagesOf(branch);
  const reads = [differingFrom(expected[1]!, pages, history, lsnOf(1))];
  outage.holdDeletions();
  const rebuild = rig.pageserver.rebuildTimeline(main, null);
  await expect.poll(() => outage.waiting).toBeGreaterThan(0);
  reads.push(
    differingFrom(expected[1]!, pages, history, lsnOf(1)),
    differingFrom(expected[2]!, pages, history, lsnOf(2)),
  );
  let ended = 0;
  for (const read of reads.slice(1)) void read.then(() => ended++);
  for (let turns = 0; turns < 100; turns++) await nodeClock.sleep(0);
  await expect(pagesOf(main)).rejects.toThrow(/is being begun anew/);
  expect(ended).toBe(0);
  outage.goOn();
  await rebuild;
  expect(await Promise.all(reads)).toEqual([[], [], []]);
  await expectAll('rebuilt');
  await expectWhole('rebuilt');
});

it('makes its branch wait, but not for ever, and not for those who give up', async () => {
  await rig.close();
  await open({ waitLsnTimeoutMs: 100 });
  appendAll();
  outage.holdDeletions();
  const rebuild = rig.pageserver.rebuildTimeline(main, null);
  await expect.poll(() => outage.waiting).toBeGreaterThan(0);
  const pages = await pagesOf(branch);
  const read = (signal?: AbortSignal) =>
    pages.listRels({ requestLsn: lsnOf(1), notModifiedSince: lsnOf(1) }, 1663, history.db, signal);
  await expect(read()).rejects.toMatchObject({ kind: 'unavailable', message: expect.stringMatching(/begun anew/) });
  const abort = new AbortController();
  const given = read(abort.signal);
  abort.abort();
  await expect(given).rejects.toMatchObject({ kind: 'cancelled' });
  outage.goOn();
  await rebuild;
  await expect.poll(() => read().then(() => 'read', String)).toBe('read');
  await expectAll('rebuilt');
});

it('is done when a store that was away is back, from wherever it went away', async () => {
  let cuts = 0;
  for (let from = 1; ; from = later(from)) {
    outage.from = outage.count + from;
    const rebuild = rig.pageserver.rebuildTimeline(main, null).then(
      () => 'done',
      (error: unknown) => error,
    );
    // What was done before anything was given up fails, and changes nothing. What comes later is waited for.
    await Promise.race([rebuild, expect.poll(() => outage.count).toBeGreaterThan(outage.from)]);
    const isCut = outage.count >= outage.from;
    outage.from = Number.POSITIVE_INFINITY;
    const outcome = await rebuild;
    if (outcome !== 'done') expect(outcome).toMatchObject({ kind: 'unavailable' });
    await expectAll(`away from operation ${from} on`);
    if (!isCut) break;
    cuts++;
  }
  expect(cuts).toBeGreaterThan(5);
  await expectWhole('at the end');
});

it('is there as it was when the process ends meanwhile, wherever', async () => {
  let cuts = 0;
  for (let from = 1; ; from = later(from)) {
    outage.from = outage.count + from;
    const rebuild = rig.pageserver.rebuildTimeline(main, null).then(
      () => 'done',
      () => 'cut',
    );
    await Promise.race([rebuild, expect.poll(() => outage.count).toBeGreaterThan(outage.from)]);
    const isCut = outage.count >= outage.from;
    // Nothing of it reaches the store any more.
    await rig.close();
    await rebuild;
    outage = new Outage();
    await open();
    appendAll();
    await expectAll(`ended at operation ${from}`);
    await rig.pageserver.flush(main);
    if (!isCut) break;
    cuts++;
  }
  expect(cuts).toBeGreaterThan(5);
  await expectWhole('at the end');
});

describe('is refused', () => {
  const refused = (id: TenantTimelineId, ancestor: { timelineId: TenantTimelineId['timelineId']; lsn: Lsn } | null) =>
    expect(rig.pageserver.rebuildTimeline(id, ancestor)).rejects;

  it('where it is not there, or is made anew already', async () => {
    await refused({ ...main, timelineId: newTimelineId(nodeRandom) }, null).toMatchObject({ kind: 'notFound' });
    const both = await Promise.allSettled([0, 1].map(() => rig.pageserver.rebuildTimeline(main, null)));
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(both.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { kind: 'unavailable' } });
    await expectAll('once');
  });

  it('as a branch of its own branch, of itself, of none, or after a branch of it began', async () => {
    const at = (of: TenantTimelineId) => ({ timelineId: of.timelineId, lsn: lsnOf(2) });
    await refused(main, at(branch)).toThrow(/its own branch/);
    await refused(main, at(main)).toThrow(/its own branch/);
    await refused(main, at({ ...main, timelineId: newTimelineId(nodeRandom) })).toMatchObject({ kind: 'notFound' });
    const other = await rig.branch(main, lsnOf(2));
    const child = await rig.branch(branch, lsnOf(1));
    await refused(branch, at(main)).toThrow(new RegExp(`${child.timelineId} branched from it`));
    expect(await rig.pageserver.listTimelines(main.tenantId)).toEqual(
      [main, branch, other, child].map(({ timelineId }) => timelineId).sort(),
    );
    await expectAll('refused');
  });
});
