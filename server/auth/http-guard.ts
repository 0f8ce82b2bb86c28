/** Access to an HTTP API: every request but those to a few open paths carries a token, and each route says whose it is. */
import type { MiddlewareHandler } from 'hono';
import type { Authorize } from '../process/http-routes.ts';
import type { Access } from './access.ts';
import type { Claims } from './claims.ts';

declare module 'hono' {
  interface ContextVariableMap {
    /** Absent: everybody is trusted, or the path is open. */
    claims?: Claims;
  }
}

export interface HttpGuard {
  readonly authenticate: MiddlewareHandler;
  readonly authorize: Authorize;
}

/** `openPaths`: what Neon leaves open. */
export function httpGuard(access: Access | null, openPaths: readonly string[]): HttpGuard {
  return {
    authenticate: async (c, next) => {
      if (access !== null && !openPaths.includes(c.req.path)) {
        c.set('claims', await access.authenticate(c.req.header('authorization')));
      }
      await next();
    },
    authorize: (c, tenant) => {
      if (access === null || openPaths.includes(c.req.path)) return;
      access.check(c.get('claims')!, tenant);
    },
  };
}
