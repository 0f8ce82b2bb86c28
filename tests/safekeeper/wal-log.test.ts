/**
 * A reader of WAL that is on disk is never told of damage because of what the writer does meanwhile. Attacked by holding a renaming between
 * the medium and the log's own notes. And a torn end does not keep a log from being read where there is no room to cut it off: it is before the first write.
 */
import { expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryTimelineStorage, type SegmentStorage } from '../../engine/safekeeper/storage.ts';
import { WalLog } from '../../engine/safekeeper/wal-log.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';

const startLsn = walSegmentSize as Lsn;

const changed = (memory: SegmentStorage, changes: Partial<SegmentStorage>): SegmentStorage => ({
  list: () => memory.list(),
  create: (name, size) => memory.create(name, size),
  write: (name, offset, bytes) => memory.write(name, offset, bytes),
  sync: (name) => memory.sync(name),
  read: (name, offset, length) => memory.read(name, offset, length),
  zeroFrom: (name, offset) => memory.zeroFrom(name, offset),
  rename: (from, to) => memory.rename(from, to),
  remove: (name) => memory.remove(name),
  ...changes,
});

it('a segment is read while it gets its final name', async () => {
  const memory = new MemoryTimelineStorage('memory').segments;
  let renamed = () => {};
  const onMedium = new Promise<void>((resolve) => {
    renamed = resolve;
  });
  let finish = () => {};
  const segments = changed(memory, {
    async rename(from, to) {
      await memory.rename(from, to);
      renamed();
      // The folder is being synced.
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
    },
  });
  const log = await WalLog.open({
    segments,
    label: 'wal',
    startLsn,
    commitLsn: startLsn,
    flushedLsn: startLsn,
    log: silentLog,
  });
  const bytes = new Uint8Array(walSegmentSize).map((_, i) => i % 251);
  await log.write(startLsn, bytes);
  const synced = log.sync();
  await onMedium;
  const read = log.readFile((startLsn + 5000) as Lsn, 1000);
  let isRead = false;
  void read.then(() => {
    isRead = true;
  });
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(isRead).toBe(false);
  finish();
  expect(await read).toEqual(bytes.slice(5000, 6000));
  await synced;
  expect(await log.readFile(startLsn, 10)).toEqual(bytes.slice(0, 10));
});

it('a torn end that cannot be cut off, as the storage is full, is before the next write', async () => {
  const memory = new MemoryTimelineStorage('memory').segments;
  let isFull = true;
  const segments = changed(memory, {
    async zeroFrom(name, offset) {
      if (isFull) throw new PageliteError('unavailable', 'no room', { storageFull: true });
      await memory.zeroFrom(name, offset);
    },
  });
  const begin = (startLsn + 40) as Lsn;
  const open = (commitLsn: Lsn) =>
    WalLog.open({ segments, label: 'wal', startLsn: begin, commitLsn, flushedLsn: commitLsn, log: silentLog });
  const wal = new SyntheticWal(begin);
  const whole = wal.next(new Uint8Array(500).fill(1));
  const torn = wal.next(new Uint8Array(20_000).fill(2));
  const first = await open(begin);
  await first.write(whole.startLsn, whole.bytes);
  await first.write(torn.startLsn, torn.bytes.subarray(0, 15_000));
  await first.sync();
  const second = await open(whole.endLsn);
  expect(second.writeLsn).toBe(whole.endLsn);
  expect(await second.readFile(begin, whole.bytes.length)).toEqual(whole.bytes);
  // Shorter than what is torn.
  const next = SyntheticWal.afterBoot(whole.endLsn).next(new Uint8Array(100).fill(3));
  await expect(second.write(next.startLsn, next.bytes)).rejects.toMatchObject({ data: { storageFull: true } });
  const third = await open(whole.endLsn);
  isFull = false;
  await third.write(next.startLsn, next.bytes);
  await third.sync();
  const fourth = await open(whole.endLsn);
  expect(fourth.writeLsn).toBe(next.endLsn);
  const rest = await memory.read('000000010000000000000001.partial', next.endLsn - startLsn, 30_000);
  expect(rest.every((byte) => byte === 0)).toBe(true);
});

it('what follows the end of the log is looked through once, before the first write', async () => {
  const memory = new MemoryTimelineStorage('memory').segments;
  let readBytes = 0;
  const segments = changed(memory, {
    read(name, offset, length) {
      readBytes += length;
      return memory.read(name, offset, length);
    },
  });
  const begin = (startLsn + 40) as Lsn;
  const open = (commitLsn: Lsn) =>
    WalLog.open({ segments, label: 'wal', startLsn: begin, commitLsn, flushedLsn: commitLsn, log: silentLog });
  const wal = new SyntheticWal(begin);
  const record = wal.next(new Uint8Array(500).fill(1));
  const first = await open(begin);
  await first.write(record.startLsn, record.bytes);
  await first.sync();
  expect(readBytes).toBe(0);
  const second = await open(record.endLsn);
  expect(readBytes).toBeLessThan(walSegmentSize / 32);
  readBytes = 0;
  for (let i = 0; i < 3; i++) {
    const next = wal.next(new Uint8Array(100).fill(2));
    await second.write(next.startLsn, next.bytes);
    expect(readBytes).toBe(startLsn + walSegmentSize - record.endLsn);
  }
});

it('a segment of which nothing is here, as the log was cut off where it begins, has no head', async () => {
  const { segments } = new MemoryTimelineStorage('memory');
  const log = await WalLog.open({
    segments,
    label: 'wal',
    startLsn,
    commitLsn: startLsn,
    flushedLsn: startLsn,
    log: silentLog,
  });
  await log.write(startLsn, new Uint8Array(walSegmentSize + 1000).fill(1));
  const next = (startLsn + walSegmentSize) as Lsn;
  await log.truncate(next);
  // The file stays, all zeros.
  expect(await segments.list()).toHaveLength(2);
  expect(await log.firstBoundary(next)).toBe(null);
  expect(await log.holdsHead(next)).toBe(false);
});
