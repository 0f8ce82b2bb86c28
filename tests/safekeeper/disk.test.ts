/**
 * What is on disk is named as PostgreSQL's, survives being closed at any point, and when it is damaged the damage is found and named,
 * with file and LSN, while other timelines go on. Attacked with flipped bits, cut and missing files, and torn ends.
 */

import { mkdir, mkdtemp, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { concatBytes } from '../../engine/bytes.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { encodeFlushMark } from '../../engine/safekeeper/control-file.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { DiskSafekeeperStorage } from '../../server/safekeeper/disk-segments.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { equal } from '../contracts/wal-service.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const startLsn = (2 * walSegmentSize - 5000) as Lsn;
const firstSegment = '000000010000000000000001';
const secondSegment = '000000010000000000000002.partial';

let dir: string;
let safekeeper: Safekeeper;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'pagelite-safekeeper-'));
  safekeeper = start();
});

afterEach(async () => {
  await safekeeper.close();
  await rm(dir, { recursive: true });
});

const start = () => new Safekeeper({ nodeId: 1 as NodeId, storage: new DiskSafekeeperStorage(dir), log: silentLog });

function elect(id: TenantTimelineId): Promise<ProposerDriver> {
  return ProposerDriver.elect({
    id,
    services: [safekeeper],
    startLsnIfEmpty: startLsn,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
}

const newId = (): TenantTimelineId => ({ tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) });

/** A timeline with records over a segment's end, the safekeeper closed. Returns the WAL and where each record ends. */
async function written(id: TenantTimelineId, sizes = [100, 6000, 300, 40_000, 20]) {
  const driver = await elect(id);
  const wal = new SyntheticWal(startLsn);
  const records = sizes.map((size, i) => wal.next(new Uint8Array(size).fill(i + 1)));
  for (const record of records) {
    driver.append(record.startLsn, record.bytes);
    await driver.waitCommit(record.endLsn);
  }
  driver.close();
  return { endLsn: wal.endLsn, bytes: concatBytes(records.map(({ bytes }) => bytes)), records };
}

const folder = (id: TenantTimelineId) => join(dir, id.tenantId, id.timelineId);

async function flip(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0]! ^= 4;
  await file.write(byte, 0, 1, at);
  await file.close();
}

async function read(id: TenantTimelineId, to: Lsn): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let at: number = startLsn;
  for await (const { bytes } of safekeeper.readWal(id, startLsn, new AbortController().signal)) {
    parts.push(bytes);
    at += bytes.length;
    if (at >= to) break;
  }
  return concatBytes(parts);
}

it('the files are PostgreSQL segments, the last one partial, zeros outside the WAL', async () => {
  const id = newId();
  const { bytes, endLsn } = await written(id);
  await safekeeper.close();
  expect((await readdir(folder(id))).sort()).toEqual([firstSegment, secondSegment, 'flush.mark', 'safekeeper.control']);
  const first = await readFile(join(folder(id), firstSegment));
  const second = await readFile(join(folder(id), secondSegment));
  expect([first.length, second.length]).toEqual([walSegmentSize, walSegmentSize]);
  const offset = startLsn % walSegmentSize;
  const inFirst = walSegmentSize - offset;
  expect(first.subarray(0, offset).every((byte) => byte === 0)).toBe(true);
  expect(equal(first.subarray(offset), bytes.subarray(0, inFirst))).toBe(true);
  expect(equal(second.subarray(0, bytes.length - inFirst), bytes.subarray(inFirst))).toBe(true);
  expect(second.subarray(endLsn % walSegmentSize).every((byte) => byte === 0)).toBe(true);
});

it('after kill -9 the flush mark tells how far is committed, though the control file lags', async () => {
  const id = newId();
  const driver = await elect(id);
  const control = await readFile(join(folder(id), 'safekeeper.control'));
  driver.close();
  const { endLsn } = await written(id);
  await read(id, endLsn);
  await safekeeper.close();
  await writeFile(join(folder(id), 'safekeeper.control'), control);
  safekeeper = start();
  expect(await safekeeper.getStatus(id)).toMatchObject({ flushLsn: endLsn, commitLsn: endLsn });
});

it('a timeline whose creation was interrupted is created again', async () => {
  const id = newId();
  await mkdir(folder(id), { recursive: true });
  await writeFile(join(folder(id), 'safekeeper.control.new'), 'half of');
  expect(await safekeeper.getStatus(id)).toBe(null);
  const { endLsn } = await written(id);
  expect((await safekeeper.getStatus(id))?.flushLsn).toBe(endLsn);
});

describe('damage', () => {
  let id: TenantTimelineId;
  let other: TenantTimelineId;
  let wal: Awaited<ReturnType<typeof written>>;

  beforeEach(async () => {
    id = newId();
    other = newId();
    wal = await written(id);
    await written(other);
    await safekeeper.close();
    safekeeper = start();
  });

  /** The damaged timeline is refused to everybody with this error; the other one works as before. */
  async function expectDamage(pattern: RegExp): Promise<void> {
    const damage = { kind: 'corrupt', message: expect.stringMatching(pattern) };
    await expect(read(id, wal.endLsn)).rejects.toMatchObject(damage);
    expect(equal(await read(other, wal.endLsn), wal.bytes)).toBe(true);
    (await elect(other)).close();
  }

  it('a flipped bit in committed WAL is found when it is read', async () => {
    await flip(join(folder(id), secondSegment), 10_000);
    await expectDamage(
      /WAL segment \S+000000010000000000000002.partial is damaged at 0\/200\w+: a record of .* wrong CRC/,
    );
  });

  it('a flipped bit in the first record of a file that is complete, too', async () => {
    await flip(join(folder(id), firstSegment), (startLsn % walSegmentSize) + 30);
    await expectDamage(/WAL segment \S+000000010000000000000001 is damaged at 0\/1FFEC78/);
  });

  it('a file cut short is found at the start', async () => {
    await truncate(join(folder(id), secondSegment), 12_345);
    await expectDamage(/000000010000000000000002.partial is damaged at 0\/2003039: the file is cut short/);
    await expect(elect(id)).rejects.toMatchObject({ kind: 'corrupt' });
    await expect(safekeeper.getStatus(id)).rejects.toMatchObject({ kind: 'corrupt' });
  });

  it('a missing file is found at the start', async () => {
    await rm(join(folder(id), firstSegment));
    await expectDamage(/000000010000000000000001 is damaged at 0\/1000000: the file is missing/);
  });

  it('a missing last file is found at the start', async () => {
    await rm(join(folder(id), secondSegment));
    await expectDamage(/000000010000000000000002 is damaged at 0\/2000000/);
  });

  it('a flipped bit in the control file is found at the start', async () => {
    await flip(join(folder(id), 'safekeeper.control'), 60);
    await expectDamage(/control file \S+safekeeper.control: wrong checksum/);
  });

  it('a control file cut short, or gone while there is WAL, is found at the start', async () => {
    await truncate(join(folder(id), 'safekeeper.control'), 90);
    await expectDamage(/control file \S+safekeeper.control: cut short: 90 bytes/);
    await rm(join(folder(id), 'safekeeper.control'));
    await expectDamage(/safekeeper.control is missing, but there is WAL/);
  });

  it('a flipped bit in the last record, acknowledged but not known to be committed, is no torn end', async () => {
    // The control file of a safekeeper that was killed: its commitLsn lags, its flush mark does not.
    const driver = await elect(id);
    const more = SyntheticWal.afterBoot(driver.startLsn);
    const control = await readFile(join(folder(id), 'safekeeper.control'));
    const record = more.next(new Uint8Array(500));
    driver.append(record.startLsn, record.bytes);
    await driver.waitCommit(record.endLsn);
    driver.close();
    await safekeeper.close();
    safekeeper = start();
    await writeFile(join(folder(id), 'safekeeper.control'), control);
    const mark = { flushLsn: record.endLsn, commitLsn: record.startLsn };
    await writeFile(join(folder(id), 'flush.mark'), encodeFlushMark(mark));
    await flip(join(folder(id), secondSegment), (record.startLsn % walSegmentSize) + 100);
    await expectDamage(/wrong CRC, though it was durable up to 0\/200/);
  });

  it('a torn end that was never acknowledged is cut off, and does not come back', async () => {
    const torn = new SyntheticWal(wal.endLsn, wal.records.at(-1)!.startLsn);
    const record = torn.next(new Uint8Array(9000).fill(7));
    const file = await open(join(folder(id), secondSegment), 'r+');
    // Its middle is missing.
    await file.write(record.bytes, 0, 4000, wal.endLsn % walSegmentSize);
    await file.write(record.bytes, 5000, record.bytes.length - 5000, (wal.endLsn % walSegmentSize) + 5000);
    await file.close();
    expect(await safekeeper.getStatus(id)).toMatchObject({ flushLsn: wal.endLsn, commitLsn: wal.endLsn });
    await safekeeper.close();
    safekeeper = start();
    const driver = await elect(id);
    expect(driver.startLsn).toBe(wal.endLsn);
    const next = SyntheticWal.afterBoot(driver.startLsn).next(new Uint8Array(100).fill(8));
    driver.append(next.startLsn, next.bytes);
    await driver.waitCommit(next.endLsn);
    driver.close();
    await safekeeper.close();
    const second = await readFile(join(folder(id), secondSegment));
    expect(second.subarray(next.endLsn % walSegmentSize).every((byte) => byte === 0)).toBe(true);
    safekeeper = start();
    expect(await safekeeper.getStatus(id)).toMatchObject({ flushLsn: next.endLsn });
  });
});
