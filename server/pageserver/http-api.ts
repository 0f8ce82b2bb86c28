/**
 * The pageserver's HTTP API, shaped like Neon's (pageserver/src/http/openapi_spec.yml): what the CLI and operators speak. Pages do not pass
 * here: they go over the pagestream protocol.
 *
 *   GET    /v1/status                                          {id}
 *   GET    /v1/tenant                                          [{id, state, ...}]
 *   POST   /v1/tenant                                          {new_tenant_id?} -> 201, the id
 *   GET    /v1/tenant/:t                                       the tenant and the ids of its timelines
 *   GET    /v1/tenant/:t/timeline                              [timeline]
 *   POST   /v1/tenant/:t/timeline                              {new_timeline_id?, ancestor_timeline_id?, ancestor_start_lsn?} -> 201, the timeline
 *   GET    /v1/tenant/:t/timeline/:tl                          the timeline
 *   DELETE /v1/tenant/:t/timeline/:tl                          412 if it has branches
 *   GET    /v1/tenant/:t/timeline/:tl/get_lsn_by_timestamp     ?timestamp=RFC 3339 -> {lsn, kind}
 *   GET    /v1/tenant/:t/timeline/:tl/get_timestamp_of_lsn     ?lsn=0/0 -> RFC 3339 text, or null before the first commit
 *   GET    /v1/tenant/:t/timeline/:tl/commit_history           ?until_lsn&count_max -> {start, end, commits}: some {lsn, timestamp}, spread over time
 *   PUT    /v1/tenant/:t/timeline/:tl/checkpoint               writes the in-memory layer out
 *   GET    /v1/tenant/:t/timeline/:tl/layer                    {in_memory_layers, historic_layers}
 *   *      /v1/tenant/:t/timeline/:tl/import                   timelines that are made elsewhere: transfer-api.ts
 *   GET    /metrics                                            Prometheus text
 *
 * Creating what is there with the same parameters succeeds again (a caller may retry); with other parameters it is 409. Errors are `{"msg"}`
 * (process/http-errors.ts). The handlers only translate: every decision is the Pageserver's.
 */
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { z } from 'zod';
import { isPageliteError } from '../../engine/errors.ts';
import {
  type NodeId,
  newTenantId,
  newTimelineId,
  type TenantId,
  type TenantTimelineId,
  type TimelineId,
  tenantId,
  timelineId,
} from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import type { Log, PageService, Random, TimelineStatus } from '../../engine/services.ts';
import type { CommitHistory } from '../../engine/timeline/pageserver.ts';
import type { TimelineImports } from '../../engine/transfer/timeline-imports.ts';
import {
  answerError,
  answerNotFound,
  HttpError,
  readBody,
  readQuery,
  refuseMisdirected,
} from '../process/http-errors.ts';
import type { Metrics } from '../process/metrics.ts';
import { transferHttpApi } from './transfer-api.ts';

/** What the API needs of a Pageserver (engine/timeline/pageserver.ts). */
export interface PageserverApi {
  readonly imports: TimelineImports;
  createTenant(id: TenantId): Promise<void>;
  listTenants(): Promise<readonly TenantId[]>;
  createTimeline(id: TenantTimelineId, ancestor: { timelineId: TimelineId; lsn: Lsn | null } | null): Promise<void>;
  listTimelines(tenant: TenantId): Promise<readonly TimelineId[]>;
  deleteTimeline(id: TenantTimelineId): Promise<void>;
  openPages(id: TenantTimelineId): Promise<PageService>;
  findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<{ kind: TimestampMatch; lsn: Lsn }>;
  timestampOfLsn(id: TenantTimelineId, lsn: Lsn): Promise<number | null>;
  commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory>;
  flush(id: TenantTimelineId): Promise<void>;
  imagesIdle(id: TenantTimelineId): Promise<void>;
  listLayers(id: TenantTimelineId): Promise<LayerMapInfo>;
}

/** Neon's LsnForTimestamp: a commit is there; all commits are older; all are younger; there are none. */
export type TimestampMatch = 'present' | 'future' | 'past' | 'nodata';

export interface LayerMapInfo {
  readonly inMemory: { startLsn: Lsn; endLsn: Lsn | null }[];
  readonly files: { name: string; bytes: number; kind: 'delta' | 'image'; startLsn: Lsn; endLsn: Lsn }[];
}

export interface PageserverHttpOptions {
  readonly nodeId: NodeId;
  readonly pageserver: PageserverApi;
  readonly metrics: Metrics;
  readonly random: Random;
  readonly log: Log;
}

/** PostgreSQL's major version in this build. */
const pgVersion = 18;
/** Points of a history that one answer may have. */
const historyCountMax = 1000;
/** No request of this API is longer. */
const bodyBytesMax = 64 * 1024;

const id = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hex digits');
const lsnText = z.string().regex(/^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/, 'expected an LSN such as 0/16B5A50');
const createTenantBody = z.strictObject({ new_tenant_id: id.optional() });
const createTimelineBody = z
  .strictObject({
    new_timeline_id: id.optional(),
    ancestor_timeline_id: id.nullish(),
    ancestor_start_lsn: lsnText.nullish(),
    pg_version: z.literal(pgVersion, `only ${pgVersion} is possible`).optional(),
  })
  .refine((body) => !body.ancestor_start_lsn || body.ancestor_timeline_id, {
    path: ['ancestor_start_lsn'],
    message: 'needs an ancestor_timeline_id',
  });
const timestampQuery = z.object({
  timestamp: z.iso.datetime({ offset: true, error: 'expected RFC 3339, for example 2026-01-31T12:00:00Z' }),
});

const lsnQuery = z.object({ lsn: z.string() });

const historyQuery = z.object({
  until_lsn: lsnText.optional(),
  count_max: z.coerce.number().int().min(1).max(historyCountMax).default(200),
});

/** With images: answers when those that the flush called for are written, too. */
const checkpointQuery = z.object({ force_image_layer_creation: z.enum(['true', 'false']).optional() });

export function pageserverHttpApi(options: PageserverHttpOptions): Hono {
  const { nodeId, pageserver, metrics, random, log } = options;
  const api = new Hono();
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  api.use(refuseMisdirected);
  // With limits of its own.
  api.route('/', transferHttpApi(pageserver.imports));
  api.use(bodyLimit({ maxSize: bodyBytesMax, onError: (c) => c.json({ msg: 'the request body is too large' }, 413) }));

  api.get('/v1/status', (c) => c.json({ id: nodeId }));
  api.get('/metrics', (c) => c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4' }));

  api.get('/v1/tenant', async (c) => c.json((await pageserver.listTenants()).map(tenantInfo)));
  api.post('/v1/tenant', async (c) => {
    const body = await readBody(c, createTenantBody);
    const tenant = body.new_tenant_id ? tenantId(body.new_tenant_id) : newTenantId(random);
    // The same tenant again: a caller that did not hear the first answer.
    if (!(await pageserver.listTenants()).includes(tenant)) await pageserver.createTenant(tenant);
    return c.json(tenant, 201);
  });
  api.get('/v1/tenant/:tenant', async (c) => {
    const tenant = tenantId(c.req.param('tenant'));
    const timelines = await pageserver.listTimelines(tenant);
    return c.json({ ...tenantInfo(tenant), timelines });
  });

  api.get('/v1/tenant/:tenant/timeline', async (c) => {
    const tenant = tenantId(c.req.param('tenant'));
    const timelines = await pageserver.listTimelines(tenant);
    return c.json(
      await Promise.all(
        timelines.map((timeline) => timelineInfo(pageserver, { tenantId: tenant, timelineId: timeline })),
      ),
    );
  });
  api.post('/v1/tenant/:tenant/timeline', async (c) => {
    const tenant = tenantId(c.req.param('tenant'));
    const body = await readBody(c, createTimelineBody);
    const timeline = body.new_timeline_id ? timelineId(body.new_timeline_id) : newTimelineId(random);
    const ancestor = body.ancestor_timeline_id
      ? {
          timelineId: timelineId(body.ancestor_timeline_id),
          lsn: body.ancestor_start_lsn ? parseLsn(body.ancestor_start_lsn) : null,
        }
      : null;
    const created = { tenantId: tenant, timelineId: timeline };
    if ((await pageserver.listTimelines(tenant)).includes(timeline)) {
      const { ancestor: existing } = await (await pageserver.openPages(created)).getStatus();
      const same =
        existing?.timelineId === ancestor?.timelineId && (ancestor?.lsn == null || ancestor.lsn === existing?.lsn);
      if (!same) throw new HttpError(409, 'invalid', `timeline ${timeline} exists with another ancestor`, created);
    } else {
      await pageserver.createTimeline(created, ancestor);
    }
    return c.json(await timelineInfo(pageserver, created), 201);
  });

  const path = '/v1/tenant/:tenant/timeline/:timeline';
  const idOf = (params: { tenant: string; timeline: string }): TenantTimelineId => ({
    tenantId: tenantId(params.tenant),
    timelineId: timelineId(params.timeline),
  });
  api.get(path, async (c) => c.json(await timelineInfo(pageserver, idOf(c.req.param()))));
  api.delete(path, async (c) => {
    const doomed = idOf(c.req.param());
    const branches = await branchesOf(pageserver, doomed);
    if (branches.length > 0) {
      throw new HttpError(412, 'invalid', `timeline ${doomed.timelineId} has branches: ${branches.join(', ')}`);
    }
    await pageserver.deleteTimeline(doomed);
    return c.json({});
  });
  api.get(`${path}/get_lsn_by_timestamp`, async (c) => {
    const { timestamp } = readQuery(c, timestampQuery);
    const { lsn, kind } = await pageserver.findLsnByTimestamp(idOf(c.req.param()), Date.parse(timestamp));
    return c.json({ lsn: formatLsn(lsn), kind });
  });
  api.get(`${path}/get_timestamp_of_lsn`, async (c) => {
    const { lsn } = readQuery(c, lsnQuery);
    const timestampMs = await pageserver.timestampOfLsn(idOf(c.req.param()), parseLsn(lsn));
    return c.json(timestampMs === null ? null : new Date(timestampMs).toISOString());
  });
  api.get(`${path}/commit_history`, async (c) => {
    const { until_lsn: until, count_max: countMax } = readQuery(c, historyQuery);
    const history = await pageserver.commitHistory(idOf(c.req.param()), until ? parseLsn(until) : null, countMax);
    return c.json({
      start: pointInfo(history.start),
      end: pointInfo(history.end),
      commits: history.commits.map(pointInfo),
    });
  });
  api.put(`${path}/checkpoint`, async (c) => {
    const { force_image_layer_creation: images } = readQuery(c, checkpointQuery);
    await pageserver.flush(idOf(c.req.param()));
    if (images === 'true') await pageserver.imagesIdle(idOf(c.req.param()));
    return c.json({});
  });
  api.get(`${path}/layer`, async (c) => c.json(layerInfo(await pageserver.listLayers(idOf(c.req.param())))));
  return api;
}

function pointInfo({ lsn, timeMs }: { readonly lsn: Lsn; readonly timeMs: number | null }) {
  return { lsn: formatLsn(lsn), timestamp: timeMs === null ? null : new Date(timeMs).toISOString() };
}

function tenantInfo(tenant: TenantId) {
  return { id: tenant, state: { slug: 'Active' }, attachment_status: { slug: 'attached' } };
}

/** Neon's TimelineInfo, as far as it has a meaning here. A timeline that cannot be opened is listed as broken, with the reason. */
async function timelineInfo(pageserver: PageserverApi, { tenantId: tenant, timelineId: timeline }: TenantTimelineId) {
  const ids = { tenant_id: tenant, timeline_id: timeline };
  let status: TimelineStatus;
  try {
    status = await (await pageserver.openPages({ tenantId: tenant, timelineId: timeline })).getStatus();
  } catch (error) {
    if (!isPageliteError(error, 'corrupt')) throw error;
    return { ...ids, state: { Broken: { reason: error.message, backtrace: '' } } };
  }
  return {
    ...ids,
    ancestor_timeline_id: status.ancestor?.timelineId ?? null,
    ancestor_lsn: status.ancestor ? formatLsn(status.ancestor.lsn) : null,
    last_record_lsn: formatLsn(status.lastRecordLsn),
    prev_record_lsn: status.prevRecordLsn ? formatLsn(status.prevRecordLsn) : null,
    disk_consistent_lsn: formatLsn(status.diskConsistentLsn),
    remote_consistent_lsn: formatLsn(status.diskConsistentLsn),
    min_readable_lsn: formatLsn(status.startLsn),
    current_physical_size: status.layerBytes,
    pg_version: pgVersion,
    state: status.stopped === null ? 'Active' : { Broken: { reason: status.stopped, backtrace: '' } },
  };
}

async function branchesOf(pageserver: PageserverApi, parent: TenantTimelineId): Promise<TimelineId[]> {
  const branches: TimelineId[] = [];
  for (const timeline of await pageserver.listTimelines(parent.tenantId)) {
    const info = await timelineInfo(pageserver, { tenantId: parent.tenantId, timelineId: timeline });
    if ('ancestor_timeline_id' in info && info.ancestor_timeline_id === parent.timelineId) branches.push(timeline);
  }
  return branches;
}

/** Neon's LayerMapInfo. */
function layerInfo({ inMemory, files }: LayerMapInfo) {
  return {
    in_memory_layers: inMemory.map(({ startLsn, endLsn }) =>
      endLsn === null
        ? { kind: 'Open', lsn_start: formatLsn(startLsn) }
        : { kind: 'Frozen', lsn_start: formatLsn(startLsn), lsn_end: formatLsn(endLsn) },
    ),
    historic_layers: files.map(({ name, bytes, kind, startLsn, endLsn }) => {
      const file = { layer_file_name: name, layer_file_size: bytes, lsn_start: formatLsn(startLsn), remote: false };
      return kind === 'image' ? { kind: 'Image', ...file } : { kind: 'Delta', ...file, lsn_end: formatLsn(endLsn) };
    }),
  };
}
