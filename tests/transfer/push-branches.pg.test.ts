/**
 * Hybrid branches, branches of branches, and what goes wrong on the way: real computes, the server's real processes.
 *
 * Must hold: only what the tab has made travels; a push that is cut off anywhere goes on where it was, also after the tab or the server came back;
 * ancestors that only the tab has are there as far as they are needed; what is refused leaves nothing half done.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TimelineId } from '../../engine/model/ids.ts';
import { StorageProcesses } from '../support/storage-processes.ts';
import { currentLsn, TabRig } from '../support/tab-rig.ts';

let server: StorageProcesses;
let tab: TabRig;
/** A timeline of the server with a table, written by a compute there. */
let main: TimelineId;

const total = 'select count(*), sum(length(what)) from items';

beforeAll(async () => {
  server = await StorageProcesses.start();
  tab = await TabRig.start(server);
  main = (await server.createTimeline()).timelineId;
  await tab.exec('server', main, filled(1, 20_000));
});
afterAll(async () => {
  await tab?.close();
  await server?.close();
});

function filled(from: number, to: number): string {
  return `create table if not exists items (id int primary key, what text);
    insert into items select i, repeat(md5(i::text), 4) from generate_series(${from}, ${to}) i`;
}

async function expectSame(local: TimelineId, there: TimelineId): Promise<void> {
  const { lastRecordLsn } = await tab.storage.call('status', 'tab', local);
  const ours = await tab.storage.call('contents', 'tab', local, lastRecordLsn);
  expect(await tab.storage.call('contents', 'server', there, lastRecordLsn)).toEqual(ours);
}

const isOnServer = async (timeline: TimelineId): Promise<boolean> =>
  (await server.get(server.timelinePath({ tenantId: server.tenantId, timelineId: timeline }))).status === 200;

describe('a hybrid branch', () => {
  it('becomes a branch of the server timeline: only its own changes travel', async () => {
    const hybrid = await tab.storage.call('branchOfServer', main, null);
    await tab.exec('tab', hybrid, "insert into items values (0, 'hybrid'); delete from items where id = 5");
    await tab.exec('server', main, "insert into items values (-1, 'meanwhile')");
    const before = await tab.storage.call('bytesSent');
    const { timelineId } = await tab.storage.call('push', hybrid, 'hybrid', null);
    expect((await tab.storage.call('bytesSent')) - before).toBeLessThan(500_000);
    expect(timelineId).toBe(hybrid);
    await expectSame(hybrid, timelineId);
    expect(await tab.query('server', timelineId, total)).toBe(await tab.query('tab', hybrid, total));
    expect(await tab.query('server', timelineId, 'select id, what from items where id <= 0')).toBe('0 hybrid');
    expect(await server.get(server.timelinePath({ tenantId: server.tenantId, timelineId }))).toMatchObject({
      json: { ancestor_timeline_id: main },
    });
  });

  it('is pushed without changes, too', async () => {
    const hybrid = await tab.storage.call('branchOfServer', main, null);
    const { timelineId } = await tab.storage.call('push', hybrid, 'unchanged', null);
    expect(await tab.query('server', timelineId, total)).toBe(await tab.query('server', main, total));
  });

  it('of a timeline that is gone is refused, and says so', async () => {
    const doomed = (await server.createTimeline()).timelineId;
    const hybrid = await tab.storage.call('branchOfServer', doomed, null);
    await tab.exec('tab', hybrid, 'create table t (i int)');
    await server.call('DELETE', server.timelinePath({ tenantId: server.tenantId, timelineId: doomed }));
    await expect(tab.storage.call('push', hybrid, 'orphan', null)).rejects.toMatchObject({
      kind: 'notFound',
      message: expect.stringContaining(doomed),
    });
    expect(await isOnServer(hybrid)).toBe(false);
  });
});

describe('branches of branches in the tab', () => {
  it('bring the part of their ancestors that they need, without a name', async () => {
    const parent = await tab.storage.call('createTimeline');
    const branchPoint = await tab.compute('tab', parent, async (pg) => {
      await pg.exec(filled(1, 500));
      return currentLsn(pg);
    });
    await tab.storage.call('flush', parent);
    const child = await tab.storage.call('branch', parent, branchPoint);
    await tab.exec('tab', parent, filled(501, 6000));
    await tab.exec('tab', child, "update items set what = 'child' where id = 1");
    const grandchild = await tab.storage.call('branch', child, null);
    await tab.exec('tab', grandchild, "update items set what = 'grandchild' where id = 2");

    const { timelineId } = await tab.storage.call('push', grandchild, 'grandchild', null);
    await expectSame(grandchild, timelineId);
    expect(await tab.query('server', timelineId, 'select what from items where id < 3 order by id')).toBe(
      'child\ngrandchild',
    );
    // What the parent did after the branch point was not needed.
    const status = await tab.storage.call('status', 'server', parent);
    expect(status.lastRecordLsn).toBeGreaterThanOrEqual(branchPoint);
    const { lastRecordLsn } = await tab.storage.call('status', 'tab', parent);
    expect(status.lastRecordLsn).toBeLessThan(lastRecordLsn);
    // Now it is pushed itself.
    const own = await tab.storage.call('push', parent, 'parent', null);
    expect(own.timelineId).toBe(parent);
    await expectSame(parent, parent);
  });

  it('bring an ancestor once more that somebody deleted or wrote on', async () => {
    const parent = await tab.storage.call('createTimeline');
    await tab.exec('tab', parent, filled(1, 100));
    const one = await tab.storage.call('branch', parent, null);
    await tab.storage.call('push', parent, 'written', null);
    await tab.exec('server', parent, "insert into items values (1000, 'server')");
    await tab.exec('tab', parent, filled(101, 200));
    const two = await tab.storage.call('branch', parent, null);
    const first = await tab.storage.call('push', one, 'one', null);
    expect(await tab.query('server', first.timelineId, 'select count(*) from items')).toBe('100');
    const second = await tab.storage.call('push', two, 'two', null);
    expect(await tab.query('server', second.timelineId, 'select count(*) from items')).toBe('200');
    expect(await tab.query('server', parent, 'select count(*) from items')).toBe('101');
  });
});

describe('a push that is cut off', () => {
  it('goes on where it was, after a reload of the tab and a restart of the pageserver', async () => {
    const hybrid = await tab.storage.call('branchOfServer', main, null);
    await tab.exec('tab', hybrid, filled(100_000, 125_000));
    const before = await tab.storage.call('bytesSent');
    await expect(tab.storage.call('push', hybrid, 'large', { afterBytes: 4_500_000 })).rejects.toMatchObject({
      kind: 'cancelled',
    });
    expect(await isOnServer(hybrid)).toBe(false);
    const arrived = (await tab.storage.call('bytesSent')) - before;
    expect(arrived).toBeGreaterThan(4_000_000);
    await tab.storage.call('reload');
    await server.stopPageserver('immediate');
    await server.startPageserver();
    expect(await isOnServer(hybrid)).toBe(false);
    const { timelineId } = await tab.storage.call('push', hybrid, 'large', null);
    const layers = (await tab.storage.call('layers', hybrid)).files.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(layers).toBeGreaterThan(6_000_000);
    expect((await tab.storage.call('bytesSent')) - before).toBeLessThanOrEqual(layers);
    await expectSame(hybrid, timelineId);
    expect(await tab.query('server', timelineId, total)).toBe(await tab.query('tab', hybrid, total));
  });

  it('the second time leaves what the first one brought', async () => {
    const local = await tab.storage.call('createTimeline');
    await tab.exec('tab', local, filled(1, 100));
    await tab.storage.call('push', local, 'twice', null);
    await tab.exec('tab', local, filled(101, 3000));
    await expect(tab.storage.call('push', local, 'twice', { afterBytes: 0 })).rejects.toMatchObject({
      kind: 'cancelled',
    });
    await server.stopPageserver('immediate');
    await server.startPageserver();
    const { lastRecordLsn } = await tab.storage.call('status', 'server', local);
    const ours = await tab.storage.call('contents', 'tab', local, lastRecordLsn);
    expect(await tab.storage.call('contents', 'server', local, lastRecordLsn)).toEqual(ours);
    await tab.storage.call('push', local, 'twice', null);
    await expectSame(local, local);
    expect(await tab.query('server', local, 'select count(*) from items')).toBe('3000');
  });
});

it('a name that another branch has is refused before anything is sent', async () => {
  const local = await tab.storage.call('createTimeline');
  await tab.storage.call('push', local, 'taken', null);
  const other = await tab.storage.call('createTimeline');
  const before = await tab.storage.call('bytesSent');
  await expect(tab.storage.call('push', other, 'taken', null)).rejects.toMatchObject({
    kind: 'invalid',
    message: expect.stringMatching(/another branch "taken".*another name/),
  });
  expect(await tab.storage.call('bytesSent')).toBe(before);
});

it('a timeline that a compute has open on the server is refused', async () => {
  const local = await tab.storage.call('createTimeline');
  await tab.storage.call('push', local, 'open', null);
  await tab.compute('server', local, async () => {
    await tab.exec('tab', local, 'create table t (i int)');
    await expect(tab.storage.call('push', local, 'open', null)).rejects.toMatchObject({
      kind: 'fenced',
      message: expect.stringMatching(/endpoint has been started.*another name|has been written since.*another name/),
    });
  });
});
