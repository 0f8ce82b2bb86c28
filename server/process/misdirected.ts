/** Requests that reach another process than the one they are meant for. */
import type { Context, Next } from 'hono';

/** The process that a request is meant for, as its pid file names it. */
export const forPidHeader = 'x-pagelite-pid';

/**
 * Refuses what is meant for another process with 421: a port that one repository remembers may be another repository's by now, and what is
 * made there by mistake would be found nowhere. Requests that name nobody are for whoever listens.
 */
export async function refuseMisdirected(c: Context, next: Next): Promise<Response | undefined> {
  const pid = c.req.header(forPidHeader);
  if (pid === undefined || pid === String(process.pid)) {
    await next();
    return undefined;
  }
  return c.json({ msg: `this is process ${process.pid}, not ${pid}`, kind: 'unavailable' }, 421);
}
