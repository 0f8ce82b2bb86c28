/**
 * Jobs of compaction as messages between the pageserver's thread (compaction-thread.ts) and the worker (compaction-worker.ts).
 *
 * Layers are named by their object's key; bytes of layers are asked for by the worker, and written layers are handed over, without a copy. Keys of the key
 * space are plain numbers on the way: prefixes are interned in each thread.
 */
import { must } from '../../engine/assert.ts';
import type { Column, PlanLayer, Run } from '../../engine/compaction/columns.ts';
import type { CompactionTask } from '../../engine/compaction/compaction-parts.ts';
import type { CompactionJob, MergeColumn } from '../../engine/compaction/plan.ts';
import type { ErrorJson } from '../../engine/errors.ts';
import type { LayerFile } from '../../engine/layers/layer-file.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { type Key, keyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { TimelineView } from '../../engine/timeline/gather.ts';

export type ToWorker =
  | { readonly kind: 'run'; readonly task: TaskMessage }
  /** The answer to `get`. Null: there is no such object. */
  | { readonly kind: 'got'; readonly request: number; readonly bytes: Uint8Array | null }
  | { readonly kind: 'failedGet'; readonly request: number; readonly error: ErrorJson }
  /** The layer that was handed over is put. */
  | { readonly kind: 'put' }
  /** The job is to end, with this. */
  | { readonly kind: 'abort'; readonly error: ErrorJson };

export type FromWorker =
  | {
      readonly kind: 'get';
      readonly request: number;
      readonly key: string;
      readonly start: number;
      readonly end: number;
      readonly fresh: boolean;
    }
  | { readonly kind: 'layer'; readonly name: string; readonly bytes: Uint8Array; readonly isComplete: boolean }
  | { readonly kind: 'progress'; readonly bytes: number }
  | { readonly kind: 'warn'; readonly message: string; readonly data: object }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly error: ErrorJson; readonly isBug: boolean };

export interface LayerMessage {
  readonly name: string;
  readonly key: string;
  readonly size: number;
  readonly isComplete: boolean;
}

/** A timeline as far as a job reads it: its layer files. */
export interface TimelineMessage {
  readonly id: TenantTimelineId;
  readonly layers: readonly LayerMessage[];
  /** Where it branches from the next one; null: it has no ancestor. */
  readonly ancestorLsn: Lsn | null;
}

export interface TaskMessage {
  /** The timeline, and its ancestors. */
  readonly timelines: readonly TimelineMessage[];
  readonly job: unknown;
  readonly targetBytes: number;
  readonly chainRecordsMin: number;
  readonly chainBytesMin: number;
}

/** Null if the worker cannot do it: an ancestor is elsewhere, or has what is needed in memory only. */
export function toTaskMessage(task: CompactionTask): TaskMessage | null {
  const timelines: TimelineMessage[] = [];
  let view: TimelineView = task.view;
  let { id } = task;
  for (;;) {
    const { ancestor } = view;
    timelines.push({
      id,
      layers: view.layers.files.layers().map(({ name, key, size, isComplete }) => ({ name, key, size, isComplete })),
      ancestorLsn: ancestor?.lsn ?? null,
    });
    if (ancestor === null) break;
    if (ancestor.kind === 'remote') return null;
    view = ancestor.open();
    if (view.layers.filesLsnEnd <= ancestor.lsn) return null;
    id = view.id;
  }
  const { targetBytes, chainRecordsMin, chainBytesMin } = task;
  const job = mapJob(task.job, ({ key }) => key, plainKey);
  return { timelines, job, targetBytes, chainRecordsMin, chainBytesMin };
}

/** `layerOf`: the layer of a key. */
export function jobOf(message: unknown, layerOf: (key: string) => LayerFile): CompactionJob<LayerFile> {
  return mapJob(
    message as CompactionJob<never>,
    (key) => layerOf(key as unknown as string),
    keyOf,
  ) as CompactionJob<LayerFile>;
}

const plainKey = ({ prefix: { kind, spc, db, rel, fork }, block }: Key): unknown => ({
  kind,
  spc,
  db,
  rel,
  fork,
  block,
});

function keyOf(key: Key): Key {
  const { kind, spc, db, rel, fork, block } = key as unknown as Record<string, number>;
  return { prefix: keyPrefix(must(kind), must(spc), must(db), must(rel), must(fork)), block: must(block) };
}

/** The job with other layers and keys in it. */
function mapJob<L extends PlanLayer>(
  job: CompactionJob<L>,
  layer: (layer: L) => unknown,
  key: (key: Key) => unknown,
): unknown {
  const run = (one: Run<L>) => ({ ...one, layers: one.layers.map(layer) });
  if (job.kind === 'mergeDeltas') {
    const column = (one: MergeColumn<L>) => ({
      ...one,
      start: key(one.start),
      end: key(one.end),
      runs: one.runs.map(run),
      gaps: one.gaps.map((gap) => ({ ...gap, key: key(gap.key) })),
    });
    return { ...job, flushed: job.flushed.map(layer), columns: job.columns.map(column) };
  }
  const column = (one: Column<L>) => ({
    start: key(one.start),
    end: key(one.end),
    images: one.images.map(layer),
    sparse: one.sparse.map(layer),
    runs: one.runs.map(run),
    sealed: one.sealed.map(layer),
    historyEnd: one.historyEnd,
    setAside: one.setAside.map(layer),
    setAsideLive: one.setAsideLive.map(layer),
  });
  return { ...job, column: column(job.column) };
}
