/**
 * A thread that holds the I/O host of one compute towards a pageserver process and a safekeeper process. Started by remote-compute.ts.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { must } from '../../engine/assert.ts';
import { nodeId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { pagestreamPath } from '../../server/pageserver/pagestream-listener.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { IoHost } from '../../smgr-plugin/bridge/io-host.ts';
import type { RemotePlace } from './remote-compute.ts';

const place = workerData as RemotePlace;
const port = must(parentPort);
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
port.once('message', async () => {
  await host.close();
  pages.close();
  port.close();
});
port.postMessage(await host.start());
