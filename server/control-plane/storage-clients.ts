/**
 * The storage of a repository whose pageserver and safekeepers are processes, over their HTTP APIs: what the command line and the console server use.
 */
import { z } from 'zod';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { formatTimestamp } from '../../engine/model/timestamp.ts';
import type { LayerSummary } from '../../engine/protocol/control-api.ts';
import type { PageService } from '../../engine/services.ts';
import type { BranchNames } from '../../engine/timeline/branch-names.ts';
import type { HttpImportPeer } from '../../engine/transfer/http-import-peer.ts';
import type { TokenSource } from '../auth/tokens.ts';
import { pagestreamPath, wsUrl } from '../net/url.ts';
import { nodeClock, nodeRandom, silentLog } from '../process/node-host.ts';
import type { TimestampAnswer } from './branch-point.ts';
import { HttpApi, longRequestTimeoutMs } from './http-api.ts';
import type { Repository } from './repository.ts';
import { SafekeeperClients } from './safekeeper-clients.ts';
import type { CommitHistory, TimelineInfo, TransferStorage } from './storage-api.ts';

const lsnText = z.string().transform((text) => parseLsn(text));
const timelineText = z.string().transform((text) => timelineId(text));
const stateText = z.union([z.string(), z.object({ Broken: z.object({ reason: z.string() }) })]);
const timelineSchema = z.object({
  timeline_id: timelineText,
  ancestor_timeline_id: timelineText.nullish(),
  ancestor_lsn: lsnText.nullish(),
  last_record_lsn: lsnText.optional(),
  prev_record_lsn: lsnText.nullish(),
  min_readable_lsn: lsnText.optional(),
  current_logical_size: z.number().optional(),
  current_physical_size: z.number().optional(),
  is_archived: z.boolean().default(false),
  state: stateText,
});
const tenantsSchema = z.array(z.object({ id: z.string().transform((text) => tenantId(text)) }));
const namesSchema = z
  .object({ cluster_id: z.string().nullable(), names: z.record(z.string(), z.string()) })
  .transform(({ cluster_id: clusterId, names }) => ({
    clusterId,
    names: new Map(Object.entries(names).map(([id, name]) => [timelineId(id), name])),
  }));
const layersSchema = z.object({
  in_memory_layers: z.array(z.object({ lsn_start: z.string(), lsn_end: z.string().nullish() })),
  historic_layers: z.array(
    z.object({
      kind: z.enum(['Delta', 'Image']),
      layer_file_name: z.string(),
      layer_file_size: z.number(),
      lsn_start: z.string(),
      lsn_end: z.string().nullish(),
    }),
  ),
});
const timeText = z.string().transform((text) => Date.parse(text));
const pointSchema = z.object({ lsn: lsnText, timestamp: timeText.nullable() });
const historySchema = z
  .object({ start: pointSchema, end: pointSchema, commits: z.array(z.object({ lsn: lsnText, timestamp: timeText })) })
  .transform(({ start, end, commits }) => ({
    start: { lsn: start.lsn, timeMs: start.timestamp },
    end: { lsn: end.lsn, timeMs: end.timestamp },
    commits: commits.map(({ lsn, timestamp }) => ({ lsn, timeMs: timestamp })),
  }));
const timestampSchema = z.object({ lsn: lsnText, kind: z.enum(['present', 'future', 'past', 'nodata']) });

/** A repository whose pageserver and safekeepers listen on the ports of its settings. */
export class HttpStorage implements TransferStorage {
  readonly #api: HttpApi;
  readonly #pagesUrl: string;
  readonly #token: TokenSource;
  readonly safekeepers: SafekeeperClients;

  constructor(repository: Repository) {
    this.#pagesUrl = wsUrl(repository.connectHost, repository.readConfig().pageserver.pgPort, pagestreamPath);
    this.#token = repository.tokensFor('pageserver');
    this.#api = HttpApi.ofPageserver(repository);
    this.safekeepers = new SafekeeperClients(repository);
  }

  get importPeer(): HttpImportPeer {
    return this.#api.importPeer;
  }

  async openPages(id: TenantTimelineId): Promise<{ pages: PageService; close(): void }> {
    // Over HTTP first: whose port it is, and whether there is such a timeline.
    await this.getTimeline(id);
    // Most commands read no pages, and start faster without.
    const [{ RemotePageService }, { connectWebSocket }] = await Promise.all([
      import('../../engine/remote/remote-page-service.ts'),
      import('../net/ws-channel.ts'),
    ]);
    const pages = new RemotePageService({
      id,
      connect: () => connectWebSocket(this.#pagesUrl, this.#token()),
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    return { pages, close: () => pages.close() };
  }

  async checkStatus(): Promise<void> {
    await this.#api.call(z.object({ id: z.number() }), 'GET', '/v1/status');
  }

  async listTenants(): Promise<TenantId[]> {
    const tenants = await this.#api.call(tenantsSchema, 'GET', '/v1/tenant');
    return tenants.map(({ id }) => id);
  }

  async createTenant(id: TenantId): Promise<void> {
    await this.#api.call(z.unknown(), 'POST', '/v1/tenant', { new_tenant_id: id });
  }

  async branchNames(tenant: TenantId): Promise<BranchNames> {
    return this.#api.call(namesSchema, 'GET', `/v1/tenant/${tenant}/branch_names`);
  }

  async setBranchNames(tenant: TenantId, { clusterId, names }: BranchNames): Promise<void> {
    const body = { cluster_id: clusterId, names: Object.fromEntries(names) };
    await this.#api.call(z.unknown(), 'PUT', `/v1/tenant/${tenant}/branch_names`, body);
  }

  async listTimelines(tenant: TenantId): Promise<TimelineInfo[]> {
    const path = `/v1/tenant/${tenant}/timeline`;
    const timelines = await this.#api.call(z.array(timelineSchema), 'GET', path).catch((error: unknown) => {
      if (!isPageliteError(error, 'notFound')) throw error;
      throw new PageliteError('notFound', `${error.message}. pagelite tenant list shows all`, error.data);
    });
    return timelines.map(timelineInfo);
  }

  async getTimeline({ tenantId: tenant, timelineId: timeline }: TenantTimelineId): Promise<TimelineInfo> {
    return timelineInfo(await this.#api.call(timelineSchema, 'GET', `/v1/tenant/${tenant}/timeline/${timeline}`));
  }

  async createTimeline(
    { tenantId: tenant, timelineId: timeline }: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
  ): Promise<TimelineInfo> {
    const body = {
      new_timeline_id: timeline,
      ancestor_timeline_id: ancestor?.timelineId ?? null,
      ancestor_start_lsn: ancestor?.lsn != null ? formatLsn(ancestor.lsn) : null,
    };
    return timelineInfo(await this.#api.call(timelineSchema, 'POST', `/v1/tenant/${tenant}/timeline`, body));
  }

  /** What branched from it stays. Its WAL is read again from then on. */
  async rebuildTimeline(
    { tenantId: tenant, timelineId: timeline }: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null,
  ): Promise<void> {
    const path = `/v1/tenant/${tenant}/timeline/${timeline}/rebuild`;
    const body = ancestor && {
      ancestor_timeline_id: ancestor.timelineId,
      ancestor_start_lsn: formatLsn(ancestor.lsn),
    };
    await this.#api.call(z.unknown(), 'PUT', path, body ?? {}, longRequestTimeoutMs);
  }

  async findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampAnswer> {
    const query = new URLSearchParams({ timestamp: formatTimestamp(timestampMs) });
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/get_lsn_by_timestamp?${query}`;
    return this.#api.call(timestampSchema, 'GET', path);
  }

  async commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory> {
    const query = new URLSearchParams({
      count_max: String(countMax),
      ...(until !== null && { until_lsn: formatLsn(until) }),
    });
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/commit_history?${query}`;
    return this.#api.call(historySchema, 'GET', path);
  }

  /** A pageserver that does not have it any more was asked before: its WAL is what is left. */
  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    await this.forgetTimeline(id);
    await this.safekeepers.deleteTimeline(id);
  }

  /** Its layers go; its WAL stays. */
  async forgetTimeline(id: TenantTimelineId): Promise<void> {
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;
    await this.#api.call(z.unknown(), 'DELETE', path).catch((error: unknown) => {
      if (!isPageliteError(error, 'notFound')) throw error;
    });
  }

  async listLayers(id: TenantTimelineId): Promise<LayerSummary> {
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/layer`;
    const { in_memory_layers, historic_layers } = await this.#api.call(layersSchema, 'GET', path);
    return {
      inMemory: in_memory_layers.map(({ lsn_start, lsn_end }) => ({ startLsn: lsn_start, endLsn: lsn_end ?? null })),
      files: historic_layers.map((layer) => ({
        name: layer.layer_file_name,
        bytes: layer.layer_file_size,
        kind: layer.kind === 'Delta' ? 'delta' : 'image',
        startLsn: layer.lsn_start,
        endLsn: layer.lsn_end ?? layer.lsn_start,
      })),
    };
  }

  /** Bytes [start, end) of a layer file. */
  async readLayer(
    id: TenantTimelineId,
    name: string,
    { start, end }: { start: number; end: number },
  ): Promise<Uint8Array> {
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/layer/${name}/content`;
    return this.#api.bytes(path, { range: `bytes=${start}-${end - 1}` });
  }

  /** Prometheus texts of all servers. One that is away has none. */
  async metrics(): Promise<{ readonly node: string; readonly text: string }[]> {
    const apis = [this.#api, ...this.safekeepers.apis];
    const texts = await Promise.allSettled(
      apis.map(async (api) => ({ node: api.server, text: await api.text('/metrics') })),
    );
    return texts.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  }

  getCommitLsn(id: TenantTimelineId): Promise<Lsn | null> {
    return this.safekeepers.getCommitLsn(id);
  }
}

function timelineInfo(info: z.infer<typeof timelineSchema>): TimelineInfo {
  const { ancestor_timeline_id: ancestor, ancestor_lsn: lsn, state } = info;
  return {
    timelineId: info.timeline_id,
    ancestor: ancestor && lsn !== null && lsn !== undefined ? { timelineId: ancestor, lsn } : null,
    lastRecordLsn: info.last_record_lsn ?? null,
    prevRecordLsn: info.prev_record_lsn ?? null,
    startLsn: info.min_readable_lsn ?? null,
    logicalBytes: info.current_logical_size ?? null,
    layerBytes: info.current_physical_size ?? null,
    isArchived: info.is_archived,
    broken: typeof state === 'string' ? null : state.Broken.reason,
  };
}
