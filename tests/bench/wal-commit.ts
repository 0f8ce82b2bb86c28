/**
 * What a commit costs between a proposer and one safekeeper, against what it cannot do without: an fdatasync, and a round trip if the
 * safekeeper is another process. One small commit at a time; all sides take turns commit by commit, so that noise hits them alike.
 */
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { WebSocket } from 'ws';
import type { NodeId } from '../../engine/model/ids.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { DiskSafekeeperStorage } from '../../server/safekeeper/disk-segments.ts';
import { bareSyncs } from './bare-syncs.ts';
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
import { Cluster } from './safekeeper-processes.ts';
import { commitBytes, WalWriter } from './wal-writer.ts';

const echoServer = `
const { WebSocketServer } = require('ws');
const { parentPort } = require('node:worker_threads');
const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false }, () => parentPort.postMessage(server.address().port));
server.on('connection', (socket) => socket.on('message', (data) => socket.send(data)));
`;

export const walCommit: Benchmark = {
  name: 'wal-commit',
  about: 'commit latency at one safekeeper: in process and over a WebSocket, against bare fdatasync and round trip',
  async run(context: BenchContext): Promise<Row[]> {
    const disk = await bareSyncs(join(context.folder, 'bare'));
    const echo = await bareRoundTrip();
    const here = await inProcess(join(context.folder, 'near'));
    const near = await WalWriter.elect([here]);
    const far = await Cluster.start(join(context.folder, 'far'), 1);
    const remote = await WalWriter.elect(far.services);
    const sides = [() => disk.once(), echo.once, () => near.commit(), () => remote.commit()];
    const count = Math.max(50, Math.round(400 * context.scale)) * context.rounds;
    context.say(`${count} commits on each side`);
    try {
      await interleave(20, sides);
      return rows(await interleave(count, sides));
    } finally {
      near.close();
      await here.close();
      remote.close();
      far.kill();
      echo.close();
      await disk.close();
    }
  },
};

function rows(figures: readonly (readonly number[])[]): Row[] {
  const [sync, echo, near, remote] = figures.map(median) as [number, number, number, number];
  return [
    {
      what: 'commit, safekeeper in process',
      measured: microseconds(near),
      against: 'write + fdatasync',
      baseline: microseconds(sync),
      ratio: near / sync,
      target: { op: '<=', bound: 1.5 },
      note: `spread ${spread(figures[2]!)} ms`,
    },
    {
      what: 'commit, safekeeper process',
      measured: microseconds(remote),
      against: 'round trip + write + fdatasync',
      baseline: `${microseconds(echo)} + ${microseconds(sync)}`,
      ratio: remote / (sync + echo),
      target: { op: '<=', bound: 1.5 },
      note: `spread ${spread(figures[3]!)} ms`,
    },
  ];
}

async function bareRoundTrip() {
  const worker = new Worker(echoServer, { eval: true });
  const [port] = (await once(worker, 'message')) as [number];
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
  await once(socket, 'open');
  const bytes = Buffer.alloc(commitBytes);
  return {
    once: () =>
      timed(async () => {
        socket.send(bytes);
        await once(socket, 'message');
      }),
    close: () => {
      socket.terminate();
      void worker.terminate();
    },
  };
}

async function inProcess(dir: string): Promise<Safekeeper> {
  await mkdir(dir);
  return new Safekeeper({ nodeId: 1 as NodeId, storage: new DiskSafekeeperStorage(dir), log: silentLog });
}
