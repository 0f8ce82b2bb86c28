/**
 * kill -9 of compute, pageserver and safekeeper in turn, under a running workload: what was acknowledged must be there.
 *
 * The workload is a writer that inserts one row after the other and remembers which were acknowledged, connecting again whenever its connection is lost;
 * between, it updates a counter in the same transaction, so that half a transaction would be seen. A killed process is started again by the command
 * line, as a user would. The kills come at moments of their own choosing: after a number of acknowledged rows, drawn from a printed seed.
 *
 * Only modelled: the machine goes on, so what was written to files but not synced is not lost (tests/safekeeper attacks that).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findFreePort } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));

let rig: RepositoryRig;
beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start();
  // Far from where endpoints of other tests get their ports: one of those must not answer for a compute that is down.
  await rig.endpoint('main', '--pg-port', String(await findFreePort(21_500)));
  await rig.sql('main', 'create table acked(id int primary key, filler text); create table counter(n int)');
  await rig.sql('main', 'insert into counter values (0)');
});
afterAll(() => rig.close());

/** Inserts rows one by one until it is stopped. */
class Writer {
  readonly acknowledged: number[] = [];
  /** Sent, and the connection was lost before an answer: may or may not be there. */
  readonly unknown = new Set<number>();
  #stopped = false;
  #next = 0;
  #failure: unknown = null;
  readonly #running: Promise<void>;
  readonly #waiting: { count: number; resolve: () => void }[] = [];

  constructor() {
    this.#running = this.#run().catch((error: unknown) => {
      this.#failure = error;
      for (const { resolve } of this.#waiting) resolve();
    });
  }

  /** Resolves when `count` more rows are acknowledged. */
  async progress(count: number): Promise<void> {
    const target = this.acknowledged.length + count;
    await new Promise<void>((resolve) => {
      this.#waiting.push({ count: target, resolve });
      if (this.#failure !== null) resolve();
    });
    if (this.#failure !== null) throw this.#failure;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    if (this.#failure !== null) throw this.#failure;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      let client: Client;
      try {
        client = await rig.connect('main');
      } catch {
        // The compute is down, or just coming up.
        await sleep(50);
        continue;
      }
      await this.#insertUntilLost(client);
      await client.end().catch(() => {});
    }
  }

  async #insertUntilLost(client: Client): Promise<void> {
    while (!this.#stopped) {
      const id = this.#next++;
      try {
        await client.query(
          `begin; insert into acked values (${id}, repeat('x', ${id % 500})); update counter set n = n + 1; commit`,
        );
      } catch (error) {
        this.unknown.add(id);
        // Nothing but a lost connection may keep a row from being acknowledged.
        const { code, message } = error as { code?: string; message: string };
        if (!/^(57P0\d|ECONNRESET|EPIPE|undefined)$/.test(String(code))) throw new Error(`${code}: ${message}`);
        return;
      }
      this.acknowledged.push(id);
      for (const waiting of this.#waiting.splice(0)) {
        if (this.acknowledged.length >= waiting.count) waiting.resolve();
        else this.#waiting.push(waiting);
      }
    }
  }
}

/** A small generator of its own, so that a printed seed repeats the moments of the kills. */
function random(max: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * max);
}
let state = seed >>> 0;

describe(`kill -9 under load (PAGELITE_SEED=${seed})`, () => {
  it('loses no acknowledged row, whoever is killed', async () => {
    const writer = new Writer();
    await writer.progress(20);
    const restart = {
      compute: () => rig.ok('endpoint', 'start', 'main'),
      pageserver: () => rig.ok('pageserver', 'start'),
      safekeeper: () => rig.ok('safekeeper', 'start'),
    };
    const targets = { compute: { endpoint: 'main' }, pageserver: 'pageserver', safekeeper: 'safekeeper' } as const;
    for (const name of ['compute', 'pageserver', 'safekeeper', 'pageserver', 'compute', 'safekeeper'] as const) {
      await writer.progress(1 + random(60));
      process.kill(rig.pid(targets[name]), 'SIGKILL');
      await restart[name]();
      await writer.progress(10);
    }
    // Everything at once.
    for (const target of Object.values(targets)) process.kill(rig.pid(target), 'SIGKILL');
    await rig.ok('start');
    await rig.ok('endpoint', 'start', 'main');
    await writer.progress(10);
    await writer.stop();
    await check(writer);

    // And by a compute and a pageserver that start with nothing in memory.
    await rig.ok('stop', '--mode', 'immediate');
    await rig.ok('start');
    await rig.ok('endpoint', 'start', 'main');
    await check(writer);
  });
});

async function check(writer: Writer): Promise<void> {
  const rows = await rig.sql<{ id: number; length: number }>(
    'main',
    'select id, length(filler) from acked order by id',
  );
  const there = new Set(rows.map(({ id }) => id));
  expect(writer.acknowledged.filter((id) => !there.has(id))).toEqual([]);
  const acknowledged = new Set(writer.acknowledged);
  expect([...there].filter((id) => !acknowledged.has(id) && !writer.unknown.has(id))).toEqual([]);
  expect(rows.every(({ id, length }) => length === id % 500)).toBe(true);
  expect(await rig.sql('main', 'select n from counter')).toEqual([{ n: rows.length }]);
  // The index tells the same as the table.
  expect(await rig.sql('main', 'set enable_seqscan = off; select count(*)::int as n from acked where id >= 0')).toEqual(
    [{ n: rows.length }],
  );
}
