/**
 * A history that a real PostgreSQL wrote: its WAL, and its relation files as they were at several LSNs. Pages that a pageserver rebuilds are compared with
 * those under PostgreSQL's own masks (page-equality.ts).
 */
import type { PGlite } from '@electric-sql/pglite';
import { must } from '../../engine/assert.ts';
import { pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import {
  defaultTablespace,
  type ForkNumber,
  formatRel,
  fsmFork,
  globalTablespace,
  type RelTag,
} from '../../engine/model/rel.ts';
import type { PageService, ValueReader } from '../../engine/services.ts';
import { bootDirectory, dataDirectory } from './boot-directory.ts';
import { readDataDirectory } from './compare-directory.ts';
import { accessMethods, comparePages, isZero, type PageMask } from './page-equality.ts';
import type { RecordedWal } from './storage-processes.ts';
import { currentLsn, keepWal, readPgWal } from './wal-fixture.ts';

export interface Moment {
  readonly lsn: Lsn;
  /** By `spc/db/rel` and fork name; visibility maps and main forks. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** By relfilenode. */
  readonly methods: ReadonlyMap<number, string>;
}

export interface RecordedHistory extends RecordedWal {
  readonly db: number;
  readonly moments: readonly Moment[];
}

/** Boots a PGlite from the service's basebackup, runs the statements of each step, and notes what there is after it. */
export async function recordHistory(
  source: PageService,
  steps: readonly (readonly string[])[],
): Promise<RecordedHistory> {
  const backup = await source.getBasebackup(null);
  const at = { requestLsn: backup.lsn, notModifiedSince: backup.lsn };
  const reader: ValueReader = {
    getImage: async (prefix, block) => (await source.getImages(at, [{ prefix, block }]))[0] ?? null,
  };
  const pg = await bootDirectory(await dataDirectory(backup, reader), [...keepWal, 'autovacuum=off']);
  const { rows } = await pg.query<{ oid: number }>(
    'select oid::int as oid from pg_database where datname = current_database()',
  );
  const db = rows[0]!.oid;
  const moments: Moment[] = [];
  for (const sql of steps) {
    for (const statement of sql) await pg.exec(statement);
    moments.push(await momentOf(pg, db));
  }
  await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
  const bytes = readPgWal(pg, backup.lsn, must(moments.at(-1)).lsn);
  await pg.close();
  return { startLsn: backup.lsn, bytes, systemIdentifier: backup.systemIdentifier, db, moments };
}

async function momentOf(pg: PGlite, db: number): Promise<Moment> {
  const methods = await accessMethods(pg);
  // What is asked before this may prune pages; what is in the files after it is what WAL up to here makes.
  await pg.exec('checkpoint');
  const lsn = await currentLsn(pg);
  const files = new Map<string, Uint8Array>();
  for (const [path, bytes] of readDataDirectory(pg)) {
    const match = /^(?:base\/(\d+)|global)\/(\d+)(_vm)?$/.exec(path);
    if (match === null || bytes === null || (match[1] !== undefined && Number(match[1]) !== db)) continue;
    const spc = match[1] === undefined ? globalTablespace : defaultTablespace;
    const fork: ForkNumber = match[3] === undefined ? 0 : 2;
    files.set(formatRel({ spc, db: Number(match[1] ?? 0), rel: Number(match[2]), fork }), bytes);
  }
  return { lsn, files, methods };
}

/** All relations of the database and the shared ones as the service has them, compared with PostgreSQL's files. Returns how many pages were. */
export async function comparePagesAt(
  service: PageService,
  { db, moments }: RecordedHistory,
  index: number,
  mask: PageMask,
) {
  const { lsn, files, methods } = moments[index]!;
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const differing: string[] = [];
  let compared = 0;
  for (const [spc, of] of [
    [globalTablespace, 0],
    [defaultTablespace, db],
  ] as const) {
    for (const { rel, size } of await service.listRels(at, spc, of)) {
      if (rel.fork === fsmFork) continue;
      const file = files.get(formatRel(rel));
      const method = methods.get(rel.rel);
      if (file === undefined || method === undefined) {
        // Init forks, and what a rewrite has replaced but no checkpoint has removed.
        continue;
      }
      if (size * pageSize > file.length) differing.push(`${formatRel(rel)} has ${size} blocks`);
      const found = await pagesOf(service, at, rel, size);
      for (let block = 0; block < size; block++) {
        const rebuilt = found.subarray(block * pageSize, (block + 1) * pageSize);
        const written = file.subarray(block * pageSize, (block + 1) * pageSize);
        if (isZero(rebuilt) && isZero(written)) continue;
        compared++;
        const page = { method, fork: rel.fork, block, copiedByWal: false };
        if (comparePages(page, rebuilt, written, mask).kind === 'different') {
          differing.push(`${method} ${formatRel(rel)} block ${block}`);
        }
      }
    }
  }
  return { compared, differing };
}

/** Every page of the database and of the shared relations at an LSN, as the service gives them. */
export async function readAllPages(
  service: PageService,
  { db }: RecordedHistory,
  lsn: Lsn,
): Promise<Map<string, Uint8Array>> {
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const all = new Map<string, Uint8Array>();
  const lists = await Promise.all([
    service.listRels(at, globalTablespace, 0),
    service.listRels(at, defaultTablespace, db),
  ]);
  const queue = lists.flat();
  const readNext = async (): Promise<void> => {
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      all.set(formatRel(next.rel), await pagesOf(service, at, next.rel, next.size));
    }
  };
  await Promise.all(Array.from({ length: 16 }, readNext));
  return all;
}

async function pagesOf(
  service: PageService,
  at: Parameters<PageService['getPages']>[0],
  rel: RelTag,
  size: number,
): Promise<Uint8Array> {
  const pages = new Uint8Array(size * pageSize);
  for (let block = 0; block < size; block += pagesPerRequestMax) {
    const count = Math.min(pagesPerRequestMax, size - block);
    pages.set(await service.getPages(at, rel, block, count), block * pageSize);
  }
  return pages;
}

/** Relations whose pages at an LSN are not those that `expected` has. */
export async function differingFrom(
  expected: ReadonlyMap<string, Uint8Array>,
  service: PageService,
  history: RecordedHistory,
  lsn: Lsn,
): Promise<string[]> {
  const found = await readAllPages(service, history, lsn);
  return [...new Set([...found.keys(), ...expected.keys()])].filter((rel) => {
    const [a, b] = [found.get(rel), expected.get(rel)];
    return a === undefined || b === undefined || Buffer.compare(a, b) !== 0;
  });
}

/** A table with indexes of several kinds that grows, changes and is rewritten; three moments. */
export const threeMoments: readonly (readonly string[])[] = [
  [
    'create table t(id int primary key, v text, n int)',
    'create index t_n on t using gist (point(n, n)); create index t_v on t using hash (v)',
    'insert into t select g, repeat(md5(g::text), 5), g from generate_series(1, 4000) g',
    "create sequence s; select nextval('s')",
  ],
  [
    "update t set v = v || 'x', n = n + 1 where id % 3 = 0; delete from t where id % 7 = 0",
    'vacuum t',
    'create table big(id int, v text); alter table big alter v set storage external',
    'insert into big select g, repeat(md5(g::text), 500) from generate_series(1, 40) g',
  ],
  [
    'insert into t select g, md5(g::text), g from generate_series(5000, 8000) g; truncate big',
    'alter table t add column w int default 7; create index on t(w); update t set w = id % 10',
    'vacuum (freeze) t',
  ],
];
