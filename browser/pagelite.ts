/**
 * `pagelite/browser`: branches of a database in a tab. `const lite = await Pagelite.open({ server }); const pg = await lite.connect('main')`.
 *
 * The page's end: names, and where each branch is. Storage (I/O hosts, the tab's own repository) is in one worker, each compute in one of its own; the
 * page itself never blocks. What long work there is to tell comes through `progress`.
 *
 * Invariants
 * - a commit that has resolved is durable: on a quorum of the server's safekeepers, or in IndexedDB
 * - a name that is in the tab and on the server is never guessed: the call says `place`, or is `invalid`
 */
import type { Extensions, PGliteInterfaceExtensions } from '@electric-sql/pglite';
import { isPageliteError, PageliteError } from '../engine/errors.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../engine/model/lsn.ts';
import type { ServerBranch } from '../engine/protocol/control-api.ts';
import type {
  BranchConnection,
  BranchHistory,
  BranchInfo,
  ConnectOptions,
  HistoryPoint,
  NewBranch,
  OpenOptions,
  PageliteTab,
  PointInTime,
  Progress,
  PullOptions,
  PushOptions,
  StorageLayers,
} from './api.ts';
import { type NameSources, noServer, type Side, serverBranchInfo, serverTimeline, sideOf } from './branch-names.ts';
import type { ComputeMethods } from './compute-worker.ts';
import { asBranchConnection, Connection } from './connection.ts';
import type { BranchMoment } from './local/branch-moments.ts';
import type { NewBranchSource } from './local/local-repository.ts';
import { ServerClient } from './net/server-client.ts';
import { setUpExtensions } from './page-extensions.ts';
import { loadPGliteArtefacts } from './pglite-artefacts.ts';
import { startComputeWorker, startStorageWorker } from './start-worker.ts';
import type { ComputeTarget, StorageEvent, StorageMethods } from './storage-worker.ts';
import { proxy, transfer, WorkerLink } from './worker-rpc.ts';

export { type ErrorData, type ErrorKind, PageliteError } from '../engine/errors.ts';
export type * from './api.ts';
export { isolatePage } from './isolate-page.ts';

const repositoryNameDefault = 'pagelite';
const branchNameDefault = 'main';

export class Pagelite implements PageliteTab {
  readonly #server: ServerClient | null;
  readonly #storage: WorkerLink<StorageMethods>;
  readonly #progress: ((progress: Progress) => void) | undefined;
  readonly #connections = new Map<number, Connection>();
  /** Failures of computes that are still being opened. */
  readonly #earlyFailures = new Map<number, PageliteError>();
  /** Started before anybody asks for it: loading PGlite's code takes a moment, and may take a network that is not there later. */
  #spare: WorkerLink<ComputeMethods> | null;
  #wantsPersistence: boolean;
  #nextTransfer = 1;
  #closing: Promise<void> | null = null;

  private constructor(server: ServerClient | null, options: OpenOptions) {
    this.#server = server;
    this.#progress = options.progress;
    this.#wantsPersistence = options.persist ?? true;
    this.#storage = new WorkerLink(startStorageWorker(), 'storage');
    this.#spare = newComputeWorker();
  }

  /** Waits for nothing: neither for the server nor for PGlite's files, which are asked for. Rejects if the browser has not what it takes. */
  static async open(options: OpenOptions = {}): Promise<Pagelite> {
    const server = options.server === undefined ? null : new ServerClient(options.server);
    const lite = new Pagelite(server, options);
    try {
      // Asked early; whoever needs it hears of a failure.
      server?.status().catch(() => {});
      loadPGliteArtefacts().catch(() => {});
      const storage = {
        server: server?.url ?? null,
        name: options.name ?? repositoryNameDefault,
        pageCacheBudgetBytes: options.pageCacheBudgetBytes ?? null,
      };
      const tell = proxy((event: StorageEvent) => lite.#hear(event));
      // A worker that has failed rejects every call after this one, too.
      lite.#storage.call((remote) => remote.open(storage, tell, proxy(loadPGliteArtefacts))).catch(() => {});
      return lite;
    } catch (error) {
      lite.#terminate();
      throw error;
    }
  }

  async branches(): Promise<BranchInfo[]> {
    const [server, local] = await Promise.allSettled([this.#serverBranches(), this.#localBranches()]);
    if (server.status === 'fulfilled' && local.status === 'fulfilled') return [...server.value, ...local.value];
    // One of the two is away: what the other has is worth having. Everything else is an error.
    const reason = server.status === 'rejected' ? server.reason : (local as PromiseRejectedResult).reason;
    const isAway = isPageliteError(reason, server.status === 'rejected' ? 'unavailable' : 'invalid');
    const rest = server.status === 'fulfilled' ? server.value : local.status === 'fulfilled' ? local.value : null;
    if (!isAway || rest === null || (server.status === 'fulfilled' && this.#server === null)) throw reason;
    this.#progress?.({ text: reason.message });
    return rest;
  }

  async branch(name: string, options: NewBranch = {}): Promise<BranchInfo> {
    const { from } = options;
    const fromSide = from === undefined ? null : await sideOf(this.#names, from, options.fromPlace);
    const place = options.place ?? (fromSide === 'local' || this.#server === null ? 'local' : 'server');
    if (place === 'server') return this.#branchOnServer(name, options, fromSide);
    const source = await this.#localSource(options, fromSide);
    this.#askToKeep();
    return this.#storage.call((remote) => remote.createLocalBranch(name, source));
  }

  async connect<E extends Extensions = Record<string, never>>(
    branch: string,
    options: ConnectOptions<E> = {},
  ): Promise<BranchConnection & PGliteInterfaceExtensions<E>> {
    const worker = this.#takeSpare();
    const port = new MessageChannel();
    const made = newDeferred<Connection>();
    try {
      const place = await this.#placeOf(branch, options);
      const readOnly = options.lsn !== undefined || options.at !== undefined;
      const boot = async () => {
        const computeOptions = { artefacts: await loadPGliteArtefacts(), ...computeOptionsOf(options) };
        // Extensions are made for an object; without any, PGlite loads while the storage is being opened.
        const ready = options.extensions && (await setUpExtensions(await made.promise, options.extensions));
        const open = { readOnly, options: computeOptions, extensions: ready?.bundles ?? [] };
        await worker.call((remote) => remote.open(open, transfer(port.port2, [port.port2])));
        return ready;
      };
      const booting = boot();
      // Both ends are told of a failure; the storage's is the reason.
      booting.catch(() => {});
      const opened = await this.#storage.call((remote) =>
        remote.openCompute(place, transfer(port.port1, [port.port1])),
      );
      const { compute } = opened;
      const connection = new Connection({
        branch,
        place: opened.place,
        readOnlyLsn: opened.readOnlyLsn,
        worker,
        counters: () => this.#storage.call((remote) => remote.counters(compute)),
        onClosed: () => this.#closed(compute, worker),
      });
      made.resolve(connection);
      this.#connections.set(compute, connection);
      const failed = this.#earlyFailures.get(compute);
      if (failed) connection.fail(failed);
      this.#storage.ended.then((error) => connection.fail(error));
      try {
        const extensions = await booting;
        await connection.begin(extensions);
      } catch (error) {
        connection.fail(error as Error);
        throw error;
      }
      if (this.#closing === null) this.#spare ??= newComputeWorker();
      return asBranchConnection<E>(connection);
    } catch (error) {
      made.reject(error);
      worker.terminate();
      throw error;
    }
  }

  push(branch: string, options: PushOptions = {}): Promise<BranchInfo> {
    return this.#transfer('push', branch, options);
  }

  pull(branch: string, options: PullOptions = {}): Promise<BranchInfo> {
    this.#askToKeep();
    return this.#transfer('pull', branch, options);
  }

  async #transfer(kind: 'push' | 'pull', branch: string, options: PushOptions | PullOptions): Promise<BranchInfo> {
    const { as, signal, progress = this.#progress } = options;
    const transfer = this.#nextTransfer++;
    const cancel = () => void this.#storage.call((remote) => remote.cancelTransfer(transfer)).catch(() => {});
    if (signal?.aborted) throw new PageliteError('cancelled', `the ${kind} of "${branch}" was cancelled`, { branch });
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      const tell = proxy((told: Progress) => progress?.(told));
      return await this.#storage.call((remote) => remote.transfer(kind, branch, as, transfer, tell));
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  async reset(branch: string, place?: Side): Promise<BranchInfo> {
    const side = await sideOf(this.#names, branch, place);
    if (side === 'local') return this.#storage.call((remote) => remote.resetLocalBranch(branch));
    return serverBranchInfo(await this.#needServer(branch).resetBranch(branch, {}));
  }

  async delete(branch: string, place?: Side): Promise<void> {
    const side = await sideOf(this.#names, branch, place);
    if (side === 'local') return this.#storage.call((remote) => remote.deleteLocalBranch(branch));
    await this.#needServer(branch).deleteBranch(branch);
  }

  async history(branch: string, place?: Side): Promise<BranchHistory> {
    const side = await sideOf(this.#names, branch, place);
    if (side === 'server') return this.#needServer(branch).history(branch);
    return this.#storage.call((remote) => remote.localHistory(branch));
  }

  async pointAt(branch: string, at: Date, place?: Side): Promise<HistoryPoint> {
    const side = await sideOf(this.#names, branch, place);
    if (side === 'server') return this.#needServer(branch).point(branch, { at });
    return this.#storage.call((remote) => remote.localPointAt(branch, at.getTime()));
  }

  async layers(branch: string, place?: Side): Promise<StorageLayers> {
    const side = await sideOf(this.#names, branch, place);
    if (side === 'server') return this.#needServer(branch).layers(branch);
    return this.#storage.call((remote) => remote.localLayers(branch));
  }

  storage(): Promise<{ usedBytes: number; quotaBytes: number; cachedPages: number }> {
    return this.#storage.call((remote) => remote.localStorage());
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#connections.values()].map((connection) => connection.close()));
    await this.#storage.call((remote) => remote.close());
    this.#terminate();
  }

  #terminate(): void {
    this.#storage.terminate();
    this.#spare?.terminate();
    this.#spare = null;
  }

  /** Once; the browser decides, and without its word the data is there until it needs the room. */
  #askToKeep(): void {
    if (!this.#wantsPersistence) return;
    this.#wantsPersistence = false;
    // Of windows only, and these types are a worker's.
    const storage = navigator.storage as (StorageManager & { persist?(): Promise<boolean> }) | undefined;
    storage?.persist?.().catch(() => {});
  }

  // Names

  get #names(): NameSources {
    return { server: this.#server, localBranches: () => this.#localBranches() };
  }

  #needServer(branch: string): ServerClient {
    if (this.#server === null) throw noServer(branch);
    return this.#server;
  }

  async #serverBranches(): Promise<BranchInfo[]> {
    return (await (this.#server?.branches() ?? [])).map(serverBranchInfo);
  }

  #localBranches(): Promise<BranchInfo[]> {
    return this.#storage.call((remote) => remote.localBranches());
  }

  async #branchOnServer(name: string, options: NewBranch, fromSide: Side | null): Promise<BranchInfo> {
    const server = this.#needServer(name);
    const { from = branchNameDefault, lsn, at } = options;
    if (fromSide === 'local') {
      const text = `branch "${from}" is in this tab: push it first, or make "${name}" here with { place: 'local' }`;
      throw new PageliteError('invalid', text, { branch: name, from });
    }
    checkMoment(options);
    const moment = { ...(lsn !== undefined && { lsn }), ...(at !== undefined && { at: at.toISOString() }) };
    return serverBranchInfo(await server.createBranch({ name, from, ...moment }));
  }

  async #localSource(options: NewBranch, fromSide: Side | null): Promise<NewBranchSource> {
    const { from } = options;
    if (from === undefined) return { kind: 'new' };
    if (fromSide === 'local') return { kind: 'local', branch: from, at: momentOf(options) };
    const { id, branch } = await this.#serverBranch(from);
    const point = await this.#serverPoint(from, options);
    if (point !== null) return { kind: 'server', name: from, ...point };
    return { kind: 'server', id, name: from, lsn: branch.lsn === null ? null : parseLsn(branch.lsn) };
  }

  async #placeOf(branch: string, options: ConnectOptions): Promise<ComputeTarget> {
    const side = await sideOf(this.#names, branch, options.place);
    if (side === 'local') return { kind: 'local', branch, at: momentOf(options) };
    const { id, branch: known } = await this.#serverBranch(branch);
    const point = await this.#serverPoint(branch, options);
    if (point === null && !options.takeOver) checkNobodyWrites(known);
    return { kind: 'server', id: point?.id ?? id, readOnlyAt: point?.lsn ?? null };
  }

  async #serverBranch(name: string): Promise<{ id: TenantTimelineId; branch: ServerBranch }> {
    const server = this.#needServer(name);
    const [branch, status] = await Promise.all([server.branch(name), server.status()]);
    if (branch.broken !== null) {
      throw new PageliteError('corrupt', `branch "${name}" does not work: ${branch.broken}`, { branch: name });
    }
    return { id: serverTimeline(status.tenantId, branch.timelineId), branch };
  }

  /** A point of the branch's history is on the timeline that has it, which may be an ancestor's. Null: its end. */
  async #serverPoint(branch: string, options: PointInTime): Promise<{ id: TenantTimelineId; lsn: Lsn } | null> {
    checkMoment(options);
    const { lsn, at } = options;
    if (lsn === undefined && at === undefined) return null;
    const server = this.#needServer(branch);
    const [point, status] = await Promise.all([
      server.point(branch, lsn === undefined ? { at: at as Date } : { lsn }),
      server.status(),
    ]);
    return { id: serverTimeline(status.tenantId, point.timelineId), lsn: parseLsn(point.lsn) };
  }

  // Computes

  #takeSpare(): WorkerLink<ComputeMethods> {
    const spare = this.#spare;
    this.#spare = null;
    return spare === null || spare.hasEnded ? newComputeWorker() : spare;
  }

  #hear(event: StorageEvent): void {
    if (event.kind === 'progress') {
      this.#progress?.(event.progress);
      return;
    }
    const error = PageliteError.fromJSON(event.error);
    const connection = this.#connections.get(event.compute);
    if (connection) connection.fail(error);
    else this.#earlyFailures.set(event.compute, error);
  }

  async #closed(compute: number, worker: WorkerLink<ComputeMethods>): Promise<void> {
    if (this.#closing !== null) worker.terminate();
    else if (!worker.hasEnded) {
      // The one that has run before surely has its script.
      this.#spare?.terminate();
      this.#spare = worker;
    }
    this.#connections.delete(compute);
    this.#earlyFailures.delete(compute);
    await this.#storage.call((remote) => remote.closeCompute(compute)).catch(() => {});
  }
}

function newDeferred<T>(): {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
} {
  let settle: { resolve: (value: T) => void; reject: (reason: unknown) => void } | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => {});
  return { promise, ...settle! };
}

function newComputeWorker(): WorkerLink<ComputeMethods> {
  return new WorkerLink(startComputeWorker(), 'compute');
}

/** Connecting fences an endpoint, whose clients would be thrown out; another tab that writes is not known to the server. */
function checkNobodyWrites({ name, endpoints }: ServerBranch): void {
  const writer = endpoints.find(({ status, readOnlyLsn }) => status === 'running' && readOnlyLsn === null);
  if (!writer) return;
  const ways = 'make a branch of it, read it with { lsn } or { at }, or end that endpoint with { takeOver: true }';
  const text = `endpoint "${writer.name}" of the server writes to branch "${name}": ${ways}`;
  throw new PageliteError('invalid', text, { branch: name, endpoint: writer.name });
}

function checkMoment({ lsn, at }: PointInTime): void {
  if (lsn !== undefined && at !== undefined) throw new PageliteError('invalid', 'give lsn or at, not both');
  if (at !== undefined && Number.isNaN(at.getTime())) throw new PageliteError('invalid', 'at is an invalid Date');
}

function momentOf(options: PointInTime): BranchMoment {
  checkMoment(options);
  if (options.lsn !== undefined) return { lsn: parseLsn(options.lsn) };
  return options.at === undefined ? 'end' : { timestampMs: options.at.getTime() };
}

function computeOptionsOf({ settings, pageCacheBytes, username, database }: ConnectOptions) {
  return {
    settings: Object.entries(settings ?? {}).map(([name, value]) => `${name}=${value}`),
    ...(pageCacheBytes !== undefined && { pageCacheBytes }),
    ...(username !== undefined && { username }),
    ...(database !== undefined && { database }),
  };
}
