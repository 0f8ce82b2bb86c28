/**
 * The storage thread of a tab, in Node: a pageserver and a safekeeper of its own over a store in memory, a server's pageserver and safekeeper
 * processes behind sockets, and I/O hosts for computes on either. Started as a worker by tab-rig.ts, which calls these methods.
 *
 * What a tab has and this has not: IndexedDB and names of branches. Push and pull are the tab's own code (browser/transfer/).
 */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { pushBranch } from '../../browser/transfer/push.ts';
import { HttpPushServer, type PushServer } from '../../browser/transfer/push-server.ts';
import { crc32c } from '../../engine/crc32c.ts';
import { PageliteError } from '../../engine/errors.ts';
import {
  newTenantId,
  newTimelineId,
  nodeId,
  type TenantId,
  type TenantTimelineId,
  type TimelineId,
} from '../../engine/model/ids.ts';
import { formatKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { formatRel } from '../../engine/model/rel.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { ObjectStore, PageService, TimelineStatus } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { type LayerInfo, Pageserver, type PageserverOptions } from '../../engine/timeline/pageserver.ts';
import { copyTimeline } from '../../engine/transfer/copy-timeline.ts';
import { timelineContents } from '../../engine/transfer/timeline-contents.ts';
import { serveRpc } from '../../server/library/worker-rpc.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import type { PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';

export interface ServerAddress {
  readonly tenantId: TenantId;
  readonly pagestreamPort: number;
  readonly httpPort: number;
  readonly safekeeperPort: number;
}

export interface TabData {
  readonly artefacts: PGliteArtefacts;
  readonly server: ServerAddress;
}

export type Place = 'tab' | 'server';

/** Where the line to the server breaks: after so many bytes were sent, or so many were written into the tab's store. */
export interface Cut {
  readonly afterBytes: number;
}

export interface PushReport {
  readonly timelineId: TimelineId;
  readonly lsn: Lsn;
}

export type TabMethods = {
  createTimeline(): Promise<TimelineId>;
  branch(from: TimelineId, lsn: Lsn | null): Promise<TimelineId>;
  /** A branch in the tab of a timeline of the server. */
  branchOfServer(from: TimelineId, lsn: Lsn | null): Promise<TimelineId>;
  startHost(place: Place, timeline: TimelineId): Promise<{ host: number; start: ComputeStart }>;
  closeHost(host: number): Promise<void>;
  push(timeline: TimelineId, as: string, cut: Cut | null): Promise<PushReport>;
  /** Bytes of layers that were sent, in all. */
  bytesSent(): Promise<number>;
  pull(timeline: TimelineId, cut: Cut | null): Promise<{ timelineId: TimelineId; lsn: Lsn }>;
  /** From now on nothing of the server is reached. */
  goOffline(): Promise<void>;
  /** A new pageserver over the same store, as after a reload. */
  reload(): Promise<void>;
  flush(timeline: TimelineId): Promise<void>;
  status(place: Place, timeline: TimelineId): Promise<TimelineStatus>;
  layers(timeline: TimelineId): Promise<LayerInfo>;
  /** Checksums of everything that the timeline holds at the LSN, by key. */
  contents(place: Place, timeline: TimelineId, lsn: Lsn): Promise<Map<string, number>>;
  close(): Promise<void>;
};

const localhost = '127.0.0.1';

async function openTab({ artefacts, server }: TabData): Promise<TabMethods> {
  const log = silentLog;
  const clock = nodeClock;
  const random = nodeRandom;
  const template = await loadTenantTemplate({ dir: join(tmpdir(), 'pagelite-tests'), artefacts, log });
  const redo = await PostgresRedo.create({ template, artefacts, log });
  const safekeeper = new Safekeeper({ nodeId: nodeId(1), storage: new MemorySafekeeperStorage(), log });
  const serverWal = connectSafekeeper({ id: nodeId(1), host: localhost, port: server.safekeeperPort });
  const plainStore = new MemoryObjectStore();
  let room = Number.POSITIVE_INFINITY;
  const store = limited(plainStore, (bytes) => {
    room -= bytes;
    return room >= 0;
  });
  let offline = false;
  const remotes: RemotePageService[] = [];
  const openServer = (timelineId: TimelineId): PageService => {
    const remote = new RemotePageService({
      id: { tenantId: server.tenantId, timelineId },
      connect: () => {
        if (offline) throw new PageliteError('unavailable', 'offline');
        return connectWebSocket(`ws://${localhost}:${server.pagestreamPort}/pagestream`);
      },
      clock,
      random,
      log,
    });
    remotes.push(remote);
    return remote;
  };
  const options: PageserverOptions = {
    store,
    nodeId: null,
    wal: [safekeeper],
    redo: { redoPage: (request) => redo.redoPage(request), ready: () => redo.ready(), close: async () => {} },
    template: async () => template,
    clock,
    random,
    log,
    yieldTurn: () => turn(),
    openRemote: ({ timelineId }) => openServer(timelineId),
  };
  let pageserver = await Pageserver.open(options);
  const ownTenant = newTenantId(random);
  await pageserver.createTenant(ownTenant);
  await pageserver.createTenant(server.tenantId);
  const tenants = new Map<TimelineId, TenantId>();
  const idOf = (timelineId: TimelineId): TenantTimelineId => ({
    tenantId: tenants.get(timelineId) ?? ownTenant,
    timelineId,
  });
  const newId = (tenantId: TenantId): TenantTimelineId => {
    const id = { tenantId, timelineId: newTimelineId(random) };
    tenants.set(id.timelineId, tenantId);
    return id;
  };
  const pagesOf = async (place: Place, timeline: TimelineId) =>
    place === 'server' ? openServer(timeline) : pageserver.openPages(idOf(timeline));
  const hosts: (IoHost | null)[] = [];
  const names = new Map<string, TimelineId>();
  let sent = 0;

  return {
    async createTimeline() {
      const id = newId(ownTenant);
      await pageserver.createTimeline(id, null);
      return id.timelineId;
    },
    async branch(from, lsn) {
      const id = newId(idOf(from).tenantId);
      await pageserver.createTimeline(id, { timelineId: from, lsn });
      return id.timelineId;
    },
    async branchOfServer(from, lsn) {
      const id = newId(server.tenantId);
      // As a tab does: the server's end of a branch is what was acknowledged, which its pageserver may have yet to ingest.
      const committed = await serverWal.getStatus({ tenantId: server.tenantId, timelineId: from });
      await pageserver.createTimeline(id, { timelineId: from, lsn: lsn ?? committed?.commitLsn ?? null });
      return id.timelineId;
    },
    async startHost(place, timeline) {
      const pages = await pagesOf(place, timeline);
      const wal = [place === 'server' ? serverWal : safekeeper];
      const host = new IoHost({ pages, wal, clock, random, log, mode: 'primary' });
      const start = await host.start();
      hosts.push(host);
      return { host: hosts.length - 1, start };
    },
    async closeHost(host) {
      await hosts[host]?.close();
      hosts[host] = null;
    },
    async push(timeline, as, cut) {
      const dead = new AbortController();
      let left = cut?.afterBytes ?? Number.POSITIVE_INFINITY;
      const fetchCut = async (url: string, init: RequestInit) => {
        if (init.body instanceof Uint8Array) {
          left -= init.body.length;
          // Gone without an answer, as a tab that is killed.
          if (left < 0) {
            dead.abort(new PageliteError('cancelled', 'the tab is gone'));
            throw dead.signal.reason;
          }
          sent += init.body.length;
        }
        return fetch(url, init);
      };
      const server_ = withNames(
        new HttpPushServer(server.tenantId, { server: `http://${localhost}:${server.httpPort}`, fetch: fetchCut }),
        names,
      );
      return pushBranch({
        pageserver,
        store,
        id: idOf(timeline),
        server: server_,
        as,
        clock,
        random,
        signal: dead.signal,
      });
    },
    bytesSent: async () => sent,
    async pull(timeline, cut) {
      room = cut?.afterBytes ?? Number.POSITIVE_INFINITY;
      const copied = await copyTimeline({
        from: openServer(timeline),
        name: null,
        lsn: null,
        pageserver,
        store,
        tenantId: ownTenant,
        clock,
        random,
      });
      tenants.set(copied.id.timelineId, ownTenant);
      return { timelineId: copied.id.timelineId, lsn: copied.lsn };
    },
    async goOffline() {
      offline = true;
      for (const remote of remotes) remote.close();
    },
    async reload() {
      await pageserver.close();
      room = Number.POSITIVE_INFINITY;
      pageserver = await Pageserver.open(options);
    },
    flush: (timeline) => pageserver.flush(idOf(timeline)),
    status: async (place, timeline) => (await pagesOf(place, timeline)).getStatus(),
    layers: (timeline) => pageserver.listLayers(idOf(timeline)),
    contents: async (place, timeline, lsn) => contentsOf(await pagesOf(place, timeline), lsn),
    async close() {
      for (const host of hosts) await host?.close();
      for (const remote of remotes) remote.close();
      await pageserver.close();
      await redo.close();
      await safekeeper.close();
    },
  };
}

/** The processes of this rig have no control plane: names are kept here. */
function withNames(server: PushServer, names: Map<string, TimelineId>): PushServer {
  return {
    tenantId: server.tenantId,
    peer: server.peer,
    timelineNamed: async (name) => names.get(name) ?? null,
    async nameTimeline(name, timeline) {
      names.set(name, timeline);
    },
  };
}

/** A store that is full when `take` says so. */
function limited(store: ObjectStore, take: (bytes: number) => boolean): ObjectStore {
  return {
    async put(key, bytes, condition) {
      if (!take(bytes.length)) throw new PageliteError('unavailable', 'the storage quota is used up', { file: key });
      return store.put(key, bytes, condition);
    },
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    list: (prefix) => store.list(prefix),
    listFolders: (folder) => store.listFolders(folder),
    delete: (key) => store.delete(key),
  };
}

async function contentsOf(pages: PageService, lsn: Lsn): Promise<Map<string, number>> {
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const contents = new Map<string, number>();
  for (const step of await timelineContents(pages, lsn)) {
    if (step.kind === 'values') {
      const values = await pages.getImages(at, step.keys);
      for (const [i, { prefix, block }] of step.keys.entries()) {
        const value = values[i];
        contents.set(formatKey(prefix, block), value == null ? -1 : crc32c(value));
      }
      continue;
    }
    for (let first = 0; first < step.size; first += 64) {
      const bytes = await pages.getPages(at, step.rel, first, Math.min(64, step.size - first));
      contents.set(`${formatRel(step.rel)} from ${first}`, crc32c(bytes));
    }
  }
  return contents;
}

const methods = await openTab(workerData as TabData);
serveRpc(parentPort as MessagePort, methods);
parentPort!.postMessage({ kind: 'event', event: 'ready' });
