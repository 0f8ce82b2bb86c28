/**
 * pg_wal in a compute: a commit is one wait for the quorum, WAL streams while a transaction runs, and old WAL costs no memory.
 */
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { EmbeddedRig } from '../support/embedded-rig.ts';

describe('WAL of a compute', () => {
  let rig: EmbeddedRig;
  beforeAll(async () => {
    rig = await EmbeddedRig.start();
  });
  afterAll(() => rig?.close());

  it('is on the safekeeper when a commit returns, and mostly before', async () => {
    const timeline = await rig.createTimeline();
    const compute = await rig.open(timeline);
    await compute.pg.exec('create table t(id int, pad text)');
    expect(await rig.storage.call('commitLsn', timeline)).toBe(await compute.lsn());
    await compute.pg.exec("begin; insert into t select g, repeat('x', 500) from generate_series(1, 20000) g");
    // The transaction is not committed, but PostgreSQL's WAL buffers are smaller than it is: what left them is on its way.
    await vi.waitFor(
      async () => {
        const written = (await rig.storage.call('commitLsn', timeline)) - compute.bootLsn;
        expect(written).toBeGreaterThan(5_000_000);
      },
      { timeout: 20_000 },
    );
    await compute.pg.exec('commit');
    expect(await rig.storage.call('commitLsn', timeline)).toBe(await compute.lsn());
    await compute.close();
  });

  it('that is old is not kept in memory, and read again from the safekeeper for a prepared transaction', async () => {
    const timeline = await rig.createTimeline();
    const compute = await rig.open(timeline);
    const { pg } = compute;
    await pg.exec('create table t(id int, pad text); create table p(id int)');
    await pg.exec("begin; insert into p select generate_series(1, 1000); prepare transaction 'old'");
    for (let i = 0; i < 6; i++) {
      await pg.exec("insert into t select g, repeat('x', 900) from generate_series(1, 12000) g; truncate t");
      await pg.exec('select pg_switch_wal()');
    }
    expect((await compute.lsn()) - compute.bootLsn).toBeGreaterThan(80_000_000);
    expect(compute.pg.walBytesInMemory).toBeLessThan(3 * 16 * 1024 * 1024);
    await pg.exec("commit prepared 'old'");
    expect((await pg.query('select count(*)::int as n from p')).rows).toEqual([{ n: 1000 }]);
    await pg.exec('checkpoint');
    const segments = await pg.query('select count(*)::int as n from pg_ls_waldir()');
    expect((segments.rows[0] as { n: number }).n).toBeLessThan(8);
    await compute.close();

    const next = await rig.open(timeline);
    expect((await next.pg.query('select count(*)::int as n from p')).rows).toEqual([{ n: 1000 }]);
    await next.close();
  });

  it('ends where it was agreed: boots and ends without writing leave a timeline usable', async () => {
    const timeline = await rig.createTimeline();
    for (let i = 0; i < 3; i++) {
      const compute = await rig.open(timeline);
      await compute.pg.query('select 1');
      await (i === 1 ? compute.kill() : compute.close());
    }
    const compute = await rig.open(timeline);
    await compute.pg.exec('create table t(id int)');
    await compute.close();
  });

  it('of transactions that do not wait for their commit is there after the next one that does', async () => {
    const timeline = await rig.createTimeline();
    let compute = await rig.open(timeline);
    await compute.pg.exec('create table t(id int)');
    await compute.pg.exec('set synchronous_commit = off');
    for (let i = 0; i < 50; i++) await compute.pg.query('insert into t values ($1)', [i]);
    await compute.pg.exec('set synchronous_commit = on; insert into t values (1000)');
    await compute.kill();
    compute = await rig.open(timeline);
    expect((await compute.pg.query('select count(*)::int as n from t')).rows).toEqual([{ n: 51 }]);
    await compute.close();
  });
});
