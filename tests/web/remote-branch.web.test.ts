/**
 * A tab on a branch of a server: pages and WAL over WebSockets.
 *
 * Attacked by a Node endpoint beside it, reloads, a browser that is killed, a second tab, and a server that goes away in the middle of a scan. What must
 * hold: what was acknowledged is there, whoever asks; what a tab hears of another writer says so.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebRig } from './support/web-rig.ts';

let rig: WebRig;
beforeAll(async () => {
  rig = await WebRig.start();
});
afterAll(() => rig?.close());

describe('a branch of a server in a tab', () => {
  it('is queried and written, and a Node endpoint sees it', async () => {
    const page = await rig.tab(await rig.context());
    const answer = await page.evaluate(async () => {
      const pg = await lite.connect('main');
      const { rows } = await pg.query<{ one: number }>('select 1 as one');
      await pg.exec('create table people (id int primary key, name text)');
      await pg.query('insert into people values ($1, $2)', [1, 'Ada']);
      const counters = await pg.pageCounters();
      await pg.close();
      return { rows, counters, isolated: crossOriginIsolated };
    });
    expect(answer.isolated).toBe(true);
    expect(answer.rows).toEqual([{ one: 1 }]);
    expect(answer.counters.bytesFromServer).toBeGreaterThan(100_000);
    await rig.repository.endpoint('main');
    expect(await rig.repository.sql('main', 'select * from people')).toEqual([{ id: 1, name: 'Ada' }]);
  });
});
