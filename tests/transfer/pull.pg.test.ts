/**
 * A server's branch taken into the tab, worked on without the server, and pushed back: real computes, the server's real processes.
 *
 * Must hold: what the server's timeline holds at an LSN is here, key for key, and needs no server; a pull that is cut off, or finds no room, goes on
 * where it was; pushed back, only what was done here travels, and lands on a branch of the timeline that it came from.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TimelineId } from '../../engine/model/ids.ts';
import { StorageProcesses } from '../support/storage-processes.ts';
import { TabRig } from '../support/tab-rig.ts';

let server: StorageProcesses;
let tab: TabRig;
let main: TimelineId;

/** Well over the size at which a layer of a copy is closed. */
const workload = `create table items (id int primary key, what text);
  insert into items select i, repeat(md5(i::text), 6) from generate_series(1, 100000) i;
  update items set what = 'updated' where id % 1000 = 0;
  create unlogged table fleeting (i int); create sequence numbers; select nextval('numbers');
  create database other; begin; create table prepared (i int); commit;
  truncate fleeting; vacuum items`;
const total = 'select count(*), sum(length(what)) from items';

beforeAll(async () => {
  server = await StorageProcesses.start();
  tab = await TabRig.start(server);
  main = (await server.createTimeline()).timelineId;
  await tab.compute('server', main, async (pg) => {
    for (const statement of workload.split(';')) await pg.exec(statement);
  });
});
afterAll(async () => {
  await tab?.close();
  await server?.close();
});

describe('a pulled branch', () => {
  let pulled: TimelineId;

  it('goes on where it was cut off, also after a reload, and has everything', async () => {
    await expect(tab.storage.call('pull', main, { afterBytes: 20_000_000 })).rejects.toMatchObject({
      message: expect.stringMatching(/quota/),
    });
    await tab.storage.call('reload');
    await tab.exec('server', main, "insert into items values (0, 'after the pull began')");
    // There is room for what is missing, and not for all of it.
    const copy = await tab.storage.call('pull', main, { afterBytes: 48_000_000 });
    pulled = copy.timelineId;
    const theirs = await tab.storage.call('contents', 'server', main, copy.lsn);
    expect(theirs.size).toBeGreaterThan(1000);
    expect(await tab.storage.call('contents', 'tab', pulled, copy.lsn)).toEqual(theirs);
    const { files } = await tab.storage.call('layers', pulled);
    expect(files.length).toBeGreaterThan(1);
    expect(files.reduce((sum, { bytes }) => sum + bytes, 0)).toBeGreaterThan(50_000_000);
  });

  it('is pushed back as a branch of where it came from', async () => {
    await tab.exec('tab', pulled, "insert into items values (-1, 'offline')");
    const before = await tab.storage.call('bytesSent');
    const { timelineId } = await tab.storage.call('push', pulled, 'back', null);
    expect((await tab.storage.call('bytesSent')) - before).toBeLessThan(500_000);
    expect(await tab.query('server', timelineId, 'select what from items where id <= 0')).toBe('offline');
    expect(await tab.query('server', timelineId, total)).toBe(await tab.query('tab', pulled, total));
    expect(await server.get(server.timelinePath({ tenantId: server.tenantId, timelineId }))).toMatchObject({
      json: { ancestor_timeline_id: main },
    });
    const branch = await tab.storage.call('branch', pulled, null);
    await tab.exec('tab', branch, "insert into items values (-2, 'branch')");
    const pushed = await tab.storage.call('push', branch, 'branch of back', null);
    expect(await tab.query('server', pushed.timelineId, 'select what from items where id <= 0 order by id')).toBe(
      'branch\noffline',
    );
  });

  it('is pushed back whole if the server has lost it', async () => {
    const lost = await server.createTimeline();
    await tab.exec('server', lost.timelineId, "create table t as select 'kept' as what");
    // A compute that boots there waits until the pageserver has all of it: a pull takes what it has.
    expect(await tab.query('server', lost.timelineId, 'select what from t')).toBe('kept');
    const copy = await tab.storage.call('pull', lost.timelineId, null);
    await server.call('DELETE', server.timelinePath(lost));
    await tab.exec('tab', copy.timelineId, "insert into t values ('new')");
    const { timelineId } = await tab.storage.call('push', copy.timelineId, 'whole', null);
    expect(await tab.query('server', timelineId, 'select what from t order by 1')).toBe('kept\nnew');
    expect(await server.get(server.timelinePath({ tenantId: server.tenantId, timelineId }))).toMatchObject({
      json: { ancestor_timeline_id: null },
    });
  });

  it('works without the server', async () => {
    await tab.storage.call('goOffline');
    await server.stopPageserver('immediate');
    await tab.storage.call('reload');
    await tab.exec('tab', pulled, "update items set what = 'on a train' where id = 4242");
    expect(await tab.query('tab', pulled, 'select what from items where id = 4242')).toBe('on a train');
    expect(await tab.query('tab', pulled, 'select count(*) from items')).toBe('100001');
  });
});
