/**
 * What a commit costs between a proposer and one safekeeper, against what it cannot do without: an fdatasync, and a round trip if the
 * safekeeper is another process. One small commit at a time; all sides take turns commit by commit, so that noise hits them alike.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { WebSocket } from 'ws';
import { walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { WalService } from '../../engine/services.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { DiskSafekeeperStorage } from '../../server/safekeeper/disk-segments.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

/** A small transaction's WAL. */
const commitBytes = 300;
const startLsn = (walSegmentSize + 40) as Lsn;

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
    const sync = await bareSync(join(context.folder, 'bare'));
    const echo = await bareRoundTrip();
    const near = await commits(await inProcess(join(context.folder, 'near')));
    const far = await otherProcess(join(context.folder, 'far'));
    const remote = await commits(far.service);
    const count = Math.max(50, Math.round(400 * context.scale)) * context.rounds;
    context.say(`${count} commits on each side`);
    try {
      await interleave(20, [sync.once, echo.once, near.once, remote.once]);
      const figures = await interleave(count, [sync.once, echo.once, near.once, remote.once]);
      return rows(figures);
    } finally {
      near.close();
      remote.close();
      far.child.kill('SIGKILL');
      echo.close();
      await sync.close();
    }
  },
};

function rows(figures: readonly (readonly number[])[]): Row[] {
  const [sync, echo, near, remote] = figures.map(median) as [number, number, number, number];
  const us = (ms: number) => `${Math.round(ms * 1000)} us`;
  return [
    {
      what: 'commit, safekeeper in process',
      measured: us(near),
      against: 'write + fdatasync',
      baseline: us(sync),
      ratio: near / sync,
      target: { op: '<=', bound: 1.5 },
      note: `spread ${spread(figures[2]!)} ms`,
    },
    {
      what: 'commit, safekeeper process',
      measured: us(remote),
      against: 'round trip + write + fdatasync',
      baseline: `${us(echo)} + ${us(sync)}`,
      ratio: remote / (sync + echo),
      target: { op: '<=', bound: 1.5 },
      note: `spread ${spread(figures[3]!)} ms`,
    },
  ];
}

/** An overwrite of blocks that exist, as in a database's log. */
async function bareSync(path: string) {
  const file = await open(path, 'w+');
  await file.write(Buffer.alloc(walSegmentSize));
  await file.sync();
  const bytes = Buffer.alloc(commitBytes, 7);
  let at = 0;
  return {
    once: () =>
      timed(async () => {
        at = (at + commitBytes) % (walSegmentSize - commitBytes);
        await file.write(bytes, 0, commitBytes, at);
        await file.datasync();
      }),
    close: () => file.close(),
  };
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

async function inProcess(dir: string): Promise<WalService> {
  await mkdir(dir);
  return new Safekeeper({ nodeId: 1 as NodeId, storage: new DiskSafekeeperStorage(dir), log: silentLog });
}

async function otherProcess(dir: string): Promise<{ service: WalService; child: ChildProcess }> {
  const entry = fileURLToPath(new URL('../../server/safekeeper/main.js', import.meta.url));
  const args = ['-D', dir, '--listen-pg', '127.0.0.1:0', '--listen-http', '127.0.0.1:0'];
  const child = spawn(process.execPath, [entry, ...args], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const [message] = (await once(child, 'message')) as [{ info: { listen: number } }];
  return { child, service: connectSafekeeper({ id: 1 as NodeId, host: '127.0.0.1', port: message.info.listen }) };
}

async function commits(service: WalService) {
  const driver = await ProposerDriver.elect({
    id: { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) },
    services: [service],
    startLsnIfEmpty: startLsn,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
  const wal = new SyntheticWal(startLsn);
  const payload = new Uint8Array(commitBytes - 32);
  return {
    once: () => {
      const record = wal.next(payload);
      return timed(() => {
        driver.append(record.startLsn, record.bytes);
        return driver.waitCommit(record.endLsn);
      });
    },
    close: () => driver.close(),
  };
}
