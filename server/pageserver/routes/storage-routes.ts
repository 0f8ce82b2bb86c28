/** Routes about how a timeline is stored: what is kept and why, garbage collection, leases, rest, and independence of the ancestor. */
import { z } from 'zod';
import { formatLsn, type Lsn, parseLsn } from '../../../engine/model/lsn.ts';
import { formatTimestamp } from '../../../engine/model/timestamp.ts';
import type { Retention } from '../../../engine/timeline/retention.ts';
import { json, type Route } from '../../process/http-routes.ts';
import { idOf, route } from '../../process/path-parameters.ts';
import type { PageserverApi } from './pageserver-api.ts';
import { gcResult, lsnLease, lsnText, storageInfo } from './schemas.ts';

const nothing = z.object({});

export function storageRoutes(pageserver: PageserverApi): Route[] {
  const timeline = '/v1/tenant/{tenant_id}/timeline/{timeline_id}';
  return [
    route({
      method: 'GET',
      path: `${timeline}/storage`,
      operation: 'getTimelineStorage',
      summary: 'What of the history is kept and why, and what is on its way to the store',
      answer: json(storageInfo, 'How it is stored'),
      handle: async ({ params }) => {
        const id = idOf(params);
        const retention = await pageserver.retention(id);
        const { waitingLayers, waitingBytes, deleting, lastError } = pageserver.uploadStatus(id);
        const compaction = pageserver.compactionStatus(id);
        const { isRunning, job, flushedLayers, lastError: compactionError, blocked } = compaction;
        return {
          ...retentionInfo(retention),
          uploads: { layers: waitingLayers, bytes: waitingBytes, deletes: deleting, last_error: lastError },
          compaction: {
            running: isRunning,
            job: job && { kind: jobName[job.kind], bytes_written: job.bytesWritten },
            l0_layers: flushedLayers,
            last_error: compactionError,
            blocked: blocked.map(({ kind, what, error, untilMs }) => ({
              kind: blockedName[kind],
              what,
              error,
              retry_at: new Date(untilMs).toISOString(),
            })),
          },
        };
      },
    }),
    route({
      method: 'PUT',
      path: `${timeline}/do_gc`,
      operation: 'collectGarbage',
      summary: 'Removes layer files that nothing needs any more, now',
      answer: json(gcResult, 'What was removed'),
      handle: async ({ params }) => {
        const { cutoffLsn, layersRemoved, bytesRemoved, layersKept, skipped } = await pageserver.collectGarbage(
          idOf(params),
        );
        return {
          layers_total: layersKept + layersRemoved,
          layers_removed: layersRemoved,
          bytes_removed: bytesRemoved,
          cutoff_lsn: cutoffLsn === null ? null : formatLsn(cutoffLsn),
          skipped,
        };
      },
    }),
    route({
      method: 'POST',
      path: `${timeline}/lsn_lease`,
      operation: 'leaseLsn',
      summary: 'Keeps an LSN readable for a while; asked again, for longer',
      body: z.strictObject({ lsn: lsnText }),
      answer: json(lsnLease, 'Until when'),
      handle: async ({ params, body }) => {
        const pages = await pageserver.openPages(idOf(params));
        const { validForMs } = await pages.leaseLsn(parseLsn(body.lsn));
        return { valid_until: formatTimestamp(Date.now() + validForMs) };
      },
    }),
    route({
      method: 'PUT',
      path: `${timeline}/detach_ancestor`,
      operation: 'detachAncestor',
      summary: 'Makes a branch independent of the timeline that it branched from',
      description: 'Writes every page that it reads there. The ancestor can be deleted afterwards.',
      answer: json(z.object({ reparented_timelines: z.array(z.string()) }), 'It has no ancestor'),
      handle: async ({ params }) => {
        await pageserver.detachAncestor(idOf(params));
        // Branches of the ancestor stay with it.
        return { reparented_timelines: [] };
      },
    }),
    route({
      method: 'PUT',
      path: `${timeline}/archival_config`,
      operation: 'archiveTimeline',
      summary: 'Lays a timeline to rest, or takes it up again',
      description:
        'A timeline at rest takes no memory and cannot be read. Its branches rest before it, and are taken up after it.',
      body: z.strictObject({ state: z.enum(['Archived', 'Unarchived']) }),
      answer: json(nothing, 'It is so'),
      handle: async ({ params, body }) => {
        const id = idOf(params);
        await (body.state === 'Archived' ? pageserver.archiveTimeline(id) : pageserver.unarchiveTimeline(id));
        return {};
      },
    }),
  ];
}

/** Neon's words. */
const blockedName = { merge: 'l0_compaction', images: 'image_layer_creation' } as const;
const jobName = { mergeDeltas: 'l0_compaction', imageColumn: 'image_layer_creation' } as const;

function retentionInfo({ cutoffLsn, spaceCutoffLsn, timeCutoffLsn, points }: Retention) {
  return {
    gc_cutoff_lsn: formatLsn(cutoffLsn),
    space_cutoff_lsn: formatLsn(spaceCutoffLsn),
    time_cutoff_lsn: lsnOrNull(timeCutoffLsn),
    retained: points.map((point) => ({
      lsn: formatLsn(point.lsn),
      reason: point.reason,
      ...(point.reason === 'branch' && { timeline_id: point.timelineId }),
      ...(point.reason === 'lease' && { valid_until: formatTimestamp(point.validUntilMs) }),
    })),
  };
}

const lsnOrNull = (lsn: Lsn | null): string | null => (lsn === null ? null : formatLsn(lsn));
