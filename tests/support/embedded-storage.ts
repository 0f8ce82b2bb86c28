/**
 * The storage thread of the embedded rig: a pageserver, a safekeeper and one I/O host for each compute, all in memory. Started as a worker
 * by embedded-rig.ts, which calls these methods.
 */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { newTenantId, newTimelineId, nodeId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { PageService, TimelineStatus } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { Pageserver } from '../../engine/timeline/pageserver.ts';
import { serveRpc } from '../../server/library/worker-rpc.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { createLog, type LogLevel, nodeClock, nodeRandom } from '../../server/process/node-host.ts';
import type { PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';

export interface StorageData {
  readonly artefacts: PGliteArtefacts;
  readonly logLevel: LogLevel;
}

export type HostMode = 'primary' | { readonly readOnlyAt: Lsn };

/** What computes have asked for, over all. */
export interface StorageCounters {
  readRequests: number;
  pages: number;
  relSizes: number;
  relLists: number;
}

export type StorageMethods = {
  createTimeline(): Promise<TimelineId>;
  branch(from: TimelineId, lsn: Lsn | null): Promise<TimelineId>;
  startHost(timeline: TimelineId, mode: HostMode): Promise<{ host: number; start: ComputeStart }>;
  /** What the host reports, null as long as nothing is wrong. */
  hostFailure(host: number): Promise<string | null>;
  closeHost(host: number): Promise<void>;
  status(timeline: TimelineId): Promise<TimelineStatus>;
  commitLsn(timeline: TimelineId): Promise<Lsn>;
  catchUp(timeline: TimelineId, lsn: Lsn): Promise<void>;
  counters(): Promise<StorageCounters>;
  /** While held, reads of pages wait. */
  holdReads(held: boolean): Promise<void>;
  close(): Promise<void>;
};

async function openStorage(data: StorageData): Promise<StorageMethods> {
  const { artefacts, logLevel } = data;
  const log = createLog('storage', { level: logLevel });
  const template = await loadTenantTemplate({ dir: join(tmpdir(), 'pagelite-tests'), artefacts, log });
  const redo = await PostgresRedo.create({ template, artefacts, log });
  const safekeeper = new Safekeeper({ nodeId: nodeId(1), storage: new MemorySafekeeperStorage(), log });
  const pageserver = await Pageserver.open({
    store: new MemoryObjectStore(),
    wal: [safekeeper],
    redo,
    template: async () => template,
    clock: nodeClock,
    random: nodeRandom,
    log,
    yieldTurn: () => turn(),
  });
  const tenantId = newTenantId(nodeRandom);
  await pageserver.createTenant(tenantId);
  const hosts: (IoHost | null)[] = [];
  const counters: StorageCounters = { readRequests: 0, pages: 0, relSizes: 0, relLists: 0 };
  const gate = new Gate();
  const idOf = (timelineId: TimelineId) => ({ tenantId, timelineId });

  return {
    async createTimeline() {
      const timelineId = newTimelineId(nodeRandom);
      await pageserver.createTimeline(idOf(timelineId), null);
      return timelineId;
    },
    async branch(from, lsn) {
      const timelineId = newTimelineId(nodeRandom);
      await pageserver.createTimeline(idOf(timelineId), { timelineId: from, lsn });
      return timelineId;
    },
    async startHost(timelineId, mode) {
      const pages = counted(await pageserver.openPages(idOf(timelineId)), counters, gate);
      const host = new IoHost({ pages, wal: [safekeeper], clock: nodeClock, random: nodeRandom, log, mode });
      const start = await host.start();
      hosts.push(host);
      return { host: hosts.length - 1, start };
    },
    async hostFailure(host) {
      return hosts[host]?.failure?.message ?? null;
    },
    async closeHost(host) {
      await hosts[host]?.close();
      hosts[host] = null;
    },
    async status(timelineId) {
      return (await pageserver.openPages(idOf(timelineId))).getStatus();
    },
    async commitLsn(timelineId) {
      return (await safekeeper.getStatus(idOf(timelineId)))!.commitLsn;
    },
    catchUp: (timelineId, lsn) => pageserver.catchUp(idOf(timelineId), lsn),
    counters: async () => ({ ...counters }),
    async holdReads(held) {
      gate.held = held;
    },
    async close() {
      for (const host of hosts) await host?.close();
      await pageserver.close();
      await safekeeper.close();
    },
  };
}

class Gate {
  #held = false;
  #waiting: (() => void)[] = [];

  set held(held: boolean) {
    this.#held = held;
    if (held) return;
    for (const go of this.#waiting) go();
    this.#waiting = [];
  }

  async pass(): Promise<void> {
    if (this.#held) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

function counted(pages: PageService, counters: StorageCounters, gate: Gate): PageService {
  return {
    id: pages.id,
    async getPages(at, rel, firstBlock, blockCount, signal) {
      counters.readRequests++;
      counters.pages += blockCount;
      await gate.pass();
      return pages.getPages(at, rel, firstBlock, blockCount, signal);
    },
    getImages: (at, keys, signal) => pages.getImages(at, keys, signal),
    getRelSize(at, rel, signal) {
      counters.relSizes++;
      return pages.getRelSize(at, rel, signal);
    },
    listRels(at, spc, db, signal) {
      counters.relLists++;
      return pages.listRels(at, spc, db, signal);
    },
    getBasebackup: (lsn, signal) => pages.getBasebackup(lsn, signal),
    getStatus: (signal) => pages.getStatus(signal),
  };
}

const methods = await openStorage(workerData as StorageData);
serveRpc(parentPort as MessagePort, methods);
parentPort!.postMessage({ kind: 'event', event: 'ready' });
