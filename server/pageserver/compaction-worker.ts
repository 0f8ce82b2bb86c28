/** Entry of the compaction thread: does jobs as they come (compaction-thread.ts), with WAL redo of its own, which is started when a job needs it. */
import { readlinkSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { basename } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { must } from '../../engine/assert.ts';
import { runJob } from '../../engine/compaction/run-job.ts';
import { TimelineCounters } from '../../engine/counters.ts';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { LayerFile } from '../../engine/layers/layer-file.ts';
import { LayerMap } from '../../engine/layers/layer-map.ts';
import { parseLayerFile, parseLayerName } from '../../engine/layers/layer-name.ts';
import { compactionCacheBytes } from '../../engine/limits.ts';
import { type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { Log, ObjectStore, RedoRequest, WalRedo } from '../../engine/services.ts';
import type { TimelineView } from '../../engine/timeline/gather.ts';
import { PageVersions } from '../../engine/timeline/page-versions.ts';
import { Readers } from '../../engine/timeline/readers.ts';
import { type DiskFolder, DiskObjectStore } from '../object-store/disk.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import {
  type FromWorker,
  jobOf,
  type TaskMessage,
  type TimelineMessage,
  type ToWorker,
} from './compaction-messages.ts';
import { loadTenantTemplate } from './template-cache.ts';

export interface CompactionWorkerData {
  readonly dir: string;
  readonly artefacts: PGliteArtefacts;
  /** Where layers are files. */
  readonly folder: DiskFolder | null;
}

interface Waiting<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

const port = must(parentPort);
const { dir, artefacts, folder } = workerData as CompactionWorkerData;
const post = (from: FromWorker, transfer: readonly ArrayBuffer[] = []) => port.postMessage(from, transfer);
const warn = (message: string, data: object = {}) => post({ kind: 'warn', message, data });
const log: Log = { debug: () => {}, info: () => {}, warn, error: warn };

const gets = new Map<number, Waiting<Uint8Array | null>>();
let nextRequest = 1;
let put: Waiting<void> | null = null;
let abort = new AbortController();

/** Layers, read in the pageserver's thread: it has the store, and what is under way there. */
const storeElsewhere: Pick<ObjectStore, 'get'> = {
  async get(key, range, options) {
    const { start, end } = must(range, 'layers are read in ranges');
    const request = nextRequest++;
    const bytes = await new Promise<Uint8Array | null>((resolve, reject) => {
      gets.set(request, { resolve, reject });
      post({ kind: 'get', request, key, start, end, fresh: options?.fresh ?? false });
    });
    return bytes === null ? null : { bytes, version: '' };
  },
};

/** Started when it is first needed: many jobs need none. */
class LazyRedo implements WalRedo {
  #redo: PostgresRedo | null = null;
  #starting: Promise<void> | null = null;

  redoPage(request: RedoRequest): Uint8Array {
    if (this.#redo === null) throw new PageliteError('unavailable', 'WAL redo is being started');
    return this.#redo.redoPage(request);
  }

  async ready(): Promise<void> {
    this.#starting ??= this.#start();
    await this.#starting;
    await must(this.#redo).ready();
  }

  async #start(): Promise<void> {
    const template = await loadTenantTemplate({ dir, artefacts, log });
    this.#redo = await PostgresRedo.create({ template, artefacts, log });
  }

  async close(): Promise<void> {
    await this.#redo?.close();
  }
}

const redo = new LazyRedo();

/**
 * This thread gives way to those that answer reads, but gets a tenth of a core however busy they are: ingest waits for it in the end. Linux has a nice value for
 * each thread, and tells a thread which it is; elsewhere all are alike.
 */
function giveWayToReads(): void {
  if (process.platform !== 'linux') return;
  try {
    setPriority(Number(basename(readlinkSync('/proc/thread-self'))), constants.priority.PRIORITY_BELOW_NORMAL);
  } catch (error) {
    warn('compaction does not give way to reads', { error: messageOf(error) });
  }
}

giveWayToReads();

async function run(task: TaskMessage): Promise<void> {
  const store =
    folder === null ? storeElsewhere : await DiskObjectStore.open(folder.folder, { ...folder, sweep: false });
  const blocks = new BlockCache(compactionCacheBytes);
  const layers = new Map<string, LayerFile>();
  const viewOf = (at: number): TimelineView => {
    const timeline = must(task.timelines[at]);
    const ancestor = timeline.ancestorLsn === null ? null : viewOf(at + 1);
    return viewOfFiles(timeline, filesOf(timeline, store, blocks, layers), ancestor);
  };
  const view = Object.assign(viewOf(0), { redo });
  await runJob({
    job: jobOf(task.job, (key) => must(layers.get(key))),
    id: must(task.timelines[0]).id,
    view,
    targetBytes: task.targetBytes,
    chainRecordsMin: task.chainRecordsMin,
    chainBytesMin: task.chainBytesMin,
    log,
    // Messages come in between reads, which a job waits for anyway.
    yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
    signal: abort.signal,
    put: ({ name, bytes }, isComplete) =>
      new Promise<void>((resolve, reject) => {
        put = { resolve, reject };
        post({ kind: 'layer', name, bytes, isComplete }, [bytes.buffer as ArrayBuffer]);
      }),
    onProgress: (bytes) => post({ kind: 'progress', bytes }),
  });
}

function filesOf(
  { id, layers: messages }: TimelineMessage,
  store: Pick<ObjectStore, 'get'>,
  blocks: BlockCache,
  layers: Map<string, LayerFile>,
): LayerFile[] {
  return messages.map(({ name, key, size, isComplete }) => {
    const slash = key.lastIndexOf('/') + 1;
    const { generation } = must(parseLayerFile(key.slice(slash)));
    const desc = must(parseLayerName(name));
    const file = new LayerFile(id, desc, key.slice(0, slash), size, store as ObjectStore, blocks, {
      generation,
      isComplete,
    });
    layers.set(key, file);
    return file;
  });
}

function viewOfFiles(
  { id, ancestorLsn }: TimelineMessage,
  files: readonly LayerFile[],
  ancestor: TimelineView | null,
): TimelineView {
  return {
    id,
    layers: { memory: [], files: LayerMap.of(files), filesLsnEnd: (maxLsn - 1) as Lsn },
    versions: new PageVersions(new ClockCache(1)),
    ancestor: ancestor === null ? null : { kind: 'local', lsn: must(ancestorLsn), open: () => ancestor },
    readers: new Readers(),
    counters: new TimelineCounters(),
    waitLsn: () => undefined,
  };
}

function fail(error: Error): void {
  abort.abort(error);
  for (const { reject } of gets.values()) reject(error);
  gets.clear();
  put?.reject(error);
  put = null;
}

port.on('message', async (message: ToWorker) => {
  switch (message.kind) {
    case 'run':
      abort = new AbortController();
      try {
        await run(message.task);
        post({ kind: 'done' });
      } catch (error) {
        const isBug = !isPageliteError(error);
        const told = isBug ? new PageliteError('unavailable', stackOf(error)) : error;
        post({ kind: 'failed', error: told.toJSON(), isBug });
      }
      return;
    case 'got':
      gets.get(message.request)?.resolve(message.bytes);
      gets.delete(message.request);
      return;
    case 'failedGet':
      gets.get(message.request)?.reject(PageliteError.fromJSON(message.error));
      gets.delete(message.request);
      return;
    case 'put':
      put?.resolve();
      put = null;
      return;
    case 'abort':
      fail(PageliteError.fromJSON(message.error));
      return;
  }
});

const stackOf = (error: unknown): string =>
  error instanceof Error ? (error.stack ?? error.message) : messageOf(error);
