/**
 * The safekeeper's HTTP API, shaped like Neon's (safekeeper/src/http/routes.rs): for the CLI and operators. WAL does not pass here.
 *
 *   GET    /v1/status                       {id}
 *   GET    /v1/tenant/timeline              [{tenant_id, timeline_id}]
 *   GET    /v1/tenant/:t/timeline/:tl       term, term history, LSNs; 404 if it is not here, 500 naming the file if it is damaged
 *   DELETE /v1/tenant/:t/timeline/:tl       its WAL goes, here and in the object store, and its proposers end; {} also if it is not here
 *   GET    /metrics                         Prometheus text
 */
import { Hono } from 'hono';
import { PageliteError } from '../../engine/errors.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { Log } from '../../engine/services.ts';
import { answerError, answerNotFound, refuseMisdirected } from '../process/http-errors.ts';
import type { Metrics } from '../process/metrics.ts';
import type { DiskSafekeeperStorage } from './disk-segments.ts';

export interface SafekeeperHttpOptions {
  readonly safekeeper: Safekeeper;
  readonly storage: DiskSafekeeperStorage;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly upkeep?: SafekeeperUpkeep;
}

export function safekeeperHttpApi({ safekeeper, storage, metrics, log, upkeep }: SafekeeperHttpOptions): Hono {
  const api = new Hono();
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  api.use(refuseMisdirected);
  api.get('/v1/status', (c) => c.json({ id: safekeeper.nodeId }));
  api.get('/v1/tenant/timeline', async (c) => {
    const timelines = await safekeeper.listTimelines();
    return c.json(timelines.map((id) => ({ tenant_id: id.tenantId, timeline_id: id.timelineId })));
  });
  api.get('/v1/tenant/:tenant/timeline/:timeline', async (c) => {
    const id = { tenantId: tenantId(c.req.param('tenant')), timelineId: timelineId(c.req.param('timeline')) };
    const status = await safekeeper.getStatus(id);
    if (status === null) {
      throw new PageliteError('notFound', `timeline ${id.tenantId}/${id.timelineId} is not on this safekeeper`, {
        ...id,
      });
    }
    return c.json({
      tenant_id: id.tenantId,
      timeline_id: id.timelineId,
      acceptor_state: {
        term: status.term,
        epoch: status.termHistory.at(-1)?.[0] ?? 0,
        term_history: status.termHistory.map(([term, lsn]) => ({ term, lsn: formatLsn(lsn) })),
      },
      timeline_start_lsn: formatLsn(status.termHistory[0]?.[1] ?? status.startLsn),
      local_start_lsn: formatLsn(status.startLsn),
      flush_lsn: formatLsn(status.flushLsn),
      commit_lsn: formatLsn(status.commitLsn),
      backup_lsn: formatLsn(status.backupLsn),
      remote_consistent_lsn: formatLsn(status.remoteConsistentLsn),
    });
  });
  api.delete('/v1/tenant/:tenant/timeline/:timeline', async (c) => {
    const id = { tenantId: tenantId(c.req.param('tenant')), timelineId: timelineId(c.req.param('timeline')) };
    await safekeeper.deleteTimeline(id, () => storage.removeTimeline(id));
    await upkeep?.forget(id);
    return c.json({});
  });
  api.get('/metrics', (c) => c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4' }));
  return api;
}
