/**
 * What each record does to state that is not a page, one record at a time; and that no record, however damaged, is taken for something it is
 * not: it is ingested, or it is refused with an error that names the place.
 */
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { isPageliteError } from '../../engine/errors.ts';
import { checkpointBytes } from '../../engine/ingest/checkpoint-state.ts';
import { heapBlocksPerVmPage } from '../../engine/ingest/patch.ts';
import { readRelSize, readRels } from '../../engine/ingest/readers.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { readSlruSegments } from '../../engine/ingest/slru.ts';
import {
  decodeDatabases,
  decodeOrigins,
  decodePrepared,
  encodeDatabases,
} from '../../engine/ingest/small-directories.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { pageSize } from '../../engine/limits.ts';
import {
  checkpointKey,
  dbDirectoryKey,
  keyKind,
  keyPrefix,
  relMapKey,
  relPrefix,
  replicationOriginsKey,
  type SlruKind,
  sizeBlock,
  slruKind,
  slruPrefix,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../../engine/model/key.ts';
import { type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import type { ForkNumber, RelTag } from '../../engine/model/rel.ts';
import { valueKind } from '../../engine/model/value.ts';
import { rmgr } from '../../engine/wal/wal-record.ts';
import { buildRecord, le, type RecordSpec } from '../support/record-builder.ts';
import { ValueMap } from '../support/value-map.ts';

const startLsn = 0x1000 as Lsn;
const rel = (number: number, fork: ForkNumber = 0, db = 5): RelTag => ({ spc: 1663, db, rel: number, fork });

function checkpoint(fields: { nextXid?: bigint; nextOid?: number; nextMulti?: number; nextOffset?: number } = {}) {
  const bytes = new Uint8Array(checkpointBytes);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(24, fields.nextXid ?? 1000n, true);
  view.setUint32(32, fields.nextOid ?? 20000, true);
  view.setUint32(36, fields.nextMulti ?? 1, true);
  view.setUint32(40, fields.nextOffset ?? 0, true);
  view.setUint32(44, 700, true);
  return bytes;
}

class Rig {
  readonly values = new ValueMap();
  ingest!: WalIngest;
  lsn = startLsn as number;

  async open(state = checkpoint()): Promise<void> {
    this.values.putImage(checkpointKey.prefix, checkpointKey.block, startLsn, state);
    this.values.putImage(
      dbDirectoryKey.prefix,
      dbDirectoryKey.block,
      startLsn,
      encodeDatabases([{ spc: 1663, db: 5 }]),
    );
    this.ingest = await WalIngest.open(this.reader(), this.values);
  }

  reader(lsn: Lsn = maxLsn) {
    return this.values.reader(lsn);
  }

  async put(spec: RecordSpec): Promise<Lsn> {
    this.lsn += 64;
    await this.ingest.ingest(buildRecord(this.lsn, spec));
    return this.lsn as Lsn;
  }

  async state(): Promise<DataView> {
    const image = (await this.reader().getImage(checkpointKey.prefix, checkpointKey.block))!;
    return new DataView(image.buffer, image.byteOffset);
  }

  size(tag: RelTag, lsn?: Lsn): Promise<number | null> {
    return readRelSize(this.reader(lsn), tag);
  }

  async segments(kind: SlruKind): Promise<Map<number, Uint8Array[]>> {
    return new Map((await readSlruSegments(kind, this.reader())).map(({ segment, pages }) => [segment, pages]));
  }

  async status(xid: number): Promise<number> {
    const pages = (await this.segments(slruKind.clog)).get(Math.floor(xid / 32768 / 32))!;
    return (pages[Math.floor(xid / 32768) % 32]![(xid % 32768) >> 2]! >> ((xid & 3) * 2)) & 3;
  }
}

const time = 700_000_000_000_000n;
const create = (number: number, fork = 0): RecordSpec => ({
  rmid: rmgr.storage,
  info: 0x10,
  main: le(1663, 5, number, fork),
});
const heapInsert = (number: number, block: number, willInit = true): RecordSpec => ({
  rmid: rmgr.heap,
  info: willInit ? 0x80 : 0,
  xid: 1000,
  main: le([1, 2], [0, 1]),
  blocks: [{ rel: number, block, willInit }],
});

describe('records', () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = new Rig();
    await rig.open();
  });

  describe('relations', () => {
    it('come to be, grow, are cut and dropped', async () => {
      const made = await rig.put(create(100));
      expect(await rig.size(rel(100))).toBe(0);
      await rig.put(heapInsert(100, 0));
      const grown = await rig.put(heapInsert(100, 3));
      expect(await rig.size(rel(100))).toBe(4);
      await rig.put({ rmid: rmgr.storage, info: 0x20, main: le(1, 1663, 5, 100, 7) });
      expect(await rig.size(rel(100))).toBe(1);
      // A truncation never makes a relation longer.
      await rig.put({ rmid: rmgr.storage, info: 0x20, main: le(9, 1663, 5, 100, 7) });
      expect(await rig.size(rel(100))).toBe(1);
      await rig.put({ rmid: rmgr.transaction, info: 0x80, xid: 1000, main: le(time, 1 << 2, 1, 1663, 5, 100) });
      expect(await rig.size(rel(100))).toBeNull();
      expect(await readRels(rig.reader(), 1663, 5)).toEqual([]);
      // The past stays.
      expect(await rig.size(rel(100), made)).toBe(0);
      expect(await readRels(rig.reader(grown), 1663, 5)).toEqual([{ rel: rel(100), size: 4 }]);
    });

    it('show nothing from before a truncation when they grow again', async () => {
      await rig.put(create(100));
      for (let block = 0; block < 5; block++) await rig.put(heapInsert(100, block));
      await rig.put({ rmid: rmgr.storage, info: 0x20, main: le(1, 1663, 5, 100, 7) });
      // Block 4 is written by a record that takes the page as it is.
      await rig.put(heapInsert(100, 4, false));
      for (const block of [1, 2, 3]) expect(await rig.reader().getImage(relPrefix(rel(100)), block)).toBeNull();
      const versions = rig.values.versions(relPrefix(rel(100)), 4);
      expect(versions.at(-2)!.bytes.length).toBe(0);
      expect(versions.at(-1)!.lsn).toBe(versions.at(-2)!.lsn);
    });

    it('lose visibility map pages and bits with the blocks', async () => {
      await rig.put(create(100));
      const map = relPrefix(rel(100, 2));
      rig.values.putImage(map, sizeBlock, startLsn, encodeSize(3));
      for (const block of [0, 1, 2]) rig.values.putImage(map, block, startLsn, new Uint8Array(pageSize).fill(0xff));
      const blocks = heapBlocksPerVmPage + 6;
      await rig.put({ rmid: rmgr.storage, info: 0x20, main: le(blocks, 1663, 5, 100, 7) });
      expect(await rig.size(rel(100, 2))).toBe(2);
      const page = (await rig.reader().getImage(map, 1))!;
      expect([...page.subarray(24, 28)]).toEqual([0xff, 0x0f, 0, 0]);
      expect(page.subarray(27).every((byte) => byte === 0)).toBe(true);
    });

    it('have bits cleared in a map page that a record does not name, and only there', async () => {
      await rig.put(create(100));
      const map = relPrefix(rel(100, 2));
      rig.values.putImage(map, sizeBlock, startLsn, encodeSize(1));
      rig.values.putImage(map, 0, startLsn, new Uint8Array(pageSize).fill(0xff));
      const bits = async (block: number) =>
        ((await rig.reader().getImage(map, 0))![24 + (block >> 2)]! >> ((block & 3) * 2)) & 3;
      // Insert, update (new page 5, old page 6), lock, multi insert; flags say "cleared".
      await rig.put({ ...heapInsert(100, 3), main: le([1, 2], [1, 1]) });
      await rig.put({
        rmid: rmgr.heap,
        info: 0x20,
        main: le(1000, [1, 2], [0, 1], [3, 1], 0, [1, 2]),
        blocks: [
          { rel: 100, block: 5 },
          { rel: 100, block: 6 },
        ],
      });
      await rig.put({
        rmid: rmgr.heap,
        info: 0x60,
        main: le(1000, [1, 2], [0, 1], [1, 1]),
        blocks: [{ rel: 100, block: 8 }],
      });
      await rig.put({
        rmid: rmgr.heap2,
        info: 0x50,
        main: le([1, 1], [0, 1], [1, 2]),
        blocks: [{ rel: 100, block: 9 }],
      });
      expect(await Promise.all([2, 3, 4, 5, 6, 7, 8, 9, 10].map(bits))).toEqual([3, 0, 3, 0, 0, 3, 1, 0, 3]);
      // As PostgreSQL 18.6 writes it: the map's page is named, redo clears the bit, and ingest puts no patch.
      const before = rig.values.versions(map, 0).length;
      await rig.put({
        ...heapInsert(100, 11),
        main: le([1, 2], [1, 1]),
        blocks: [
          { rel: 100, block: 11 },
          { rel: 100, fork: 2, block: 0 },
        ],
      });
      const versions = rig.values.versions(map, 0);
      expect(versions.length).toBe(before + 1);
      expect(versions.at(-1)!.kind).toBe(1);
    });
  });

  describe('transactions', () => {
    it('are written to the clog with all their subtransactions, on every page', async () => {
      await rig.put({ rmid: rmgr.clog, info: 0, main: le(0n) });
      await rig.put({ rmid: rmgr.clog, info: 0, main: le(1n) });
      await rig.put({ rmid: rmgr.transaction, info: 0x80, xid: 32760, main: le(time, 1 << 1, 2, 32767, 32769) });
      await rig.put({ rmid: rmgr.transaction, info: 0xa0, xid: 32770, main: le(time + 5n, 1 << 1, 1, 32771) });
      expect(
        await Promise.all([32759, 32760, 32767, 32768, 32769, 32770, 32771].map((xid) => rig.status(xid))),
      ).toEqual([0, 1, 1, 0, 1, 2, 2]);
      const pages = (await rig.segments(slruKind.clog)).get(0)!;
      expect(new DataView(pages[1]!.buffer, pages[1]!.byteOffset).getBigInt64(pageSize, true)).toBe(time + 5n);
    });

    it('never make a reader of the clog apply more than a bounded number of changes', async () => {
      await rig.put({ rmid: rmgr.clog, info: 0, main: le(0n) });
      const ends: Lsn[] = [];
      for (let xid = 1000; xid < 3500; xid++) {
        ends.push(await rig.put({ rmid: rmgr.transaction, info: xid % 3 === 0 ? 0x20 : 0, xid, main: le(time) }));
      }
      const prefix = slruPrefix(slruKind.clog, 0);
      const kinds = rig.values.versions(prefix, 0).map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === valueKind.image).length).toBe(3);
      for (const at of [0, 1, 1022, 1023, 1024, 2047, 2499]) {
        const page = (await rig.reader(ends[at]).getImage(prefix, 0))!;
        const status = (xid: number) => (page[xid >> 2]! >> ((xid & 3) * 2)) & 3;
        const xids = [999, 1000, 1000 + at - 1, 1000 + at, 1000 + at + 1];
        expect([at, xids.map(status)]).toEqual([
          at,
          xids.map((xid) => (xid < 1000 || xid > 1000 + at ? 0 : xid % 3 === 0 ? 2 : 1)),
        ]);
      }
    });

    it('drop relations after all the optional parts, also when they abort', async () => {
      for (const number of [100, 101, 102]) await rig.put(create(number));
      const stats = [1, 5, 100, 0];
      const inval = [1, 2, 3, 4];
      const all = 1 | 2 | 4 | 8 | (1 << 8) | (1 << 5);
      const origin = [0x5000n, time] as const;
      const commit = le(time, all, 5, 1663, 1, 999, 1, 1663, 5, 100, 1, ...stats, 1, ...inval, ...origin);
      await rig.put({ rmid: rmgr.transaction, info: 0x80, xid: 1001, main: commit, origin: 3 });
      // An abort has no invalidations.
      const abort = le(time, 4 | (1 << 8), 2, 1663, 5, 101, 1663, 5, 102, 1, ...stats);
      await rig.put({ rmid: rmgr.transaction, info: 0xa0, xid: 1002, main: abort });
      expect(await Promise.all([100, 101, 102].map((number) => rig.size(rel(number))))).toEqual([null, null, null]);
      const origins = await rig.reader().getImage(replicationOriginsKey.prefix, replicationOriginsKey.block);
      expect([...decodeOrigins(origins)]).toEqual([[3, 0x5000]]);
    });

    it('that are prepared have a state until they end', async () => {
      await rig.put(create(100));
      const state = le(0x57f94534, 128, 1005, 5, time, 10, 0, 1, 0, 0, 0, 0, [0, 1], [0, 1], [4, 2], 0n, 0n);
      await rig.put({ rmid: rmgr.transaction, info: 0x10, xid: 1005, main: state });
      const prepared = async () =>
        decodePrepared(await rig.reader().getImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block));
      const file = () => rig.reader().getImage(twoPhaseKey(1005).prefix, twoPhaseKey(1005).block);
      expect(await prepared()).toEqual([1005]);
      expect(await file()).toEqual(state);
      const gid = new TextEncoder().encode('gid\0');
      const head = le(time, 1 | (1 << 4) | (1 << 7) | 4, 5, 1663, 1, 1663, 5, 100, 1005);
      await rig.put({ rmid: rmgr.transaction, info: 0xb0, xid: 0, main: Uint8Array.from([...head, ...gid]) });
      expect(await prepared()).toEqual([]);
      expect(await file()).toBeNull();
      expect(await rig.status(1005)).toBe(1);
      expect(await rig.size(rel(100))).toBeNull();
    });

    it('name prepared transactions by their full id, across the wrap of 32 bits', async () => {
      rig = new Rig();
      await rig.open(checkpoint({ nextXid: 3n * 4294967296n - 500n }));
      const state = le(0x57f94534, 128, 5, 5, time, 10, 0, 0, 0, 0, 0, 0, [0, 1], [0, 1], [4, 2], 0n, 0n);
      await rig.put({ rmid: rmgr.transaction, info: 0x10, xid: 5, main: state });
      const directory = await rig.reader().getImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block);
      expect(decodePrepared(directory)).toEqual([3 * 4294967296 + 5]);
      expect((await rig.state()).getBigUint64(24, true)).toBe(3n * 4294967296n + 1024n);
    });
  });

  describe('counters', () => {
    const nextXid = async () => (await rig.state()).getBigUint64(24, true);

    it('keep nextXid past every transaction, in steps', async () => {
      const atStart = await rig.put(heapInsert(100, 0));
      await rig.put({ ...heapInsert(100, 1), xid: 1023 });
      expect(await nextXid()).toBe(1024n);
      const before = rig.values.versions(checkpointKey.prefix, checkpointKey.block).length;
      await rig.put({ ...heapInsert(100, 2), xid: 1020 });
      expect(rig.values.versions(checkpointKey.prefix, checkpointKey.block).length).toBe(before);
      await rig.put({ ...heapInsert(100, 3), xid: 1024 });
      expect(await nextXid()).toBe(2048n);
      const then = await rig.reader(atStart).getImage(checkpointKey.prefix, checkpointKey.block);
      expect(new DataView(then!.buffer, then!.byteOffset).getBigUint64(24, true)).toBe(1024n);
    });

    it('follow checkpoints and oids', async () => {
      await rig.put({ rmid: rmgr.xlog, info: 0x30, main: le(30000) });
      expect((await rig.state()).getUint32(32, true)).toBe(30000);
      // An online checkpoint may be older than what came by since it began.
      await rig.put({ ...heapInsert(100, 0), xid: 5000 });
      await rig.put({ rmid: rmgr.xlog, info: 0x10, main: checkpoint({ nextXid: 4000n, nextOid: 25000 }) });
      expect([await nextXid(), (await rig.state()).getUint32(32, true)]).toEqual([5120n, 30000]);
      // A shutdown checkpoint is exact.
      await rig.put({ rmid: rmgr.xlog, info: 0x00, main: checkpoint({ nextXid: 5001n, nextOid: 25000 }) });
      expect([await nextXid(), (await rig.state()).getUint32(32, true)]).toEqual([5001n, 25000]);
    });
  });

  describe('multixacts', () => {
    const offset = async (multi: number) => {
      const pages = (await rig.segments(slruKind.multixactOffsets)).get(Math.floor(multi / 65536))!;
      const page = pages[Math.floor(multi / 2048) % 32]!;
      return new DataView(page.buffer, page.byteOffset).getUint32((multi % 2048) * 4, true);
    };

    it('are found through offsets and members', async () => {
      await rig.put({ rmid: rmgr.multixact, info: 0x00, main: le(0n) });
      await rig.put({ rmid: rmgr.multixact, info: 0x10, main: le(0n) });
      await rig.put({ rmid: rmgr.multixact, info: 0x20, xid: 1001, main: le(1, 1, 2, 1001, 3, 1002, 5) });
      expect([await offset(1), await offset(2)]).toEqual([1, 3]);
      const members = (await rig.segments(slruKind.multixactMembers)).get(0)![0]!;
      expect([...members.subarray(0, 4)]).toEqual([0, 3, 5, 0]);
      const view = new DataView(members.buffer, members.byteOffset);
      expect([view.getUint32(8, true), view.getUint32(12, true)]).toEqual([1001, 1002]);
      const state = await rig.state();
      expect([state.getUint32(36, true), state.getUint32(40, true)]).toEqual([2, 3]);
    });

    it('wrap around', async () => {
      rig = new Rig();
      await rig.open(checkpoint({ nextMulti: 0xffffffff, nextOffset: 0xfffffffe }));
      await rig.put({
        rmid: rmgr.multixact,
        info: 0x20,
        main: le(0xffffffff, 0xfffffffe, 3, 1001, 1, 1002, 1, 1003, 2),
      });
      const state = await rig.state();
      expect([state.getUint32(36, true), state.getUint32(40, true)]).toEqual([1, 1]);
      expect([await offset(0xffffffff), await offset(1)]).toEqual([0xfffffffe, 1]);
      const members = await rig.segments(slruKind.multixactMembers);
      expect([...members.keys()]).toEqual([0, Math.floor(0xfffffffe / (1636 * 32))]);
      expect(members.get(0)![0]![0]).toBe(2);
    });

    it('are cut by segment', async () => {
      for (let segment = 0; segment < 4; segment++) {
        await rig.put({ rmid: rmgr.multixact, info: 0x00, main: le(BigInt(segment * 32)) });
        await rig.put({ rmid: rmgr.multixact, info: 0x10, main: le(BigInt(segment * 32)) });
      }
      // Oldest multixact 2 * 65536 + 5, members from the start of segment 0 to segment 3.
      await rig.put({ rmid: rmgr.multixact, info: 0x30, main: le(5, 1, 131077, 1, 3 * 1636 * 32 + 7) });
      expect([...(await rig.segments(slruKind.multixactOffsets)).keys()]).toEqual([2, 3]);
      expect([...(await rig.segments(slruKind.multixactMembers)).keys()]).toEqual([3]);
      const state = await rig.state();
      expect([state.getUint32(52, true), state.getUint32(56, true)]).toEqual([131077, 5]);
    });
  });

  it('cut the clog by segment, also across the wrap', async () => {
    const last = 4294967296 / 32768 / 32 - 1;
    for (const segment of [last, 0, 1, 2]) await rig.put({ rmid: rmgr.clog, info: 0, main: le(BigInt(segment * 32)) });
    // Page 40 is in segment 1: what lies behind it goes.
    await rig.put({ rmid: rmgr.clog, info: 0x10, main: le(40n, 40 * 32768, 5) });
    expect([...(await rig.segments(slruKind.clog)).keys()]).toEqual([1, 2]);
    expect((await rig.state()).getUint32(44, true)).toBe(40 * 32768);
  });

  it('make, copy and drop databases', async () => {
    await rig.put(create(100));
    await rig.put(create(100, 3));
    await rig.put({ rmid: rmgr.relMap, info: 0, main: le(5, 1663, 4, 0xabcdef) });
    rig.values.putImage(relPrefix(rel(100)), 0, rig.lsn as Lsn, new Uint8Array(pageSize).fill(7));
    rig.values.putImage(relPrefix(rel(100)), sizeBlock, rig.lsn as Lsn, encodeSize(2));
    rig.ingest = await WalIngest.open(rig.reader(), rig.values);
    const copied = await rig.put({ rmid: rmgr.database, info: 0x00, main: le(6, 1663, 5, 1663) });
    const list = async (lsn?: Lsn) =>
      decodeDatabases(await rig.reader(lsn).getImage(dbDirectoryKey.prefix, dbDirectoryKey.block)).map(({ db }) => db);
    expect(await list()).toEqual([5, 6]);
    expect(await readRels(rig.reader(), 1663, 6)).toEqual([
      { rel: rel(100, 0, 6), size: 2 },
      { rel: rel(100, 3, 6), size: 0 },
    ]);
    expect((await rig.reader().getImage(relPrefix(rel(100, 0, 6)), 0))![0]).toBe(7);
    const map = relMapKey(1663, 6);
    expect(await rig.reader().getImage(map.prefix, map.block)).toEqual(le(0xabcdef));
    await rig.put({ rmid: rmgr.database, info: 0x20, main: le(6, 1, 1663) });
    expect(await list()).toEqual([5]);
    expect(await readRels(rig.reader(), 1663, 6)).toEqual([]);
    expect(await rig.size(rel(100, 0, 6))).toBeNull();
    expect(await rig.reader().getImage(map.prefix, map.block)).toBeNull();
    expect(await list(copied)).toEqual([5, 6]);
    await rig.put({ rmid: rmgr.database, info: 0x10, main: le(7, 1663) });
    expect(await list()).toEqual([5, 7]);
  });

  it('move replication origins forward, and back only by force', async () => {
    const origins = async () => [
      ...decodeOrigins(await rig.reader().getImage(replicationOriginsKey.prefix, replicationOriginsKey.block)),
    ];
    const set = (lsn: bigint, origin: number, force: 0 | 1) =>
      rig.put({ rmid: rmgr.replicationOrigin, info: 0, main: le(lsn, [origin, 2], [force, 1]) });
    await set(100n, 1, 0);
    await set(50n, 1, 0);
    await set(200n, 2, 0);
    expect(await origins()).toEqual([
      [1, 100],
      [2, 200],
    ]);
    await set(50n, 1, 1);
    await rig.put({ rmid: rmgr.replicationOrigin, info: 0x10, main: le([2, 2]) });
    expect(await origins()).toEqual([[1, 50]]);
  });

  describe('that cannot be ingested', () => {
    const refused: [string, RecordSpec, RegExp][] = [
      [
        'an unknown resource manager',
        { rmid: 200, info: 0 },
        /resource manager 200, info 0x0.*unknown resource manager/,
      ],
      ['an unknown btree record', { rmid: rmgr.btree, info: 0xf0 }, /btree, info 0xf0.*unknown/],
      ['an unknown spgist record', { rmid: rmgr.spgist, info: 0x00 }, /spgist, info 0x0/],
      ['an unknown XLOG record', { rmid: rmgr.xlog, info: 0xf0 }, /xlog, info 0xf0/],
      ['an unknown transaction record', { rmid: rmgr.transaction, info: 0x70 }, /transaction, info 0x70/],
      ['a tablespace', { rmid: rmgr.tablespace, info: 0, main: le(16390) }, /tablespaces are not supported/],
      ['commit timestamps', { rmid: rmgr.commitTs, info: 0, main: le(0n) }, /track_commit_timestamp is not supported/],
      [
        'commit timestamps being switched on',
        { rmid: rmgr.xlog, info: 0x60, main: le(100, 8, 10, 0, 64, 1, [0, 1], [1, 1]) },
        /track_commit_timestamp/,
      ],
      ['a block far past the end', heapInsert(100, 4_000_000_000), /block 4000000000 of a relation of 0 blocks/],
    ];
    for (const [name, spec, message] of refused) {
      it(name, async () => {
        const error = await rig.put(spec).then(
          () => null,
          (thrown) => thrown,
        );
        expect(error?.message).toMatch(message);
        expect(isPageliteError(error)).toBe(true);
        expect(error.data.lsn).toBe('0/1038');
      });
    }

    it('because they are damaged are refused, whatever is damaged', async () => {
      const infos = fc.integer({ min: 0, max: 15 }).map((high) => high << 4);
      const stateful = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 18, 19];
      const word = fc.oneof(
        fc.integer({ min: 0, max: 8 }),
        fc.constantFrom(1663, 5, 100, 0xffffffff, 0x7fffffff),
        fc.nat(),
      );
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...stateful),
          infos,
          fc.array(word, { maxLength: 24 }),
          fc.integer({ min: 0, max: 3 }),
          fc.array(fc.record({ rel: fc.integer({ min: 1, max: 3 }), block: fc.nat(40) }), { maxLength: 3 }),
          async (rmid, info, words, cut, blocks) => {
            const damaged = new Rig();
            await damaged.open();
            const main = le(...words);
            try {
              await damaged.put({
                rmid,
                info,
                xid: 1001,
                main: main.subarray(0, Math.max(0, main.length - cut)),
                blocks,
              });
            } catch (error) {
              if (!isPageliteError(error)) throw error;
              expect(['corrupt', 'invalid']).toContain(error.kind);
              expect(error.data.lsn).toBeDefined();
            }
          },
        ),
        { numRuns: 3000 },
      );
    });
  });
});

describe('the directory of relations', () => {
  it('is right at every LSN, however many relations come and go', async () => {
    const rig = new Rig();
    await rig.open();
    const history: { lsn: Lsn; rels: number[] }[] = [];
    const alive = new Set<number>();
    for (let i = 0; i < 400; i++) {
      const number = 1000 + ((i * 37) % 90);
      let lsn: Lsn;
      if (alive.has(number)) {
        alive.delete(number);
        lsn = await rig.put({ rmid: rmgr.transaction, info: 0x80, xid: 1000, main: le(time, 4, 1, 1663, 5, number) });
      } else {
        alive.add(number);
        lsn = await rig.put(create(number));
      }
      history.push({ lsn, rels: [...alive].sort((a, b) => a - b) });
    }
    for (const { lsn, rels } of history) {
      expect((await readRels(rig.reader(lsn), 1663, 5)).map((one) => one.rel.rel)).toEqual(rels);
    }
    // It is stored whole from time to time: a reader never applies more than a bounded number of changes.
    const directory = keyPrefix(keyKind.rel, 1663, 5, 0, 0);
    expect(rig.values.versions(directory, 1).filter(({ kind }) => kind === 0).length).toBeGreaterThanOrEqual(3);
  });
});
