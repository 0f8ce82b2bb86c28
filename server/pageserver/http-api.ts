/**
 * The pageserver's HTTP API, shaped like Neon's (pageserver/src/http/openapi_spec.yml): what the CLI and operators speak. Pages do not pass
 * here: they go over the pagestream protocol.
 *
 * Its routes are in routes/, a file for each subject, and in transfer-api.ts; how to add one is in process/http-routes.ts. A list of all of
 * them, with what they take and answer, is what `GET /v1/openapi.json` says.
 *
 * Creating what is there with the same parameters succeeds again (a caller may retry); with other parameters it is 409. Errors are `{"msg"}`
 * (process/http-errors.ts). The handlers only translate: every decision is the Pageserver's.
 */
import { Hono } from 'hono';
import type { NodeId } from '../../engine/model/ids.ts';
import type { Log, Random } from '../../engine/services.ts';
import type { Access } from '../auth/access.ts';
import { httpGuard } from '../auth/http-guard.ts';
import { answerError, answerNotFound } from '../process/http-errors.ts';
import { mountRoutes, type Route } from '../process/http-routes.ts';
import type { Metrics } from '../process/metrics.ts';
import { refuseMisdirected } from '../process/misdirected.ts';
import { describeApi, type OpenApi } from '../process/openapi.ts';
import { packageVersion } from '../process/package-version.ts';
import { logRequests } from '../process/request-log.ts';
import { historyRoutes } from './routes/history-routes.ts';
import { layerRoutes } from './routes/layer-routes.ts';
import type { PageserverApi } from './routes/pageserver-api.ts';
import { processRoutes } from './routes/process-routes.ts';
import { storageRoutes } from './routes/storage-routes.ts';
import { tenantRoutes } from './routes/tenant-routes.ts';
import { timelineRoutes } from './routes/timeline-routes.ts';
import { transferRoutes } from './transfer-api.ts';

export interface PageserverHttpOptions {
  readonly nodeId: NodeId;
  readonly pageserver: PageserverApi;
  readonly metrics: Metrics;
  readonly random: Random;
  readonly log: Log;
  /** Default: everybody is trusted. */
  readonly access?: Access | null;
}

export function pageserverHttpApi(options: PageserverHttpOptions): Hono {
  const { log } = options;
  const api = new Hono();
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  api.use(logRequests(log));
  api.use(refuseMisdirected);
  const routes = pageserverRoutes(options);
  const openPaths = routes.filter(({ isOpen }) => isOpen).map(({ path }) => path);
  const { authenticate, authorize } = httpGuard(options.access ?? null, openPaths);
  api.use(authenticate);
  mountRoutes(api, routes, authorize);
  return api;
}

export function pageserverRoutes({
  nodeId,
  pageserver,
  metrics,
  random,
}: Omit<PageserverHttpOptions, 'access' | 'log'>): Route[] {
  const routes: Route[] = [
    ...processRoutes(nodeId, metrics, () => describePageserverApi(routes)),
    ...tenantRoutes(pageserver, random),
    ...timelineRoutes(pageserver, random),
    ...storageRoutes(pageserver),
    ...historyRoutes(pageserver),
    ...layerRoutes(pageserver),
    ...transferRoutes(pageserver.imports),
  ];
  return routes;
}

let described: OpenApi | null = null;

/** Made once: what the routes say does not depend on the pageserver that they serve. */
function describePageserverApi(routes: readonly Route[]): OpenApi {
  described ??= describeApi(
    {
      title: 'Pagelite pageserver',
      version: packageVersion,
      description:
        "Tenants, timelines and layers of a pageserver. Paths and names are Neon's where they mean the same.",
    },
    routes,
  );
  return described;
}
