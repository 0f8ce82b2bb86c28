/**
 * Entry of the backend's thread: opens a PGlite and serves it to the listener (endpoint.ts starts this as a worker).
 *
 * The PGlite comes from a module that the endpoint names: it exports `openBackend(data)`, which returns the PGlite ready to serve and
 * may set up things on it first. Without one, a PGlite in memory.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../engine/errors.ts';
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
  openBackend(data: unknown): Promise<OpenedBackend>;
}

/** Messages from this thread; the rest goes through shared memory. */
export type WorkerMessage =
  | { readonly kind: 'serving' }
  | { readonly kind: 'bell' }
  | { readonly kind: 'timer'; readonly dueAt: number }
  | { readonly kind: 'ended'; readonly error: string | null };

async function openBackend(data: ComputeWorkerData): Promise<OpenedBackend> {
  if (data.backendModule !== undefined) {
    const factory = (await import(data.backendModule)) as BackendFactory;
    return factory.openBackend(data.backendData);
  }
  const { PGlite } = await import('@electric-sql/pglite');
  return PGlite.create() as Promise<OpenedBackend>;
}

const port = parentPort;
if (port !== null) {
  const post = (message: WorkerMessage) => port.postMessage(message);
  const data = workerData as ComputeWorkerData;
  try {
    const backend = await openBackend(data);
    post({ kind: 'serving' });
    runBackend(backend, data.shared, {
      ring: () => post({ kind: 'bell' }),
      timer: (dueAt) => post({ kind: 'timer', dueAt }),
    });
    await backend.close();
    post({ kind: 'ended', error: null });
  } catch (error) {
    post({ kind: 'ended', error: messageOf(error) });
  }
}
