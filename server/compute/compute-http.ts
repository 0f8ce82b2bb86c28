/** The HTTP port of an endpoint, for operators: GET /status and GET /metrics, as Neon's compute_ctl has them. */
import { createServer } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import { formatLsn } from '../../engine/model/lsn.ts';
import type { Log } from '../../engine/services.ts';
import { answerError, answerNotFound } from '../process/http-errors.ts';
import { addProcessMetrics, Metrics } from '../process/metrics.ts';
import { listen } from '../process/ports.ts';
import type { ComputeNode } from './compute-node.ts';

export async function serveComputeHttp(
  node: ComputeNode,
  host: string,
  port: number,
  log: Log,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const metrics = metricsOf(node);
  const api = new Hono();
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  api.get('/status', (c) =>
    c.json({ status: 'running', port: node.port, commit_lsn: formatLsn(node.commitLsn), ...node.stats() }),
  );
  api.get('/metrics', (c) => c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4' }));
  const server = createServer(getRequestListener(api.fetch));
  const bound = await listen(server, host, port);
  return {
    port: bound,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function metricsOf(node: ComputeNode): Metrics {
  const metrics = new Metrics();
  addProcessMetrics(metrics);
  metrics.gauge('compute_commit_lsn', 'End of the WAL that a quorum has', () => node.commitLsn);
  metrics.gauge('compute_connections', 'Open connections', () => node.stats()?.connections ?? 0);
  metrics.gauge('compute_sessions_waiting', 'Clients that wait for the backend', () => node.stats()?.waiting ?? 0);
  metrics.gauge('compute_backend_restarts', 'Times the backend was started again', () => node.stats()?.restarts ?? 0);
  return metrics;
}
