/**
 * R3. Entry of a tab's storage worker: an I/O host for each open compute, before the server's storage or before the tab's own.
 *
 * Called by the page (pagelite.ts). A compute's start goes to its worker over a port. The tab's own repository is opened when it is first needed: a
 * page that works on server branches only takes no lock and makes no database.
 *
 * Invariants
 * - a branch has one writing compute at a time in this tab; another one would fence it
 * - a compute that has failed for good is forgotten, so that its branch can be connected again
 */
import { must } from '../engine/assert.ts';
import { isPageliteError, messageOf, PageliteError } from '../engine/errors.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../engine/model/lsn.ts';
import { type ComputeStart, IoHost, type IoHostOptions } from '../smgr-plugin/bridge/io-host.ts';
import type { BranchInfo, BranchPlace, Progress, StorageLayers } from './api.ts';
import { browserClock, browserRandom, createLog } from './browser-host.ts';
import type { StartMessage } from './compute-worker.ts';
import { type BranchMoment, LocalRepository, type NewBranchSource } from './local/local-repository.ts';
import { ServerClient } from './net/server-client.ts';
import { CountedPages, type ReadCounters } from './page-counters.ts';
import type { PGliteArtefacts } from './pglite-artefacts.ts';
import { databaseName } from './stores/database.ts';
import { BranchTransfers } from './transfer/branch-transfers.ts';
import { serve } from './worker-rpc.ts';

export interface StorageOptions {
  readonly server: string | null;
  readonly name: string;
  readonly pageCacheBudgetBytes: number | null;
  readonly artefacts: PGliteArtefacts;
}

export type ComputePlace =
  | { readonly kind: 'server'; readonly id: TenantTimelineId; readonly readOnlyAt: Lsn | null }
  | { readonly kind: 'local'; readonly branch: string; readonly at: BranchMoment };

export interface OpenedCompute {
  readonly compute: number;
  readonly place: BranchPlace;
  readonly readOnlyLsn: string | null;
}

export type StorageEvent =
  | { readonly kind: 'progress'; readonly progress: Progress }
  /** This compute cannot go on. */
  | { readonly kind: 'failed'; readonly compute: number; readonly error: unknown };

/** What was read since a compute was opened. */
export interface PlaceCounters {
  readonly pages: number;
  /** Of them, or for them, from the server. */
  readonly serverPages: number;
  readonly bytesFromServer: number;
}

interface OpenPlace {
  readonly id: TenantTimelineId;
  readonly place: BranchPlace;
  readonly options: Pick<IoHostOptions, 'pages' | 'wal' | 'mode'>;
  counters(): PlaceCounters;
  close(): void;
}

interface RunningCompute {
  readonly ioHost: IoHost;
  readonly place: OpenPlace;
  readonly writes: boolean;
}

const host = { clock: browserClock, random: browserRandom, log: createLog('storage') };

class StorageThread {
  readonly #options: StorageOptions;
  readonly #server: ServerClient | null;
  readonly #tell: (event: StorageEvent) => void;
  readonly #computes = new Map<number, RunningCompute>();
  /** Timelines that are open for writing, or are being opened. */
  readonly #written = new Set<string>();
  readonly #serverReads: ReadCounters = { pages: 0, traffic: { bytesReceived: 0 } };
  readonly #transfers: BranchTransfers;
  /** Pushes and pulls under way, by the number that the page gave them. */
  readonly #transferring = new Map<number, AbortController>();
  #repository: Promise<LocalRepository> | null = null;
  #nextCompute = 1;

  constructor(options: StorageOptions, tell: (event: StorageEvent) => void) {
    this.#options = options;
    this.#server = options.server === null ? null : new ServerClient(options.server);
    this.#tell = tell;
    this.#transfers = new BranchTransfers({ server: this.#server, repository: () => this.repository(), host });
  }

  /** The tab's own; opened once, again after a failure. */
  repository(): Promise<LocalRepository> {
    if (this.#repository === null) {
      const opening = this.#openRepository();
      opening.catch(() => {
        this.#repository = null;
      });
      this.#repository = opening;
    }
    return this.#repository;
  }

  /** Of a page that never made a repository: none, and none is made for it. */
  async localBranches(): Promise<BranchInfo[]> {
    const wanted = databaseName(this.#options.name);
    const isThere = this.#repository !== null || (await indexedDB.databases()).some(({ name }) => name === wanted);
    return isThere ? (await this.repository()).branches() : [];
  }

  /** Posts the ComputeStart, or why there is none, to `port`. */
  async openCompute(at: ComputePlace, port: MessagePort): Promise<OpenedCompute> {
    try {
      const place = at.kind === 'server' ? await this.#serverPlace(at) : await this.#localPlace(at);
      const { compute, start } = await this.#start(place);
      port.postMessage({ start } satisfies StartMessage, place.place === 'server' ? buffersOf(start) : []);
      const { mode } = place.options;
      return { compute, place: place.place, readOnlyLsn: mode === 'primary' ? null : formatLsn(mode.readOnlyAt) };
    } catch (error) {
      port.postMessage({ error: asPagelite(error).toJSON() } satisfies StartMessage);
      throw error;
    } finally {
      port.close();
    }
  }

  async closeCompute(compute: number): Promise<void> {
    const running = this.#computes.get(compute);
    if (!running) return;
    this.#computes.delete(compute);
    await running.ioHost.close();
    running.place.close();
    if (running.writes) this.#written.delete(running.place.id.timelineId);
  }

  /** Null once it is closed. */
  counters(compute: number): PlaceCounters | null {
    return this.#computes.get(compute)?.place.counters() ?? null;
  }

  /** Progress goes to `progress`; ends with `cancelTransfer`. What has arrived by then stays for the next attempt. */
  async transfer(
    kind: 'push' | 'pull',
    branch: string,
    as: string | undefined,
    transfer: number,
    progress: (progress: Progress) => void,
  ): Promise<BranchInfo> {
    const ending = new AbortController();
    this.#transferring.set(transfer, ending);
    try {
      return await this.#transfers[kind](branch, { as, progress, signal: ending.signal });
    } finally {
      this.#transferring.delete(transfer);
    }
  }

  cancelTransfer(transfer: number): void {
    this.#transferring.get(transfer)?.abort(new PageliteError('cancelled', 'it was cancelled'));
  }

  async close(): Promise<void> {
    for (const transfer of this.#transferring.keys()) this.cancelTransfer(transfer);
    for (const compute of [...this.#computes.keys()]) await this.closeCompute(compute);
    if (this.#repository !== null) await (await this.#repository).close();
  }

  async #openRepository(): Promise<LocalRepository> {
    const { name, artefacts } = this.#options;
    const server = this.#server;
    return LocalRepository.open({
      name,
      artefacts,
      ...host,
      ...(server && { openServerPages: (id) => this.#serverPages(server, id) }),
      progress: (progress) => this.#tell({ kind: 'progress', progress }),
    });
  }

  #serverPages(server: ServerClient, id: TenantTimelineId): CountedPages {
    return new CountedPages(server.openPages(id, host, this.#serverReads.traffic), this.#serverReads);
  }

  async #serverPlace({ id, readOnlyAt }: ComputePlace & { kind: 'server' }): Promise<OpenPlace> {
    const server = this.#server;
    if (server === null) throw new PageliteError('invalid', 'this page has no server');
    const counters: ReadCounters = { pages: 0, traffic: { bytesReceived: 0 } };
    const status = await server.status();
    const remote = server.openPages(id, host, counters.traffic);
    return {
      id,
      place: 'server',
      options: {
        pages: new CountedPages(remote, counters),
        wal: server.openSafekeepers(status),
        mode: readOnlyAt === null ? 'primary' : { readOnlyAt },
      },
      counters: () => ({
        pages: counters.pages,
        serverPages: counters.pages,
        bytesFromServer: counters.traffic.bytesReceived,
      }),
      close: () => remote.close(),
    };
  }

  async #localPlace({ branch, at }: ComputePlace & { kind: 'local' }): Promise<OpenPlace> {
    const repository = await this.repository();
    const { id, pages, wal, mode } = await repository.openPlace(branch, at);
    const { place } = await repository.branch(branch);
    const counters: ReadCounters = { pages: 0, traffic: { bytesReceived: 0 } };
    const server = this.#serverReads;
    const before = { pages: server.pages, bytes: server.traffic.bytesReceived };
    return {
      id,
      place,
      options: { pages: new CountedPages(pages, counters), wal, mode },
      // Of all that the tab's repository reads from the server meanwhile.
      counters: () => ({
        pages: counters.pages,
        serverPages: server.pages - before.pages,
        bytesFromServer: server.traffic.bytesReceived - before.bytes,
      }),
      close: () => {},
    };
  }

  async #start(place: OpenPlace): Promise<{ compute: number; start: ComputeStart }> {
    const writes = place.options.mode === 'primary';
    const { timelineId } = place.id;
    if (writes && this.#written.has(timelineId)) {
      place.close();
      const hint = 'Use that connection, close it first, or connect read-only with { lsn } or { at }';
      throw new PageliteError('invalid', `the branch is connected for writing already in this tab. ${hint}`, {
        timelineId,
      });
    }
    if (writes) this.#written.add(timelineId);
    try {
      const ioHost = new IoHost({ ...place.options, ...host });
      const start = await ioHost.start();
      const compute = this.#nextCompute++;
      this.#computes.set(compute, { ioHost, place, writes });
      ioHost.onFailed((error) => {
        this.#tell({ kind: 'failed', compute, error: error.toJSON() });
        void this.closeCompute(compute);
      });
      return { compute, start };
    } catch (error) {
      if (writes) this.#written.delete(timelineId);
      place.close();
      throw error;
    }
  }
}

let thread: StorageThread | null = null;
const opened = (): StorageThread => must(thread, 'the storage is open');

const methods = {
  open(options: StorageOptions, tell: (event: StorageEvent) => void): void {
    thread = new StorageThread(options, tell);
  },
  openCompute: (at: ComputePlace, port: MessagePort) => opened().openCompute(at, port),
  closeCompute: (compute: number) => opened().closeCompute(compute),
  counters: (compute: number) => opened().counters(compute),
  close: () => opened().close(),

  // The tab's own repository
  localBranches: () => opened().localBranches(),
  localBranch: async (name: string) => (await opened().repository()).branch(name),
  createLocalBranch: async (name: string, from: NewBranchSource) =>
    (await opened().repository()).createBranch(name, from),
  resetLocalBranch: async (name: string, serverLsn: Lsn | null) =>
    (await opened().repository()).resetBranch(name, serverLsn),
  deleteLocalBranch: async (name: string) => (await opened().repository()).deleteBranch(name),
  localLayers: async (name: string): Promise<StorageLayers> => {
    const { inMemory, files } = await (await opened().repository()).layers(name);
    const text = ({ startLsn, endLsn }: { startLsn: Lsn; endLsn: Lsn }) => ({
      startLsn: formatLsn(startLsn),
      endLsn: formatLsn(endLsn),
    });
    return {
      inMemory: inMemory.map(({ startLsn, endLsn }) => ({
        startLsn: formatLsn(startLsn),
        endLsn: endLsn && formatLsn(endLsn),
      })),
      files: files.map((file) => ({ ...file, ...text(file) })),
    };
  },
  transfer: (
    kind: 'push' | 'pull',
    branch: string,
    as: string | undefined,
    transfer: number,
    progress: (progress: Progress) => void,
  ) => opened().transfer(kind, branch, as, transfer, progress),
  cancelTransfer: (transfer: number) => opened().cancelTransfer(transfer),
  localStorage: async () => (await opened().repository()).storage(),
};

export type StorageMethods = typeof methods;

/** Every buffer once: moved, not copied. */
function buffersOf({ files, prewarm }: ComputeStart): ArrayBuffer[] {
  const arrays = [...files.flatMap(({ bytes }) => bytes ?? []), ...prewarm.map(({ pages }) => pages)];
  return [...new Set(arrays.map(({ buffer }) => buffer as ArrayBuffer))];
}

function asPagelite(error: unknown): PageliteError {
  return isPageliteError(error) ? error : new PageliteError('unavailable', messageOf(error));
}

serve(methods);
