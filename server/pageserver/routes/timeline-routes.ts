/** Routes about timelines: make, describe, write out, delete. */
import { z } from 'zod';
import { isPageliteError } from '../../../engine/errors.ts';
import { newTimelineId, type TenantTimelineId, type TimelineId, timelineId } from '../../../engine/model/ids.ts';
import { formatLsn, parseLsn } from '../../../engine/model/lsn.ts';
import type { Random, TimelineStatus } from '../../../engine/services.ts';
import type { CompactionForce } from '../../../engine/timeline/compaction.ts';
import type { IndexPart } from '../../../engine/timeline/index-part.ts';
import { HttpError } from '../../process/http-error.ts';
import { json, type Route } from '../../process/http-routes.ts';
import { idOf, idText, route } from '../../process/path-parameters.ts';
import { type PageserverApi, pgVersion } from './pageserver-api.ts';
import { anyTimelineInfo, lsnText } from './schemas.ts';

type TimelineAnswer = z.input<typeof anyTimelineInfo>;

const newTimeline = z
  .strictObject({
    new_timeline_id: idText.optional().describe('Default: a new one'),
    ancestor_timeline_id: idText.nullish().describe('Makes a branch of it. Default: a timeline with an empty database'),
    ancestor_start_lsn: lsnText.nullish().describe('Where to branch. Default: the end of all that is committed'),
    pg_version: z.literal(pgVersion, `only ${pgVersion} is possible`).optional(),
  })
  .refine((body) => !body.ancestor_start_lsn || body.ancestor_timeline_id, {
    path: ['ancestor_start_lsn'],
    message: 'needs an ancestor_timeline_id',
  })
  .meta({ id: 'TimelineCreateRequest' });

const rebuiltTimeline = z
  .strictObject({
    ancestor_timeline_id: idText.nullish().describe('What it branched from. Default: it began with an empty database'),
    ancestor_start_lsn: lsnText.nullish().describe('Where it branched off'),
  })
  .refine((body) => !body.ancestor_start_lsn === !body.ancestor_timeline_id, {
    path: ['ancestor_start_lsn'],
    message: 'goes together with ancestor_timeline_id',
  })
  .meta({ id: 'TimelineRebuildRequest' });

const nothing = z.object({});

const flag = z.enum(['true', 'false']).optional();
const compactionQuery = z.object({
  force_l0_compaction: flag.describe('true: flushed layers are merged however few there are'),
  force_image_layer_creation: flag.describe('true: and every key range with changes gets image layers'),
});

const forceOf = (query: z.output<typeof compactionQuery>): CompactionForce =>
  query.force_image_layer_creation === 'true' ? 'images' : query.force_l0_compaction === 'true' ? 'merge' : 'none';

export function timelineRoutes(pageserver: PageserverApi, random: Random): Route[] {
  const timelines = '/v1/tenant/{tenant_id}/timeline';
  const timeline = `${timelines}/{timeline_id}` as const;
  return [
    route({
      method: 'GET',
      path: timelines,
      operation: 'listTimelines',
      summary: "A tenant's timelines",
      answer: json(z.array(anyTimelineInfo), 'In the order of their ids; also those that cannot be opened'),
      handle: async ({ params: { tenant_id: tenant } }) => {
        const ids = await pageserver.listTimelines(tenant);
        return Promise.all(ids.map((id) => describeTimeline(pageserver, { tenantId: tenant, timelineId: id })));
      },
    }),
    route({
      method: 'POST',
      path: timelines,
      operation: 'createTimeline',
      summary: 'Makes a timeline, empty or as a branch',
      description:
        'A branch copies nothing. Waits until the ancestor has ingested the branch point. Asked again with the same parameters: the timeline that is there.',
      body: newTimeline,
      answer: json(anyTimelineInfo, 'The timeline', 201),
      errors: { 409: 'A timeline of this id exists with another ancestor' },
      handle: async ({ params: { tenant_id: tenant }, body }) => {
        const id = body.new_timeline_id ? timelineId(body.new_timeline_id) : newTimelineId(random);
        const ancestor = body.ancestor_timeline_id
          ? {
              timelineId: timelineId(body.ancestor_timeline_id),
              lsn: body.ancestor_start_lsn ? parseLsn(body.ancestor_start_lsn) : null,
            }
          : null;
        const created = { tenantId: tenant, timelineId: id };
        if ((await pageserver.listTimelines(tenant)).includes(id)) {
          const { ancestor: existing } = await (await pageserver.openPages(created)).getStatus();
          const same =
            existing?.timelineId === ancestor?.timelineId && (ancestor?.lsn == null || ancestor.lsn === existing?.lsn);
          if (!same) throw new HttpError(409, 'invalid', `timeline ${id} exists with another ancestor`, created);
        } else {
          await pageserver.createTimeline(created, ancestor);
        }
        return describeTimeline(pageserver, created);
      },
    }),
    route({
      method: 'GET',
      path: timeline,
      operation: 'getTimeline',
      summary: 'A timeline',
      answer: json(anyTimelineInfo, 'The timeline'),
      handle: ({ params }) => describeTimeline(pageserver, idOf(params)),
    }),
    route({
      method: 'PUT',
      path: `${timeline}/rebuild`,
      operation: 'rebuildTimeline',
      summary: 'Begins a timeline anew: its layers go, and are made of its WAL again',
      description:
        'For layers that are lost or damaged. Branches of it stay: what they read of it waits until its layers are removed and its WAL is read. Its WAL must be there from its beginning on.',
      body: rebuiltTimeline,
      answer: json(anyTimelineInfo, 'The timeline, which reads its WAL from now on'),
      handle: async ({ params, body }) => {
        const id = idOf(params);
        const ancestor = body.ancestor_timeline_id
          ? { timelineId: timelineId(body.ancestor_timeline_id), lsn: parseLsn(body.ancestor_start_lsn!) }
          : null;
        await pageserver.rebuildTimeline(id, ancestor);
        return describeTimeline(pageserver, id);
      },
    }),
    route({
      method: 'DELETE',
      path: timeline,
      operation: 'deleteTimeline',
      summary: 'Deletes a timeline that has no branches',
      answer: json(nothing, 'It is deleted'),
      errors: { 412: 'It has branches' },
      handle: async ({ params }) => {
        const doomed = idOf(params);
        const branches = await branchesOf(pageserver, doomed);
        if (branches.length > 0) {
          throw new HttpError(412, 'invalid', `timeline ${doomed.timelineId} has branches: ${branches.join(', ')}`);
        }
        await pageserver.deleteTimeline(doomed);
        return {};
      },
    }),
    route({
      method: 'PUT',
      path: `${timeline}/checkpoint`,
      operation: 'flushTimeline',
      summary: 'Writes what is in memory out as layer files',
      query: compactionQuery,
      answer: json(nothing, 'disk_consistent_lsn is at least what last_record_lsn was'),
      handle: async ({ params, query }) => {
        await pageserver.flush(idOf(params));
        const force = forceOf(query);
        if (force !== 'none') await pageserver.compact(idOf(params), force);
        return {};
      },
    }),
    route({
      method: 'PUT',
      path: `${timeline}/compact`,
      operation: 'compactTimeline',
      summary: 'Merges layer files by key, and makes image layers',
      query: compactionQuery,
      answer: json(nothing, 'There is nothing more to do'),
      handle: async ({ params, query }) => {
        await pageserver.compact(idOf(params), forceOf(query));
        return {};
      },
    }),
  ];
}

/** Neon's TimelineInfo, as far as it has a meaning here. A timeline that cannot be opened is described as broken, with the reason. */
async function describeTimeline(pageserver: PageserverApi, id: TenantTimelineId): Promise<TimelineAnswer> {
  const ids = { tenant_id: id.tenantId, timeline_id: id.timelineId };
  const rests = pageserver.archived(id);
  if (rests !== null) return { ...ids, ...restingInfo(rests), current_physical_size: pageserver.physicalSize(id) };
  let status: TimelineStatus;
  try {
    status = await (await pageserver.openPages(id)).getStatus();
  } catch (error) {
    if (!isPageliteError(error, 'corrupt')) throw error;
    return { ...ids, state: { Broken: { reason: error.message, backtrace: '' } } };
  }
  const logicalSize = await pageserver.logicalSize(id);
  return {
    ...ids,
    ancestor_timeline_id: status.ancestor?.timelineId ?? null,
    ancestor_lsn: status.ancestor ? formatLsn(status.ancestor.lsn) : null,
    last_record_lsn: formatLsn(status.lastRecordLsn),
    prev_record_lsn: status.prevRecordLsn ? formatLsn(status.prevRecordLsn) : null,
    disk_consistent_lsn: formatLsn(status.diskConsistentLsn),
    remote_consistent_lsn: formatLsn(status.remoteConsistentLsn),
    min_readable_lsn: formatLsn(status.gcCutoffLsn),
    ...(logicalSize !== null && { current_logical_size: logicalSize }),
    current_logical_size_is_accurate: logicalSize !== null,
    current_physical_size: status.layerBytes,
    pg_version: pgVersion,
    is_archived: false,
    state: status.stopped === null ? 'Active' : { Broken: { reason: status.stopped, backtrace: '' } },
  };
}

function restingInfo({ ancestor, diskConsistentLsn, prevRecordLsn, gcCutoffLsn }: IndexPart) {
  return {
    ancestor_timeline_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
    last_record_lsn: formatLsn(diskConsistentLsn),
    prev_record_lsn: prevRecordLsn ? formatLsn(prevRecordLsn) : null,
    disk_consistent_lsn: formatLsn(diskConsistentLsn),
    remote_consistent_lsn: formatLsn(diskConsistentLsn),
    min_readable_lsn: formatLsn(gcCutoffLsn),
    current_logical_size_is_accurate: false,
    pg_version: pgVersion,
    is_archived: true,
    state: 'Active',
  } as const;
}

async function branchesOf(pageserver: PageserverApi, parent: TenantTimelineId): Promise<TimelineId[]> {
  const branches: TimelineId[] = [];
  for (const timeline of await pageserver.listTimelines(parent.tenantId)) {
    const id = { tenantId: parent.tenantId, timelineId: timeline };
    const rests = pageserver.archived(id);
    const pages = rests === null ? await pageserver.openPages(id).catch(ifCorrupt) : null;
    const ancestor = rests?.ancestor ?? (await pages?.getStatus())?.ancestor;
    if (ancestor?.timelineId === parent.timelineId) branches.push(timeline);
  }
  return branches;
}

/** What cannot be opened is not known to be a branch. */
function ifCorrupt(error: unknown): null {
  if (isPageliteError(error, 'corrupt')) return null;
  throw error;
}
