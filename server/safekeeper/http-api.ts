/**
 * The safekeeper's HTTP API, shaped like Neon's (safekeeper/src/http/routes.rs): for the CLI and operators. WAL does not pass here.
 * With access control a token of scope `safekeeperdata` opens all of it, one of scope `tenant` its tenant's timelines.
 *
 *   GET    /v1/status                       {id}
 *   GET    /v1/tenant/timeline              [{tenant_id, timeline_id}]
 *   GET    /v1/tenant/:t/timeline/:tl       term, term history, LSNs; 404 if it is not here, 500 naming the file if it is damaged
 *   DELETE /v1/tenant/:t/timeline/:tl       its WAL goes, here and in the object store, and its proposers end; {} also if it is not here
 *   PUT    /v1/tenant/:t/timeline/:tl/membership   {mconf: {generation, members: [{id}]}}: only proposers of this configuration are heard from now on
 *   POST   /v1/pull_timeline                {tenant_id, timeline_id, mconf, from: [id]}: takes over what these peers have, who know mconf
 *   POST   /v1/tenant/:t/timeline/:tl/restore      what no disk has any more comes from the object store: {flush_lsn, term}
 *   GET    /metrics                         Prometheus text
 */
import { Hono } from 'hono';
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { configurationOf, noConfiguration, type SafekeeperConfiguration } from '../../engine/model/configuration.ts';
import { nodeId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { Log } from '../../engine/services.ts';
import type { Access } from '../auth/access.ts';
import { httpGuard } from '../auth/http-guard.ts';
import { answerError, answerNotFound, readBody } from '../process/http-errors.ts';
import type { Metrics } from '../process/metrics.ts';
import { refuseMisdirected } from '../process/misdirected.ts';
import type { DiskSafekeeperStorage } from './disk-segments.ts';

export interface SafekeeperHttpOptions {
  readonly safekeeper: Safekeeper;
  readonly storage: DiskSafekeeperStorage;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly upkeep?: SafekeeperUpkeep;
  /** Null: everybody is trusted. */
  readonly access: Access | null;
}

/** As in Neon. */
const openPaths = ['/v1/status', '/metrics'];

const confSchema = z
  .object({ generation: z.int().positive(), members: z.array(z.object({ id: z.int().positive() })).min(1) })
  .transform(({ generation, members }) =>
    configurationOf(
      generation,
      members.map(({ id }) => nodeId(id)),
    ),
  );
const membershipSchema = z.object({ mconf: confSchema });
const pullSchema = z.object({
  tenant_id: z.string(),
  timeline_id: z.string(),
  mconf: confSchema,
  from: z.array(z.int().positive()),
});

/** Of a path's `:tenant` and `:timeline`. */
const idOf = ({ tenant, timeline }: { tenant: string; timeline: string }): TenantTimelineId => ({
  tenantId: tenantId(tenant),
  timelineId: timelineId(timeline),
});

const confJson = ({ generation, members }: SafekeeperConfiguration) => ({
  generation,
  members: members.map((id) => ({ id })),
});

export function safekeeperHttpApi({ safekeeper, storage, metrics, log, upkeep, access }: SafekeeperHttpOptions): Hono {
  const api = new Hono();
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  api.use(refuseMisdirected);
  const { authenticate, authorize } = httpGuard(access, openPaths);
  api.use(authenticate);
  api.get('/v1/status', (c) => c.json({ id: safekeeper.nodeId }));
  api.get('/v1/tenant/timeline', async (c) => {
    authorize(c, null);
    const timelines = await safekeeper.listTimelines();
    return c.json(timelines.map((id) => ({ tenant_id: id.tenantId, timeline_id: id.timelineId })));
  });
  api.get('/v1/tenant/:tenant/timeline/:timeline', async (c) => {
    const id = idOf(c.req.param());
    authorize(c, id.tenantId);
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
      mconf: confJson((await safekeeper.configurationOf(id)) ?? noConfiguration),
      timeline_start_lsn: formatLsn(status.termHistory[0]?.[1] ?? status.startLsn),
      local_start_lsn: formatLsn(status.startLsn),
      flush_lsn: formatLsn(status.flushLsn),
      commit_lsn: formatLsn(status.commitLsn),
      backup_lsn: formatLsn(status.backupLsn),
      remote_consistent_lsn: formatLsn(status.remoteConsistentLsn),
      // Ours: why proposers get no answer.
      refused: safekeeper.refusalOf(id)?.message ?? null,
    });
  });
  api.put('/v1/tenant/:tenant/timeline/:timeline/membership', async (c) => {
    const id = idOf(c.req.param());
    authorize(c, null);
    const { mconf } = await readBody(c, membershipSchema);
    const timeline = await safekeeper.configure(id, mconf);
    return c.json({
      current_conf: confJson(timeline.control.configuration),
      last_log_term: timeline.status().termHistory.at(-1)?.[0] ?? 0,
      flush_lsn: formatLsn(timeline.flushLsn),
    });
  });
  api.post('/v1/pull_timeline', async (c) => {
    authorize(c, null);
    if (upkeep === undefined) throw new PageliteError('invalid', 'this safekeeper has no peers');
    const { tenant_id, timeline_id, mconf, from } = await readBody(c, pullSchema);
    const id = { tenantId: tenantId(tenant_id), timelineId: timelineId(timeline_id) };
    const { flushLsn, term } = await upkeep.pull(id, mconf, from.map(nodeId));
    return c.json({ flush_lsn: formatLsn(flushLsn), term });
  });
  api.post('/v1/tenant/:tenant/timeline/:timeline/restore', async (c) => {
    const id = idOf(c.req.param());
    authorize(c, null);
    if (upkeep === undefined) throw new PageliteError('invalid', 'this safekeeper sends its WAL nowhere');
    const { flushLsn, term } = await upkeep.restore(id);
    return c.json({ flush_lsn: formatLsn(flushLsn), term });
  });
  api.delete('/v1/tenant/:tenant/timeline/:timeline', async (c) => {
    const id = idOf(c.req.param());
    authorize(c, id.tenantId);
    await safekeeper.deleteTimeline(id, () => storage.removeTimeline(id));
    await upkeep?.forget(id);
    return c.json({});
  });
  api.get('/metrics', (c) => c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4' }));
  return api;
}
