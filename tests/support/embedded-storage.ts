/**
 * The storage thread of the embedded rig: a pageserver, a safekeeper and one I/O host for each compute, all in memory. Started as a worker
 * by embedded-rig.ts, which calls these methods.
 */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { type ErrorJson, PageliteError } from '../../engine/errors.ts';
import { newTenantId, newTimelineId, nodeId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { PageService, TimelineStatus, WalRedo, WalService } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import {
  type LayerInfo,
  Pageserver,
  type PageserverLimits,
  type PageserverOptions,
} from '../../engine/timeline/pageserver.ts';
import { serveRpc } from '../../server/library/worker-rpc.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { createLog, type LogLevel } from '../../server/process/log.ts';
import { nodeClock, nodeRandom } from '../../server/process/node-host.ts';
import type { PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';

export interface StorageData {
  readonly artefacts: PGliteArtefacts;
  readonly logLevel: LogLevel;
  readonly limits: Partial<PageserverLimits>;
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
  /** Everything is in layer files, and image layers are made where they pay. */
  /** Everything is in files, merged; or written anew as images. */
  settle(timeline: TimelineId, force: 'merge' | 'images'): Promise<void>;
  /** A new pageserver over the same store and safekeeper, as after a restart: its caches are empty. Hosts that run are left without pages. */
  reopenPageserver(limits?: Partial<PageserverLimits>): Promise<void>;
  layers(timeline: TimelineId): Promise<LayerInfo>;
  listRels(timeline: TimelineId, lsn: Lsn, spc: number, db: number): Promise<{ rel: RelTag; size: number }[]>;
  /** Rebuilt pages, and in which of them redo has had a part. */
  rebuildPages(
    timeline: TimelineId,
    lsn: Lsn,
    rel: RelTag,
    firstBlock: number,
    blockCount: number,
  ): Promise<{ pages: Uint8Array; redone: number[] }>;
  counters(): Promise<StorageCounters>;
  /** From now on the pageserver gets WAL this much later than it is committed. */
  lag(ms: number): Promise<void>;
  /** The safekeeper's answers to proposers are lost from now on, and `ms` later the host is closed. */
  loseCommits(host: number, ms: number): Promise<void>;
  /** From now on reads of pages fail with this error; null: they work again. */
  failReads(error: ErrorJson | null): Promise<void>;
  close(): Promise<void>;
};

async function openStorage(data: StorageData): Promise<StorageMethods> {
  const { artefacts, logLevel } = data;
  const log = createLog('storage', { level: logLevel });
  const template = await loadTenantTemplate({ dir: join(tmpdir(), 'pagelite-tests'), artefacts, log });
  const redo = await PostgresRedo.create({ template, artefacts, log });
  const fault: Fault = { error: null, lagMs: 0, deaf: false };
  const safekeeper = new Safekeeper({ nodeId: nodeId(1), storage: new MemorySafekeeperStorage(), log });
  const store = new MemoryObjectStore();
  const redone = new Set<number>();
  const options: PageserverOptions = {
    store,
    nodeId: nodeId(1),
    wal: [lagging(safekeeper, fault)],
    redo: watched(redo, redone),
    template: async () => template,
    clock: nodeClock,
    random: nodeRandom,
    log,
    yieldTurn: () => turn(),
    limits: data.limits,
  };
  let pageserver = await Pageserver.open(options);
  const tenantId = newTenantId(nodeRandom);
  await pageserver.createTenant(tenantId);
  const hosts: (IoHost | null)[] = [];
  const counters: StorageCounters = { readRequests: 0, pages: 0, relSizes: 0, relLists: 0 };
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
      const pages = counted(await pageserver.openPages(idOf(timelineId)), counters, fault);
      const host = new IoHost({
        pages,
        wal: [losing(safekeeper, fault)],
        clock: nodeClock,
        random: nodeRandom,
        log,
        mode,
      });
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
    async settle(timelineId, force) {
      await pageserver.flush(idOf(timelineId));
      await pageserver.compact(idOf(timelineId), force);
    },
    async reopenPageserver(limits = {}) {
      await pageserver.close();
      pageserver = await Pageserver.open({ ...options, limits });
    },
    layers: (timelineId) => pageserver.listLayers(idOf(timelineId)),
    async listRels(timelineId, lsn, spc, db) {
      const pages = await pageserver.openPages(idOf(timelineId));
      return pages.listRels({ requestLsn: lsn, notModifiedSince: lsn }, spc, db);
    },
    async rebuildPages(timelineId, lsn, rel, firstBlock, blockCount) {
      const pages = await pageserver.openPages(idOf(timelineId));
      redone.clear();
      const at = { requestLsn: lsn, notModifiedSince: lsn };
      return { pages: await pages.getPages(at, rel, firstBlock, blockCount), redone: [...redone] };
    },
    counters: async () => ({ ...counters }),
    async lag(ms) {
      fault.lagMs = ms;
    },
    async loseCommits(host, ms) {
      fault.deaf = true;
      void nodeClock.sleep(ms).then(async () => {
        await hosts[host]?.close();
        fault.deaf = false;
      });
    },
    async failReads(error) {
      fault.error = error && PageliteError.fromJSON(error);
    },
    async close() {
      for (const host of hosts) await host?.close();
      await pageserver.close();
      await redo.close();
      await safekeeper.close();
    },
  };
}

/** Notes the blocks it redoes. Outlives the pageservers that it serves one after the other. */
function watched(redo: WalRedo, redone: Set<number>): WalRedo {
  return {
    redoPage(request) {
      redone.add(request.block);
      return redo.redoPage(request);
    },
    ready: () => redo.ready(),
    close: async () => {},
  };
}

interface Fault {
  error: PageliteError | null;
  lagMs: number;
  deaf: boolean;
}

/** The safekeeper as a compute's host sees it. */
function losing(wal: WalService, fault: Fault): WalService {
  return {
    nodeId: wal.nodeId,
    connectProposer(id) {
      const channel = wal.connectProposer(id);
      return {
        send: (message) => channel.send(message),
        get bufferedBytes() {
          return channel.bufferedBytes;
        },
        onMessage: (handler) =>
          channel.onMessage((message) => {
            if (!fault.deaf) handler(message);
          }),
        onClose: (handler) => channel.onClose(handler),
        close: (error) => channel.close(error),
      };
    },
    getStatus: (id) => wal.getStatus(id),
    reportConsistent: (id, lsn) => wal.reportConsistent(id, lsn),
    readWal: (id, startLsn, signal, term) => wal.readWal(id, startLsn, signal, term),
  };
}

/** The safekeeper as the pageserver sees it. */
function lagging(wal: WalService, fault: Fault): WalService {
  return {
    nodeId: wal.nodeId,
    connectProposer: (id) => wal.connectProposer(id),
    getStatus: (id) => wal.getStatus(id),
    reportConsistent: (id, lsn) => wal.reportConsistent(id, lsn),
    async *readWal(id, startLsn, signal, term) {
      for await (const chunk of wal.readWal(id, startLsn, signal, term)) {
        if (fault.lagMs > 0) await nodeClock.sleep(fault.lagMs);
        yield chunk;
      }
    },
  };
}

function counted(pages: PageService, counters: StorageCounters, fault: Fault): PageService {
  return {
    id: pages.id,
    async getPages(at, rel, firstBlock, blockCount, signal) {
      counters.readRequests++;
      counters.pages += blockCount;
      if (fault.error) throw fault.error;
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
    leaseLsn: (lsn, signal) => pages.leaseLsn(lsn, signal),
  };
}

const methods = await openStorage(workerData as StorageData);
serveRpc(parentPort as MessagePort, methods);
parentPort!.postMessage({ kind: 'event', event: 'ready' });
