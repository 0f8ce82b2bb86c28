/**
 * Entry of the backend's thread: opens a PGlite and serves it to the listener (endpoint.ts starts this as a worker).
 *
 * The PGlite comes from a module that the endpoint names: it exports `openBackend(data, log)`, which returns the PGlite ready to serve and
 * may set up things on it first. Without one, a PGlite in memory.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import { type BackendOwner, runBackend } from './backend-thread.ts';

export interface ComputeWorkerData {
  readonly shared: SharedArrayBuffer;
  /** URL of a module that exports `openBackend`. */
  readonly backendModule?: string;
  readonly backendData?: unknown;
}

export interface OpenedBackend extends BackendOwner {
  close(): Promise<void>;
}

/** What the module named by `backendModule` exports. */
export interface BackendFactory {
  /** What is logged is the listener's to write. */
  openBackend(data: unknown, log: Log): Promise<OpenedBackend>;
}

/** Messages from this thread; the rest goes through shared memory. */
export type WorkerMessage =
  | { readonly kind: 'serving' }
  | { readonly kind: 'bell' }
  | { readonly kind: 'timer'; readonly dueAt: number }
  | { readonly kind: 'log'; readonly level: keyof Log; readonly message: string; readonly data: object }
  | { readonly kind: 'ended'; readonly error: string | null };

async function openBackend(data: ComputeWorkerData, log: Log): Promise<OpenedBackend> {
  if (data.backendModule !== undefined) {
    const factory = (await import(data.backendModule)) as BackendFactory;
    return factory.openBackend(data.backendData, log);
  }
  const { PGlite } = await import('@electric-sql/pglite');
  return PGlite.create() as Promise<OpenedBackend>;
}

const port = parentPort;
if (port !== null) {
  const post = (message: WorkerMessage) => port.postMessage(message);
  const data = workerData as ComputeWorkerData;
  const logAt =
    (level: keyof Log): Log[keyof Log] =>
    (message, data = {}) =>
      post({ kind: 'log', level, message, data });
  const log: Log = { debug: logAt('debug'), info: logAt('info'), warn: logAt('warn'), error: logAt('error') };
  try {
    const backend = await openBackend(data, log);
    post({ kind: 'serving' });
    runBackend(backend, data.shared, {
      ring: () => post({ kind: 'bell' }),
      timer: (dueAt) => post({ kind: 'timer', dueAt }),
    });
    await backend.close();
    post({ kind: 'ended', error: null });
  } catch (error) {
    post({ kind: 'ended', error: reasonOf(error) });
  }
}

/** An error of PostgreSQL has its reason, if that is known, as its detail. */
function reasonOf(error: unknown): string {
  const { detail } = error as { readonly detail?: string };
  return detail ? `${messageOf(error)} (${detail})` : messageOf(error);
}
