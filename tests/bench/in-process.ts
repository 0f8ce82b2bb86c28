/**
 * One client in process, working set cached: point selects and TPC-B-like transactions on a Pagelite branch against PGlite in memory.
 *
 * PGlite in memory keeps nothing, so its transactions are the cost of Postgres alone. What a Pagelite transaction adds is its commit: the time of
 * the COMMIT statement is held against a bare round trip between two threads with a write and fdatasync on the same disk, at the same pace.
 */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { PGlite } from '@electric-sql/pglite';
import { Pagelite } from '../../server/library/pagelite.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

const accounts = 10_000;
const setUp = `
  create table accounts(aid int primary key, bid int, abalance int, filler char(84));
  create table tellers(tid int primary key, bid int, tbalance int, filler char(84));
  create table branches(bid int primary key, bbalance int, filler char(88));
  create table history(tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
  insert into accounts select g, 1, 0, '' from generate_series(1, ${accounts}) g;
  insert into tellers select g, 1, 0, '' from generate_series(1, 10) g;
  insert into branches values (1, 0, '');`;

let seed = 1;
const random = (below: number) => {
  seed = (seed * 48271) % 2147483647;
  return 1 + (seed % below);
};

/** Selects a second. */
async function selects(pg: PGlite, count: number): Promise<number> {
  const ms = await timed(async () => {
    for (let i = 0; i < count; i++) await pg.query('select abalance from accounts where aid = $1', [random(accounts)]);
  });
  return (count / ms) * 1000;
}

/** Median milliseconds of a whole transaction and of its COMMIT. */
async function transactions(pg: PGlite, count: number): Promise<{ whole: number; commit: number }> {
  const whole: number[] = [];
  const commits: number[] = [];
  for (let i = 0; i < count; i++) {
    const [aid, tid, delta] = [random(accounts), random(10), random(10_000) - 5000];
    const start = performance.now();
    await pg.query('begin');
    await pg.query('update accounts set abalance = abalance + $1 where aid = $2', [delta, aid]);
    await pg.query('select abalance from accounts where aid = $1', [aid]);
    await pg.query('update tellers set tbalance = tbalance + $1 where tid = $2', [delta, tid]);
    await pg.query('update branches set bbalance = bbalance + $1 where bid = 1', [delta]);
    await pg.query('insert into history(tid, bid, aid, delta, mtime) values ($1, 1, $2, $3, current_timestamp)', [
      tid,
      aid,
      delta,
    ]);
    const commit = performance.now();
    await pg.query('commit');
    commits.push(performance.now() - commit);
    whole.push(performance.now() - start);
  }
  return { whole: median(whole), commit: median(commits) };
}

const bareThread = `
  const { workerData: { words, path }, parentPort } = require('node:worker_threads');
  const { fdatasyncSync, openSync, writeSync } = require('node:fs');
  const file = openSync(path, 'w');
  writeSync(file, Buffer.alloc(1024 * 1024, 1), 0, 1024 * 1024, 0);
  fdatasyncSync(file);
  const bytes = Buffer.alloc(512, 2);
  parentPort.postMessage('ready');
  for (let i = 0; ; i++) {
    Atomics.wait(words, 0, 0);
    if (words[0] === 2) break;
    writeSync(file, bytes, 0, bytes.length, (i * 512) % (1024 * 1024));
    fdatasyncSync(file);
    Atomics.store(words, 0, 0);
    Atomics.store(words, 1, 1);
    Atomics.notify(words, 1);
  }`;

/**
 * Median milliseconds of what no durable commit can do without: a hop to another thread, which overwrites 512 bytes of a file that has its blocks,
 * fdatasync, and the hop back. One every `paceMs`, as commits come: a thread and a disk that have been idle take longer.
 */
async function bareCommit(folder: string, count: number, paceMs: number): Promise<number> {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(bareThread, { eval: true, workerData: { words, path: join(folder, 'sync') } });
  await new Promise((resolve) => worker.once('message', resolve));
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now() + paceMs;
    while (performance.now() < start);
    Atomics.store(words, 1, 0);
    Atomics.store(words, 0, 1);
    Atomics.notify(words, 0);
    Atomics.wait(words, 1, 0);
    times.push(performance.now() - start);
  }
  Atomics.store(words, 0, 2);
  Atomics.notify(words, 0);
  await worker.terminate();
  return median(times);
}

export const inProcessBenchmark: Benchmark = {
  name: 'in-process',
  about: 'point selects and TPC-B-like transactions in process against PGlite in memory',
  async run(context: BenchContext): Promise<Row[]> {
    const lite = await Pagelite.open(join(context.folder, 'repository'), { progress: context.say });
    const ours = await lite.connect('main');
    const memory = await PGlite.create();
    for (const pg of [ours, memory]) await pg.exec(setUp);
    const count = Math.round(3000 * context.scale);
    for (const pg of [ours, memory]) await selects(pg, count);
    const [a, b] = await interleave(context.rounds, [() => selects(ours, count), () => selects(memory, count)]);

    const commits: number[] = [];
    const whole: number[] = [];
    const memoryCommits: number[] = [];
    const memoryWhole: number[] = [];
    const bare: number[] = [];
    const bareAtOnce: number[] = [];
    for (let round = 0; round < context.rounds; round++) {
      const one = await transactions(ours, Math.round(200 * context.scale));
      commits.push(one.commit);
      whole.push(one.whole);
      const other = await transactions(memory, Math.round(200 * context.scale));
      memoryCommits.push(other.commit);
      memoryWhole.push(other.whole);
      bare.push(await bareCommit(context.folder, 200, other.whole - other.commit));
      bareAtOnce.push(await bareCommit(context.folder, 200, 0));
    }
    await ours.close();
    await memory.close();
    await lite.close();
    const ms = (value: number) => `${value.toFixed(3)} ms`;
    return [
      {
        what: 'point selects, cached',
        measured: `${median(a!).toFixed(0)}/s`,
        against: 'PGlite memory://',
        baseline: `${median(b!).toFixed(0)}/s`,
        ratio: median(a!) / median(b!),
        target: { op: '>=', bound: 0.9 },
        note: `${spread(a!)} and ${spread(b!)}`,
      },
      {
        what: 'TPC-B-like, commit latency',
        measured: ms(median(commits)),
        against: 'bare round trip + fdatasync',
        baseline: ms(median(bare)),
        ratio: median(commits) / median(bare),
        target: { op: '<=', bound: 1.5 },
        note: `whole transaction ${ms(median(whole))}, in memory ${ms(median(memoryWhole))} with a commit of ${ms(median(memoryCommits))}; bare without pauses ${ms(median(bareAtOnce))}`,
      },
    ];
  },
};
