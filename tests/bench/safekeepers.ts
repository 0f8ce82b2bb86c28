/**
 * What three safekeepers cost and give, against one: real processes on loopback with files of their own, as a client of Postgres sees it and, with a real
 * proposer, WAL without a Postgres. All processes share this machine's cores and its disk, which three machines would not: the ratios are the worst that there are.
 *
 * Commits are measured in short runs of each side in turn, so that noise hits them alike; after a run the safekeeper that was not waited for has time to
 * finish, which the next run would otherwise pay for.
 */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { walInFlightBytesMax, walSegmentSize } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { WalService } from '../../engine/services.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { BareQuorum } from './bare-quorum.ts';
import {
  type BenchContext,
  type Benchmark,
  interleave,
  median,
  microseconds,
  type Row,
  spread,
  timed,
} from './harness.ts';
import { endpointRows } from './quorum-endpoint.ts';
import { Cluster, host } from './safekeeper-processes.ts';
import { WalWriter } from './wal-writer.ts';

const commitsPerRun = 25;
/** Until what runs there is compiled. */
const warmUpRuns = 8;
const slowMs = 100;
/** Longer than a message and its answer take to the slow one. */
const settleMs = 3 * slowMs;
const megabyte = 1_000_000;

export const safekeepersBenchmark: Benchmark = {
  name: 'safekeepers',
  about:
    'three safekeepers against one: commits, WAL per second, elections, one that is slow, one that has to catch up',
  async run(context: BenchContext): Promise<Row[]> {
    return [...(await endpointRows(context)), ...(await bareRows(context))];
  },
};

/** Without a Postgres, whose own work would hide what the safekeepers take. */
async function bareRows(context: BenchContext): Promise<Row[]> {
  const three = await Cluster.start(join(context.folder, 'three'), 3);
  const one = await Cluster.start(join(context.folder, 'one'), 1);
  const proxy = await delayProxy(three.nodes[2]!.port);
  try {
    return [
      ...(await commitRows(context, three, one, proxy.port)),
      await streamRow(context, three, one),
      await electionRow(context, three, one),
      ...(await recoveryRows(context, three)),
    ];
  } finally {
    proxy.close();
    three.kill();
    one.kill();
  }
}

async function commitRows(context: BenchContext, three: Cluster, one: Cluster, slowPort: number): Promise<Row[]> {
  const [first, second, third] = three.services as [WalService, WalService, WalService];
  const far = connectSafekeeper({ id: third.nodeId, host, port: slowPort });
  const sides = [await WalWriter.elect(one.services), await WalWriter.elect(three.services)];
  sides.push(await WalWriter.elect([first, second, far]));
  const bare = [
    await BareQuorum.start(join(context.folder, 'bare-1'), 1),
    await BareQuorum.start(join(context.folder, 'bare-3'), 3),
  ];
  const runs = Math.max(2, Math.round(16 * context.scale)) * context.rounds;
  context.say(`${runs * commitsPerRun} commits through one, three, and three of which one is slow`);
  const figures: number[][] = [...sides, ...bare].map(() => []);
  for (let run = -warmUpRuns; run < runs; run++) {
    for (const [side, writer] of [...sides, ...bare].entries()) {
      const latencies = await writer.commits(commitsPerRun);
      if (run >= 0) figures[side]!.push(...latencies);
      await sleep(settleMs);
    }
  }
  for (const writer of sides) writer.close();
  for (const one of bare) one.close();
  const [alone, quick, slow, bareAlone, bareQuorum] = figures.map(median) as [number, number, number, number, number];
  return [
    {
      what: 'commit, 3 safekeepers',
      measured: microseconds(quick),
      against: 'commit, 1 safekeeper',
      baseline: microseconds(alone),
      ratio: quick / alone,
      target: { op: '<=', bound: 1.3 },
      note: `spread ${spread(figures[1]!)} ms`,
    },
    {
      what: 'the same without safekeepers: 3 bare processes that write and fdatasync',
      measured: microseconds(bareQuorum),
      against: '1 bare process',
      baseline: microseconds(bareAlone),
      ratio: bareQuorum / bareAlone,
      note: `${cpus().length} cores, one disk; a commit at 3 safekeepers takes ${(quick / bareQuorum).toFixed(2)}x, at 1 ${(alone / bareAlone).toFixed(2)}x of it`,
    },
    {
      what: `commit, 1 of 3 safekeepers ${slowMs} ms away`,
      measured: microseconds(slow),
      against: 'commit, 3 safekeepers',
      baseline: microseconds(quick),
      ratio: slow / quick,
      target: { op: '<=', bound: 1.1 },
      note: `spread ${spread(figures[2]!)} ms`,
    },
  ];
}

async function streamRow(context: BenchContext, three: Cluster, one: Cluster): Promise<Row> {
  const sides = [
    { cluster: three, writer: await WalWriter.elect(three.services) },
    { cluster: one, writer: await WalWriter.elect(one.services) },
  ];
  // More than may be in flight, or it is only about how quickly that fills.
  const bytes = Math.max(1.5 * walInFlightBytesMax, 128 * megabyte * context.scale);
  context.say(`${Math.round(bytes / megabyte)} MB of WAL through each`);
  /** Of the last round, milliseconds for each megabyte. */
  const cpu: number[] = [];
  const rates = await interleave(
    context.rounds + 1,
    sides.map(({ cluster, writer }, side) => async () => {
      const records = writer.prepare(bytes);
      const cpuBefore = cluster.cpuMs();
      const ms = await timed(() => writer.stream(records));
      // The last one's work is not the next side's to pay for.
      for (const service of cluster.services) await caughtUp(service, writer.id, writer.endLsn);
      cpu[side] = (cluster.cpuMs() - cpuBefore) / (bytes / megabyte);
      return bytes / megabyte / (ms / 1000);
    }),
  );
  for (const { writer } of sides) writer.close();
  // The first round makes the connections warm.
  const [all, alone] = rates.map((figures) => figures.slice(1)) as [number[], number[]];
  return {
    what: 'WAL through 3 safekeepers',
    measured: `${Math.round(median(all))} MB/s`,
    against: 'WAL through 1 safekeeper',
    baseline: `${Math.round(median(alone))} MB/s`,
    ratio: median(all) / median(alone),
    target: { op: '>=', bound: 0.7 },
    note: `CPU of all processes per MB: ${cpu[0]!.toFixed(1)} against ${cpu[1]!.toFixed(1)} ms, on ${cpus().length} cores; spread ${spread(all)} MB/s, ${spread(alone)} MB/s`,
  };
}

/** From nothing to the right to write, after a proposer that is gone, with WAL that all of them have. */
async function electionRow(context: BenchContext, three: Cluster, one: Cluster): Promise<Row> {
  const writers = [await WalWriter.elect(three.services), await WalWriter.elect(one.services)];
  const count = Math.max(10, Math.round(40 * context.scale)) * context.rounds;
  context.say(`${count} elections of each`);
  const figures = await interleave(
    count,
    writers.map((writer) => async () => {
      await writer.commits(3);
      writer.close();
      await sleep(20);
      return timed(() => writer.elect());
    }),
  );
  for (const writer of writers) writer.close();
  const [all, alone] = figures.map(median) as [number, number];
  return {
    what: 'election at 3 safekeepers',
    measured: `${all.toFixed(1)} ms`,
    against: 'election at 1 safekeeper',
    baseline: `${alone.toFixed(1)} ms`,
    ratio: all / alone,
    note: `spread ${spread(figures[0]!)} ms, ${spread(figures[1]!)} ms`,
  };
}

/** One of three is killed, WAL goes on, and it starts again: from then on until it has all of it. */
async function recoveryRows(context: BenchContext, three: Cluster): Promise<Row[]> {
  // More than the proposer keeps in memory, so that it comes from a donor's disk.
  const bytes = Math.max(1.5 * walInFlightBytesMax, 100 * megabyte * context.scale);
  const per100 = (ms: number) => (ms / bytes) * 100 * megabyte;
  context.say(`${Math.round(bytes / megabyte)} MB of WAL to catch up with`);
  const writer = await WalWriter.elect(three.services);
  const victim = three.nodes[2]!;
  /** From the start of the process until the proposer has connected again, which it tries less and less often. */
  const waits: number[] = [];
  const miss = async () => {
    await caughtUp(victim.service, writer.id, writer.endLsn);
    await victim.kill();
    await writer.stream(writer.prepare(bytes));
    // Not while the others still write.
    for (const { service } of three.nodes.slice(0, 2)) await caughtUp(service, writer.id, writer.endLsn);
  };
  const recovered = () => caughtUp(victim.service, writer.id, writer.endLsn);
  const [proposer, peer, copy] = (await interleave(context.rounds, [
    async () => {
      await miss();
      // Without peers, of which it would otherwise hear before the proposer has connected again.
      await victim.start([]);
      const started = performance.now();
      await recovered();
      waits.push(writer.recoveryBeganMs - started);
      return per100(performance.now() - writer.recoveryBeganMs);
    },
    async () => {
      await miss();
      // The compute is gone.
      writer.close();
      await victim.start(three.addresses);
      const ms = await timed(recovered);
      await writer.elect();
      return per100(ms);
    },
    async () => {
      const donor = join(three.nodes[0]!.dir, writer.id.tenantId, writer.id.timelineId);
      return per100(await timed(() => copyWal(donor, join(context.folder, 'copy'), bytes)));
    },
  ])) as [number[], number[], number[]];
  writer.close();
  const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s per 100 MB`;
  const row = (what: string, figures: number[], note: string): Row => ({
    what,
    measured: seconds(median(figures)),
    against: 'copy and fdatasync',
    baseline: seconds(median(copy)),
    ratio: median(figures) / median(copy),
    note: `${note}; spread ${spread(figures)} ms`,
  });
  const begins = `begins ${Math.round(median(waits))} ms after its start`;
  return [
    row('catching up by a proposer', proposer, begins),
    row('catching up from a peer', peer, 'from its start on'),
  ];
}

/** The newest `bytes` of WAL segments into files of their own. */
async function copyWal(from: string, to: string, bytes: number): Promise<void> {
  mkdirSync(to, { recursive: true });
  const names = (await readdir(from)).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort();
  const buffer = new Uint8Array(1024 * 1024);
  let left = bytes;
  for (let i = 1; left > 0 && i <= names.length; i++) {
    const source = await open(join(from, names.at(-i)!), 'r');
    const target = await open(join(to, names.at(-i)!), 'w');
    for (let at = 0; at < walSegmentSize && left > 0; at += buffer.length) {
      await source.read(buffer, 0, buffer.length, at);
      await target.write(buffer, 0, buffer.length, at);
      left -= buffer.length;
    }
    await target.datasync();
    await target.close();
    await source.close();
  }
}

async function delayProxy(port: number): Promise<{ port: number; close: () => void }> {
  const worker = new Worker(new URL('./delay-proxy.js', import.meta.url), { workerData: { port, delayMs: slowMs } });
  const [own] = (await once(worker, 'message')) as [number];
  return { port: own, close: () => void worker.terminate() };
}

/** Until this safekeeper has all WAL up to `lsn`. */
async function caughtUp(service: WalService, id: TenantTimelineId, lsn: Lsn): Promise<void> {
  for (;;) {
    const status = await service.getStatus(id).catch(() => null);
    if (status !== null && status.flushLsn >= lsn) return;
    await sleep(10);
  }
}
