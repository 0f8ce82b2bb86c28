/**
 * WAL that a PostgreSQL wrote goes in, and what comes out is its database: a PGlite that boots from the pageserver's files as of an LSN answers as
 * the original did there.
 *
 * The original boots from a new timeline's basebackup and runs a workload in stages; its WAL is streamed to a pageserver with small layers, over
 * connections that are lost again and again. Read back: from memory; from layers with images after a restart over the same store, as of every stage;
 * through a branch at an earlier stage, which writes WAL of its own. Then the WAL is damaged.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import { newTimelineId, nodeId, type TenantTimelineId, tenantId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { PageService, TenantTemplate, ValueReader } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { Pageserver, type PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { nodeClock, silentLog } from '../../server/process/node-host.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { CapturedWal } from '../support/captured-wal.ts';
import { stages } from '../support/ingest-workload.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

const small: Partial<PageserverLimits> = {
  openLayerBytesMax: 2_000_000,
  imageChainRecordsMin: 4,
  blockCacheBytesMax: 1_000_000,
  pageVersionsBytesMax: 1_000_000,
};

const questions = [
  "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relpersistence = 'p' order by 1",
  'select count(*) as n, sum(hashtext(v::text)) as h from t',
  'select count(*) as n, sum(hashtext(v)) as h from vm',
  'select count(*) as n, sum(length(v)) as l from toasted',
  "select count(*) from t where v like 'hello 1%'",
  'select gid from pg_prepared_xacts order by 1',
  'select datname from pg_database order by 1',
];

async function ask(pg: PGlite): Promise<unknown[]> {
  const answers: unknown[] = [];
  for (const question of questions) {
    try {
      answers.push((await pg.query(question)).rows);
    } catch (error) {
      answers.push((error as Error).message);
    }
  }
  return answers;
}

describe('real WAL in, a database out', () => {
  let template: TenantTemplate;
  let redo: PostgresRedo;
  let pageserver: Pageserver;
  let main: TenantTimelineId;
  const store = new MemoryObjectStore();
  const wal = new CapturedWal(1, 70_000);
  const points: { name: string; lsn: Lsn; answers: unknown[] }[] = [];
  const random = new SeededRandom(5);

  const openPageserver = () =>
    Pageserver.open({
      nodeId: nodeId(1),
      store,
      wal: [wal],
      // Shared by the pageservers of this test, which close theirs.
      redo: {
        redoPage: (request) => redo.redoPage(request),
        ready: () => redo.ready(),
        close: async () => {},
      },
      template: async () => template,
      clock: nodeClock,
      random,
      log: silentLog,
      limits: small,
      yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
    });

  const readerOf = (pages: PageService, lsn: Lsn): ValueReader => ({
    getImage: async (prefix, block) =>
      (await pages.getImages({ requestLsn: lsn, notModifiedSince: lsn }, [{ prefix, block }]))[0]!,
  });

  async function answersAt(id: TenantTimelineId, lsn: Lsn): Promise<unknown[]> {
    const pages = await pageserver.openPages(id);
    const pg = await bootDirectory(await dataDirectory(await pages.getBasebackup(lsn), readerOf(pages, lsn)));
    try {
      return await ask(pg);
    } finally {
      await pg.close();
    }
  }

  beforeAll(async () => {
    template = await createTenantTemplate();
    redo = await PostgresRedo.create({ template, log: silentLog });
    pageserver = await openPageserver();
    main = { tenantId: tenantId('7e'.repeat(16)), timelineId: newTimelineId(random) };
    await pageserver.createTenant(main.tenantId);
    await pageserver.createTimeline(main, null);
    const pages = await pageserver.openPages(main);
    const basebackup = await pages.getBasebackup(null);
    const pg = await bootDirectory(await dataDirectory(basebackup, readerOf(pages, basebackup.lsn)), keepWal);
    wal.bytesPerConnection = 500_000;
    let sentLsn = basebackup.lsn;
    for (const { name, sql } of stages) {
      for (const statement of sql) {
        if (statement.startsWith('!')) await pg.exec(statement.slice(1)).catch(() => {});
        else await pg.exec(statement);
      }
      await pg.exec('checkpoint');
      const lsn = await currentLsn(pg);
      points.push({ name, lsn, answers: await ask(pg) });
      wal.append(main, sentLsn, readPgWal(pg, sentLsn, lsn));
      sentLsn = lsn;
    }
    await pg.close();
  });

  afterAll(async () => {
    await pageserver?.close();
    await redo?.close();
  });

  it('ingests all of it, over many connections', async () => {
    const last = points.at(-1)!;
    const pages = await pageserver.openPages(main);
    await pages.getRelSize({ requestLsn: last.lsn, notModifiedSince: last.lsn }, { spc: 1663, db: 5, rel: 1, fork: 0 });
    expect((await pages.getStatus()).lastRecordLsn).toBe(last.lsn);
    expect(wal.connectionCount).toBeGreaterThan(3);
  });

  it('from memory, at an early LSN and at the last', async () => {
    for (const { name, lsn, answers } of [points[0]!, points.at(-1)!])
      expect(await answersAt(main, lsn), name).toEqual(answers);
  });

  it('from layers and images, after a restart', async () => {
    await pageserver.flush(main);
    await pageserver.compact(main, 'images');
    const { files } = await pageserver.listLayers(main);
    expect(files.filter(({ kind }) => kind === 'image').length).toBeGreaterThan(1);
    expect(files.filter(({ kind }) => kind === 'delta').length).toBeGreaterThan(1);
    await pageserver.close();
    pageserver = await openPageserver();
    expect((await (await pageserver.openPages(main)).getStatus()).lastRecordLsn).toBe(points.at(-1)!.lsn);
    for (const { name, lsn, answers } of points) expect(await answersAt(main, lsn), name).toEqual(answers);
  });

  it('through branches, whose own WAL goes on where they began', async () => {
    const point = points[1]!;
    const branch = { ...main, timelineId: newTimelineId(random) };
    await pageserver.createTimeline(branch, { timelineId: main.timelineId, lsn: point.lsn });
    expect(await answersAt(branch, point.lsn)).toEqual(point.answers);
    const pages = await pageserver.openPages(branch);
    const basebackup = await pages.getBasebackup(point.lsn);
    const pg = await bootDirectory(await dataDirectory(basebackup, readerOf(pages, point.lsn)), keepWal);
    await pg.exec("insert into t(v, n) select 'branch', g from generate_series(1, 500) g");
    await pg.exec('checkpoint');
    const lsn = await currentLsn(pg);
    wal.append(branch, point.lsn, readPgWal(pg, point.lsn, lsn));
    const expected = await ask(pg);
    await pg.close();
    await pages.getRelSize({ requestLsn: lsn, notModifiedSince: lsn }, { spc: 1663, db: 5, rel: 1, fork: 0 });
    expect(await answersAt(branch, lsn)).toEqual(expected);
    await pageserver.flush(branch);
    await pageserver.compact(branch, 'images');
    expect(await answersAt(branch, lsn)).toEqual(expected);
    expect(await answersAt(main, points.at(-1)!.lsn)).toEqual(points.at(-1)!.answers);
  });

  it('garbage in the WAL stops that timeline, names the LSN, and others go on', async () => {
    const end = points.at(-1)!.lsn;
    const branch = { ...main, timelineId: newTimelineId(random) };
    await pageserver.createTimeline(branch, { timelineId: main.timelineId, lsn: end });
    const garbage = new Uint8Array(5000).fill(0x5a);
    wal.append(branch, end, garbage);
    const pages = await pageserver.openPages(branch);
    const ahead = (end + 4096) as Lsn;
    const error = await pages
      .getRelSize({ requestLsn: ahead, notModifiedSince: ahead }, { spc: 1663, db: 5, rel: 1, fork: 0 })
      .catch((e: unknown) => e);
    expect(error).toMatchObject({ kind: 'corrupt', message: expect.stringContaining(formatLsn(end)) });
    expect((await pages.getStatus()).stopped).toMatch(/WAL/);
    // What it had is still read, and the other timeline knows nothing of it.
    expect(await answersAt(branch, end)).toEqual(points.at(-1)!.answers);
    expect((await (await pageserver.openPages(main)).getStatus()).stopped).toBeNull();
  });

  it('says clearly what cannot be', async () => {
    const status = await (await pageserver.openPages(main)).getStatus();
    const kind = (promise: Promise<unknown>) =>
      promise.then(
        () => 'resolved',
        (error) => error.kind,
      );
    const create = (
      timelineId: TenantTimelineId['timelineId'],
      ancestor: Parameters<Pageserver['createTimeline']>[1],
    ) => kind(pageserver.createTimeline({ ...main, timelineId }, ancestor));
    const other = newTimelineId(random);
    const before = (status.startLsn - 8) as Lsn;
    const past = (status.lastRecordLsn + 8) as Lsn;
    expect(await create(main.timelineId, null)).toBe('invalid');
    expect(await create(other, { timelineId: main.timelineId, lsn: before })).toBe('invalid');
    expect(await create(other, { timelineId: main.timelineId, lsn: past })).toBe('invalid');
    expect(await create(other, { timelineId: newTimelineId(random), lsn: null })).toBe('notFound');
    expect(await kind(pageserver.openPages({ ...main, timelineId: other }))).toBe('notFound');
    expect(await kind(pageserver.createTenant(main.tenantId))).toBe('invalid');
    expect(await kind(pageserver.listTimelines(tenantId('00'.repeat(16))))).toBe('notFound');
    expect(await kind(pageserver.deleteTimeline(main))).toBe('invalid');
  });

  it('a damaged index or layer costs its timeline and names the file', async () => {
    const [doomed, torn] = [newTimelineId(random), newTimelineId(random)].map((timelineId) => ({
      ...main,
      timelineId,
    }));
    await pageserver.createTimeline(doomed!, null);
    await pageserver.createTimeline(torn!, null);
    await pageserver.close();
    const folder = (id: TenantTimelineId) => `tenants/${id.tenantId}/timelines/${id.timelineId}/`;
    const damage = async (key: string) => {
      const { bytes } = (await store.get(key))!;
      bytes[Math.floor(bytes.length / 3)]! ^= 4;
      await store.put(key, bytes);
    };
    await damage((await store.list(`${folder(doomed!)}index_part.json`)).at(-1)!.key);
    const layer = (await store.list(folder(torn!))).find(({ key }) => key.includes('__'))!.key;
    const { bytes } = (await store.get(layer))!;
    await store.put(layer, bytes.slice(0, -7));
    pageserver = await openPageserver();
    await expect(pageserver.openPages(doomed!)).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringContaining(`${doomed!.timelineId}/index_part.json`),
    });
    const pages = await pageserver.openPages(torn!);
    await expect(pages.getBasebackup(null)).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringContaining(layer),
    });
    expect(await answersAt(main, points[0]!.lsn)).toEqual(points[0]!.answers);
    // Both can be deleted, and leave nothing.
    for (const id of [doomed!, torn!]) {
      await pageserver.deleteTimeline(id);
      expect(await store.list(folder(id))).toEqual([]);
    }
  });

  it('a gap in the WAL is not skipped', async () => {
    const branch = { ...main, timelineId: newTimelineId(random) };
    const point = points[0]!;
    await pageserver.createTimeline(branch, { timelineId: main.timelineId, lsn: point.lsn });
    // WAL of later on, said to begin at the branch point.
    const later = new Uint8Array(1000);
    wal.append(branch, point.lsn, later);
    const pages = await pageserver.openPages(branch);
    const ahead = (point.lsn + 500) as Lsn;
    await expect(
      pages.getRelSize({ requestLsn: ahead, notModifiedSince: ahead }, { spc: 1663, db: 5, rel: 1, fork: 0 }),
    ).rejects.toMatchObject({ kind: 'corrupt' });
  });
});
