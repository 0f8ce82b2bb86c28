/** Routes between LSNs and times, and over a timeline's commits. */
import { z } from 'zod';
import { formatLsn, type Lsn, parseLsn } from '../../../engine/model/lsn.ts';
import { json, type Route } from '../../process/http-routes.ts';
import { idOf, route } from '../../process/path-parameters.ts';
import type { PageserverApi } from './pageserver-api.ts';
import { commitHistory, lsnByTimestamp, lsnText, timestampOrNull } from './schemas.ts';

/** Points of a history that one answer may have. */
const historyCountMax = 1000;

export function historyRoutes(pageserver: PageserverApi): Route[] {
  const timeline = '/v1/tenant/{tenant_id}/timeline/{timeline_id}';
  return [
    route({
      method: 'GET',
      path: `${timeline}/get_lsn_by_timestamp`,
      operation: 'getLsnByTimestamp',
      summary: 'The last LSN with everything that was committed until a time',
      query: z.object({
        timestamp: z.iso
          .datetime({ offset: true, error: 'expected RFC 3339, for example 2026-01-31T12:00:00Z' })
          .describe('RFC 3339, with an offset or Z'),
      }),
      answer: json(lsnByTimestamp, 'The LSN, and how it lies to the commits'),
      handle: async ({ params, query }) => {
        const { lsn, kind } = await pageserver.findLsnByTimestamp(idOf(params), Date.parse(query.timestamp));
        return { lsn: formatLsn(lsn), kind };
      },
    }),
    route({
      method: 'GET',
      path: `${timeline}/get_timestamp_of_lsn`,
      operation: 'getTimestampOfLsn',
      summary: 'When the latest transaction ended that is visible at an LSN',
      query: z.object({ lsn: z.string().describe('An LSN that the timeline has') }),
      answer: json(timestampOrNull, 'RFC 3339, or null before the first commit'),
      handle: async ({ params, query }) => {
        const timestampMs = await pageserver.timestampOfLsn(idOf(params), parseLsn(query.lsn));
        return timestampMs === null ? null : new Date(timestampMs).toISOString();
      },
    }),
    route({
      method: 'GET',
      path: `${timeline}/commit_history`,
      operation: 'getCommitHistory',
      summary: "Some of a timeline's own commits, for a picture of when something happened",
      query: z.object({
        until_lsn: lsnText.optional(),
        count_max: z.coerce.number().int().min(1).max(historyCountMax).default(200),
      }),
      answer: json(commitHistory, 'Its first and last LSN, and commits between'),
      handle: async ({ params, query: { until_lsn: until, count_max: countMax } }) => {
        const history = await pageserver.commitHistory(idOf(params), until ? parseLsn(until) : null, countMax);
        return {
          start: pointInfo(history.start),
          end: pointInfo(history.end),
          commits: history.commits.map(({ lsn, timeMs }) => ({ lsn: formatLsn(lsn), timestamp: timeText(timeMs) })),
        };
      },
    }),
  ];
}

function pointInfo({ lsn, timeMs }: { readonly lsn: Lsn; readonly timeMs: number | null }) {
  return { lsn: formatLsn(lsn), timestamp: timeMs === null ? null : timeText(timeMs) };
}

const timeText = (timeMs: number): string => new Date(timeMs).toISOString();
