/**
 * The HTTP APIs of the pageserver (server/pageserver/http-api.ts) and of a safekeeper (server/safekeeper/http-api.ts) as the command line uses them.
 *
 * Errors of the other side come back with their kind; one that does not answer is `unavailable`, with the command that starts it.
 *
 * Invariant: a request reaches the process that the repository's pid file names, or nobody. Its port may be another repository's by now.
 */
import { z } from 'zod';
import { type ErrorKind, errorKinds, isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { formatTimestamp } from '../../engine/model/timestamp.ts';
import type { LayerSummary } from '../../engine/protocol/control-api.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { Log, PageService } from '../../engine/services.ts';
import { HttpImportPeer } from '../../engine/transfer/http-import-peer.ts';
import { connectWebSocket } from '../net/ws-channel.ts';
import { pagestreamPath } from '../pageserver/pagestream-listener.ts';
import { forPidHeader } from '../process/http-errors.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import { runningPid } from '../process/pid-file.ts';
import type { TimestampAnswer } from './branch-point.ts';
import { localhost, type NodeConfig, type Repository } from './repository.ts';
import type { CommitHistory, TimelineInfo, TransferStorage } from './storage-api.ts';

/** Longer than anything a server waits for by itself. */
const requestTimeoutMs = 90_000;
/** Of what reads or writes a whole timeline. Node's fetch gives up by itself after five minutes. */
export const longRequestTimeoutMs = 240_000;

/** What goes wrong is told by the call that it fails. */
export const quietLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const lsnText = z.string().transform((text) => parseLsn(text));
const timelineText = z.string().transform((text) => timelineId(text));
const stateText = z.union([z.string(), z.object({ Broken: z.object({ reason: z.string() }) })]);
const timelineSchema = z.object({
  timeline_id: timelineText,
  ancestor_timeline_id: timelineText.nullish(),
  ancestor_lsn: lsnText.nullish(),
  last_record_lsn: lsnText.optional(),
  min_readable_lsn: lsnText.optional(),
  current_logical_size: z.number().optional(),
  current_physical_size: z.number().optional(),
  is_archived: z.boolean().default(false),
  state: stateText,
});
const tenantsSchema = z.array(z.object({ id: z.string().transform((text) => tenantId(text)) }));
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
const walTimelinesSchema = z.array(
  z
    .object({ tenant_id: z.string(), timeline_id: timelineText })
    .transform(({ tenant_id: tenant, timeline_id: timeline }) => ({
      tenantId: tenantId(tenant),
      timelineId: timeline,
    })),
);
const timestampSchema = z.object({ lsn: lsnText, kind: z.enum(['present', 'future', 'past', 'nodata']) });

/** One server's HTTP API. */
export class HttpApi {
  readonly #base: string;
  readonly #server: string;
  readonly #pidFile: string;

  constructor(server: string, port: number, pidFile: string) {
    this.#server = server;
    this.#pidFile = pidFile;
    this.#base = `http://${localhost}:${port}`;
  }

  static ofPageserver(repository: Repository): HttpApi {
    return new HttpApi('pageserver', repository.readConfig().pageserver.httpPort, repository.pageserverPidFile);
  }

  /** For messages: "pageserver". */
  get server(): string {
    return this.#server;
  }

  /** A body that is no JSON. */
  async text(path: string): Promise<string> {
    const response = await this.#ask('GET', path);
    const text = await response.text();
    if (!response.ok) throw errorOf(this.#server, response.status, asJson(text), text);
    return text;
  }

  async bytes(path: string, headers: Readonly<Record<string, string>>): Promise<Uint8Array> {
    const response = await this.#ask('GET', path, undefined, undefined, headers);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    const text = await response.text();
    throw errorOf(this.#server, response.status, asJson(text), text);
  }

  async call<S extends z.ZodType>(
    schema: S,
    method: string,
    path: string,
    body?: object,
    timeoutMs = requestTimeoutMs,
  ): Promise<z.infer<S>> {
    const response = await this.#ask(method, path, body, undefined, {}, timeoutMs);
    const text = await response.text();
    const json = asJson(text);
    if (!response.ok) throw errorOf(this.#server, response.status, json, text);
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    throw new PageliteError(
      'unavailable',
      `the ${this.#server} at ${this.#base} answered ${method} ${path} with "${text}"`,
    );
  }

  /** As engine/transfer speaks to a pageserver. */
  get importPeer(): HttpImportPeer {
    return new HttpImportPeer({
      call: async (method, path, body, signal) => {
        const response = await this.#ask(method, path, body ?? undefined, signal);
        const text = await response.text();
        const json = asJson(text);
        if (!response.ok) throw errorOf(this.#server, response.status, json, text);
        return typeof json === 'object' && json !== null ? json : {};
      },
      unexpected: (answer) =>
        new PageliteError('unavailable', `the ${this.#server} at ${this.#base} answered ${JSON.stringify(answer)}`),
    });
  }

  async #ask(
    method: string,
    path: string,
    body?: object | string | Uint8Array<ArrayBuffer>,
    signal?: AbortSignal,
    headers: Readonly<Record<string, string>> = {},
    timeoutMs = requestTimeoutMs,
  ): Promise<Response> {
    const pid = runningPid(this.#pidFile);
    if (pid === null) throw this.#unanswered('it is not running');
    const response = await this.#fetch(method, path, pid, timeoutMs, body, signal, headers);
    if (response.status === 421) throw this.#unanswered('another process has its port');
    return response;
  }

  async #fetch(
    method: string,
    path: string,
    pid: number,
    timeoutMs: number,
    body?: object | string | Uint8Array<ArrayBuffer>,
    signal?: AbortSignal,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Response> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const isBytes = body instanceof Uint8Array;
    const type = isBytes ? 'application/octet-stream' : 'application/json';
    try {
      return await fetch(`${this.#base}${path}`, {
        method,
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
        headers: { ...more, [forPidHeader]: String(pid), ...(body !== undefined && { 'content-type': type }) },
        ...(body !== undefined && { body: isBytes || typeof body === 'string' ? body : JSON.stringify(body) }),
      });
    } catch (cause) {
      if (signal?.aborted) throw signal.reason;
      if (timeout.aborted) throw this.#late(timeoutMs, cause);
      throw this.#unanswered(messageOf((cause as { cause?: unknown }).cause ?? cause), cause);
    }
  }

  #late(timeoutMs: number, cause: unknown): PageliteError {
    const text = `the ${this.#server} at ${this.#base} has not answered in ${timeoutMs / 1000} s. It may still be at it`;
    return new PageliteError('unavailable', text, { address: this.#base, isLate: true }, { cause });
  }

  #unanswered(why: string, cause?: unknown): PageliteError {
    const text = `the ${this.#server} does not answer at ${this.#base} (${why}). Start it with: pagelite start`;
    return new PageliteError('unavailable', text, { address: this.#base }, { cause });
  }
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function errorOf(server: string, status: number, json: unknown, text: string): PageliteError {
  const { msg, kind, data } = (json ?? {}) as { msg?: string; kind?: ErrorKind; data?: object };
  const known = kind !== undefined && errorKinds.includes(kind);
  return new PageliteError(known ? kind : 'unavailable', msg ?? `the ${server} answered ${status}: ${text}`, {
    ...data,
    status,
  });
}

/** A repository whose pageserver and safekeepers listen on the ports of its settings. */
export class HttpStorage implements TransferStorage {
  readonly #api: HttpApi;
  readonly #pagesPort: number;
  readonly #safekeepers: readonly SafekeeperClient[];

  constructor(repository: Repository) {
    const config = repository.readConfig();
    this.#pagesPort = config.pageserver.pgPort;
    this.#api = HttpApi.ofPageserver(repository);
    this.#safekeepers = config.safekeepers.map(
      (node) => new SafekeeperClient(node, repository.safekeeperPidFile(node.id)),
    );
  }

  get importPeer(): HttpImportPeer {
    return this.#api.importPeer;
  }

  async openPages(id: TenantTimelineId): Promise<{ pages: PageService; close(): void }> {
    // Over HTTP first: whose port it is, and whether there is such a timeline.
    await this.getTimeline(id);
    const pages = new RemotePageService({
      id,
      connect: () => connectWebSocket(`ws://${localhost}:${this.#pagesPort}${pagestreamPath}`),
      clock: nodeClock,
      random: nodeRandom,
      log: quietLog,
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
    const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;
    await this.#api.call(z.unknown(), 'DELETE', path).catch((error: unknown) => {
      if (!isPageliteError(error, 'notFound')) throw error;
    });
    await Promise.all(this.#safekeepers.map((safekeeper) => safekeeper.deleteTimeline(id)));
  }

  /** Removes what the safekeepers have of a tenant. */
  async deleteWal(tenant: TenantId): Promise<void> {
    await Promise.all(
      this.#safekeepers.map(async (safekeeper) => {
        for (const id of await safekeeper.listTimelines()) {
          if (id.tenantId === tenant) await safekeeper.deleteTimeline(id);
        }
      }),
    );
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
    const apis = [this.#api, ...this.#safekeepers.map(({ api }) => api)];
    const texts = await Promise.allSettled(
      apis.map(async (api) => ({ node: api.server, text: await api.text('/metrics') })),
    );
    return texts.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  }

  /** What a quorum has; one safekeeper may not know the latest of it. */
  async getCommitLsn(id: TenantTimelineId): Promise<Lsn | null> {
    const answers = await Promise.all(this.#safekeepers.map((safekeeper) => safekeeper.getCommitLsn(id)));
    const known = answers.filter((lsn) => lsn !== null);
    return known.length === 0 ? null : (Math.max(...known) as Lsn);
  }
}

function timelineInfo(info: z.infer<typeof timelineSchema>): TimelineInfo {
  const { ancestor_timeline_id: ancestor, ancestor_lsn: lsn, state } = info;
  return {
    timelineId: info.timeline_id,
    ancestor: ancestor && lsn !== null && lsn !== undefined ? { timelineId: ancestor, lsn } : null,
    lastRecordLsn: info.last_record_lsn ?? null,
    startLsn: info.min_readable_lsn ?? null,
    logicalBytes: info.current_logical_size ?? null,
    layerBytes: info.current_physical_size ?? null,
    isArchived: info.is_archived,
    broken: typeof state === 'string' ? null : state.Broken.reason,
  };
}

class SafekeeperClient {
  readonly #api: HttpApi;

  constructor(config: NodeConfig, pidFile: string) {
    this.#api = new HttpApi(`safekeeper ${config.id}`, config.httpPort, pidFile);
  }

  get api(): HttpApi {
    return this.#api;
  }

  listTimelines(): Promise<TenantTimelineId[]> {
    return this.#api.call(walTimelinesSchema, 'GET', '/v1/tenant/timeline');
  }

  async deleteTimeline({ tenantId: tenant, timelineId: timeline }: TenantTimelineId): Promise<void> {
    await this.#api.call(z.unknown(), 'DELETE', `/v1/tenant/${tenant}/timeline/${timeline}`);
  }

  /** Null if no compute has written to the timeline yet. */
  async getCommitLsn({ tenantId: tenant, timelineId: timeline }: TenantTimelineId): Promise<Lsn | null> {
    const schema = z.object({ commit_lsn: lsnText });
    try {
      return (await this.#api.call(schema, 'GET', `/v1/tenant/${tenant}/timeline/${timeline}`)).commit_lsn;
    } catch (error) {
      if (isPageliteError(error, 'notFound')) return null;
      throw error;
    }
  }
}
