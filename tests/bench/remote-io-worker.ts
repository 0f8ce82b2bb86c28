/**
 * A thread that holds the I/O hosts of computes towards a pageserver process and a safekeeper process. Started by remote-compute.ts.
 */
import { parentPort } from 'node:worker_threads';
import { must } from '../../engine/assert.ts';
import { nodeId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { serveRpc } from '../../server/library/worker-rpc.ts';
import { pagestreamPath } from '../../server/net/url.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';
import type { RemotePlace } from './remote-compute.ts';

export interface IoMethods {
  start(place: RemotePlace): Promise<{ readonly host: number; readonly start: ComputeStart }>;
  close(host: number): Promise<void>;
}

interface Opened {
  readonly host: IoHost;
  readonly pages: RemotePageService;
}

const opened: Opened[] = [];

async function start(place: RemotePlace): Promise<{ host: number; start: ComputeStart }> {
  const pages = new RemotePageService({
    id: { tenantId: tenantId(place.tenant), timelineId: timelineId(place.timeline) },
    connect: () => connectWebSocket(`ws://127.0.0.1:${place.pageserverPort}${pagestreamPath}`),
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
  const host = new IoHost({
    pages,
    wal: [connectSafekeeper({ id: nodeId(1), host: '127.0.0.1', port: place.safekeeperPort })],
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
    mode: 'primary',
  });
  opened.push({ host, pages });
  return { host: opened.length - 1, start: await host.start() };
}

async function close(index: number): Promise<void> {
  const { host, pages } = must(opened[index]);
  await host.close();
  pages.close();
}

serveRpc<IoMethods, never>(must(parentPort), { start, close });
