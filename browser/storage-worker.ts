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
import { formatLsn, type Lsn, parseLsn } from '../engine/model/lsn.ts';
import type { ComputeStart } from '../smgr-plugin/bridge/io-host.ts';
import type { BranchInfo, BranchPlace, Progress, StorageLayers } from './api.ts';
import { browserClock, browserRandom, createLog } from './browser-host.ts';
import { fetchBundled } from './bundled-files.ts';
import { type ComputePlace, localPlace, type PlaceCounters, type RunningHost, serverPlace } from './compute-place.ts';
import type { StartMessage } from './compute-worker.ts';
import type { BranchMoment } from './local/branch-moments.ts';
import { LocalRepository, type NewBranchSource } from './local/local-repository.ts';
import { templateKey } from './local/tab-template.ts';
import { ServerClient } from './net/server-client.ts';
import { CountedPages, newReadCounters } from './page-counters.ts';
import type { PGliteArtefacts } from './pglite-artefacts.ts';
import { databaseName } from './stores/database.ts';
import { BranchTransfers } from './transfer/branch-transfers.ts';
import { serve } from './worker-rpc.ts';

export interface StorageOptions {
  readonly server: string | null;
  readonly name: string;
  readonly pageCacheBudgetBytes: number | null;
}

/** From the page, which shares them with every worker. */
export type LoadArtefacts = () => Promise<PGliteArtefacts>;

/** What to open. */
export type ComputeTarget =
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

interface RunningCompute {
  readonly running: RunningHost;
  readonly place: ComputePlace;
}

const host = { clock: browserClock, random: browserRandom, log: createLog('storage') };

class StorageThread {
  readonly #options: StorageOptions;
  readonly #server: ServerClient | null;
  readonly #tell: (event: StorageEvent) => void;
  readonly #loadArtefacts: LoadArtefacts;
  readonly #computes = new Map<number, RunningCompute>();
  /** Timelines that are open for writing, or are being opened. */
  readonly #written = new Set<string>();
  readonly #serverReads = newReadCounters();
  readonly #transfers: BranchTransfers;
  /** Pushes and pulls under way, by the number that the page gave them. */
  readonly #transferring = new Map<number, AbortController>();
  #repository: Promise<LocalRepository> | null = null;
  #nextCompute = 1;

  constructor(options: StorageOptions, tell: (event: StorageEvent) => void, loadArtefacts: LoadArtefacts) {
    this.#options = options;
    this.#loadArtefacts = loadArtefacts;
    this.#server = options.server === null ? null : new ServerClient(options.server);
    // Asked early; whoever needs it hears of a failure.
    this.#server?.status().catch(() => {});
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
  async openCompute(target: ComputeTarget, port: MessagePort): Promise<OpenedCompute> {
    try {
      const place = await this.#placeOf(target);
      const { compute, running } = await this.#start(place);
      const { start, bridgeUrl } = running;
      port.postMessage({ start, bridgeUrl } satisfies StartMessage, place.place === 'server' ? buffersOf(start) : []);
      const readOnlyLsn = place.readOnlyAt === null ? null : formatLsn(place.readOnlyAt);
      return { compute, place: place.place, readOnlyLsn };
    } catch (error) {
      port.postMessage({ error: asPagelite(error).toJSON() } satisfies StartMessage);
      throw error;
    } finally {
      port.close();
    }
  }

  async closeCompute(compute: number): Promise<void> {
    const open = this.#computes.get(compute);
    if (!open) return;
    this.#computes.delete(compute);
    const closing = open.running.close();
    // It answers nothing any more: whoever connects next need not wait for the rest.
    this.#release(open.place);
    await closing;
    open.place.close();
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

  /** A hybrid branch goes to the end of the server's: what was acknowledged there, which its pageserver may have yet to ingest. */
  async resetLocalBranch(name: string): Promise<BranchInfo> {
    const repository = await this.repository();
    const origin = repository.serverOrigin(name);
    const onServer = origin === null ? [] : await (this.#server?.branches() ?? []);
    const lsn = onServer.find(({ timelineId }) => timelineId === origin)?.lsn ?? null;
    return repository.resetBranch(name, lsn === null ? null : parseLsn(lsn));
  }

  async close(): Promise<void> {
    for (const transfer of this.#transferring.keys()) this.cancelTransfer(transfer);
    for (const compute of [...this.#computes.keys()]) await this.closeCompute(compute);
    if (this.#repository !== null) await (await this.#repository).close();
  }

  async #openRepository(): Promise<LocalRepository> {
    const { name, pageCacheBudgetBytes } = this.#options;
    const server = this.#server;
    return LocalRepository.open({
      name,
      artefacts: this.#loadArtefacts,
      fetchTemplate: () => fetchBundled(templateKey),
      ...host,
      ...(pageCacheBudgetBytes !== null && { pageCacheBudgetBytes }),
      ...(server && { openServerPages: (id) => this.#serverPages(server, id) }),
      progress: (progress) => this.#tell({ kind: 'progress', progress }),
    });
  }

  #serverPages(server: ServerClient, id: TenantTimelineId): CountedPages {
    return new CountedPages(server.openPages(id, host, this.#serverReads.traffic), this.#serverReads);
  }

  async #placeOf(target: ComputeTarget): Promise<ComputePlace> {
    if (target.kind === 'local') {
      return localPlace(await this.repository(), target.branch, target.at, host, this.#serverReads);
    }
    if (this.#server === null) throw new PageliteError('invalid', 'this page has no server');
    return serverPlace(this.#server, target.id, target.readOnlyAt, host);
  }

  async #start(place: ComputePlace): Promise<{ compute: number; running: RunningHost }> {
    this.#claim(place);
    const compute = this.#nextCompute++;
    try {
      const running = await place.run((error) => {
        this.#tell({ kind: 'failed', compute, error: error.toJSON() });
        void this.closeCompute(compute);
      });
      this.#computes.set(compute, { running, place });
      return { compute, running };
    } catch (error) {
      this.#release(place);
      place.close();
      throw error;
    }
  }

  #claim(place: ComputePlace): void {
    const { timelineId } = place.id;
    if (place.readOnlyAt !== null) return;
    if (this.#written.has(timelineId)) {
      place.close();
      const hint = 'Use that connection, close it first, or connect read-only with { lsn } or { at }';
      const text = `the branch is connected for writing already in this tab. ${hint}`;
      throw new PageliteError('invalid', text, { timelineId });
    }
    this.#written.add(timelineId);
  }

  #release(place: ComputePlace): void {
    if (place.readOnlyAt === null) this.#written.delete(place.id.timelineId);
  }
}

let thread: StorageThread | null = null;
const opened = (): StorageThread => must(thread, 'the storage is open');

const methods = {
  open(options: StorageOptions, tell: (event: StorageEvent) => void, loadArtefacts: LoadArtefacts): void {
    thread = new StorageThread(options, tell, loadArtefacts);
  },
  openCompute: (at: ComputeTarget, port: MessagePort) => opened().openCompute(at, port),
  closeCompute: (compute: number) => opened().closeCompute(compute),
  counters: (compute: number) => opened().counters(compute),
  close: () => opened().close(),

  // The tab's own repository
  localBranches: () => opened().localBranches(),
  localBranch: async (name: string) => (await opened().repository()).branch(name),
  createLocalBranch: async (name: string, from: NewBranchSource) =>
    (await opened().repository()).createBranch(name, from),
  resetLocalBranch: (name: string) => opened().resetLocalBranch(name),
  deleteLocalBranch: async (name: string) => (await opened().repository()).deleteBranch(name),
  localHistory: async (name: string) => (await opened().repository()).history(name),
  localPointAt: async (name: string, timestampMs: number) => (await opened().repository()).pointAt(name, timestampMs),
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
