/**
 * A compute with its listener: what an endpoint process (main.ts) and the development server run for one branch.
 *
 * Owns the I/O host, in this thread, and the Postgres listener, whose worker thread holds the PGlite. Step on the path: client -> endpoint.ts ->
 * worker (backend-module.ts) -> bridge -> I/O host -> page service and safekeepers.
 *
 * Invariants
 * - each run of the backend has an I/O host of its own: it wins a term and boots where the safekeepers agree that WAL ends
 * - once a newer term rules, nothing is started again: clients are told, `failed` rejects with the reason
 */

import { createServer } from 'node:net';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log, PageService, WalService } from '../../engine/services.ts';
import { type ComputeStart, IoHost, type IoHostOptions } from '../../smgr-plugin/bridge/io-host.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { listen } from '../process/ports.ts';
import type { EndpointDoors } from './admission.ts';
import type { BackendData } from './backend-module.ts';
import { type Endpoint, type EndpointStats, startEndpoint } from './endpoint.ts';

export interface ComputeNodeOptions {
  readonly pages: PageService;
  readonly wal: readonly WalService[];
  /** See IoHostOptions. */
  readonly safekeepersGeneration?: number;
  readonly mode: IoHostOptions['mode'];
  readonly doors: EndpointDoors;
  readonly port: number;
  /** See IoHostOptions. */
  readonly maxWriteLagBytes?: number;
  readonly artefacts: PGliteArtefacts;
  readonly log: Log;
  /** PostgreSQL's own log is appended to this file; absent: to standard output. */
  readonly serverLogPath?: string;
}

const workerUrl = new URL('./compute-worker.js', import.meta.url);
const backendModule = new URL('./backend-module.js', import.meta.url).href;

export class ComputeNode {
  readonly #options: ComputeNodeOptions;
  #ioHost: IoHost | null = null;
  #start: ComputeStart | null = null;
  #endpoint: Endpoint | null = null;
  #fail: (error: PageliteError) => void = () => {};
  #fenced: PageliteError | null = null;
  /** Rejects when this compute is fenced. */
  readonly failed: Promise<never>;

  private constructor(options: ComputeNodeOptions) {
    this.#options = options;
    this.failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    // Whoever does not look at it is told by the log.
    this.failed.catch(() => {});
  }

  /** Resolves when clients can connect. Rejects `unavailable` if the port is taken, before anything else is done. */
  static async start(options: ComputeNodeOptions): Promise<ComputeNode> {
    await checkPort(options.doors.host, options.port);
    const node = new ComputeNode(options);
    try {
      await node.#begin();
      return node;
    } catch (error) {
      await node.#ioHost?.close();
      throw node.#fenced ?? error;
    }
  }

  get port(): number {
    return this.#endpoint?.port ?? 0;
  }

  get commitLsn(): number {
    return this.#ioHost?.commitLsn ?? 0;
  }

  stats(): EndpointStats | null {
    return this.#endpoint?.stats() ?? null;
  }

  /** Ends the connections and the backend, in order. */
  async close(): Promise<void> {
    await this.#endpoint?.close();
    await this.#ioHost?.close();
  }

  async #begin(): Promise<void> {
    await this.#prepare();
    const { doors, port, artefacts, log, serverLogPath } = this.#options;
    const node = this;
    this.#endpoint = await startEndpoint({
      ...doors,
      port,
      log,
      openBackend: {
        workerUrl,
        // Read anew at every start of the backend.
        workerData: {
          backendModule,
          get backendData(): BackendData {
            return { start: node.#start!, artefacts, ...(serverLogPath !== undefined && { serverLogPath }) };
          },
        },
      },
      onRestart: () => this.#prepare(),
    });
  }

  /** A new I/O host for the next run of the backend. */
  async #prepare(): Promise<void> {
    if (this.#fenced) throw this.#fenced;
    await this.#ioHost?.close();
    const { pages, wal, safekeepersGeneration, maxWriteLagBytes, mode, log } = this.#options;
    const ioHost = new IoHost({
      pages,
      wal,
      mode,
      log,
      clock: nodeClock,
      random: nodeRandom,
      ...(safekeepersGeneration !== undefined && { safekeepersGeneration }),
      ...(maxWriteLagBytes !== undefined && { maxWriteLagBytes }),
    });
    ioHost.onFailed((error) => this.#onFailed(error));
    this.#ioHost = ioHost;
    this.#start = await ioHost.start();
  }

  /** What is not a fence ends the backend, and the listener starts it again. */
  #onFailed(error: PageliteError): void {
    if (!isPageliteError(error, 'fenced') || this.#fenced) return;
    const message = `${error.message}. Another endpoint writes to this branch now; this one ends`;
    this.#fenced = new PageliteError('fenced', message, error.data, { cause: error });
    this.#options.log.error('fenced', { ...error.data, error: message });
    const closed = this.#endpoint?.close({ code: '57P01', message: `terminating connection: ${message}` });
    Promise.resolve(closed)
      .catch((cause: unknown) => this.#options.log.error('closing failed', { error: messageOf(cause) }))
      .finally(() => this.#fail(this.#fenced!));
  }
}

/** Opening a compute takes a moment and fences an older one: a port that is taken is found first. */
async function checkPort(host: string, port: number): Promise<void> {
  if (port === 0) return;
  const server = createServer();
  await listen(server, host, port);
  await new Promise<void>((resolve) => server.close(() => resolve()));
}
