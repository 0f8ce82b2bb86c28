/**
 * What compaction does next. Pure: layers and sizes in, one job out, or none.
 *
 * Flushed layers are as wide as what was written meanwhile, so a read passes each of them. `mergeDeltas` sorts them by key into the columns (columns.ts): per
 * column one new run of delta layers, which takes in the runs above the images that are not much larger (each value is then rewritten a few times
 * only), or all of them where too many would lie on each other. `imageColumn` writes a column's pages anew as complete images once the deltas above the
 * present ones have grown to a good part of their size: reads end there, and garbage collection can drop what is below.
 *
 * What a read at the end passes in a column: flushed layers, `columnRunsMax` runs, one image.
 */
import { columnRunsMax, imageDeltaRatio, mergeInputBytesMax, pageSize } from '../limits.ts';
import type { Key } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { type Column, findColumns, isFlushed, type PlanLayer, type Run } from './columns.ts';

export interface MergeColumn<L extends PlanLayer> {
  readonly start: Key;
  readonly end: Key;
  /** Merged with the flushed layers. */
  readonly runs: readonly Run<L>[];
  /** Of the layers that are written. */
  readonly lsnStart: Lsn;
  /** The column is going to get images: those within its deltas are not needed. */
  readonly isImageDue: boolean;
}

export type CompactionJob<L extends PlanLayer> =
  | {
      readonly kind: 'mergeDeltas';
      /** By LSN. */
      readonly flushed: readonly L[];
      /** Those that get something. */
      readonly columns: readonly MergeColumn<L>[];
      /** Exclusive: of the layers that are written. */
      readonly lsnEnd: Lsn;
    }
  | {
      readonly kind: 'imageColumn';
      readonly column: Column<L>;
      /** As of which the images are. */
      readonly lsn: Lsn;
    };

export interface PlanInput<L extends PlanLayer> {
  readonly layers: readonly L[];
  readonly compactedLsn: Lsn;
  /** Flushed layers that are merged together. */
  readonly threshold: number;
  /** Deltas of a column that are fewer bytes than this do not call for images. */
  readonly imageDeltaBytesMin: number;
  /** Columns that must not get images now. */
  isBlocked(column: Column<L>): boolean;
  /** At least the bytes that a flushed layer has of a key range. */
  bytesIn(layer: L, start: Key, end: Key): number;
  /** Values of a layer. */
  entriesOf(layer: L): number;
  /** merge: flushed layers are merged however few there are. images: and every column with deltas gets images. */
  readonly force: 'none' | 'merge' | 'images';
}

export function nextJob<L extends PlanLayer>(input: PlanInput<L>): CompactionJob<L> | null {
  const { layers, compactedLsn, threshold, force } = input;
  const flushed = layers.filter((layer) => isFlushed(layer, compactedLsn));
  const columns = findColumns(layers, compactedLsn);
  if (flushed.length >= (force === 'none' ? threshold : 1))
    return mergeJob(input, columns, oldestOf(flushed, threshold));
  const due = columns.find((column) => isImageDue(input, column, 0) && !input.isBlocked(column));
  return due === undefined ? null : { kind: 'imageColumn', column: due, lsn: compactedLsn };
}

/** At least `threshold` of them, and more up to a bound: whole up to an LSN, so that none that is left reaches below it. */
function oldestOf<L extends PlanLayer>(flushed: readonly L[], threshold: number): L[] {
  const sorted = [...flushed].sort((a, b) => a.desc.lsnEnd - b.desc.lsnEnd);
  let bytes = 0;
  let count = 0;
  while (count < sorted.length && (count < threshold || bytes + sorted[count]!.size <= mergeInputBytesMax)) {
    bytes += sorted[count++]!.size;
  }
  let lsnEnd = sorted[count - 1]!.desc.lsnEnd;
  for (;;) {
    const taken = sorted.filter(({ desc }) => desc.lsnStart < lsnEnd);
    const end = Math.max(...taken.map(({ desc }) => desc.lsnEnd)) as Lsn;
    if (end === lsnEnd) return taken.sort((a, b) => a.desc.lsnStart - b.desc.lsnStart);
    lsnEnd = end;
  }
}

function mergeJob<L extends PlanLayer>(
  input: PlanInput<L>,
  columns: readonly Column<L>[],
  flushed: readonly L[],
): CompactionJob<L> {
  const lsnStart = Math.min(...flushed.map(({ desc }) => desc.lsnStart)) as Lsn;
  const lsnEnd = Math.max(...flushed.map(({ desc }) => desc.lsnEnd)) as Lsn;
  const jobs: MergeColumn<L>[] = [];
  for (const column of columns) {
    const { start, end, runs } = column;
    const bytes = flushed.reduce((sum, layer) => sum + input.bytesIn(layer, start, end), 0);
    if (bytes === 0) continue;
    const merged = runsToMerge(runs, bytes, lsnStart);
    jobs.push({
      start,
      end,
      runs: merged,
      lsnStart: Math.min(lsnStart, ...merged.map((run) => run.lsnStart)) as Lsn,
      isImageDue: isImageDue(input, column, bytes),
    });
  }
  return { kind: 'mergeDeltas', flushed, columns: jobs, lsnEnd };
}

/** Of the runs, newest first, those that new bytes are merged with. `lsnStart`: of the new bytes. */
function runsToMerge<L extends PlanLayer>(runs: readonly Run<L>[], bytes: number, lsnStart: Lsn): Run<L>[] {
  let sum = bytes;
  let count = 0;
  while (count < runs.length && (runs[count]!.bytes <= 2 * sum || runs.length - count >= columnRunsMax)) {
    sum += runs[count++]!.bytes;
  }
  const merged = runs.slice(0, count);
  // A delta layer has every value of its rectangle: a run that reaches into what is written has to come along.
  let start = Math.min(lsnStart, ...merged.map((run) => run.lsnStart));
  for (let i = 0; i < runs.length; i++) {
    const run = runs[i]!;
    if (run.lsnEnd <= start || merged.includes(run)) continue;
    merged.push(run);
    start = Math.min(start, run.lsnStart);
    i = -1;
  }
  return merged;
}

/** `moreBytes`: deltas that are about to be added. */
function isImageDue<L extends PlanLayer>(input: PlanInput<L>, column: Column<L>, moreBytes: number): boolean {
  const { images, sparse, runs } = column;
  const deltaBytes = runs.reduce((sum, run) => sum + run.bytes, moreBytes);
  if (deltaBytes === 0 && sparse.length === 0) return false;
  // Image layers of one LSN have disjoint keys: this one waits until there is more.
  const lsn = input.compactedLsn;
  if (moreBytes === 0 && [...images, ...sparse].some(({ desc }) => desc.lsnStart >= lsn)) return false;
  if (input.force === 'images' || sparse.length > columnRunsMax) return true;
  if (deltaBytes < input.imageDeltaBytesMin) return false;
  const imageBytes = images.reduce((sum, { size }) => sum + size, 0);
  if (imageBytes > 0) return deltaBytes >= imageDeltaRatio * imageBytes;
  // A branch: its images are as large as the pages that it has changed.
  const entries = runs.reduce((sum, run) => sum + run.layers.reduce((n, layer) => n + input.entriesOf(layer), 0), 0);
  return deltaBytes >= imageDeltaRatio * entries * pageSize;
}
