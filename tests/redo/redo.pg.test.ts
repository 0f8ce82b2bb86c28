/**
 * What WalRedo promises beside equal pages: a base page at any point of a page's history leads to the same page, an image restarts it, requests
 * are not changed, resource managers of extensions work, relations of many gigabytes work, an instance that is lost is replaced, and
 * memory does not grow.
 */
import { bloom } from '@electric-sql/pglite/contrib/bloom';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import { isPageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { type Lsn, lsn } from '../../engine/model/lsn.ts';
import type { ForkNumber } from '../../engine/model/rel.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { RedoRequest } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { rmgr } from '../../engine/wal/wal-record.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { genericWorkload } from '../support/redo-workload.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { captureWal, plainPglite, type WalFixture } from '../support/wal-fixture.ts';

interface PageHistory {
  readonly request: RedoRequest;
  readonly rmids: readonly number[];
}

/** Every page that records name, with all of them: from the page's beginning if its relation is new. */
function histories({ startLsn, wal }: WalFixture): Map<string, PageHistory> {
  const pages = new Map<string, { lsns: Lsn[]; records: Uint8Array[]; rmids: number[]; request: RedoRequest }>();
  const decoder = new WalDecoder(startLsn);
  decoder.feed(startLsn, wal);
  for (let record = decoder.next(); record !== null; record = decoder.next()) {
    const bytes = record.bytes.slice(record.start, record.start + record.totalLength);
    for (let i = 0; i < record.blockCount; i++) {
      const { spc, db, rel, fork, block } = record.blocks[i]!;
      const name = `${rel}/${fork}/${block}`;
      let page = pages.get(name);
      if (page === undefined) {
        const [lsns, records]: [Lsn[], Uint8Array[]] = [[], []];
        const tag = { spc, db, rel, fork: fork as ForkNumber };
        page = {
          lsns,
          records,
          rmids: [],
          request: { rel: tag, block, base: new Uint8Array(pageSize), lsns, records },
        };
        pages.set(name, page);
      }
      page.lsns.push(record.endLsn);
      page.records.push(bytes);
      page.rmids.push(record.rmid);
    }
  }
  return pages;
}

const part = (request: RedoRequest, from: number, to: number, base: Uint8Array | null): RedoRequest => ({
  ...request,
  base,
  lsns: request.lsns.slice(from, to),
  records: request.records.slice(from, to),
});

describe('WalRedo', () => {
  let redo: PostgresRedo;
  let pages: Map<string, PageHistory>;
  /** A heap page whose first record initialises it. */
  let heapPage: RedoRequest;
  /** relfilenode -> file contents after a checkpoint. */
  const files = new Map<number, Uint8Array>();

  beforeAll(async () => {
    redo = await PostgresRedo.create({ template: await createTenantTemplate(), log: silentLog });
    const pg = await plainPglite([], { bloom });
    const fixture = await captureWal(pg, [
      'create table t(id int, v text, n int)',
      'create index t_v on t(v)',
      'create index t_n on t using gin (to_tsvector($$simple$$, v))',
      'create index t_p on t using gist (point(n, n))',
      `insert into t select g, md5(g::text), g % 100 from generate_series(1, 1500) g`,
      `update t set n = n + 1 where id % 4 = 0`,
      'delete from t where id % 9 = 0',
      'vacuum t',
      ...genericWorkload,
    ]);
    await pg.exec('checkpoint');
    const { rows } = await pg.query<{ file: number; path: string }>(
      `select pg_relation_filenode(oid)::int8::float8 as file, pg_relation_filepath(oid) as path from pg_class
       where oid >= 16384 and relkind in ('r', 'i')`,
    );
    for (const { file, path } of rows) files.set(file, pg.Module.FS.readFile(`/pglite/data/${path}`));
    await pg.close();
    pages = histories(fixture);
    for (const [name, page] of pages) if (!files.has(page.request.rel.rel)) pages.delete(name);
    heapPage = [...pages.values()].find(
      ({ rmids, request }) => rmids[0] === rmgr.heap && request.rel.fork === 0 && request.records[0]![16]! & 0x80,
    )!.request;
  });
  afterAll(() => redo?.close());

  it('gives the same page whatever base of its history it starts from', () => {
    const random = new SeededRandom(7);
    const managers = new Set<number>();
    for (const { request, rmids } of pages.values()) {
      const count = request.records.length;
      if (count < 2) continue;
      const whole = redo.redoPage(request);
      const cut = 1 + random.below(count - 1);
      const base = redo.redoPage(part(request, 0, cut, request.base));
      const before = base.slice();
      expectSame(redo.redoPage(part(request, cut, count, base)), whole);
      expectSame(base, before);
      for (const rmid of rmids) managers.add(rmid);
    }
    for (const rmid of [rmgr.heap, rmgr.heap2, rmgr.btree, rmgr.gin, rmgr.gist, rmgr.generic]) {
      expect(managers).toContain(rmid);
    }
  });

  it('rebuilds pages of an extension through generic records', () => {
    let count = 0;
    for (const { request, rmids } of pages.values()) {
      if (!rmids.includes(rmgr.generic)) continue;
      const { block, rel } = request;
      const ours = redo.maskPage(redo.redoPage(request), rmgr.generic, block);
      const theirs = files.get(rel.rel)!.slice(block * pageSize, (block + 1) * pageSize);
      expectSame(ours, redo.maskPage(theirs, rmgr.generic, block));
      count++;
    }
    expect(count).toBeGreaterThan(10);
  });

  it('has nothing to do with pages before and after', () => {
    const alone = redo.redoPage(heapPage);
    for (const { request } of [...pages.values()].slice(0, 300)) {
      redo.redoPage(request);
      expectSame(redo.redoPage(heapPage), alone);
    }
    // The result is the caller's.
    alone.fill(0);
    expect(redo.redoPage(heapPage)).not.toEqual(alone);
  });

  it('reaches blocks on both sides of a gigabyte and far beyond', () => {
    // The block number of the only reference stands behind its header and relation; a tuple names its page in t_ctid.
    const at = 24 + 4 + 12;
    const [record] = heapPage.records;
    const moved = (block: number): Uint8Array => {
      const bytes = record!.slice();
      new DataView(bytes.buffer).setUint32(at, block, true);
      const page = redo.redoPage({ ...heapPage, block, lsns: heapPage.lsns.slice(0, 1), records: [bytes] });
      const view = new DataView(page.buffer, page.byteOffset);
      const tuple = view.getUint32(24, true) & 0x7fff;
      expect(view.getUint16(tuple + 12, true) * 65536 + view.getUint16(tuple + 14, true)).toBe(block);
      return page.fill(0, tuple + 12, tuple + 16);
    };
    const page = moved(heapPage.block);
    for (const block of [131_070, 131_071, 131_072, 131_073, 262_143, 262_144, 1_000_000, 5]) {
      expectSame(moved(block), page);
    }
  });

  it('names what it could not rebuild, and is replaced if Postgres panicked', async () => {
    const good = redo.redoPage(heapPage);
    // The first record initialises the page; without the second, later offsets do not fit: PANIC.
    const broken = {
      ...heapPage,
      lsns: [heapPage.lsns[0]!, ...heapPage.lsns.slice(2)],
      records: [heapPage.records[0]!, ...heapPage.records.slice(2)],
    };
    const error = caught(() => redo.redoPage(broken));
    expect(isPageliteError(error, 'corrupt')).toBe(true);
    expect((error as { data: object }).data).toMatchObject({ block: heapPage.block, lsn: expect.any(String) });
    expect(String(error)).toMatch(/PANIC/);
    expect(
      isPageliteError(
        caught(() => redo.redoPage(heapPage)),
        'unavailable',
      ),
    ).toBe(true);
    expect(
      isPageliteError(
        caught(() => redo.maskPage(good, rmgr.heap, 0)),
        'unavailable',
      ),
    ).toBe(true);
    await redo.ready();
    expectSame(redo.redoPage(heapPage), good);
  });

  it('survives damaged records of every resource manager', async () => {
    const random = new SeededRandom(11);
    const good = redo.redoPage(heapPage);
    const byManager = new Map<number, RedoRequest>();
    for (const { request, rmids } of pages.values()) {
      if (request.records.length > 1) byManager.set(rmids.at(-1)!, request);
    }
    let refused = 0;
    for (const request of byManager.values()) {
      for (let round = 0; round < 6; round++) {
        const last = request.records.at(-1)!.slice();
        // Behind the header: block references, block data, main data. A CRC would have told; here it did not.
        last[24 + random.below(last.length - 24)]! ^= 1 << random.below(8);
        const error = caught(() => redo.redoPage({ ...request, records: [...request.records.slice(0, -1), last] }));
        if (error !== null) refused++;
        if (error !== null && !isPageliteError(error, 'corrupt')) throw error;
        await redo.ready();
        expectSame(redo.redoPage(heapPage), good);
      }
    }
    expect(refused).toBeGreaterThan(0);
  });

  it('refuses bytes that are no record, and records that are not about this page, not for redo or too long for it', () => {
    const [record] = heapPage.records;
    const with1 = (bytes: Uint8Array) => ({ ...heapPage, lsns: [lsn(0x2000000)], records: [bytes] });
    expect(() => redo.redoPage(with1(record!.slice(0, -1)))).toThrow(/length/);
    expect(() => redo.redoPage(with1(new Uint8Array(3)))).toThrow(/length/);
    const unknown = record!.slice();
    unknown[17] = 200;
    expect(() => redo.redoPage(with1(unknown))).toThrow(/resource manager 200 is unknown/);
    // Not one that would shut the instance's own log down, either.
    unknown[17] = rmgr.transaction;
    expect(() => redo.redoPage(with1(unknown))).toThrow(/resource manager 1 is unknown or changes no pages/);
    expect(() => redo.redoPage({ ...with1(record!), block: heapPage.block + 1 })).toThrow(/does not change block/);
    const long = new Uint8Array(20 * 1024 * 1024);
    const view = new DataView(long.buffer);
    view.setUint32(0, long.length, true);
    long[17] = rmgr.heap;
    long[24] = 254;
    view.setUint32(25, long.length - 29, true);
    expect(() => redo.redoPage(with1(long))).toThrow(/too many for redo/);
  });

  it('does not grow', () => {
    const requests = [...pages.values()].map(({ request }) => request);
    for (const request of requests) redo.redoPage(request);
    const before = redo.memoryBytes;
    let records = 0;
    while (records < 300_000) {
      for (const request of requests) {
        redo.redoPage(request);
        records += request.records.length;
      }
    }
    expect(redo.memoryBytes).toBe(before);
    expect(before).toBeGreaterThan(0);
  });

  it('says so when it is closed', async () => {
    await redo.close();
    expect(
      isPageliteError(
        caught(() => redo.redoPage(heapPage)),
        'closed',
      ),
    ).toBe(true);
    await expect(redo.ready()).rejects.toThrow(/closed/);
  });
});

/** As toEqual, which takes a millisecond for a page. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) !== 0) expect(actual).toEqual(expected);
}

function caught(run: () => unknown): unknown {
  try {
    run();
    return null;
  } catch (error) {
    return error;
  }
}
