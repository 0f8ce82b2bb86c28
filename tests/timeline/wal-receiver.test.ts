/**
 * A timeline follows its safekeepers: every record is ingested once and in order, whichever safekeeper is away, behind, silent or damaged, as long as
 * one has the WAL; and a timeline that cannot go on says so.
 *
 * The WAL is synthetic (records that change nothing), the safekeepers hand out what the test gives them. Pauses run twenty times as fast.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { inThisThread } from '../../engine/compaction/run-job.ts';
import { TimelineCounters } from '../../engine/counters.ts';
import { PageliteError } from '../../engine/errors.ts';
import { SafekeeperSurvey } from '../../engine/ingest/safekeeper-survey.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { newTimelineId, type TenantTimelineId, tenantId } from '../../engine/model/ids.ts';
import { checkpointKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Clock, ObjectStore, WalService } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { newIndexPart, StoredIndex } from '../../engine/timeline/index-part.ts';
import { defaultPageserverLimits } from '../../engine/timeline/pageserver.ts';
import { RunningTimeline } from '../../engine/timeline/running-timeline.ts';
import { TenantAttachment } from '../../engine/timeline/tenant-claims.ts';
import { tenantConfigDefaults } from '../../engine/timeline/tenant-config.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { CapturedWal } from '../support/captured-wal.ts';
import { ModelRedo } from '../support/model-redo.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const fastClock: Clock = { now: () => nodeClock.now(), sleep: (ms, signal) => nodeClock.sleep(ms / 20, signal) };
const startLsn = 0x1000028 as Lsn;
const id: TenantTimelineId = { tenantId: tenantId('31'.repeat(16)), timelineId: newTimelineId(nodeRandom) };

const open: RunningTimeline[] = [];
afterEach(async () => {
  for (const running of open.splice(0)) await running.close();
});

async function start(
  services: readonly WalService[],
  store: ObjectStore = new MemoryObjectStore(),
): Promise<RunningTimeline> {
  const found = await store.list('');
  const index =
    found.length > 0
      ? await StoredIndex.load(store, id, 0)
      : await StoredIndex.create(
          store,
          id,
          0,
          newIndexPart({ systemIdentifier: syntheticSystemIdentifier, lsn: startLsn, prevRecordLsn: 0 as Lsn }),
        );
  const running = new RunningTimeline(id, index, null, [], {
    store,
    staging: null,
    attachment: new TenantAttachment(store, id.tenantId, 0),
    wal: services,
    redo: new ModelRedo(),
    clock: fastClock,
    random: nodeRandom,
    log: silentLog,
    config: () => tenantConfigDefaults,
    limits: { ...defaultPageserverLimits, waitLsnTimeoutMs: 20 * 20_000 },
    blocks: new BlockCache(1e6),
    versions: new ClockCache(1e6),
    compaction: inThisThread,
    deletedCounters: new TimelineCounters(),
    survey: new SafekeeperSurvey(),
    yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
  });
  open.push(running);
  if (found.length === 0) {
    const { prefix, block } = checkpointKey;
    running.timeline.putImage(prefix, block, (startLsn + 1) as Lsn, new Uint8Array(88));
  }
  running.start();
  return running;
}

interface Piece {
  readonly lsn: Lsn;
  readonly bytes: Uint8Array;
  readonly endLsn: Lsn;
}

/** `count` pieces of some records each. */
function pieces(count: number): Piece[] {
  const wal = new SyntheticWal(startLsn);
  return Array.from({ length: count }, () => {
    const records = Array.from({ length: 20 }, (_, i) => wal.next(new Uint8Array(10 + i * 37)));
    return {
      lsn: records[0]!.startLsn,
      bytes: Buffer.concat(records.map(({ bytes }) => bytes)),
      endLsn: records.at(-1)!.endLsn,
    };
  });
}

const give = (service: CapturedWal, ...some: Piece[]) => {
  for (const piece of some) service.append(id, piece.lsn, piece.bytes);
};

const until = (running: RunningTimeline, { endLsn }: Piece) => running.timeline.waitLsn(endLsn);

/** Resolves when somebody has looked for WAL there so many times. */
async function asked(service: CapturedWal, count: number): Promise<void> {
  while (service.statusCount < count) await new Promise((resolve) => setImmediate(resolve));
}

describe('WAL receiver', () => {
  it('follows what is appended, over connections that break', async () => {
    const wal = new CapturedWal(1, 777);
    wal.bytesPerConnection = 5000;
    const running = await start([wal]);
    for (const piece of pieces(12)) {
      give(wal, piece);
      await until(running, piece);
      expect(running.timeline.lastRecordLsn).toBe(piece.endLsn);
    }
    expect(wal.connectionCount).toBeGreaterThan(5);
  });

  it('waits for a safekeeper that is away or does not know the timeline yet', async () => {
    const wal = new CapturedWal();
    wal.away = new PageliteError('unavailable', 'away');
    const running = await start([wal]);
    const [piece] = pieces(1);
    const waiting = until(running, piece!);
    await asked(wal, 2);
    wal.away = null;
    await asked(wal, 4);
    give(wal, piece!);
    await waiting;
    expect(running.timeline.stopped).toBeNull();
  });

  it('ends when it is closed while safekeepers are asked where they are', async () => {
    const wal = new CapturedWal();
    const [piece] = pieces(1);
    give(wal, piece!);
    let answer = () => {};
    const asking = new Promise<void>((resolve) => {
      const getStatus = wal.getStatus.bind(wal);
      wal.getStatus = async (of) => {
        const status = await getStatus(of);
        resolve();
        await new Promise<void>((go) => {
          answer = go;
        });
        return status;
      };
    });
    const running = await start([wal]);
    await asking;
    const closed = running.close();
    answer();
    await closed;
    expect(wal.connectionCount).toBe(0);
  });

  it('does not wait for one that hangs, whichever that is', async () => {
    const all = pieces(3);
    for (const hanging of [0, 1, 2]) {
      const wals = [new CapturedWal(1), new CapturedWal(2), new CapturedWal(3)];
      for (const [i, wal] of wals.entries()) {
        if (i === hanging) wal.getStatus = () => new Promise(() => {});
        else give(wal, ...all);
      }
      const running = await start(wals);
      await until(running, all.at(-1)!);
      expect(wals[hanging]!.connectionCount).toBe(0);
    }
  });

  it('takes the safekeeper that has committed most, and another when it goes away', async () => {
    const [first, second, third] = [new CapturedWal(1), new CapturedWal(2), new CapturedWal(3)];
    const all = pieces(6);
    give(first, ...all.slice(0, 2));
    give(second, ...all.slice(0, 4));
    const running = await start([first, second, third]);
    await until(running, all[3]!);
    expect(first.connectionCount).toBe(0);
    second.away = new PageliteError('unavailable', 'away');
    give(first, ...all.slice(2, 6));
    // The stream to the second one is silent and never ends: the third party is noticed.
    await until(running, all[5]!);
    expect(first.connectionCount).toBeGreaterThan(0);
    expect(running.timeline.stopped).toBeNull();
  });

  it('asks one that has given up what it needs if nobody else has it: not one that has nothing, or is behind, is waited for', async () => {
    const [first, second] = pieces(2) as [Piece, Piece];
    const [empty, behind, far] = [new CapturedWal(1), new CapturedWal(2), new CapturedWal(3)];
    const telling = (service: CapturedWal, told: { startLsn: number; commitLsn: number }) => {
      const known = service.getStatus.bind(service);
      service.getStatus = async () => ({ ...(await known(id))!, ...(told as { startLsn: Lsn; commitLsn: Lsn }) });
    };
    for (const service of [empty, behind, far]) give(service, first, second);
    telling(empty, { startLsn: 0, commitLsn: 0 });
    telling(behind, { startLsn, commitLsn: startLsn - 8 });
    telling(far, { startLsn: second.endLsn, commitLsn: second.endLsn });
    const running = await start([empty, behind, far]);
    await until(running, second);
    expect([empty, behind, far].map(({ connectionCount }) => connectionCount)).toEqual([0, 0, 1]);
  });

  it('passes by a safekeeper whose WAL is damaged; stops if there is no other', async () => {
    const damaged = new CapturedWal(1);
    const good = new CapturedWal(2);
    const all = pieces(3);
    give(damaged, ...all);
    const damage = new PageliteError('corrupt', 'segment 000000010000000000000001 is damaged');
    damaged.readWal = () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(damage) }) });
    give(good, ...all.slice(0, 2));
    const running = await start([damaged, good]);
    await until(running, all[1]!);
    const alone = await start([damaged]);
    await expect(alone.timeline.waitLsn(all[2]!.endLsn)).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringContaining('000000010000000000000001'),
    });
    expect(alone.timeline.stopped?.message).toContain('damaged');
  });

  it('a flipped bit stops the timeline behind the last good record, and names the LSN', async () => {
    const wal = new CapturedWal();
    const [good, bad] = pieces(2);
    bad!.bytes[bad!.bytes.length - 3]! ^= 1;
    give(wal, good!, bad!);
    const running = await start([wal]);
    const error = await Promise.resolve(running.timeline.waitLsn(bad!.endLsn)).catch((e: unknown) => e);
    expect(error).toMatchObject({ kind: 'corrupt', message: expect.stringMatching(/0\/10\w+.*CRC/) });
    const { lastRecordLsn, stopped } = running.timeline;
    expect(lastRecordLsn).toBeGreaterThan(good!.endLsn);
    expect(lastRecordLsn).toBeLessThan(bad!.endLsn);
    expect(stopped).not.toBeNull();
    // What is there can still be written out, and the next process reads the rest again.
    await running.flush();
    expect(running.timeline.diskConsistentLsn).toBe(lastRecordLsn);
  });

  it('goes on from what is in layers after a restart', async () => {
    const wal = new CapturedWal();
    const store = new MemoryObjectStore();
    const all = pieces(4);
    give(wal, ...all.slice(0, 2));
    const running = await start([wal], store);
    await until(running, all[1]!);
    await running.flush();
    give(wal, all[2]!);
    await until(running, all[2]!);
    // No close: the process is gone.
    const again = await start([wal], store);
    expect(again.timeline.lastRecordLsn).toBe(all[1]!.endLsn);
    expect(again.timeline.prevRecordLsn).toBeGreaterThan(0);
    give(wal, all[3]!);
    await until(again, all[3]!);
    expect(again.timeline.stopped).toBeNull();
  });

  it('ends a wait when it is closed', async () => {
    const running = await start([new CapturedWal()]);
    const waiting = running.timeline.waitLsn((startLsn + 1000) as Lsn);
    await running.close();
    await expect(waiting).rejects.toMatchObject({ kind: 'closed' });
  });
});
