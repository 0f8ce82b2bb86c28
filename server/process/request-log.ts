/**
 * A line for every HTTP request, at debug: route, what its path names, status, milliseconds. Errors of the server itself are logged by
 * http-errors.ts, whatever the level.
 */
import type { Context, MiddlewareHandler, Next } from 'hono';
import { matchedRoutes } from 'hono/route';
import type { Log } from '../../engine/services.ts';

export function logRequests(log: Log): MiddlewareHandler {
  return async (c: Context, next: Next) => {
    const startMs = performance.now();
    await next();
    const { tenant_id: tenantId, timeline_id: timelineId } = c.req.param() as Record<string, string | undefined>;
    log.debug('request', {
      method: c.req.method,
      route: routeOf(c),
      ...(tenantId !== undefined && { tenantId }),
      ...(timelineId !== undefined && { timelineId }),
      status: c.res.status,
      ms: Math.round((performance.now() - startMs) * 10) / 10,
    });
  };
}

/** With the names of its parameters, so that lines of one route are found together; the path itself if there is no route. */
function routeOf(c: Context): string {
  return matchedRoutes(c).findLast(({ method }) => method !== 'ALL')?.path ?? c.req.path;
}
