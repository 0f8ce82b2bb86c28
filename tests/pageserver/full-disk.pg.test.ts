/**
 * A pageserver whose truth is on a disk that is full: a small file system in memory, which takes the right to mount one.
 *
 * Must hold: what is stored is read, of this timeline and of others; WAL is taken in; who asks for a new timeline hears which object has no room; with room
 * again everything is stored, and after a kill every page is what it was.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import {
  differingFrom,
  type RecordedHistory,
  readAllPages,
  recordHistory,
  threeMoments,
} from '../support/recorded-history.ts';
import { StorageProcesses } from '../support/storage-processes.ts';

/** Null: it may not be mounted. */
function mountSmallDisk(folder: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=200m', 'tmpfs', folder], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

it('a full disk stops nothing but what needs room', async (test) => {
  const disk = mkdtempSync(join(tmpdir(), 'pagelite-disk-'));
  if (!mountSmallDisk(disk)) {
    rmSync(disk, { recursive: true });
    test.skip('mounting a small disk takes root');
    return;
  }
  mkdirSync(join(disk, 'truth'));
  const storage = await StorageProcesses.start({ remoteStorage: `file://${disk}/truth` });
  try {
    const [written, waiting, other] = [
      await storage.createTimeline(),
      await storage.createTimeline(),
      await storage.createTimeline(),
    ];
    const history = await recordHistory(storage.connect(written), threeMoments);
    const expected: Map<string, Uint8Array>[] = [];
    const bring = async (id: TenantTimelineId, moment: number) => {
      const { lsn } = must(history.moments[moment]);
      await storage.writeWal(id, history, lsn);
      await storage.connect(id).listRels({ requestLsn: lsn, notModifiedSince: lsn }, 1663, history.db);
    };
    await bring(written, 2);
    for (const { lsn } of history.moments) expected.push(await readAllPages(storage.connect(written), history, lsn));
    const check = async (id: TenantTimelineId, moments: readonly number[]) => {
      for (const moment of moments) expect(await differing(storage, id, history, expected, moment)).toEqual([]);
    };
    const flush = (id: TenantTimelineId) => storage.call('PUT', `${storage.timelinePath(id)}/checkpoint`);
    for (const id of [waiting, other]) {
      await bring(id, 0);
      expect(await flush(id)).toMatchObject({ status: 200 });
    }

    fill(disk);
    await bring(waiting, 2);
    const flushed = flush(waiting);
    const lastError = async () => {
      const { json } = await storage.get(`${storage.timelinePath(waiting)}/storage`);
      return (json as { uploads: { last_error: string | null } }).uploads.last_error;
    };
    await expect.poll(lastError).toMatch(new RegExp(`object tenants/.*${waiting.timelineId}/.*__.*: .*no space left`));
    await check(waiting, [0, 1, 2]);
    await check(other, [0]);
    await expect(storage.createTimeline()).rejects.toThrow(/object tenants\/.*no space left/);

    rmSync(join(disk, 'filler'));
    expect(await flushed).toMatchObject({ status: 200 });
    expect(await lastError()).toBeNull();
    await storage.stopPageserver('immediate');
    await storage.startPageserver();
    await check(waiting, [0, 1, 2]);
    await check(other, [0]);
  } finally {
    await storage.close();
    execFileSync('umount', ['-l', disk]);
    rmSync(disk, { recursive: true });
  }
}, 120_000);

function fill(disk: string): void {
  const { bavail, bsize } = statfsSync(disk);
  writeFileSync(join(disk, 'filler'), new Uint8Array(Number(bavail) * Number(bsize)));
}

function differing(
  storage: StorageProcesses,
  id: TenantTimelineId,
  history: RecordedHistory,
  expected: readonly Map<string, Uint8Array>[],
  moment: number,
): Promise<string[]> {
  return differingFrom(expected[moment]!, storage.connect(id), history, must(history.moments[moment]).lsn);
}
