/**
 * Entry of the library's storage thread: the repository's storage, and an I/O host for each open compute. Called by pagelite.ts over worker-rpc.ts.
 *
 * Invariants
 * - a branch has one writing compute at a time in this process; another one would fence it
 * - a compute that has failed for good is forgotten, so that its branch can be connected again
 */
import { Readable, Writable } from 'node:stream';
import type { ReadableStream as WebReadable } from 'node:stream/web';
import { parentPort, workerData } from 'node:worker_threads';
import { pino } from 'pino';
import { assert, must } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId, TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BranchHistory } from '../../engine/protocol/control-api.ts';
import type { Log } from '../../engine/services.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';
import { deleteBranch, type ResetOptions, renameBranch, resetBranch } from '../control-plane/branch-changes.ts';
import { historyOf } from '../control-plane/branch-history.ts';
import { branchesOf, nameOfTimeline, resolveBranch } from '../control-plane/branches.ts';
import { type BranchStart, branchFrom, pointOnBranch } from '../control-plane/branching.ts';
import { exportBranch } from '../control-plane/export-branch.ts';
import { importBranch } from '../control-plane/import-branch.ts';
import { Repository } from '../control-plane/repository.ts';
import { exchangeNames } from '../control-plane/stored-names.ts';
import { writeFileAtOnce } from '../export/write-tarball.ts';
import { createLog } from '../process/log.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { defaultTenant } from './default-tenant.ts';
import { EmbeddedStorage } from './embedded-storage.ts';
import { serveRpc } from './worker-rpc.ts';

export interface StorageWorkerData {
  readonly dir: string;
  readonly artefacts: PGliteArtefacts;
}

/** A branch as the library shows it. */
export interface BranchInfo {
  readonly name: string;
  readonly timelineId: string;
  /** The branch it was made from, and where. Null for a first branch. */
  readonly ancestor: { readonly name: string; readonly lsn: string } | null;
  /** Up to where it is committed. */
  readonly lsn: string;
}

export type StorageEvent =
  | { readonly kind: 'progress'; readonly text: string }
  /** This compute cannot go on. */
  | { readonly kind: 'failed'; readonly compute: number };

export interface StorageMethods {
  open(): Promise<void>;
  branches(): Promise<BranchInfo[]>;
  branch(name: string, from: string, start: BranchStart): Promise<BranchInfo>;
  reset(branch: string, options: ResetOptions): Promise<BranchInfo>;
  rename(branch: string, to: string): Promise<BranchInfo>;
  delete(branch: string): Promise<void>;
  history(branch: string): Promise<BranchHistory>;
  importDataDir(branch: string, source: string | Blob): Promise<BranchInfo>;
  /** Into a file, or as a Blob. */
  exportDataDir(branch: string, place: BranchStart, isCompressed: boolean, path: string): Promise<void>;
  dumpDataDir(branch: string, place: BranchStart, isCompressed: boolean): Promise<Blob>;
  /** `at` 'end': for writing. */
  openCompute(branch: string, at: BranchStart): Promise<{ readonly compute: number; readonly start: ComputeStart }>;
  closeCompute(compute: number): Promise<void>;
  close(): Promise<void>;
}

interface OpenCompute {
  readonly id: TenantTimelineId;
  readonly writes: boolean;
  readonly ioHost: IoHost;
}

class StorageThread {
  readonly #repository: Repository;
  readonly #storage: EmbeddedStorage;
  readonly #tenant: TenantId;
  readonly #log: Log;
  readonly #tell: (event: StorageEvent) => void;
  readonly #computes = new Map<number, OpenCompute>();
  /** Timelines that are open for writing, or are being opened. */
  readonly #written = new Set<string>();
  #nextCompute = 1;

  private constructor(
    repository: Repository,
    storage: EmbeddedStorage,
    tenant: TenantId,
    log: Log,
    tell: (event: StorageEvent) => void,
  ) {
    this.#repository = repository;
    this.#storage = storage;
    this.#tenant = tenant;
    this.#log = log;
    this.#tell = tell;
  }

  static async open(
    { dir, artefacts }: StorageWorkerData,
    tell: (event: StorageEvent) => void,
  ): Promise<StorageThread> {
    const repository = await Repository.openOrInit(dir);
    const log = createLog('pagelite', { destination: pino.destination({ dest: `${dir}/pagelite.log`, sync: true }) });
    const progress = (text: string) => tell({ kind: 'progress', text });
    const storage = await EmbeddedStorage.open({ repository, artefacts, log, progress, syncInThread: true });
    try {
      const warn = (text: string) => log.warn(text);
      await repository.exclusively(() => exchangeNames(storage, repository, warn));
      const tenant = await defaultTenant(repository, storage);
      return new StorageThread(repository, storage, tenant, log, tell);
    } catch (error) {
      await storage.close();
      throw error;
    }
  }

  async branches(): Promise<BranchInfo[]> {
    const names = branchesOf(this.#repository.readConfig(), this.#tenant).map(({ name }) => name);
    return Promise.all(names.map((name) => this.#branchInfo(name)));
  }

  async branch(name: string, from: string, start: BranchStart): Promise<BranchInfo> {
    await this.#repository.exclusively(() =>
      branchFrom(this.#storage, this.#repository, { tenantId: this.#tenant, name }, from, start),
    );
    return this.#branchInfo(name);
  }

  /** Whoever writes meanwhile would go on with the old head. */
  reset(branch: string, options: ResetOptions): Promise<BranchInfo> {
    return this.#whileUnwritten(branch, async () => {
      await this.#repository.exclusively(() =>
        resetBranch(this.#storage, this.#repository, this.#tenant, branch, options),
      );
      return this.#branchInfo(branch);
    });
  }

  async rename(branch: string, to: string): Promise<BranchInfo> {
    await this.#repository.exclusively(() => renameBranch(this.#storage, this.#repository, this.#tenant, branch, to));
    return this.#branchInfo(to);
  }

  delete(branch: string): Promise<void> {
    return this.#whileUnwritten(branch, async ({ timelineId }) => {
      if ([...this.#computes.values()].some(({ id }) => id.timelineId === timelineId)) {
        throw new PageliteError('invalid', `branch "${branch}" is connected read-only. Close that first`, { branch });
      }
      await this.#repository.exclusively(() => deleteBranch(this.#storage, this.#repository, this.#tenant, branch));
    });
  }

  async history(branch: string): Promise<BranchHistory> {
    return historyOf(this.#storage, this.#idOf(branch));
  }

  async importDataDir(name: string, source: string | Blob): Promise<BranchInfo> {
    const { warnings } = await importBranch(this.#storage, this.#repository, {
      source: typeof source === 'string' ? source : Readable.fromWeb(source.stream() as WebReadable),
      tenantId: this.#tenant,
      name,
      progress: () => {},
    });
    for (const text of warnings) this.#tell({ kind: 'progress', text });
    return this.#branchInfo(name);
  }

  async exportDataDir(branch: string, place: BranchStart, isCompressed: boolean, path: string): Promise<void> {
    await writeFileAtOnce(path, (output) => this.#export(branch, place, isCompressed, output));
  }

  async dumpDataDir(branch: string, place: BranchStart, isCompressed: boolean): Promise<Blob> {
    const chunks: Buffer[] = [];
    const output = new Writable({
      write(chunk: Buffer, _encoding, done) {
        chunks.push(chunk);
        done();
      },
    });
    await this.#export(branch, place, isCompressed, output);
    return new Blob(chunks as Buffer<ArrayBuffer>[]);
  }

  #export(branch: string, place: BranchStart, isCompressed: boolean, output: Writable): Promise<unknown> {
    return exportBranch(this.#storage, this.#repository, {
      tenantId: this.#tenant,
      branch,
      place,
      output,
      isCompressed,
      progress: () => {},
      log: this.#log,
    });
  }

  #idOf(branch: string): TenantTimelineId {
    return {
      tenantId: this.#tenant,
      timelineId: resolveBranch(this.#repository.readConfig(), this.#tenant, branch),
    };
  }

  async #whileUnwritten<T>(branch: string, work: (id: TenantTimelineId) => Promise<T>): Promise<T> {
    const id = this.#idOf(branch);
    if (this.#written.has(id.timelineId)) {
      throw new PageliteError('invalid', `branch "${branch}" is connected for writing. Close that first`, { branch });
    }
    this.#written.add(id.timelineId);
    try {
      return await work(id);
    } finally {
      this.#written.delete(id.timelineId);
    }
  }

  async openCompute(branch: string, at: BranchStart): Promise<{ compute: number; start: ComputeStart }> {
    const config = this.#repository.readConfig();
    const id = this.#idOf(branch);
    const writes = at === 'end';
    if (writes) this.#claimForWriting(id, branch);
    try {
      const pages = await this.#storage.pageserver.openPages(id);
      const mode = writes ? 'primary' : { readOnlyAt: await pointOnBranch(this.#storage, config, id, branch, at) };
      const ioHost = new IoHost({
        pages,
        wal: this.#storage.wal,
        safekeepersGeneration: config.safekeepersGeneration,
        mode,
        clock: nodeClock,
        random: nodeRandom,
        log: this.#log,
      });
      const start = await ioHost.start();
      const compute = this.#nextCompute++;
      this.#computes.set(compute, { id, writes, ioHost });
      ioHost.onFailed(() => {
        this.#tell({ kind: 'failed', compute });
        void this.closeCompute(compute);
      });
      return { compute, start };
    } catch (error) {
      if (writes) this.#written.delete(id.timelineId);
      throw error;
    }
  }

  async closeCompute(compute: number): Promise<void> {
    const open = this.#computes.get(compute);
    if (!open) return;
    this.#computes.delete(compute);
    await open.ioHost.close();
    if (open.writes) this.#written.delete(open.id.timelineId);
  }

  async close(): Promise<void> {
    for (const compute of [...this.#computes.keys()]) await this.closeCompute(compute);
    await this.#storage.close();
  }

  #claimForWriting({ timelineId }: TenantTimelineId, branch: string): void {
    if (this.#written.has(timelineId)) {
      const hint = 'Use that one, close it first, or connect read-only with { lsn } or { at }';
      throw new PageliteError('invalid', `branch "${branch}" is connected for writing already. ${hint}`, { branch });
    }
    this.#written.add(timelineId);
  }

  async #branchInfo(name: string): Promise<BranchInfo> {
    const config = this.#repository.readConfig();
    const id = { tenantId: this.#tenant, timelineId: resolveBranch(config, this.#tenant, name) };
    const { ancestor, lastRecordLsn, broken } = await this.#storage.getTimeline(id);
    if (broken !== null) throw new PageliteError('corrupt', `branch "${name}" does not work: ${broken}`, { ...id });
    const committed = (await this.#storage.getCommitLsn(id)) ?? 0;
    return {
      name,
      timelineId: id.timelineId,
      ancestor: ancestor && {
        name: nameOfTimeline(config, { ...id, ...ancestor }) ?? ancestor.timelineId,
        lsn: formatLsn(ancestor.lsn),
      },
      lsn: formatLsn(Math.max(committed, lastRecordLsn ?? 0) as Lsn),
    };
  }
}

const port = parentPort;
if (port !== null) {
  let thread: StorageThread | null = null;
  const opened = () => must(thread, 'the storage was opened');
  const methods: StorageMethods = {
    open: async () => {
      assert(thread === null, 'opened once');
      thread = await StorageThread.open(workerData as StorageWorkerData, tell);
    },
    branches: () => opened().branches(),
    branch: (name, from, start) => opened().branch(name, from, start),
    reset: (branch, options) => opened().reset(branch, options),
    rename: (branch, to) => opened().rename(branch, to),
    delete: (branch) => opened().delete(branch),
    history: (branch) => opened().history(branch),
    importDataDir: (branch, source) => opened().importDataDir(branch, source),
    exportDataDir: (branch, place, isCompressed, path) => opened().exportDataDir(branch, place, isCompressed, path),
    dumpDataDir: (branch, place, isCompressed) => opened().dumpDataDir(branch, place, isCompressed),
    openCompute: (branch, at) => opened().openCompute(branch, at),
    closeCompute: (compute) => opened().closeCompute(compute),
    close: () => opened().close(),
  };
  const tell = serveRpc<StorageMethods, StorageEvent>(port, methods);
}
