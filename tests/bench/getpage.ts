/**
 * The read path inside the pageserver, without redo: how fast pages come out of layers, and how fast values go in.
 *
 * Baselines are what the same machine does with the same bytes in the same minute: reading the files, copying memory.
 */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { inThisThread } from '../../engine/compaction/run-job.ts';
import { TimelineCounters } from '../../engine/counters.ts';
import { SafekeeperSurvey } from '../../engine/ingest/safekeeper-survey.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { InMemoryLayer } from '../../engine/layers/in-memory-layer.ts';
import { pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import { newTimelineId, tenantId } from '../../engine/model/ids.ts';
import { relPrefix, sizeBlock } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import type { WalRedo } from '../../engine/services.ts';
import { newIndexPart, StoredIndex, timelineFolder } from '../../engine/timeline/index-part.ts';
import { defaultPageserverLimits } from '../../engine/timeline/pageserver.ts';
import { RunningTimeline } from '../../engine/timeline/running-timeline.ts';
import { TenantAttachment } from '../../engine/timeline/tenant-claims.ts';
import { tenantConfigDefaults } from '../../engine/timeline/tenant-config.ts';
import { DiskObjectStore } from '../../server/object-store/disk.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, timed } from './harness.ts';

const megabyte = 1e6;
const rel: RelTag = { spc: 1663, db: 5, rel: 16384, fork: 0 };
const noRedo: WalRedo = {
  redoPage: () => {
    throw new Error('this benchmark has no records');
  },
  ready: async () => {},
  close: async () => {},
};

export const getPageBenchmark: Benchmark = {
  name: 'getpage',
  about: 'pages out of layer files in runs of 128 and one by one, values into the open layer; no redo',
  run: async (context) => [...(await readPages(context)), ...(await putValues(context))],
};

async function readPages({ folder, rounds, scale, say }: BenchContext): Promise<Row[]> {
  const blockCount = Math.max(2 * pagesPerRequestMax, Math.floor(12_800 * scale));
  say(`getpage: writing ${blockCount} pages`);
  const store = await DiskObjectStore.open(folder);
  const startLsn = 4096 as Lsn;
  const id = { tenantId: tenantId('01'.repeat(16)), timelineId: newTimelineId(nodeRandom) };
  const index = await StoredIndex.create(
    store,
    id,
    0,
    newIndexPart({ systemIdentifier: 1n, lsn: startLsn, prevRecordLsn: startLsn }),
  );
  const blocks = new BlockCache(1.2 * blockCount * pageSize);
  const running = new RunningTimeline(id, index, null, [], {
    store,
    staging: null,
    attachment: new TenantAttachment(store, id.tenantId, 0),
    wal: [],
    redo: noRedo,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
    config: () => tenantConfigDefaults,
    limits: defaultPageserverLimits,
    blocks,
    versions: new ClockCache(1e6),
    compaction: inThisThread,
    deletedCounters: new TimelineCounters(),
    survey: new SafekeeperSurvey(),
    yieldTurn: async () => {
      await setImmediate();
    },
  });
  await fill(running, blockCount);
  const layers = running.timeline.layers.files.layers();
  const files = layers.map((layer) => join(folder, timelineFolder(id), layer.name));
  const at = { requestLsn: running.timeline.lastRecordLsn, notModifiedSince: running.timeline.lastRecordLsn };
  const bytes = blockCount * pageSize;
  const scan = async () => {
    for (let block = 0; block < blockCount; block += pagesPerRequestMax) {
      await running.pages.getPages(at, rel, block, Math.min(pagesPerRequestMax, blockCount - block));
    }
  };
  const speed = (ms: number) => bytes / megabyte / (ms / 1000);
  const [fileRates, coldRates, warmRates, pointMicros] = await interleave(rounds, [
    async () =>
      speed(
        await timed(async () => {
          for (const file of files) await readFile(file);
        }),
      ),
    async () => {
      for (const layer of layers) layer.forget();
      return speed(await timed(scan));
    },
    async () => speed(await timed(scan)),
    async () => {
      const count = Math.min(20_000, blockCount * 4);
      const ms = await timed(async () => {
        for (let i = 0; i < count; i++) await running.pages.getPages(at, rel, (i * 7919) % blockCount, 1);
      });
      return (ms * 1000) / count;
    },
  ]);
  await running.close();
  const [file, cold, warm, point] = [fileRates, coldRates, warmRates, pointMicros].map((each) => median(each!));
  const rate = (value: number) => `${value.toFixed(0)} MB/s`;
  return [
    {
      what: 'pages of a layer file, 128 at a time, nothing cached',
      measured: rate(cold!),
      against: '300 MB/s',
      baseline: rate(300),
      ratio: cold! / 300,
      target: { op: '>=', bound: 1 },
      note: `reading the file whole: ${rate(file!)}`,
    },
    {
      what: 'the same, resident',
      measured: rate(warm!),
      against: '300 MB/s',
      baseline: rate(300),
      ratio: warm! / 300,
      target: { op: '>=', bound: 1 },
    },
    {
      what: 'one resident page',
      measured: `${point!.toFixed(1)} us`,
      against: '20 us',
      baseline: '20 us',
      ratio: point! / 20,
      target: { op: '<=', bound: 1 },
    },
  ];
}

async function fill(running: RunningTimeline, blockCount: number): Promise<void> {
  const { timeline } = running;
  const prefix = relPrefix(rel);
  const page = new Uint8Array(pageSize);
  let lsn = timeline.lastRecordLsn as number;
  for (let block = 0; block < blockCount; block++) {
    nodeRandom.fill(page.subarray(0, 64));
    lsn += 8192;
    timeline.putImage(prefix, block, lsn as Lsn, page);
    if (block % 100 === 99 || block === blockCount - 1) {
      const size = new Uint8Array(4);
      new DataView(size.buffer).setUint32(0, block + 1, true);
      timeline.putImage(prefix, sizeBlock, lsn as Lsn, size);
      timeline.advance(lsn as Lsn, (lsn - 8192) as Lsn);
      await running.afterBatch();
    }
  }
  await running.flush();
  await running.compact('images');
}

async function putValues({ rounds, scale, say }: BenchContext): Promise<Row[]> {
  say('getpage: putting records into an open layer');
  const recordBytes = 120;
  const count = Math.floor(400_000 * scale);
  const source = new Uint8Array(1024 * 1024);
  const prefix = relPrefix(rel);
  const bytes = count * recordBytes;
  const [puts, copies] = await interleave(rounds, [
    async () => {
      const layer = new InMemoryLayer(8 as Lsn);
      const ms = await timed(() => {
        for (let i = 0; i < count; i++) {
          const lsn = (8 + i * recordBytes) as Lsn;
          const handle = layer.addRecord(lsn, source, (i * recordBytes) % 900_000, recordBytes);
          layer.putRecord(prefix, Math.floor(i / 60), lsn, handle, i % 60 === 0);
        }
      });
      return bytes / megabyte / (ms / 1000);
    },
    async () => {
      const to = new Uint8Array(source.length);
      const ms = await timed(() => {
        for (let done = 0; done < bytes; done += source.length) to.set(source);
      });
      return bytes / megabyte / (ms / 1000);
    },
  ]);
  const measured = median(puts!);
  return [
    {
      what: `records of ${recordBytes} bytes into the open layer`,
      measured: `${measured.toFixed(0)} MB/s`,
      against: '200 MB/s',
      baseline: '200 MB/s',
      ratio: measured / 200,
      target: { op: '>=', bound: 1 },
      note: `copying memory: ${median(copies!).toFixed(0)} MB/s`,
    },
  ];
}
