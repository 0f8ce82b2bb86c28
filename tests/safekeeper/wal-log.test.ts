/**
 * A reader of WAL that is on disk is never told of damage because of what the writer does meanwhile. Attacked by holding a renaming between
 * the medium and the log's own notes.
 */
import { expect, it } from 'vitest';
import { walSegmentSize } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryTimelineStorage, type SegmentStorage } from '../../engine/safekeeper/storage.ts';
import { WalLog } from '../../engine/safekeeper/wal-log.ts';
import { silentLog } from '../../server/process/node-host.ts';

const startLsn = walSegmentSize as Lsn;

it('a segment is read while it gets its final name', async () => {
  const memory = new MemoryTimelineStorage('memory').segments;
  let renamed = () => {};
  const onMedium = new Promise<void>((resolve) => {
    renamed = resolve;
  });
  let finish = () => {};
  const segments: SegmentStorage = {
    list: () => memory.list(),
    create: (name, size) => memory.create(name, size),
    write: (name, offset, bytes) => memory.write(name, offset, bytes),
    sync: (name) => memory.sync(name),
    read: (name, offset, length) => memory.read(name, offset, length),
    zeroFrom: (name, offset) => memory.zeroFrom(name, offset),
    remove: (name) => memory.remove(name),
    async rename(from, to) {
      await memory.rename(from, to);
      renamed();
      // The folder is being synced.
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
    },
  };
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
