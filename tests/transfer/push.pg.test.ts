/**
 * A branch of a tab pushed to a server: real computes, the server's real processes.
 *
 * Must hold: everything that the tab's timeline holds is there, key for key, at its end and in its history; a compute of the server boots on it, reads
 * what was committed in the tab, and writes; what the tab does later is pushed after it, unless the server's timeline was written meanwhile.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { StorageProcesses } from '../support/storage-processes.ts';
import { currentLsn, TabRig } from '../support/tab-rig.ts';

let server: StorageProcesses;
let tab: TabRig;
beforeAll(async () => {
  server = await StorageProcesses.start();
  tab = await TabRig.start(server);
});
afterAll(async () => {
  await tab?.close();
  await server?.close();
});

const orders = `create table orders (id int primary key, what text);
  insert into orders select i, 'order ' || i from generate_series(1, 3000) i;
  update orders set what = what || ' changed' where id % 7 = 0; delete from orders where id % 11 = 0;`;
const count = 'select count(*), sum(length(what)) from orders';

/** At its end, and at each LSN of its history that is given. */
async function expectSame(local: TimelineId, there: TimelineId, history: readonly Lsn[] = []): Promise<void> {
  const { lastRecordLsn } = await tab.storage.call('status', 'server', there);
  for (const lsn of [...history, lastRecordLsn]) {
    const ours = await tab.storage.call('contents', 'tab', local, lsn);
    expect(ours.size).toBeGreaterThan(500);
    expect(await tab.storage.call('contents', 'server', there, lsn)).toEqual(ours);
  }
}

describe('a database that began in the tab', () => {
  let local: TimelineId;
  let there: TimelineId;
  let history: Lsn[];

  it('is on the server after a push, and a compute boots there', async () => {
    local = await tab.storage.call('createTimeline');
    history = await tab.compute('tab', local, async (pg) => {
      const lsns: Lsn[] = [];
      for (const statement of orders.split(';')) {
        await pg.exec(statement);
        lsns.push(await currentLsn(pg));
      }
      return lsns;
    });
    const pushed = await tab.storage.call('push', local, 'shop', null);
    there = pushed.timelineId;
    await expectSame(local, there, history);
    expect(await tab.storage.call('push', local, 'shop', null)).toEqual(pushed);
  });

  it('is pushed again with what is new', async () => {
    const before = await tab.storage.call('bytesSent');
    await tab.exec('tab', local, "insert into orders values (10001, 'later')");
    const again = await tab.storage.call('push', local, 'shop', null);
    expect(again.timelineId).toBe(there);
    expect((await tab.storage.call('bytesSent')) - before).toBeLessThan(1_000_000);
    await expectSame(local, there, history);
    const expected = await tab.query('tab', local, count);
    expect(await tab.query('server', there, count)).toBe(expected);
    await tab.exec('server', there, "insert into orders values (20001, 'on the server')");
    expect(await tab.query('server', there, 'select what from orders where id > 10000 order by id')).toBe(
      'later\non the server',
    );
  });

  it('is refused once a compute of the server has written, and can be pushed under another name', async () => {
    await tab.exec('tab', local, "insert into orders values (10002, 'in the tab')");
    await expect(tab.storage.call('push', local, 'shop', null)).rejects.toMatchObject({
      kind: 'fenced',
      message: expect.stringMatching(/another name/),
    });
    expect(await tab.query('server', there, 'select what from orders where id > 10001 order by id')).toBe(
      'on the server',
    );
    const other = await tab.storage.call('push', local, 'shop2', null);
    expect(other.timelineId).not.toBe(there);
    await expectSame(local, other.timelineId);
    expect(await tab.query('server', other.timelineId, 'select what from orders where id > 10000 order by id')).toBe(
      'later\nin the tab',
    );
  });
});
