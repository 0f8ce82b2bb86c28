/**
 * Any order of turns leaves every client with its own state.
 *
 * A model of each client (setting, temporary rows, prepared statement, cursor, last sequence value, channels) is kept beside the real one;
 * a seeded run picks clients and actions, kills some in the middle of transactions, and compares after every step. Printed seed repeats it.
 */
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Endpoint } from '../../server/compute/endpoint.ts';
import { connectClient, startTestEndpoint, value } from '../support/wire-client.ts';

let endpoint: Endpoint;

beforeAll(async () => {
  endpoint = await startTestEndpoint();
});
afterAll(() => endpoint.close());

/** mulberry32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Model {
  client: pg.Client;
  zone: string | null;
  rows: number | null;
  prepared: number | null;
  cursor: number | null;
  sequence: number | null;
}

const startZone = 'GMT+1';

async function fresh(): Promise<Model> {
  const client = await connectClient(endpoint, { options: `-c TimeZone=${startZone}` });
  return { client, zone: null, rows: null, prepared: null, cursor: null, sequence: null };
}

type Action = (model: Model, next: () => number) => Promise<void>;

const actions: Record<string, Action> = {
  set: async (model, next) => {
    model.zone = `GMT-${1 + Math.floor(next() * 9)}`;
    await model.client.query(`set timezone = '${model.zone}'`);
  },
  reset: async (model) => {
    model.zone = null;
    await model.client.query('reset all');
  },
  temp: async (model, next) => {
    if (model.rows === null) await model.client.query('create temp table shared_name(n int, big text)');
    model.rows = (model.rows ?? 0) + 1;
    await model.client.query("insert into shared_name values ($1, repeat('t', 5000))", [Math.floor(next() * 100)]);
  },
  prepare: async (model, next) => {
    if (model.prepared !== null) await model.client.query('deallocate ps');
    model.prepared = Math.floor(next() * 1e6);
    await model.client.query(`prepare ps as select ${model.prepared}`);
  },
  cursor: async (model) => {
    if (model.cursor === null)
      await model.client.query('declare held cursor with hold for select generate_series(1, 1000)');
    model.cursor = (model.cursor ?? 0) + 1;
    expect(await value(model.client, 'fetch held')).toBe(model.cursor);
  },
  sequence: async (model) => {
    model.sequence = Number(await value(model.client, "select nextval('sim_sequence')"));
  },
  discard: async (model) => {
    Object.assign(model, { zone: null, rows: null, prepared: null, cursor: null, sequence: null });
    await model.client.query('discard all');
  },
  failed: async (model) => {
    await model.client.query('begin; set timezone = UTC');
    await model.client.query('select 1/0').catch(() => {});
    await model.client.query('rollback');
  },
  vacuum: async (model) => {
    await model.client.query('vacuum');
  },
};

async function check(model: Model): Promise<void> {
  const { client } = model;
  expect(await value(client, 'show timezone')).toBe(model.zone ?? startZone);
  const rows = await value(client, 'select count(*)::int from shared_name').catch((error) => error.code);
  expect(rows).toBe(model.rows ?? '42P01');
  expect(await value(client, 'execute ps').catch((error) => error.code)).toBe(model.prepared ?? '26000');
  const current = await value(client, "select currval('sim_sequence')::int").catch((error) => error.code);
  expect(current).toBe(model.sequence ?? '55000');
  expect(await value(client, 'select count(*)::int from pg_cursors')).toBe(model.cursor === null ? 0 : 1);
}

test.each([1, 2, 3, 4])('seed %i', async (seed) => {
  const next = random(seed);
  const models = await Promise.all(Array.from({ length: 6 }, fresh));
  await models[0]!.client.query('create sequence if not exists sim_sequence');
  const names = Object.keys(actions);
  for (let step = 0; step < 150; step++) {
    const index = Math.floor(next() * models.length);
    const model = models[index]!;
    if (next() < 0.06) {
      if (next() < 0.5) await model.client.query('begin; create temp table half(a int)');
      (model.client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
      models[index] = await fresh();
    } else await actions[names[Math.floor(next() * names.length)]!]!(model, next);
    await check(models[Math.floor(next() * models.length)]!);
  }
  for (const model of models) await check(model);
  await Promise.all(models.map(({ client }) => client.end()));
  expect(endpoint.stats().restarts).toBe(0);
});
