/**
 * WAL that nobody needs any more is given up in whole segments: what is left is read and continued as before, also after a restart and after a crash between the
 * control file and the removal of files; what was given up is refused by name.
 */
import { expect, it } from 'vitest';
import { walMessageBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import { segmentFileName } from '../../engine/wal/wal-page.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { hostClock, hostRandom, silentLog } from '../support/any-host.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const startLsn = (walSegmentSize + 0x28) as Lsn;

async function threeSegments() {
  const storage = new MemorySafekeeperStorage();
  const id = { tenantId: newTenantId(hostRandom), timelineId: newTimelineId(hostRandom) };
  const open = () => new Safekeeper({ nodeId: 1 as NodeId, storage, log: silentLog });
  const elect = (safekeeper: Safekeeper) =>
    ProposerDriver.elect({
      id,
      services: [safekeeper],
      startLsnIfEmpty: startLsn,
      systemIdentifier: syntheticSystemIdentifier,
      clock: hostClock,
      random: hostRandom,
      log: silentLog,
    });
  const safekeeper = open();
  const driver = await elect(safekeeper);
  const wal = new SyntheticWal(startLsn);
  const ends: Lsn[] = [];
  while (wal.endLsn < startLsn + 2.5 * walSegmentSize) {
    const { startLsn: at, bytes } = wal.next(new Uint8Array(walMessageBytesMax - 1000).fill(ends.length));
    driver.append(at, bytes);
    ends.push(wal.endLsn);
    await driver.waitCommit(wal.endLsn);
  }
  // That it is readable says that the safekeeper, too, knows it to be committed.
  await read(safekeeper, ends.at(-2)!, wal.endLsn);
  const files = async () => (await (await storage.openTimeline(id))!.segments.list()).map(({ name }) => name).sort();

  async function read(from: Safekeeper, lsn: Lsn, end: Lsn): Promise<number> {
    const stop = new AbortController();
    let at: number = lsn;
    for await (const { bytes } of from.readWal(id, lsn, stop.signal)) {
      at += bytes.length;
      if (at >= end) break;
    }
    return at;
  }
  return { storage, id, safekeeper, driver, wal, ends, open, elect, files, read };
}

it('whole segments below are gone; the rest is read, survives a restart and is continued', async () => {
  const { id, safekeeper, driver, wal, ends, open, elect, files, read } = await threeSegments();
  const lsn = ends.find((end) => end > 3 * walSegmentSize)!;
  await safekeeper.trim(id, lsn);
  expect(await files()).toEqual([`${segmentFileName(3 * walSegmentSize)}.partial`]);
  expect((await safekeeper.getStatus(id))?.startLsn).toBe(lsn);
  expect(await read(safekeeper, lsn, wal.endLsn)).toBe(wal.endLsn);
  await expect(read(safekeeper, startLsn, wal.endLsn)).rejects.toMatchObject({
    kind: 'invalid',
    message: expect.stringContaining(`held is ${formatLsn(lsn)}`),
  });
  driver.close();
  await safekeeper.close();

  const again = open();
  const next = await elect(again);
  expect(next.startLsn).toBe(wal.endLsn);
  const { startLsn: at, bytes } = wal.next(new Uint8Array(100));
  next.append(at, bytes);
  await next.waitCommit(wal.endLsn);
  expect(await read(again, lsn, wal.endLsn)).toBe(wal.endLsn);
  next.close();
  await again.close();
});

it('files that a crash left are removed when the timeline is opened', async () => {
  const { storage, id, safekeeper, driver, wal, ends, open, files, read } = await threeSegments();
  const lsn = ends.find((end) => end > 2 * walSegmentSize)!;
  const { segments } = (await storage.openTimeline(id))!;
  const remove = segments.remove.bind(segments);
  // The power goes after the control file.
  segments.remove = async () => new Promise(() => {});
  void safekeeper.trim(id, lsn);
  await expect.poll(async () => (await safekeeper.getStatus(id))?.startLsn).toBe(lsn);
  driver.close();
  segments.remove = remove;
  expect((await files()).length).toBe(3);
  const again = open();
  expect(await read(again, lsn, wal.endLsn)).toBe(wal.endLsn);
  expect(await files()).toEqual([
    segmentFileName(2 * walSegmentSize),
    `${segmentFileName(3 * walSegmentSize)}.partial`,
  ]);
  await again.close();
});

it('what is not committed, not here, or below the start is left alone', async () => {
  const { id, safekeeper, driver, wal, files } = await threeSegments();
  await safekeeper.trim(id, (wal.endLsn + 8) as Lsn);
  await safekeeper.trim(id, startLsn);
  await safekeeper.trim({ ...id, timelineId: newTimelineId(hostRandom) }, wal.endLsn);
  expect((await files()).length).toBe(3);
  driver.close();
  await safekeeper.close();
});
