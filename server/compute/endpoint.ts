/**
 * An endpoint: a TCP port that speaks PostgreSQL's protocol, and the thread with the backend behind it.
 *
 * Owns the parts: the listening socket, the worker thread with its shared memory, the multiplexer between them, the interrupter. The
 * backend holds nothing durable, so when it ends by itself or ignores a cancel, it is started again: its sessions are told (57P02),
 * the listener stays.
 */
import { randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import { checkListenHost } from '../auth/listen-policy.ts';
import { type Admission, trustAll } from './admission.ts';
import { interruptHookName } from './backend-thread.ts';
import { ClientConnection, type ConnectionEvents } from './client-connection.ts';
import type { ComputeWorkerData, WorkerMessage } from './compute-worker.ts';
import { Interrupter } from './interrupter.ts';
import type { ErrorFields } from './pg-frames.ts';
import { createSharedWire, type SharedWire, signal, wakeBackend, word } from './ring.ts';
import { SessionMultiplexer } from './session-multiplexer.ts';
import { defaultSessionLimits, type SessionLimits } from './wire-limits.ts';

export interface EndpointOptions {
  readonly host?: string;
  /** 0: any free port. */
  readonly port: number;
  /** Default: everybody who can connect may be any role; the host must be a loopback one then. */
  readonly admission?: Admission;
  /** A Unix socket, too, which nobody but the owner of this process can open, and which trusts. */
  readonly localSocketPath?: string | null;
  readonly openBackend: {
    /** The worker's entry: compute-worker.js, or one of the caller's own that calls `runBackend`. */
    readonly workerUrl: URL;
    /** Structured-clonable; the worker gets it with `shared` added. */
    readonly workerData?: object;
  };
  readonly sessionLimits?: Partial<SessionLimits>;
  readonly log: Log;
  /** Called before the backend is started again; the caller may prepare its data, or throw to end the endpoint. */
  readonly onRestart?: (reason: string) => Promise<void>;
}

export interface EndpointStats {
  readonly connections: number;
  readonly sessions: number;
  readonly waiting: number;
  readonly turns: number;
  readonly restarts: number;
}

export interface Endpoint {
  readonly port: number;
  stats(): EndpointStats;
  /** Ends all connections, with this reason, and the backend (which shuts down in order). */
  close(reason?: Omit<ErrorFields, 'severity'>): Promise<void>;
}

const adminShutdown = { code: '57P01', message: 'terminating connection due to administrator command' };
const tickMs = 50;
const restartDelayMs = 1000;

/** Resolves when the backend is open and the port listens; rejects if either cannot be. */
export async function startEndpoint(options: EndpointOptions): Promise<Endpoint> {
  const endpoint = new RunningEndpoint(options);
  await endpoint.start();
  return endpoint;
}

/** A worker and what belongs to this run of it. */
interface Backend {
  readonly worker: Worker;
  readonly wire: SharedWire;
  readonly multiplexer: SessionMultiplexer;
  readonly ended: Promise<void>;
}

class RunningEndpoint implements Endpoint {
  readonly #options: EndpointOptions;
  readonly #limits: SessionLimits;
  readonly #log: Log;
  readonly #interrupter = new Interrupter(interruptHookName);
  readonly #connections = new Set<ClientConnection>();
  readonly #server: Server;
  readonly #localServer: Server | null;
  readonly #byId = new Map<number, ClientConnection>();
  #backend: Backend | null = null;
  #ticker: ReturnType<typeof setInterval> | null = null;
  #timer: { readonly dueAt: number; readonly id: ReturnType<typeof setTimeout> } | null = null;
  #nextId = 1;
  #restarts = 0;
  #closing = false;

  constructor(options: EndpointOptions) {
    this.#options = options;
    this.#limits = { ...defaultSessionLimits, ...options.sessionLimits };
    this.#log = options.log;
    const { admission = trustAll, localSocketPath } = options;
    this.#server = createServer((socket) => this.#accept(socket, admission));
    this.#localServer = localSocketPath ? createServer((socket) => this.#accept(socket, trustAll)) : null;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  stats(): EndpointStats {
    const { sessions, waiting, turns } = this.#backend?.multiplexer.stats() ?? { sessions: 0, waiting: 0, turns: 0 };
    return { connections: this.#connections.size, sessions, waiting, turns, restarts: this.#restarts };
  }

  /** The port first: a taken one is found before the backend is opened. Clients that come early wait. */
  async start(): Promise<void> {
    const { host = '127.0.0.1', admission = trustAll, port } = this.#options;
    checkListenHost('endpoint', host, admission.method !== 'trust', 'Let it ask for passwords: --auth scram-sha-256');
    try {
      await this.#listen(this.#server, () => this.#server.listen(port, host));
      await this.#listenLocally();
    } catch (error) {
      await this.close();
      throw new PageliteError('unavailable', `cannot listen on port ${port}: ${messageOf(error)}`);
    }
    try {
      this.#serve(await this.#startBackend());
    } catch (error) {
      await this.close();
      throw error;
    }
    this.#ticker = setInterval(() => this.#backend?.multiplexer.tick(), tickMs);
  }

  #serve(backend: Backend): void {
    this.#backend = backend;
    for (const connection of this.#connections) {
      if (connection.state === 'opening' || connection.state === 'identifying') backend.multiplexer.open(connection);
    }
  }

  async close(reason: Omit<ErrorFields, 'severity'> = adminShutdown): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    if (this.#ticker !== null) clearInterval(this.#ticker);
    if (this.#timer !== null) clearTimeout(this.#timer.id);
    const closed = Promise.all(
      [this.#server, this.#localServer].map(
        (server) => new Promise<void>((resolve) => server?.close(() => resolve()) ?? resolve()),
      ),
    );
    // A backend that was fenced says that it could not sync a file.
    this.#backend?.multiplexer.mute();
    for (const connection of [...this.#connections]) {
      connection.fail(reason);
    }
    await this.#stopBackend();
    this.#interrupter.close();
    await closed;
  }

  #listen(server: Server, bind: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.once('listening', () => {
        server.off('error', reject);
        server.on('error', (error) => this.#log.error('listener failed', { error: messageOf(error) }));
        resolve();
      });
      bind();
    });
  }

  /** The socket is bound within `listen`, with the mode that the umask then leaves: at no moment can others open it. */
  async #listenLocally(): Promise<void> {
    const { localSocketPath } = this.#options;
    const server = this.#localServer;
    if (!localSocketPath || server === null) return;
    // Of a process that was killed: the endpoint's folder is this process's alone.
    rmSync(localSocketPath, { force: true });
    await this.#listen(server, () => {
      const umask = process.umask(0o177);
      try {
        server.listen(localSocketPath);
      } finally {
        process.umask(umask);
      }
    });
  }

  #startBackend(): Promise<Backend> {
    const wire = createSharedWire();
    const { workerUrl, workerData } = this.#options.openBackend;
    const data: ComputeWorkerData = { ...workerData, shared: wire.buffer };
    const worker = new Worker(workerUrl, { workerData: data });
    const multiplexer = new SessionMultiplexer(wire, {
      log: this.#log,
      limits: this.#limits,
      now: () => Date.now(),
      interrupt: () => this.#interrupter.interrupt(),
      restart: (reason) => this.#giveUp(backend, reason),
    });
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    const backend: Backend = { worker, wire, multiplexer, ended };
    return new Promise((resolve, reject) => {
      worker.on('message', (message: WorkerMessage) => {
        if (message.kind === 'bell') multiplexer.drain();
        else if (message.kind === 'timer') this.#setTimer(message.dueAt);
        else if (message.kind === 'serving') resolve(backend);
        else if (message.kind === 'log') this.#log[message.level](message.message, message.data);
        else this.#onEnded(backend, message.error ?? 'it was shut down', reject);
      });
      worker.once('error', (error) => this.#onEnded(backend, messageOf(error), reject));
      worker.once('exit', () => this.#onEnded(backend, 'its thread has ended', reject));
    });
  }

  /** The backend has ended, in order or not. The first reason given counts. */
  #onEnded(backend: Backend, reason: string, reject: (error: Error) => void): void {
    reject(new PageliteError('unavailable', `the backend could not be started: ${reason}`));
    // Its thread may still hold something open.
    if (this.#closing) void backend.worker.terminate();
    if (this.#backend !== backend || this.#closing) return;
    this.#backend = null;
    this.#log.error('the backend has ended and is started again', { reason });
    backend.multiplexer.abandonAll({
      code: '57P02',
      message: `terminating connection because the backend was restarted: ${reason}`,
      hint: 'In a moment you should be able to reconnect to the endpoint and repeat your command.',
    });
    void backend.worker.terminate();
    void this.#restart(reason);
  }

  #giveUp(backend: Backend, reason: string): void {
    this.#onEnded(backend, reason, () => {});
  }

  async #restart(reason: string): Promise<void> {
    while (!this.#closing) {
      try {
        await this.#options.onRestart?.(reason);
        const backend = await this.#startBackend();
        this.#restarts++;
        this.#serve(backend);
        if (this.#closing) await this.#stopBackend();
        return;
      } catch (error) {
        this.#log.error('the backend could not be started again', { error: messageOf(error) });
        await new Promise((resolve) => setTimeout(resolve, restartDelayMs));
      }
    }
  }

  async #stopBackend(): Promise<void> {
    const backend = this.#backend;
    if (backend === null) return;
    Atomics.or(backend.wire.words, word.signals, signal.shutdown | signal.cancel);
    wakeBackend(backend.wire.words);
    this.#interrupter.interrupt();
    const grace = setTimeout(() => void backend.worker.terminate(), this.#limits.cancelGraceMs);
    await backend.ended;
    clearTimeout(grace);
    this.#backend = null;
  }

  #setTimer(dueAt: number): void {
    if (this.#closing || (this.#timer !== null && this.#timer.dueAt <= dueAt && this.#timer.dueAt > Date.now())) return;
    if (this.#timer !== null) clearTimeout(this.#timer.id);
    // Not before it is due, by the backend's clock too.
    const id = setTimeout(() => this.#onTimer(), Math.max(1, dueAt - Date.now() + 1));
    this.#timer = { dueAt, id };
  }

  #onTimer(): void {
    this.#timer = null;
    this.#backend?.multiplexer.timerDue();
  }

  #accept(socket: Socket, admission: Admission): void {
    const connection = new ClientConnection({
      id: this.#nextId++,
      secret: randomInt(0, 2 ** 31),
      socket,
      events: this.#events,
      admission,
      authenticationTimeoutMs: this.#limits.authenticationTimeoutMs,
      log: this.#log,
    });
    if (this.#closing || this.#connections.size >= this.#limits.connectionsMax) {
      connection.fail({ code: '53300', message: 'sorry, too many clients already' });
      return;
    }
    this.#connections.add(connection);
    this.#byId.set(connection.id, connection);
    const timeout = setTimeout(() => {
      if (connection.state === 'startup') connection.destroy();
    }, this.#limits.startupTimeoutMs);
    timeout.unref();
  }

  readonly #events: ConnectionEvents = {
    // While the backend is being started again, new clients wait for it.
    opened: (connection) => this.#backend?.multiplexer.open(connection),
    input: (connection) => this.#backend?.multiplexer.input(connection),
    drained: () => this.#backend?.multiplexer.drain(),
    cancel: (processId, secret) => {
      const connection = this.#byId.get(processId);
      if (connection !== undefined && connection.secret === secret) this.#backend?.multiplexer.cancel(connection);
    },
    closed: (connection) => {
      this.#connections.delete(connection);
      this.#byId.delete(connection.id);
      this.#backend?.multiplexer.closed(connection);
    },
  };
}
