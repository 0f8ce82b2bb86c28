/**
 * The addresses in backend-layout.ts are those of the PGlite that is installed: each is found again by what a statement changes in
 * the module's static memory. Another build of PGlite fails here, by name, and is refused by `checkLayout`.
 */
import { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type BackendModule,
  checkLayout,
  hashTableName,
  layout,
  readWord,
} from '../../server/compute/backend-layout.ts';
import { message } from '../../server/compute/pg-frames.ts';

let pglite: PGlite;
let module: BackendModule;

/** The static variables end below this; the heap is far above. */
const staticEnd = 3_000_000;
const cachedPlanSourceMagic = 195726186;

beforeAll(async () => {
  pglite = await PGlite.create();
  module = pglite.Module as unknown as BackendModule;
});
afterAll(() => pglite.close());

const words = () => new Uint32Array(module.HEAPU8.buffer, 0, staticEnd / 4).slice();
const memory = () => new Uint32Array(module.HEAPU8.buffer);
const isHeap = (value: number) => value > staticEnd && value % 4 === 0 && value < module.HEAPU8.length;

/** Addresses of static words that became something for which `holds` is true. */
async function changedBy(
  statement: () => Promise<unknown> | unknown,
  holds: (value: number) => boolean,
): Promise<number[]> {
  const before = words();
  await statement();
  const found: number[] = [];
  words().forEach((value, index) => {
    if (value !== before[index] && holds(value)) found.push(index * 4);
  });
  return found;
}

/** First pointer of a List. */
const firstOf = (list: number) => memory()[memory()[(list + 12) >> 2]! >> 2]!;
const isListOf = (list: number, holds: (first: number) => boolean) =>
  isHeap(list) &&
  memory()[(list >> 2) + 1] === 1 &&
  isHeap(memory()[(list + 12) >> 2]!) &&
  isHeap(firstOf(list)) &&
  holds(firstOf(list));

test('the check accepts this build, and refuses another', () => {
  checkLayout(module);
  expect(() => checkLayout({ ...module, HEAPU8: module.HEAPU8, _InterruptPending: 1 } as BackendModule)).toThrow(
    'does not know this build',
  );
});

test('hash tables by their names', async () => {
  expect(hashTableName(module, layout.portalTable)).toBe('Portal hash');
  expect(hashTableName(module, layout.localLocks)).toBe('LOCALLOCK hash');
  expect(readWord(module, layout.preparedQueries)).toBe(0);
  await pglite.exec("prepare p as select 1; create sequence sq; select nextval('sq')");
  expect(hashTableName(module, layout.preparedQueries)).toBe('Prepared Queries');
  expect(hashTableName(module, layout.sequenceTable)).toBe('Sequence values');
});

test('the unnamed statement', async () => {
  await pglite.exec('select 1');
  const parse = Buffer.concat([message('P', '', 'select 12345', new Uint8Array(2)), message('S')]);
  const found = await changedBy(
    () => pglite.execProtocolRawSync(parse),
    (value) => isHeap(value) && memory()[value >> 2] === cachedPlanSourceMagic,
  );
  expect(found).toEqual([layout.unnamedStatement]);
});

test('the last sequence used', async () => {
  const { rows } = await pglite.query<{ oid: number }>("select 'sq'::regclass::oid::int as oid");
  expect(memory()[readWord(module, layout.lastUsedSequence) >> 2]).toBe(rows[0]!.oid);
});

test('the channels of LISTEN', async () => {
  const found = await changedBy(
    () => pglite.exec('listen some_channel'),
    (value) => isListOf(value, (first) => module.UTF8ToString(first) === 'some_channel'),
  );
  expect(found).toEqual([layout.listenChannels]);
});

test('the temporary schema and its ON COMMIT actions', async () => {
  const before = words();
  await pglite.exec('create temp table t(a int) on commit delete rows');
  const { rows } = await pglite.query<{ a: number; b: number; t: number }>(
    "select 'pg_temp_0'::regnamespace::oid::int a, 'pg_toast_temp_0'::regnamespace::oid::int b, 't'::regclass::oid::int t",
  );
  expect(readWord(module, layout.tempNamespace)).toBe(rows[0]!.a);
  expect(readWord(module, layout.tempToastNamespace)).toBe(rows[0]!.b);
  expect(before[layout.tempNamespace >> 2]).toBe(0);
  const actions = readWord(module, layout.onCommits);
  expect(isListOf(actions, (first) => memory()[first >> 2] === rows[0]!.t)).toBe(true);
});

test('the role that has logged in: SET SESSION AUTHORIZATION asks for its rights', async () => {
  await pglite.exec('create role visitor; create role another');
  const { rows } = await pglite.query<{ oid: number }>("select oid::int from pg_roles where rolname = 'visitor'");
  const before = readWord(module, layout.authenticatedUser);
  const superuser = await pglite.query<{ oid: number }>('select oid::int from pg_roles where rolname = session_user');
  expect(before).toBe(superuser.rows[0]!.oid);
  await pglite.exec('set session authorization another; set session authorization visitor');
  memory()[layout.authenticatedUser >> 2] = rows[0]!.oid;
  await expect(pglite.exec('set session authorization another')).rejects.toMatchObject({ code: '42501' });
  await pglite.exec('set session authorization visitor');
  memory()[layout.authenticatedUser >> 2] = before;
  await pglite.exec('set session authorization postgres');
});

test('the flags of the search path', async () => {
  await pglite.exec('select * from pg_class limit 1');
  const flags = () => [module.HEAPU8[layout.baseSearchPathStale], module.HEAPU8[layout.searchPathCacheValid]];
  expect(flags()).toEqual([0, 1]);
  await pglite.exec('set search_path = pg_catalog, public');
  expect(flags()).toEqual([1, 1]);
  await pglite.exec('select * from pg_class limit 1');
  expect(flags()).toEqual([0, 1]);
});
