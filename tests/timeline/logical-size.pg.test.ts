/**
 * The logical size of a timeline is the bytes of all its relations at lastRecordLsn.
 *
 * Must hold: whenever it is asked for first, before WAL, in the middle of it, after it, on a branch, after a restart, what is told equals the sum over
 * all relations of all databases as of that LSN; it is kept up by ingest, through creations, truncations, drops, databases made and dropped.
 * Attacked by the WAL of a real workload, in connections that break, with a count that begins while ingest goes on. What is counted per
 * record is checked on the way.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeDatabases } from '../../engine/ingest/small-directories.ts';
import { pageSize } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { dbDirectoryKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { ValueReader } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { stages } from '../support/ingest-workload.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';
import { testTemplate } from '../support/test-template.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

/** The workload's WAL, cut where each stage ends. */
interface Piece {
  readonly start: Lsn;
  readonly end: Lsn;
  readonly bytes: Uint8Array;
}

const pieces: Piece[] = [];
let redo: PostgresRedo;
const rigs: MemoryPageserver[] = [];

async function open(store = new MemoryObjectStore()): Promise<MemoryPageserver> {
  const shared = { redoPage: redo.redoPage.bind(redo), ready: () => redo.ready(), close: async () => {} };
  const rig = await MemoryPageserver.open({ redo: shared, store });
  rig.wal.bytesPerConnection = 300_000;
  rigs.push(rig);
  return rig;
}

/** What the pageserver says, once it has counted. */
async function sizeOf({ pageserver }: MemoryPageserver, id: TenantTimelineId): Promise<number> {
  for (;;) {
    const size = await pageserver.logicalSize(id);
    if (size !== null) return size;
  }
}

/** By listing everything, at the end. */
async function sumOfRelations({ pageserver }: MemoryPageserver, id: TenantTimelineId): Promise<number> {
  const pages = await pageserver.openPages(id);
  const { lastRecordLsn: lsn } = await pages.getStatus();
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const [databases] = await pages.getImages(at, [dbDirectoryKey]);
  let blocks = 0;
  for (const { spc, db } of decodeDatabases(databases!)) {
    for (const { size } of await pages.listRels(at, spc, db)) blocks += size;
  }
  return blocks * pageSize;
}

async function feed(rig: MemoryPageserver, id: TenantTimelineId, some: readonly Piece[]): Promise<void> {
  for (const { start, end, bytes } of some) {
    rig.wal.append(id, start, bytes);
    await rig.pageserver.catchUp(id, end);
  }
}

beforeAll(async () => {
  const template = await testTemplate();
  redo = await PostgresRedo.create({ template, artefacts: await loadPGliteArtefacts(), log: silentLog });
  const rig = await open();
  const pages = await rig.pageserver.openPages(await rig.createTimeline());
  const backup = await pages.getBasebackup(null);
  const at = { requestLsn: backup.lsn, notModifiedSince: backup.lsn };
  const reader: ValueReader = {
    getImage: async (prefix, block) => (await pages.getImages(at, [{ prefix, block }]))[0] ?? null,
  };
  const pg = await bootDirectory(await dataDirectory(backup, reader), keepWal);
  let start = backup.lsn;
  for (const { sql } of stages) {
    for (const statement of sql) {
      if (statement.startsWith('!')) await pg.exec(statement.slice(1)).catch(() => {});
      else await pg.exec(statement);
    }
    await pg.exec('checkpoint');
    const end = await currentLsn(pg);
    pieces.push({ start, end, bytes: readPgWal(pg, start, end) });
    start = end;
  }
  await pg.close();
});
afterAll(async () => {
  for (const rig of rigs) await rig.close();
  await redo?.close();
});

describe('the logical size', () => {
  it('asked for before any WAL is right after every stage of it', async () => {
    const rig = await open();
    const id = await rig.createTimeline();
    const sizes = new Set<number>();
    for (const piece of [null, ...pieces]) {
      if (piece !== null) await feed(rig, id, [piece]);
      const size = await sizeOf(rig, id);
      expect(size).toBe(await sumOfRelations(rig, id));
      sizes.add(size);
    }
    // The workload grows and shrinks: otherwise nothing was tested.
    expect(sizes.size).toBeGreaterThan(pieces.length / 2);
    const { counters } = rig.pageserver.observe().timelines[0]!;
    expect(counters.walRecordsReceived).toBeGreaterThan(counters.walRecordsCommitted);
    expect(counters.walRecordsCommitted).toBeGreaterThan(100);
    // Not all of the pieces: zeros behind a switch of segments are skipped.
    expect(counters.walBytesReceived).toBeGreaterThan(1_000_000);
    expect(counters.logicalSize.started).toBe(1);
  });

  it.each([0, 2])('asked for while WAL is ingested is right (%i)', async (stage) => {
    const rig = await open();
    const id = await rig.createTimeline();
    await feed(rig, id, pieces.slice(0, stage));
    const asked: Promise<unknown>[] = [];
    const fed = feed(rig, id, pieces.slice(stage));
    for (let i = 0; i < 5; i++) {
      asked.push(sizeOf(rig, id));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all([fed, ...asked]);
    expect(await sizeOf(rig, id)).toBe(await sumOfRelations(rig, id));
  });

  it('is right on a branch, and again after a restart that reads WAL again', async () => {
    const store = new MemoryObjectStore();
    const rig = await open(store);
    const id = await rig.createTimeline();
    await feed(rig, id, pieces.slice(0, 2));
    const branch = await rig.branch(id, pieces[0]!.end);
    await rig.pageserver.flush(id);
    await feed(rig, id, pieces.slice(2));
    const [ofMain, ofBranch] = [await sumOfRelations(rig, id), await sumOfRelations(rig, branch)];
    expect(await sizeOf(rig, branch)).toBe(ofBranch);
    expect(ofBranch).not.toBe(ofMain);
    await rig.close();
    const again = await open(store);
    // Of what is in layers at first, then of all.
    expect(await sizeOf(again, id)).toBe(await sumOfRelations(again, id));
    for (const { start, bytes } of pieces) again.wal.append(id, start, bytes);
    await again.pageserver.catchUp(id, pieces.at(-1)!.end);
    expect(await sizeOf(again, id)).toBe(ofMain);
    expect(await sizeOf(again, branch)).toBe(ofBranch);
  });
});
