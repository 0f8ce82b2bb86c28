/**
 * Storage at scale, with real processes and real SQL: a table that is loaded and then rewritten ten times, read out of the pageserver before and after; what it
 * takes on disk once history is given up; reads while compaction works; pages against a bare WebSocket echo; memory of idle timelines.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { must } from '../../engine/assert.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { LayerWriter } from '../../engine/layers/layer-writer.ts';
import { pageSize } from '../../engine/limits.ts';
import { nodeId, type TenantTimelineId, type TimelineId, timelineId } from '../../engine/model/ids.ts';
import { relPrefix, sizeBlock } from '../../engine/model/key.ts';
import { type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import { valueKind } from '../../engine/model/value.ts';
import type { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { type LayerEntry, layerKey, StoredIndex } from '../../engine/timeline/index-part.ts';
import { claimTenant } from '../../engine/timeline/tenant-claims.ts';
import { DiskObjectStore } from '../../server/object-store/disk.ts';
import { type BenchContext, type Benchmark, median, type Row } from './harness.ts';
import { Place } from './place.ts';

const at = { requestLsn: maxLsn, notModifiedSince: 0 as typeof maxLsn };

export const scaleBenchmark: Benchmark = {
  name: 'scale',
  about: 'a table rewritten ten times: reads, layers per read, bytes stored; reads while compacting; idle timelines',
  run: async (context) => {
    const place = new Place(join(context.folder, 'churn'));
    try {
      const { rows, rel } = await churn(place, context);
      rows.push(...(await againstEcho(place, rel, context)));
      rows.push(...(await idleTimelines(place, context)));
      return rows;
    } finally {
      place.stop();
    }
  },
};

const percentile = (values: readonly number[], p: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * p))]!;

/** Milliseconds of `count` reads of single random pages, one after another. */
async function randomReads(pages: RemotePageService, rel: RelTag, blocks: number, count: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    await pages.getPages(at, rel, Math.floor(Math.random() * blocks), 1);
    times.push(performance.now() - start);
  }
  return times;
}

/** Cumulative counts of layers per read. */
async function layersPerRead(place: Place): Promise<Map<number, number>> {
  const text = await place.http<string>('GET', '/metrics');
  const buckets = text.matchAll(/^pageserver_layers_per_read_global_bucket\{le="([^"]+)"\} (\d+)/gm);
  return new Map(
    [...buckets].map(([, le, count]) => [le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le), Number(count)]),
  );
}

/** The smallest bound that 99 of 100 reads keep. */
function p99Of(before: Map<number, number>, after: Map<number, number>): number {
  const total = after.get(Number.POSITIVE_INFINITY)! - before.get(Number.POSITIVE_INFINITY)!;
  for (const [le, count] of after) if (count - before.get(le)! >= 0.99 * total) return le;
  return Number.POSITIVE_INFINITY;
}

const busyReads = 3_000;

async function churn(place: Place, { scale, say }: BenchContext): Promise<{ rows: Row[]; rel: RelTag }> {
  const rowCount = Math.floor(400_000 * scale);
  const timeline = `/v1/tenant/${place.tenant}/timeline/${place.main}`;
  const client = await place.endpoint('main');
  say(`scale: loading ${rowCount} rows`);
  await client.query('create table t (id int primary key, v text, n int)');
  for (let from = 0; from < rowCount; from += 20_000) {
    const to = Math.min(rowCount, from + 20_000) - 1;
    await client.query(`insert into t select g, repeat(md5(g::text), 6), 0 from generate_series(${from}, ${to}) g`);
  }
  await client.query('vacuum t');
  const { rows: found } = await client.query<{ db: number; rel: number }>(
    "select d.oid::int as db, pg_relation_filenode('t')::int as rel from pg_database d where datname = current_database()",
  );
  const rel: RelTag = { spc: 1663, db: found[0]!.db, rel: found[0]!.rel, fork: 0 };
  /** As ordinary compaction in the background leaves it: nothing is forced, and the process that did it goes on. */
  const measure = async () => {
    await place.http('PUT', `${timeline}/checkpoint`);
    await whenCompacted(place, timeline);
    const pages = place.pages(place.main);
    const blocks = (await pages.getRelSize(at, rel))!;
    const before = await layersPerRead(place);
    const first = await randomReads(pages, rel, blocks, 2_000);
    const p99 = p99Of(before, await layersPerRead(place));
    const again = await randomReads(pages, rel, blocks, 2_000);
    pages.close();
    return { first: median(first), again: median(again), blocks, p99 };
  };
  const loaded = await measure();
  const rewriteAll = async () => {
    for (let from = 0; from < rowCount; from += 20_000) {
      await client.query(
        `update t set n = n + 1, v = repeat(md5((id + n)::text), 6) where id between ${from} and ${from + 19_999}`,
      );
    }
    await client.query('vacuum t');
  };
  for (let rewrite = 1; rewrite <= 10; rewrite++) {
    say(`scale: rewrite ${rewrite} of 10`);
    await rewriteAll();
  }
  const rewritten = await measure();
  say('scale: reads while compaction works');
  const pages = place.pages(place.main);
  const idle = await randomReads(pages, rel, loaded.blocks, 2_000);
  const busy: number[] = [];
  // Often enough for a 99th percentile: compaction of little is soon done.
  while (busy.length < busyReads) {
    await rewriteAll();
    let isDone = false;
    const compacting = place.http('PUT', `${timeline}/checkpoint?force_image_layer_creation=true`).finally(() => {
      isDone = true;
    });
    while (!isDone) busy.push(...(await randomReads(pages, rel, loaded.blocks, 100)));
    await compacting;
  }
  pages.close();
  say('scale: giving up history');
  place.run('tenant', 'config', '-c', 'pitr_interval:0', '-c', 'gc_horizon:0');
  place.run('timeline', 'compact', '--branch-name', 'main', '--force');
  place.run('timeline', 'gc', '--branch-name', 'main');
  const info = JSON.parse(place.run('timeline', 'info', '--branch-name', 'main', '--json')) as Record<string, number>;
  await client.end();
  const ms = (value: number) => `${value.toFixed(2)} ms`;
  const mb = (value: number) => `${(value / 1e6).toFixed(0)} MB`;
  const rows: Row[] = [
    {
      what: 'a random page after 10 rewrites, as compaction in the background left it (p50)',
      measured: ms(rewritten.first),
      against: 'right after load',
      baseline: ms(loaded.first),
      ratio: rewritten.first / loaded.first,
      target: { op: '<=', bound: 1.5 },
      note: `read again: ${ms(rewritten.again)} against ${ms(loaded.again)}; the table has ${rewritten.blocks} pages, it had ${loaded.blocks}`,
    },
    {
      what: 'layers visited per read, p99 (bound of the histogram)',
      measured: String(rewritten.p99),
      against: '4',
      baseline: '4',
      ratio: rewritten.p99 / 4,
      target: { op: '<=', bound: 1 },
      note: `right after load: ${loaded.p99}`,
    },
    {
      what: 'bytes stored after compaction and garbage collection',
      measured: mb(info.layerBytes!),
      against: 'logical size',
      baseline: mb(info.logicalBytes!),
      ratio: info.layerBytes! / info.logicalBytes!,
      target: { op: '<=', bound: 1.5 },
    },
    {
      what: 'a random page while compaction works (p99)',
      measured: ms(percentile(busy, 0.99)),
      against: 'idle (p99)',
      baseline: ms(percentile(idle, 0.99)),
      ratio: percentile(busy, 0.99) / percentile(idle, 0.99),
      target: { op: '<=', bound: 3 },
      note: `${busy.length} reads; p50 ${ms(median(busy))} against ${ms(median(idle))}`,
    },
  ];
  return { rows, rel };
}

/** Resolves when compaction has had nothing to do for a while. */
async function whenCompacted(place: Place, timeline: string): Promise<void> {
  for (let quiet = 0; quiet < 4; ) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { compaction } = await place.http<{ compaction: { running: boolean } }>('GET', `${timeline}/storage`);
    quiet = compaction.running ? 0 : quiet + 1;
  }
}

/** Pages of one relation that the pageserver's caches hold: 32 of their 64 MB. */
const cachedBlocksMax = 4_000;
const runBlocks = 16;

async function againstEcho(place: Place, rel: RelTag, { say, rounds }: BenchContext): Promise<Row[]> {
  say('scale: pages against a bare echo');
  const pages = place.pages(place.main);
  const blocks = Math.min(cachedBlocksMax, (await pages.getRelSize(at, rel))!);
  // All of them are in the caches from now on.
  for (let round = 0; round < 2; round++) {
    for (let first = 0; first < blocks; first += 64) await pages.getPages(at, rel, first, Math.min(64, blocks - first));
  }
  const someBlock = (run: number) => Math.floor(Math.random() * (blocks - run + 1));
  const echo = fork(fileURLToPath(new URL('./echo-server.js', import.meta.url)), { execArgv: [] });
  const [port] = (await once(echo, 'message')) as [number];
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
  await once(socket, 'open');
  const ask = (request: Buffer) => () =>
    new Promise<void>((resolve) => {
      socket.once('message', () => resolve());
      socket.send(request);
    });
  const [echo8k, short] = [ask(Buffer.alloc(pageSize)), ask(Buffer.alloc(60))];
  const timesOf = async (count: number, once: () => Promise<unknown>) => {
    const times: number[] = [];
    for (let i = 0; i < count; i++) {
      const start = performance.now();
      await once();
      times.push(performance.now() - start);
    }
    return median(times);
  };
  const ours: number[] = [];
  const echoes: number[] = [];
  const answers: number[] = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await timesOf(3_000, () => pages.getPages(at, rel, someBlock(1), 1)));
    echoes.push(await timesOf(3_000, echo8k));
    answers.push(await timesOf(3_000, short));
  }
  const perSecond = async (requests: number, inFlight: number, run: number) => {
    let left = requests;
    const start = performance.now();
    await Promise.all(
      Array.from({ length: inFlight }, async () => {
        while (left-- > 0) await pages.getPages(at, rel, someBlock(run), run);
      }),
    );
    return (requests * run) / ((performance.now() - start) / 1000);
  };
  const single = Math.max(...(await repeat(rounds, () => perSecond(20_000, 64, 1))));
  const batched = Math.max(...(await repeat(rounds, () => perSecond(20_000, 16, runBlocks))));
  pages.close();
  socket.close();
  echo.disconnect();
  return [
    {
      what: `a random one of ${blocks} cached pages over loopback (p50)`,
      measured: `${(median(ours) * 1000).toFixed(0)} us`,
      against: 'bare WebSocket echo of 8 kB',
      baseline: `${(median(echoes) * 1000).toFixed(0)} us`,
      ratio: median(ours) / median(echoes),
      target: { op: '<=', bound: 1.5 },
      note: `60 bytes answered with 8 kB: ${(median(answers) * 1000).toFixed(0)} us`,
    },
    {
      what: 'random cached pages from one client, 64 requests under way',
      measured: `${single.toFixed(0)} pages/s`,
      against: '10,000 pages/s',
      baseline: '10,000 pages/s',
      ratio: single / 10_000,
      target: { op: '>=', bound: 1 },
    },
    {
      what: `random cached pages in runs of ${runBlocks}`,
      measured: `${batched.toFixed(0)} pages/s`,
      against: '40,000 pages/s',
      baseline: '40,000 pages/s',
      ratio: batched / 40_000,
      target: { op: '>=', bound: 1 },
      note: `${((batched * pageSize) / 1e6).toFixed(0)} MB/s`,
    },
  ];
}

async function repeat<T>(times: number, work: () => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let i = 0; i < times; i++) results.push(await work());
  return results;
}

async function idleTimelines(place: Place, { scale, say }: BenchContext): Promise<Row[]> {
  const count = Math.max(100, Math.floor(1_000 * scale));
  say(`scale: ${count} idle timelines`);
  place.run('pageserver', 'restart');
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const before = place.memory();
  const path = `/v1/tenant/${place.tenant}/timeline`;
  const made: TimelineId[] = [];
  for (let i = 0; i < count; i++) {
    const one = await place.http<{ timeline_id: string }>('POST', path, { ancestor_timeline_id: place.main });
    made.push(timelineId(one.timeline_id));
  }
  // Layers of their own, as if each had been written to.
  place.run('pageserver', 'stop');
  const store = await DiskObjectStore.open(join(place.folder, '.pagelite/local_fs_remote_storage/pageserver'));
  const generation = await claimTenant(store, place.tenant, nodeId(1));
  for (const id of made) await writeLayers(store, { tenantId: place.tenant, timelineId: id }, generation);
  place.run('pageserver', 'start');
  for (const id of made) {
    const pages = place.pages(id);
    await pages.getStatus();
    await pages.getPages(at, ownRel, 5, 1);
    pages.close();
  }
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const each = (place.memory() - before) / count;
  const [cpuBefore, start] = [await place.cpuMs(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, 10_000));
  const share = (await place.cpuMs()) - cpuBefore;
  const elapsed = performance.now() - start;
  const memory: Row = {
    what: `memory of an idle timeline with ${ownDeltas + 1} layers of its own that were read, of ${count} in a pageserver`,
    measured: `${(each / 1024).toFixed(0)} kB`,
    against: '1 MB',
    baseline: '1024 kB',
    ratio: each / 1024 ** 2,
    target: { op: '<=', bound: 1 },
  };
  const cpu: Row = {
    what: `CPU of a pageserver with ${count} idle timelines`,
    measured: `${((100 * share) / elapsed).toFixed(0)} %`,
    against: 'one core',
    baseline: '100 %',
    ratio: share / elapsed,
  };
  return [memory, cpu];
}

const ownRel: RelTag = { spc: 1663, db: 5, rel: 90_000, fork: 0 };
/** Fewer than compaction_threshold: they stay as they are. */
const ownDeltas = 2;
const ownBlocks = 50;

/** An image layer of `ownRel` and a few deltas above it, named by the index. */
async function writeLayers(store: ObjectStore, id: TenantTimelineId, generation: number): Promise<void> {
  const index = await StoredIndex.load(store, id, generation);
  const prefix = relPrefix(ownRel);
  const layers: LayerEntry[] = [];
  let lsn = index.part.diskConsistentLsn;
  const put = async (kind: 'image' | 'delta', values: readonly [block: number, value: Uint8Array][]) => {
    const start = (lsn + 1) as Lsn;
    lsn = (lsn + 1024) as Lsn;
    const writer = new LayerWriter(kind, id, 1_000_000);
    for (const [block, value] of values) writer.add(prefix, block, lsn, valueKind.image, value, 0, value.length);
    const written = must(writer.finish(kind === 'image' ? lsn : start, (lsn + 1) as Lsn));
    const entry = { name: written.name, size: written.bytes.length, generation, isComplete: kind === 'image' };
    await store.put(layerKey(id, entry), written.bytes);
    layers.push(entry);
  };
  const page = new Uint8Array(pageSize);
  const pages = Array.from({ length: ownBlocks }, (_, block): [number, Uint8Array] => [block, page]);
  await put('image', [...pages, [sizeBlock, encodeSize(ownBlocks)]]);
  for (let i = 0; i < ownDeltas; i++) await put('delta', pages.slice(i * 10, i * 10 + 10));
  await index.put({ ...index.part, diskConsistentLsn: lsn, layers: [...index.part.layers, ...layers] });
}
