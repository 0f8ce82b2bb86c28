/**
 * A tab's own repository in a worker, with computes in workers of their own: what storage-worker.ts is to a page, with doors for tests. Runs in Chromium.
 */
import { browserClock, browserRandom } from '../../../browser/browser-host.ts';
import type { BranchMoment } from '../../../browser/local/branch-moments.ts';
import {
  LocalRepository,
  type LocalRepositoryOptions,
  type NewBranchSource,
} from '../../../browser/local/local-repository.ts';
import { ServerClient } from '../../../browser/net/server-client.ts';
import type { Log, PageService } from '../../../engine/services.ts';
import { IoHost } from '../../../smgr-plugin/bridge/io-host.ts';
import { caller, serveCalls } from './calls.ts';

export interface OpenRepository
  extends Pick<
    LocalRepositoryOptions,
    'limits' | 'pageCacheBudgetBytes' | 'pageCacheMemoryBytes' | 'serverTimeLimitMs'
  > {
  readonly name: string;
  /** Address of a console server. */
  readonly server?: string;
  /** Makes its own template with initdb. */
  readonly ownTemplate?: boolean;
}

interface Compute {
  readonly ioHost: IoHost;
  readonly worker: Worker;
  readonly call: ReturnType<typeof caller>;
}

const line = (level: 'warn' | 'error') => (message: string, data?: object) =>
  console[level](message, JSON.stringify(data ?? {}));
const log: Log = { debug: () => {}, info: () => {}, warn: line('warn'), error: line('error') };
const host = { clock: browserClock, random: browserRandom, log };

let repository: LocalRepository;
const computes = new Map<number, Compute>();
let nextCompute = 1;

function serverPages(address: string): (id: PageService['id']) => PageService {
  const server = new ServerClient(address);
  return (id) => server.openPages(id, host, { bytesReceived: 0 });
}

async function connect(branch: string, at: BranchMoment, pageCacheBytes?: number): Promise<number> {
  const { pages, wal, mode } = await repository.openPlace(branch, at);
  const ioHost = new IoHost({ pages, wal, mode, ...host });
  const start = await ioHost.start();
  const worker = new Worker(new URL('./compute-worker.ts', import.meta.url), { type: 'module' });
  const compute = nextCompute++;
  const call = caller(worker);
  computes.set(compute, { ioHost, worker, call });
  await call('start', start, pageCacheBytes);
  return compute;
}

async function disconnect(compute: number): Promise<void> {
  const { ioHost, worker, call } = computes.get(compute)!;
  computes.delete(compute);
  // One whose storage has failed cannot end in order.
  await call('close').catch(() => {});
  await ioHost.close();
  worker.terminate();
}

serveCalls({
  async open({ server, ownTemplate, ...options }: OpenRepository) {
    repository = await LocalRepository.open({
      ...options,
      ...host,
      ...(server !== undefined && { openServerPages: serverPages(server) }),
      ...(ownTemplate !== true && {
        fetchTemplate: async () => new Uint8Array(await (await fetch('/template.bin')).arrayBuffer()),
      }),
    });
  },
  create: (name: string, from: NewBranchSource) => repository.createBranch(name, from),
  branches: () => repository.branches(),
  reset: (name: string) => repository.resetBranch(name),
  remove: (name: string) => repository.deleteBranch(name),
  layers: (name: string) => repository.layers(name),
  storage: () => repository.storage(),
  flush: (name: string) => repository.pageserver.flush(repository.timelineOf(name)),
  cacheIdle: () => repository.pageCache.idle(),
  counters: () => ({ ...repository.pageCache.counters }),
  connect,
  query: (compute: number, sql: string, params?: unknown[]) => computes.get(compute)!.call('query', sql, params),
  /** Inserts rows 1, 2, 3 ... each in a transaction of its own, and tells of each that was acknowledged. */
  async insertOnAndOn(compute: number, table: string, from: number) {
    for (let id = from; ; id++) {
      await computes
        .get(compute)!
        .call('query', `insert into ${table} values ($1, repeat('x', 50 + ($1 * 37) % 400))`, [id]);
      postMessage({ acknowledged: id });
    }
  },
  disconnect,
  async close() {
    for (const compute of [...computes.keys()]) await disconnect(compute);
    await repository.close();
  },
});
