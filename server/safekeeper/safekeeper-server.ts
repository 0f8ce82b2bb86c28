/**
 * A Safekeeper behind its two ports (W3 and W4 of the write path): WebSockets for proposers and WAL readers, HTTP for everything else.
 *
 * Invariants
 * - a connection that breaks its protocol is closed with the reason, and costs nothing but itself
 * - when `close` resolves, all that was acknowledged and how far it is committed is on disk, and both ports are free
 */
import { createServer, type Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { PageliteError } from '../../engine/errors.ts';
import { lastBackupMaxMs } from '../../engine/limits.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import { serveWalStream, type WalReadable } from '../../engine/remote/wal-stream-handler.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { SafekeeperTimeline } from '../../engine/safekeeper/timeline.ts';
import { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { Channel, Log } from '../../engine/services.ts';
import { type Access, accessOf } from '../auth/access.ts';
import { checkListenHost, storageWayOut } from '../auth/listen-policy.ts';
import { noToken, type TokenSource } from '../auth/tokens.ts';
import { type AuthorizeTenant, admitUpgrade } from '../auth/upgrade-guard.ts';
import { safekeeperPaths } from '../net/url.ts';
import { WebSocketAcceptor } from '../net/ws-channel.ts';
import type { SafekeeperAddress } from '../pageserver/config.ts';
import { addProcessMetrics, type Labels, Metrics } from '../process/metrics.ts';
import { nodeClock } from '../process/node-host.ts';
import { listen } from '../process/ports.ts';
import { type BackupLocation, openBackup } from './backup-location.ts';
import { connectSafekeeper } from './connect.ts';
import { DiskSafekeeperStorage } from './disk-segments.ts';
import { safekeeperHttpApi } from './http-api.ts';

export const safekeeperPortDefault = 5454;
export const safekeeperHttpPortDefault = 7676;

export interface SafekeeperPortsOptions {
  /** Port 0 lets the system choose. */
  readonly listen: { readonly host: string; readonly port: number };
  readonly http: { readonly host: string; readonly port: number };
  readonly log: Log;
  /** Closed before the safekeeper. */
  readonly upkeep?: SafekeeperUpkeep;
  /** Default: everybody is trusted, and the addresses must be loopback ones. */
  readonly access?: Access | null;
}

export interface SafekeeperServerOptions extends Omit<SafekeeperPortsOptions, 'access'> {
  /** Keys that tokens are checked with; absent: everybody is trusted. */
  readonly publicKeyPath?: string;
  /** Holds the timelines: `<dir>/<tenant>/<timeline>/`. */
  readonly dir: string;
  readonly nodeId: NodeId;
  /** The other safekeepers of the same timelines. */
  readonly peers?: readonly SafekeeperAddress[];
  /** For their APIs. */
  readonly token?: TokenSource;
  /** Where WAL is sent; absent or null: nowhere. */
  readonly backup?: BackupLocation | null;
}

export interface SafekeeperServer {
  readonly ports: { readonly listen: number; readonly http: number };
  close(): Promise<void>;
}

export async function startSafekeeper(options: SafekeeperServerOptions): Promise<SafekeeperServer> {
  const { dir, nodeId, log, peers = [], backup = null, token = noToken } = options;
  const access = accessOf('safekeeper', options.publicKeyPath ?? null, log);
  const storage = new DiskSafekeeperStorage(dir);
  const openTarget = backup === null ? null : () => openBackup(backup);
  const safekeeper = new Safekeeper({ nodeId, storage, log, backup: openTarget });
  const upkeep = new SafekeeperUpkeep({
    safekeeper,
    peers: peers.map((address) => connectSafekeeper(address, token)),
    backup: openTarget,
    clock: nodeClock,
    log,
  });
  upkeep.start();
  try {
    return await serveSafekeeper(safekeeper, storage, { ...options, access, upkeep });
  } catch (error) {
    await upkeep.close();
    throw error;
  }
}

/** Puts a safekeeper behind its ports; it is closed with them. If a port is taken it stays as it is. */
export async function serveSafekeeper(
  safekeeper: Safekeeper,
  storage: DiskSafekeeperStorage,
  options: SafekeeperPortsOptions,
): Promise<SafekeeperServer> {
  const { log, upkeep, access = null } = options;
  for (const { host } of [options.listen, options.http]) {
    checkListenHost('safekeeper', host, access !== null, storageWayOut);
  }
  const acceptor = new WebSocketAcceptor();
  const wal = walServer(acceptor, access, log, {
    [safekeeperPaths.proposer]: (channel, authorize) =>
      safekeeper.acceptProposer(channel, null, ({ tenantId }) => authorize(tenantId)),
    [safekeeperPaths.wal]: (channel, authorize) => serveWalStream(channel, readable(safekeeper, authorize)),
  });
  const http = createServer(
    getRequestListener(
      safekeeperHttpApi({
        safekeeper,
        storage,
        metrics: metricsOf(safekeeper, upkeep),
        log,
        access,
        ...(upkeep && { upkeep }),
      }).fetch,
    ),
  );
  const closePorts = async (beforeConnections: () => Promise<void>) => {
    const closed = [closeServer(wal), closeServer(http)];
    await beforeConnections();
    acceptor.close(new PageliteError('unavailable', 'the safekeeper is stopping'));
    http.closeAllConnections();
    await Promise.all(closed);
  };
  try {
    const ports = {
      listen: await listen(wal, options.listen.host, options.listen.port),
      http: await listen(http, options.http.host, options.http.port),
    };
    // First the timelines: their connections are told why.
    const closeSafekeeper = async () => {
      await upkeep?.close(lastBackupMaxMs);
      await safekeeper.close();
    };
    return { ports, close: () => closePorts(closeSafekeeper) };
  } catch (error) {
    await closePorts(async () => {});
    throw error;
  }
}

type WalEndpoint = (channel: Channel, authorize: AuthorizeTenant) => void;

function walServer(
  acceptor: WebSocketAcceptor,
  access: Access | null,
  log: Log,
  endpoints: Record<string, WalEndpoint>,
): Server {
  const server = createServer((_request, response) => {
    const paths = Object.keys(endpoints).join(' and ');
    response.writeHead(426, { connection: 'Upgrade', upgrade: 'websocket', 'content-type': 'text/plain' });
    response.end(`This port speaks the WAL protocols over WebSockets at ${paths}.\n`);
  });
  server.on('upgrade', (request, socket, head) => {
    // Until the handshake is done errors of the socket are ours.
    socket.on('error', () => socket.destroy());
    const accept = endpoints[request.url ?? ''];
    if (!accept) {
      socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n');
      return;
    }
    admitUpgrade(access, request, socket, log, (authorize) =>
      acceptor.upgrade(request, socket, head, (channel) => accept(channel, authorize)),
    );
  });
  return server;
}

/** What a WAL reader may see of it. */
function readable(safekeeper: Safekeeper, authorize: AuthorizeTenant): WalReadable {
  return {
    readWal(id, ...rest) {
      authorize(id.tenantId);
      return safekeeper.readWal(id, ...rest);
    },
    async getStatus(id) {
      authorize(id.tenantId);
      return safekeeper.getStatus(id);
    },
    // What is of all tenants, or removes WAL, is for servers.
    async reportConsistent(id, lsn) {
      authorize(null);
      return safekeeper.reportConsistent(id, lsn);
    },
    async describeTimelines() {
      authorize(null);
      return safekeeper.describeTimelines();
    },
    async introduce(node, incarnation) {
      authorize(null);
      return safekeeper.introduce(node, incarnation);
    },
    async recall(node) {
      authorize(null);
      return safekeeper.recall(node);
    },
  };
}

function closeServer(server: Server): Promise<void> {
  if (!server.listening) return Promise.resolve();
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeIdleConnections();
  });
}

function metricsOf(safekeeper: Safekeeper, upkeep?: SafekeeperUpkeep): Metrics {
  const metrics = new Metrics();
  addProcessMetrics(metrics);
  const each = (name: string, help: string, read: (timeline: SafekeeperTimeline) => number) =>
    metrics.gauge(name, help, () =>
      safekeeper.loadedTimelines.map((timeline): [Labels, number] => [
        { tenant_id: timeline.id.tenantId, timeline_id: timeline.id.timelineId },
        read(timeline),
      ]),
    );
  each('safekeeper_term', 'Current term', (timeline) => timeline.term);
  each('safekeeper_flush_lsn', 'End of the WAL that is durable', (timeline) => timeline.flushLsn);
  each('safekeeper_commit_lsn', 'End of the WAL that a quorum has', (timeline) => timeline.commitLsn);
  each('safekeeper_local_start_lsn', 'Beginning of the WAL that is held', (timeline) => timeline.startLsn);
  each('safekeeper_backup_lsn', 'End of the WAL that is in the object store', (timeline) => timeline.backupLsn);
  each(
    'safekeeper_remote_consistent_lsn',
    'End of the WAL that the pageserver needs no more',
    (timeline) => timeline.remoteConsistentLsn,
  );
  each('safekeeper_write_wal_bytes_total', 'WAL received', (timeline) => timeline.metrics.appendedBytes);
  each('safekeeper_flush_wal_total', 'fdatasync calls', (timeline) => timeline.metrics.flushes);
  each('safekeeper_append_requests_total', 'Append requests', (timeline) => timeline.metrics.flushedAppends);
  if (upkeep === undefined) return metrics;
  const { counters } = upkeep;
  metrics.readCounter(
    'safekeeper_backed_up_segments_total',
    'WAL segments sent to the object store',
    () => counters.backedUpSegments,
  );
  metrics.readCounter('safekeeper_backup_errors_total', 'Attempts at that that failed', () => counters.backupErrors);
  metrics.readCounter('safekeeper_recoveries_total', 'Times it caught up from a peer', () => counters.recoveries);
  return metrics;
}
