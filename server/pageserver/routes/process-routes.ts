/** Routes about the process itself: who it is, its numbers, what it can be asked. Open as in Neon: who watches processes has no tokens. */
import { z } from 'zod';
import type { NodeId } from '../../../engine/model/ids.ts';
import { json, type Route, raw } from '../../process/http-routes.ts';
import type { Metrics } from '../../process/metrics.ts';
import { route } from '../../process/path-parameters.ts';

export function processRoutes(nodeId: NodeId, metrics: Metrics, describe: () => object): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/status',
      operation: 'getStatus',
      isOpen: true,
      summary: 'Who this is; that it answers',
      answer: json(z.object({ id: z.int().describe('Node id') }), 'It serves'),
      handle: () => ({ id: nodeId }),
    }),
    route({
      method: 'GET',
      path: '/v1/openapi.json',
      operation: 'getOpenApi',
      isOpen: true,
      summary: 'This description',
      answer: json(z.looseObject({ openapi: z.string() }), 'OpenAPI 3.1'),
      handle: () => describe() as { openapi: string },
    }),
    route({
      method: 'GET',
      path: '/metrics',
      operation: 'getMetrics',
      isOpen: true,
      summary: "Numbers for Prometheus, under Neon's names",
      answer: raw('text/plain', "Prometheus's text format 0.0.4"),
      handle: (_input, c) => c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4' }),
    }),
  ];
}
