/**
 * Compaction in a worker thread, so that the thread that serves reads does not sort, checksum and redo besides.
 *
 * The worker reads layers where they are files, else through this thread's store, and hands over what it has written; this thread puts it. It is started at the first job and ended
 * when there was none for a while: WAL redo of its own takes memory. A worker that fails costs its job, which is tried again in a new one.
 *
 * Invariant: one job at a time (SerialCompaction).
 */
import { Worker } from 'node:worker_threads';
import { assert, must } from '../../engine/assert.ts';
import type { CompactionHost, CompactionTask } from '../../engine/compaction/compaction-parts.ts';
import { runJob } from '../../engine/compaction/run-job.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { parseLayerName } from '../../engine/layers/layer-name.ts';
import type { ObjectStore } from '../../engine/services.ts';
import type { DiskFolder } from '../object-store/disk.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { type FromWorker, type TaskMessage, type ToWorker, toTaskMessage } from './compaction-messages.ts';
import type { CompactionWorkerData } from './compaction-worker.ts';

export interface CompactionThreadOptions {
  readonly store: ObjectStore;
  /** Where the objects of `store` are files: the worker reads them itself. Null: through this thread. */
  readonly folder: DiskFolder | null;
  /** Where the cached template is. */
  readonly dir: string;
  readonly artefacts: PGliteArtefacts;
}

const idleMs = 60_000;

export class CompactionThread implements CompactionHost {
  readonly #options: CompactionThreadOptions;
  #worker: Worker | null = null;
  #idleTimer: NodeJS.Timeout | null = null;
  #busy = false;

  constructor(options: CompactionThreadOptions) {
    this.#options = options;
  }

  async run(task: CompactionTask): Promise<void> {
    await flushAncestors(task);
    const message = toTaskMessage(task);
    if (message === null) return runJob(task);
    assert(!this.#busy, 'jobs come one after another');
    this.#busy = true;
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    try {
      await this.#runThere(task, message);
    } finally {
      this.#busy = false;
      this.#idleTimer = setTimeout(() => void this.close(), idleMs).unref();
    }
  }

  async close(): Promise<void> {
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    const worker = this.#worker;
    this.#worker = null;
    await worker?.terminate();
  }

  #start(): Worker {
    const { dir, artefacts, folder } = this.#options;
    const workerData: CompactionWorkerData = { dir, artefacts, folder };
    const worker = new Worker(new URL('./compaction-worker.js', import.meta.url), { workerData, execArgv: [] });
    worker.unref();
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = null;
    });
    this.#worker = worker;
    return worker;
  }

  #runThere(task: CompactionTask, message: TaskMessage): Promise<void> {
    const worker = this.#worker ?? this.#start();
    const post = (to: ToWorker, transfer: readonly ArrayBuffer[] = []) => worker.postMessage(to, transfer);
    return new Promise<void>((resolve, reject) => {
      const end = (settle: () => void) => {
        worker.off('message', onMessage);
        worker.off('error', onError);
        worker.off('exit', onExit);
        task.signal.removeEventListener('abort', onAbort);
        settle();
      };
      const onError = (error: unknown) =>
        end(() => reject(new PageliteError('unavailable', `the compaction thread failed: ${messageOf(error)}`)));
      const onExit = (code: number) =>
        end(() => reject(new PageliteError('unavailable', `the compaction thread ended with code ${code}`)));
      const onAbort = () => post({ kind: 'abort', error: jsonOf(task.signal.reason) });
      const onMessage = (from: FromWorker) => {
        switch (from.kind) {
          case 'get':
            void this.#get(from, post);
            return;
          case 'layer':
            task
              .put({ name: from.name, bytes: from.bytes, desc: must(parseLayerName(from.name)) }, from.isComplete)
              .then(
                () => post({ kind: 'put' }),
                (error: unknown) => post({ kind: 'abort', error: jsonOf(error) }),
              );
            return;
          case 'progress':
            task.onProgress(from.bytes);
            return;
          case 'warn':
            task.log.warn(from.message, from.data);
            return;
          case 'done':
            end(resolve);
            return;
          case 'failed':
            end(() => reject(from.isBug ? new Error(from.error.message) : PageliteError.fromJSON(from.error)));
            return;
        }
      };
      worker.on('message', onMessage);
      worker.on('error', onError);
      worker.on('exit', onExit);
      task.signal.addEventListener('abort', onAbort);
      post({ kind: 'run', task: message });
      if (task.signal.aborted) onAbort();
    });
  }

  async #get(
    { request, key, start, end, fresh }: Extract<FromWorker, { kind: 'get' }>,
    post: (to: ToWorker, transfer?: readonly ArrayBuffer[]) => void,
  ): Promise<void> {
    try {
      const found = await this.#options.store.get(key, { start, end }, { fresh });
      // A copy of what stands in a pooled buffer; what stands alone is handed over.
      const bytes = found === null ? null : found.bytes.slice();
      post({ kind: 'got', request, bytes }, bytes === null ? [] : [bytes.buffer]);
    } catch (error) {
      post({ kind: 'failedGet', request, error: jsonOf(error) });
    }
  }
}

/** What a branch reads of its ancestors is in files: the worker has no memory layers. One that cannot be flushed is read here. */
async function flushAncestors({ view, log, id }: CompactionTask): Promise<void> {
  for (let { ancestor } = view as Pick<CompactionTask['view'], 'ancestor'>; ancestor?.kind === 'local'; ) {
    const above = ancestor.open();
    if (above.layers.filesLsnEnd <= ancestor.lsn) {
      try {
        await ancestor.flush?.();
      } catch (error) {
        log.debug('an ancestor cannot be flushed', { ...id, error: messageOf(error) });
      }
    }
    ancestor = above.ancestor;
  }
}

function jsonOf(error: unknown) {
  return isPageliteError(error) ? error.toJSON() : new PageliteError('unavailable', messageOf(error)).toJSON();
}
