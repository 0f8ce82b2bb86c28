/**
 * What compaction does next. Pure: layers and sizes in, one job out, or none.
 *
 * Flushed layers are as wide as what was written meanwhile, so a read passes each of them. `mergeDeltas` sorts them by key into the columns (columns.ts): per
 * column one new run of delta layers, which takes in the runs above the images that are not much larger (each value is then rewritten a few times
 * only), or all of them where too many would lie on each other. `imageColumn` writes a column's pages anew as complete images once the deltas above the
 * present ones have grown to a good part of their size: reads end there, and garbage collection can drop what is below.
 *
 * What a read at the end passes in a column: flushed layers, `columnRunsMax` runs, one image or sealed layer.
 *
 * A layer that is set aside (it is damaged) is merged with nothing, and nothing is merged across it: what lies above it and what lies below it are merged
 * apart, so that a read passes it and `columnRunsMax` runs more.
 *
 * Invariant: a delta layer that is written has every value of its rectangle. So what it would reach into is merged too, or is not reached into.
 */
import { columnRunsMax, imageDeltaRatio, mergeInputBytesMax, mergeInputsMax, pageSize } from '../limits.ts';
import { compareKeys, type Key } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { type Column, type ColumnsInput, isFlushed, type PlanLayer, type Run } from './columns.ts';

export interface MergeColumn<L extends PlanLayer> {
  readonly start: Key;
  readonly end: Key;
  /** Merged with the flushed layers. */
  readonly runs: readonly Run<L>[];
  /** Of the layers that are written. */
  readonly lsnStart: Lsn;
  /** The column is going to get images: those within its deltas are not needed. */
  readonly isImageDue: boolean;
  /** What sealed layers have above `lsnStart`: layers are written around it. By key and LSN. */
  readonly gaps: readonly KeyGap[];
}

export interface KeyGap {
  readonly key: Key;
  readonly lsnStart: Lsn;
  readonly lsnEnd: Lsn;
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

export interface PlanInput<L extends PlanLayer> extends ColumnsInput {
  readonly layers: readonly L[];
  /** Of these layers, by `findColumns`: they stay the same when layers are flushed. */
  readonly columns: readonly Column<L>[];
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
  const { layers, columns, compactedLsn, threshold, force } = input;
  const flushed = layers.filter((layer) => isFlushed(layer, compactedLsn) && !input.setAside.has(layer.name));
  if (flushed.length >= (force === 'none' ? threshold : 1)) {
    const job = mergeJob(input, oldestOf(mergeable(input, flushed), threshold));
    if (job !== null) return job;
  }
  const due = columns.find((column) => isImageDue(input, column, 0) && !input.isBlocked(column));
  return due === undefined ? null : { kind: 'imageColumn', column: due, lsn: compactedLsn };
}

interface LsnRange {
  readonly lsnStart: Lsn;
  readonly lsnEnd: Lsn;
}
const lsnsMeet = (a: LsnRange, b: LsnRange): boolean => a.lsnStart < b.lsnEnd && b.lsnStart < a.lsnEnd;

/** Of the flushed layers those below the first one that is set aside, or else those above it. */
function mergeable<L extends PlanLayer>({ layers, setAside }: PlanInput<L>, flushed: readonly L[]): readonly L[] {
  if (setAside.size === 0) return flushed;
  const apart = layers.filter(({ name, desc }) => setAside.has(name) && desc.kind === 'delta').map(({ desc }) => desc);
  // Layers from elsewhere may share LSNs with it, or with one that does.
  let clear = flushed;
  for (let count = -1; count !== clear.length; ) {
    count = clear.length;
    const meets = (layer: L) => apart.some((desc) => lsnsMeet(desc, layer.desc));
    apart.push(...clear.filter(meets).map(({ desc }) => desc));
    clear = clear.filter((layer) => !meets(layer));
  }
  const oldest = Math.min(...clear.map(({ desc }) => desc.lsnEnd));
  const next = Math.min(...apart.filter(({ lsnStart }) => lsnStart >= oldest).map(({ lsnStart }) => lsnStart));
  return clear.filter(({ desc }) => desc.lsnEnd <= next);
}

/** At least `threshold` of them, and more up to a bound: whole up to an LSN, so that none that is left reaches below it. */
function oldestOf<L extends PlanLayer>(flushed: readonly L[], threshold: number): L[] {
  if (flushed.length === 0) return [];
  const sorted = [...flushed].sort((a, b) => a.desc.lsnEnd - b.desc.lsnEnd);
  let bytes = 0;
  let count = 0;
  const hasRoom = () => bytes + sorted[count]!.size <= mergeInputBytesMax && count < mergeInputsMax;
  while (count < sorted.length && (count < threshold || hasRoom())) bytes += sorted[count++]!.size;
  let lsnEnd = sorted[count - 1]!.desc.lsnEnd;
  for (;;) {
    const taken = sorted.filter(({ desc }) => desc.lsnStart < lsnEnd);
    const end = Math.max(...taken.map(({ desc }) => desc.lsnEnd)) as Lsn;
    if (end === lsnEnd) return taken.sort((a, b) => a.desc.lsnStart - b.desc.lsnStart);
    lsnEnd = end;
  }
}

/** Null: there is nothing that can be merged. */
function mergeJob<L extends PlanLayer>(input: PlanInput<L>, flushed: readonly L[]): CompactionJob<L> | null {
  if (flushed.length === 0) return null;
  const lsnStart = Math.min(...flushed.map(({ desc }) => desc.lsnStart)) as Lsn;
  const lsnEnd = Math.max(...flushed.map(({ desc }) => desc.lsnEnd)) as Lsn;
  const jobs: MergeColumn<L>[] = [];
  for (const column of input.columns) {
    const { start, end } = column;
    const bytes = flushed.reduce((sum, layer) => sum + input.bytesIn(layer, start, end), 0);
    if (bytes === 0) continue;
    const runs = runsAbove(column, lsnStart);
    // What is set aside shares LSNs with them: only layers from elsewhere could.
    if (runs === null) return null;
    const merged = runsToMerge(runs, bytes, lsnStart);
    const from = Math.min(lsnStart, ...merged.map((run) => run.lsnStart)) as Lsn;
    jobs.push({
      start,
      end,
      runs: merged,
      lsnStart: from,
      isImageDue: isImageDue(input, column, bytes),
      gaps: gapsOf(column, from),
    });
  }
  return { kind: 'mergeDeltas', flushed, columns: jobs, lsnEnd };
}

/** The runs that lie above history and all that is set aside below `lsnStart`; null if that reaches up to it. */
function runsAbove<L extends PlanLayer>(
  { runs, setAside, historyEnd }: Column<L>,
  lsnStart: Lsn,
): readonly Run<L>[] | null {
  const below = setAside.filter(({ desc }) => desc.lsnStart < lsnStart);
  let floor: number = Math.max(historyEnd, ...below.map(({ desc }) => desc.lsnEnd));
  for (;;) {
    const across = runs.find((run) => run.lsnStart < floor && run.lsnEnd > floor);
    if (across === undefined) break;
    floor = across.lsnEnd;
  }
  return floor > lsnStart ? null : runs.filter((run) => run.lsnStart >= floor);
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

function gapsOf<L extends PlanLayer>({ sealed }: Column<L>, from: Lsn): KeyGap[] {
  return sealed
    .filter(({ desc }) => desc.lsnEnd > from)
    .map(({ desc: { keys, lsnStart, lsnEnd } }) => ({ key: keys.start, lsnStart, lsnEnd }))
    .sort((a, b) => compareKeys(a.key, b.key) || a.lsnStart - b.lsnStart);
}

/** `moreBytes`: deltas that are about to be added. */
function isImageDue<L extends PlanLayer>(input: PlanInput<L>, column: Column<L>, moreBytes: number): boolean {
  const { images, sparse, runs, sealed } = column;
  const sealedBytes = sealed.reduce((sum, { size }) => sum + size, 0);
  const deltaBytes = runs.reduce((sum, run) => sum + run.bytes, moreBytes + sealedBytes);
  if (deltaBytes === 0 && sparse.length === 0) return false;
  // Image layers of one LSN have disjoint keys: this one waits until there is more.
  const lsn = input.compactedLsn;
  if (moreBytes === 0 && [...images, ...sparse].some(({ desc }) => desc.lsnStart >= lsn)) return false;
  if (input.force === 'images' || sparse.length > columnRunsMax) return true;
  if (deltaBytes < input.imageDeltaBytesMin) return false;
  const imageBytes = images.reduce((sum, { size }) => sum + size, 0);
  if (imageBytes > 0) return deltaBytes >= imageDeltaRatio * imageBytes;
  // A branch: its images are as large as the pages that it has changed.
  const entriesOf = (run: Run<L>) => run.layers.reduce((sum, layer) => sum + input.entriesOf(layer), 0);
  const entries = runs.reduce((sum, run) => sum + entriesOf(run), sealed.length);
  return deltaBytes >= imageDeltaRatio * entries * pageSize;
}
