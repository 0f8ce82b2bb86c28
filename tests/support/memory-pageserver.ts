/** A real Pageserver over a store in memory and WAL that a test hands out, with its HTTP API in this process. */
import type { Hono } from 'hono';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Log, ObjectStore, WalRedo } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { Pageserver, type PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { pageserverHttpApi } from '../../server/pageserver/http-api.ts';
import { RedoCounters } from '../../server/pageserver/metered-redo.ts';
import { PageserverMetrics } from '../../server/pageserver/pageserver-metrics.ts';
import { addProcessMetrics, Metrics } from '../../server/process/metrics.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { CapturedWal } from './captured-wal.ts';
import { ModelRedo } from './model-redo.ts';
import { testTemplate } from './test-template.ts';

export interface MemoryPageserverOptions {
  readonly redo?: WalRedo;
  readonly limits?: Partial<PageserverLimits>;
  readonly store?: ObjectStore;
  /** Of those that have a store in common. */
  readonly nodeId?: NodeId;
  readonly log?: Log;
}

export class MemoryPageserver {
  readonly pageserver: Pageserver;
  readonly wal: CapturedWal;
  readonly metrics = new Metrics();
  readonly counted: PageserverMetrics;
  readonly api: Hono;

  private constructor(pageserver: Pageserver, wal: CapturedWal, log: Log) {
    this.pageserver = pageserver;
    this.wal = wal;
    addProcessMetrics(this.metrics);
    this.counted = new PageserverMetrics(this.metrics, pageserver, new RedoCounters());
    this.api = pageserverHttpApi({ nodeId: 1 as NodeId, pageserver, metrics: this.metrics, random: nodeRandom, log });
  }

  static async open(options: MemoryPageserverOptions = {}): Promise<MemoryPageserver> {
    const { log = silentLog, limits, redo = new ModelRedo() } = options;
    const wal = new CapturedWal();
    const template = await testTemplate();
    const pageserver = await Pageserver.open({
      store: options.store ?? new MemoryObjectStore(),
      nodeId: options.nodeId ?? null,
      wal: [wal],
      redo,
      template: async () => template,
      clock: nodeClock,
      random: nodeRandom,
      log,
      ...(limits && { limits }),
      yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
    });
    return new MemoryPageserver(pageserver, wal, log);
  }

  async createTimeline(): Promise<TenantTimelineId> {
    const id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
    await this.pageserver.createTenant(id.tenantId);
    await this.pageserver.createTimeline(id, null);
    return id;
  }

  async branch(of: TenantTimelineId, lsn: Lsn | null): Promise<TenantTimelineId> {
    const id = { tenantId: of.tenantId, timelineId: newTimelineId(nodeRandom) };
    await this.pageserver.createTimeline(id, { timelineId: of.timelineId, lsn });
    return id;
  }

  async call(method: string, path: string, init: RequestInit = {}): Promise<Response> {
    return this.api.request(path, { ...init, method });
  }

  close(): Promise<void> {
    return this.pageserver.close();
  }
}

export const timelinePath = (id: TenantTimelineId): string => `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;
