/**
 * The two ports of a pageserver: pagestream for computes (pagestream-listener.ts) and HTTP for everything else (http-api.ts), in front of a
 * Pageserver that its caller opened. Closing closes the ports, not the Pageserver.
 */
import { createServer } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import type { NodeId } from '../../engine/model/ids.ts';
import type { Log, Random } from '../../engine/services.ts';
import type { Access } from '../auth/access.ts';
import { checkListenHost, storageWayOut } from '../auth/listen-policy.ts';
import { addProcessMetrics, Metrics } from '../process/metrics.ts';
import { nodeClock } from '../process/node-host.ts';
import { listen } from '../process/ports.ts';
import { Turns } from '../process/turns.ts';
import type { HostPort } from './config.ts';
import { DamageLog } from './damage-log.ts';
import { pageserverHttpApi } from './http-api.ts';
import type { RedoCounters } from './metered-redo.ts';
import { PageserverMetrics } from './pageserver-metrics.ts';
import { listenPagestream } from './pagestream-listener.ts';
import type { PageserverApi } from './routes/pageserver-api.ts';

export interface ServeOptions {
  readonly pageserver: PageserverApi;
  readonly nodeId: NodeId;
  readonly listen: HostPort;
  readonly http: HostPort;
  readonly random: Random;
  readonly log: Log;
  /** Default: everybody is trusted, and the addresses must be loopback ones. */
  readonly access?: Access | null;
  /** What the pageserver's WAL redo counts. */
  readonly redoCounters?: RedoCounters;
}

export interface PageserverPorts {
  /** Pagestream: `ws://host:<listen>/pagestream`. */
  readonly listen: number;
  readonly http: number;
}

export async function servePageserver(
  options: ServeOptions,
): Promise<{ readonly ports: PageserverPorts; readonly metrics: Metrics; close(): Promise<void> }> {
  const { pageserver, nodeId, random, log, access = null } = options;
  for (const { host } of [options.listen, options.http]) {
    checkListenHost('pageserver', host, access !== null, storageWayOut);
  }
  const metrics = new Metrics();
  addProcessMetrics(metrics);
  const counted = new PageserverMetrics(metrics, pageserver, options.redoCounters ?? null);
  const turns = new Turns();
  const damage = new DamageLog(log, nodeClock);
  metrics.gauge('pageserver_requests_queued', 'Requests that wait for a turn of the event loop', () => turns.length);

  const pagestream = await listenPagestream(
    {
      open: (id) => pageserver.openPages(id),
      turns,
      log,
      onStarted: (kind, timeline) => counted.onStarted(kind, timeline),
      onServed: (kind, timeline, took, error) => {
        if (error !== undefined) damage.observe(timeline, error);
        counted.onServed(kind, timeline, took, error);
      },
    },
    options.listen.host,
    options.listen.port,
    access,
  );
  metrics.gauge('pageserver_connections', 'Open pagestream connections', () => pagestream.connectionCount);
  const kind = { pageserver_connection_kind: 'pagestream' };
  metrics.readCounter('pageserver_live_connections_started', 'Pagestream connections that were begun', () => [
    [kind, pagestream.acceptedCount],
  ]);
  metrics.readCounter('pageserver_live_connections_finished', 'Pagestream connections that ended', () => [
    [kind, pagestream.acceptedCount - pagestream.connectionCount],
  ]);

  const api = pageserverHttpApi({ nodeId, pageserver, metrics, random, log, access });
  const http = createServer(getRequestListener(api.fetch));
  const closeHttp = () =>
    new Promise<void>((resolve) => {
      http.close(() => resolve());
      http.closeAllConnections();
    });
  try {
    const httpPort = await listen(http, options.http.host, options.http.port);
    return {
      ports: { listen: pagestream.port, http: httpPort },
      metrics,
      close: async () => {
        await Promise.all([pagestream.close(), closeHttp()]);
      },
    };
  } catch (error) {
    await pagestream.close();
    throw error;
  }
}
