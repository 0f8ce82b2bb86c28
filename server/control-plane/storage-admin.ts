/**
 * What operators ask of a pageserver beyond branches: where tenants are, their settings, how timelines are stored. Over HTTP only: there has to be a
 * pageserver process (or `pagelite dev`).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import type { TenantId, TenantTimelineId } from '../../engine/model/ids.ts';
import { newestClaim } from '../../engine/timeline/tenant-claims.ts';
import { missingBeginning, missingForGood } from './branch-beginning.ts';
import { listEndpoints, statusOf } from './endpoints.ts';
import { HttpApi, longRequestTimeoutMs } from './http-api.ts';
import { openTruth } from './open-truth.ts';
import type { Repository } from './repository.ts';
import { SafekeeperClients } from './safekeeper-clients.ts';
import type { TimelineInfo } from './storage-api.ts';
import { HttpStorage } from './storage-clients.ts';
import { forgetNames, nameAttached, storeNames } from './stored-names.ts';
import type { TakenOverWal, TakeOverOptions } from './take-over-wal.ts';

const nothing = z.unknown();
const settings = z.record(z.string(), z.union([z.string(), z.number()]));
const tenantSettings = z.object({ tenant_specific_overrides: settings, effective_config: settings });
const storageInfo = z.object({
  gc_cutoff_lsn: z.string(),
  space_cutoff_lsn: z.string(),
  time_cutoff_lsn: z.string().nullable(),
  retained: z.array(
    z.object({
      lsn: z.string(),
      reason: z.enum(['branch', 'lease', 'read']),
      timeline_id: z.string().optional(),
      valid_until: z.string().optional(),
    }),
  ),
  uploads: z.object({ layers: z.number(), bytes: z.number(), deletes: z.number(), last_error: z.string().nullable() }),
  compaction: z.object({
    running: z.boolean(),
    job: z.object({ kind: z.string(), bytes_written: z.number() }).nullable(),
    l0_layers: z.number(),
    last_error: z.string().nullable(),
    blocked: z.array(z.object({ kind: z.string(), what: z.string(), error: z.string(), retry_at: z.string() })),
  }),
});
const gcResult = z.object({
  layers_total: z.number(),
  layers_removed: z.number(),
  bytes_removed: z.number(),
  cutoff_lsn: z.string().nullable(),
  skipped: z.string().nullable(),
});

export type TenantSettings = z.infer<typeof tenantSettings>;
export type TimelineStorageInfo = z.infer<typeof storageInfo>;
export type GarbageCollected = z.infer<typeof gcResult>;

const watchPauseMs = 500;

export class StorageAdmin {
  readonly #api: HttpApi;

  constructor(repository: Repository) {
    this.#api = HttpApi.ofPageserver(repository);
  }

  attachTenant(id: TenantId): Promise<unknown> {
    return this.#api.call(
      nothing,
      'PUT',
      `/v1/tenant/${id}/location_config`,
      { mode: 'AttachedSingle' },
      longRequestTimeoutMs,
    );
  }

  detachTenant(id: TenantId): Promise<unknown> {
    return this.#api.call(
      nothing,
      'PUT',
      `/v1/tenant/${id}/location_config`,
      { mode: 'Detached' },
      longRequestTimeoutMs,
    );
  }

  deleteTenant(id: TenantId): Promise<unknown> {
    return this.#api.call(nothing, 'DELETE', `/v1/tenant/${id}`, undefined, longRequestTimeoutMs);
  }

  tenantSettings(id: TenantId): Promise<TenantSettings> {
    return this.#api.call(tenantSettings, 'GET', `/v1/tenant/${id}/config`);
  }

  /** Null: as if it were not set. */
  changeSettings(id: TenantId, changes: Readonly<Record<string, string | null>>): Promise<unknown> {
    return this.#api.call(nothing, 'PATCH', '/v1/tenant/config', { tenant_id: id, ...changes });
  }

  timelineStorage(id: TenantTimelineId): Promise<TimelineStorageInfo> {
    return this.#api.call(storageInfo, 'GET', `${pathOf(id)}/storage`);
  }

  /** However long it takes. `onProgress`: every now and then, what it is at. Throws `corrupt` if something is damaged, and the rest is compacted. */
  async compact(
    id: TenantTimelineId,
    isForced: boolean,
    onProgress: (job: NonNullable<TimelineStorageInfo['compaction']['job']>) => void,
  ): Promise<void> {
    const stop = new AbortController();
    const watching = this.#watch(id, stop.signal, onProgress);
    try {
      // What is in memory first.
      await this.#insist(`${pathOf(id)}/checkpoint?force_image_layer_creation=${isForced}`);
      await this.#insist(`${pathOf(id)}/compact`);
    } finally {
      stop.abort();
      await watching;
    }
    const { blocked } = (await this.timelineStorage(id)).compaction;
    if (blocked.length === 0) return;
    const lines = blocked.map((part) => `\n  ${describeBlocked(part)}`);
    throw new PageliteError('corrupt', `compacted, but for what is damaged:${lines.join('')}`);
  }

  collectGarbage(id: TenantTimelineId): Promise<GarbageCollected> {
    return this.#api.call(gcResult, 'PUT', `${pathOf(id)}/do_gc`, undefined, longRequestTimeoutMs);
  }

  detachAncestor(id: TenantTimelineId): Promise<unknown> {
    return this.#insist(`${pathOf(id)}/detach_ancestor`);
  }

  setArchived(id: TenantTimelineId, isArchived: boolean): Promise<unknown> {
    const state = isArchived ? 'Archived' : 'Unarchived';
    return this.#api.call(nothing, 'PUT', `${pathOf(id)}/archival_config`, { state }, longRequestTimeoutMs);
  }

  /** Of what goes on when the asker has gone, and is done at once when it is done already. */
  async #insist(path: string): Promise<void> {
    for (;;) {
      try {
        await this.#api.call(nothing, 'PUT', path, undefined, longRequestTimeoutMs);
        return;
      } catch (error) {
        if (!isPageliteError(error, 'unavailable') || error.data.isLate !== true) throw error;
      }
    }
  }

  async #watch(id: TenantTimelineId, signal: AbortSignal, onProgress: Parameters<StorageAdmin['compact']>[2]) {
    for (;;) {
      await sleep(watchPauseMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      // What is wrong is told by the request that is watched.
      const info = await this.timelineStorage(id).catch(() => null);
      if (info?.compaction.job) onProgress(info.compaction.job);
    }
  }
}

export function describeBlocked({ kind, what, error }: TimelineStorageInfo['compaction']['blocked'][number]): string {
  return kind === 'l0_compaction' ? `layer ${what} is not merged: ${error}` : `keys ${what} get no images: ${error}`;
}

const pathOf = ({ tenantId, timelineId }: TenantTimelineId): string => `/v1/tenant/${tenantId}/timeline/${timelineId}`;

/**
 * Attaches a tenant from the remote storage, names its timelines, and takes over what WAL of it is there beyond its layers. `takenFromNodeId`: who had it, and did not
 * give it up.
 */
export async function attachTenant(
  repository: Repository,
  tenant: TenantId,
  options: TakeOverOptions,
): Promise<{ readonly takenFromNodeId: number | null; readonly taken: readonly TakenOverWal[] }> {
  const claim = await newestClaim(await openTruth(repository), tenant);
  const before = claim?.nodeId ?? null;
  const isOwn = before === repository.readConfig().pageserver.id;
  // Others may have written since: WAL that the safekeepers have from before is stored, or was given up, and must not be taken for what follows.
  if (claim !== null && !isOwn) await new SafekeeperClients(repository).deleteWal(tenant);
  await new StorageAdmin(repository).attachTenant(tenant);
  const storage = new HttpStorage(repository);
  const cluster = await nameAttached(storage, repository, tenant, { hadOther: !isOwn, warn: options.warn });
  // Whoever has detached it has stored all of it.
  const isWhole = claim !== null && before === null;
  const { taken, isComplete } = isWhole
    ? { taken: [], isComplete: true }
    : await (await import('./take-over-wal.ts')).takeOverWal(storage, repository, { tenant, cluster }, options);
  // From now on it is ours: whoever attaches it next goes on with our safekeepers' WAL.
  if (isComplete) await storeNames(storage, repository, tenant);
  const config = repository.readConfig();
  const timelines = new Map((await storage.listTimelines(tenant)).map((info) => [info.timelineId, info]));
  const isBehind = (timeline: TimelineInfo) => {
    const parent = timeline.ancestor && timelines.get(timeline.ancestor.timelineId);
    return parent ? missingBeginning(config, tenant, timeline, parent) !== null : false;
  };
  const behind = [...timelines.values()].filter(isBehind);
  // The parent may still be reading its WAL.
  const missing = behind.map(({ timelineId }) => missingForGood(storage, config, { tenantId: tenant, timelineId }));
  for (const text of await Promise.all(missing)) {
    if (text !== null) options.warn(`${text}: it cannot be opened, nor what branched from it`);
  }
  return { takenFromNodeId: isOwn ? null : before, taken };
}

/** Everything of it is in the remote storage afterwards, and any pageserver may attach it. Its endpoints are stopped before; names stay. */
export async function detachTenant(repository: Repository, tenant: TenantId): Promise<void> {
  checkNoEndpoints(repository, tenant);
  await new StorageAdmin(repository).detachTenant(tenant);
}

export async function deleteTenant(repository: Repository, tenant: TenantId): Promise<void> {
  checkNoEndpoints(repository, tenant);
  await new StorageAdmin(repository).deleteTenant(tenant);
  await new SafekeeperClients(repository).deleteWal(tenant);
  await repository.update((config) => {
    forgetNames(config, tenant);
    if (config.defaultTenantId === tenant) config.defaultTenantId = null;
  });
}

export function checkNoEndpoints(repository: Repository, tenant: TenantId, timeline: string | null = null): void {
  const running = listEndpoints(repository).filter(
    (endpoint) =>
      endpoint.config.tenantId === tenant &&
      (timeline === null || endpoint.config.timelineId === timeline) &&
      statusOf(endpoint) === 'running',
  );
  if (running.length === 0) return;
  const names = running.map(({ name }) => name);
  const hint = `Stop it first: pagelite endpoint stop ${names[0]}`;
  throw new PageliteError('invalid', `endpoint ${names.join(', ')} runs there. ${hint}`, { endpoint: names[0]! });
}
