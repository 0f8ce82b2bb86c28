/**
 * The process of an endpoint: `node dist/server/compute/main.js DIR`. What it serves is in DIR/endpoint.json (control-plane/endpoints.ts).
 *
 * Its pid file is DIR/compute.pid; its log goes to standard output as JSON lines, with PostgreSQL's own lines between. SIGTERM and SIGINT
 * stop it cleanly; DIR/auth_token, where it is there, is its token for pageserver and safekeepers. Killed at any moment nothing is lost that was acknowledged. Fenced by a newer endpoint it says so, and ends with code 1.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { PageliteError } from '../../engine/errors.ts';
import { nodeId } from '../../engine/model/ids.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { tokenFile } from '../auth/tokens.ts';
import { endpointTokenFile, readEndpointDir, staticLsnOf, timelineIdsOf } from '../control-plane/endpoints.ts';
import { pagestreamPath, wsUrl } from '../net/url.ts';
import { connectWebSocket } from '../net/ws-channel.ts';
import { createLog } from '../process/log.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';
import { type RunningProcess, runProcess } from '../process/run-process.ts';
import { connectSafekeeper } from '../safekeeper/connect.ts';
import { endpointDoors } from './admission.ts';
import { serveComputeHttp } from './compute-http.ts';
import { ComputeNode } from './compute-node.ts';

const host = '127.0.0.1';
const log = createLog('compute');
const dir = resolve(process.argv[2] ?? '.');
mkdirSync(dir, { recursive: true });

await runProcess('compute', dir, log, async (): Promise<RunningProcess> => {
  const config = readEndpointDir(dir);
  const { pageserver } = config;
  if (pageserver === null) throw new PageliteError('invalid', `${dir}/endpoint.json names no pageserver`);
  const tokenPath = endpointTokenFile(dir);
  const token = tokenFile(existsSync(tokenPath) ? tokenPath : null);
  const pages = new RemotePageService({
    id: timelineIdsOf(config),
    connect: () => connectWebSocket(wsUrl(pageserver.host, pageserver.port, pagestreamPath), token()),
    clock: nodeClock,
    random: nodeRandom,
    log,
  });
  const lsn = staticLsnOf(config);
  const node = await ComputeNode.start({
    pages,
    wal: config.safekeepers.map((address) => connectSafekeeper({ ...address, id: nodeId(address.id) }, token)),
    ...(config.safekeepersGeneration !== undefined && { safekeepersGeneration: config.safekeepersGeneration }),
    ...(config.maxReplicationWriteLag !== undefined && {
      maxWriteLagBytes: config.maxReplicationWriteLag * 1024 * 1024,
    }),
    mode: lsn === null ? 'primary' : { readOnlyAt: lsn },
    doors: endpointDoors(dir, config, config.pgPort, log),
    port: config.pgPort,
    artefacts: await loadPGliteArtefacts(),
    log,
  });
  const http = config.httpPort === null ? null : await serveComputeHttp(node, host, config.httpPort, log);
  return {
    info: { port: node.port, ...(http && { http: http.port }) },
    failed: node.failed,
    close: async () => {
      await http?.close();
      await node.close();
      pages.close();
    },
  };
});
