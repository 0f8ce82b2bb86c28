/**
 * The key space of a timeline, cut into columns: ranges of keys that are compacted independently of each other. Pure.
 *
 * What a read at the end may come to in a column are its live layers: over each key the topmost complete image, and what lies above it (deltas, sparse
 * images). A live layer never spans two columns, so a column can be merged, or get a new image, without the others. What lies below is history.
 *
 * Invariants:
 * - columns tile all keys: the first begins at the least key, the last ends behind the greatest, each begins where the one before ends
 * - flushed layers (those above `compactedLsn`) play no part: they span everything until they are merged into the columns
 */
import type { LayerDesc } from '../layers/layer-name.ts';
import { compareKeys, type Key, keyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';

/** What planning knows of a layer. */
export interface PlanLayer {
  readonly desc: LayerDesc;
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly isComplete: boolean;
}

/** Delta layers of one LSN range. */
export interface Run<L extends PlanLayer> {
  readonly lsnStart: Lsn;
  readonly lsnEnd: Lsn;
  /** By key. */
  readonly layers: readonly L[];
  readonly bytes: number;
}

export interface Column<L extends PlanLayer> {
  readonly start: Key;
  /** Exclusive. */
  readonly end: Key;
  /** The topmost complete ones, by key. */
  readonly images: readonly L[];
  /** Live images that are not complete: of timelines that were written before there were complete ones, or elsewhere. */
  readonly sparse: readonly L[];
  /** Live deltas, newest first. */
  readonly runs: readonly Run<L>[];
}

export const leastKey: Key = { prefix: keyPrefix(0, 0, 0, 0, 0), block: 0 };
/** Behind every key. */
export const keyLimit: Key = { prefix: keyPrefix(255, 0, 0, 0, 0), block: 0 };

export const isFlushed = ({ desc }: PlanLayer, compactedLsn: Lsn): boolean =>
  desc.kind === 'delta' && desc.lsnEnd > compactedLsn + 1;

/** In key order; at least one. */
export function findColumns<L extends PlanLayer>(layers: readonly L[], compactedLsn: Lsn): Column<L>[] {
  const settled = layers.filter((layer) => !isFlushed(layer, compactedLsn));
  const cuts = sortedCuts(settled);
  const spans = new Map(settled.map((layer) => [layer, spanOf(cuts, layer.desc)]));
  const top = topImages(settled, spans, cuts.length + 1);
  const live = settled.filter((layer) => isLive(layer, spans.get(layer)!, top));
  const starts = columnStarts(live, spans, cuts.length + 1);
  const members: L[][] = starts.map(() => []);
  for (const layer of live) members[placeOf(starts, spans.get(layer)![0])]!.push(layer);
  const keyOf = (interval: number): Key => (interval === 0 ? leastKey : cuts[interval - 1]!);
  return starts.map((first, i) => {
    const end = i + 1 < starts.length ? keyOf(starts[i + 1]!) : keyLimit;
    const start = i === 0 ? leastKey : keyOf(first);
    const own = members[i]!;
    const images = own.filter(({ desc }) => desc.kind === 'image');
    return {
      start,
      end,
      images: images.filter(({ isComplete }) => isComplete).sort(byKey),
      sparse: images.filter(({ isComplete }) => !isComplete),
      runs: runsOf(own.filter(({ desc }) => desc.kind === 'delta')),
    };
  });
}

type Span = readonly [first: number, end: number];

/** Keys at which layers begin or end: interval i lies before cut i. */
function sortedCuts(layers: readonly PlanLayer[]): Key[] {
  const all = layers.flatMap(({ desc: { keys } }) => [keys.start, keys.end]).sort(compareKeys);
  return all.filter((key, i) => i === 0 || compareKeys(all[i - 1]!, key) !== 0);
}

/** The intervals [first, end) of a layer's keys. */
function spanOf(cuts: readonly Key[], { keys }: LayerDesc): Span {
  return [cutsUpTo(cuts, keys.start), cutsUpTo(cuts, keys.end)];
}

/** How many cuts are at or below a key: the interval that begins there. */
function cutsUpTo(cuts: readonly Key[], key: Key): number {
  let low = 0;
  let high = cuts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(cuts[middle]!, key) <= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Of each interval the LSN of the topmost complete image; -1 if there is none. */
function topImages<L extends PlanLayer>(
  layers: readonly L[],
  spans: ReadonlyMap<L, Span>,
  count: number,
): Float64Array {
  const top = new Float64Array(count).fill(-1);
  const complete = layers.filter(({ desc, isComplete }) => desc.kind === 'image' && isComplete);
  for (const layer of complete.sort((a, b) => a.desc.lsnStart - b.desc.lsnStart)) {
    const [first, end] = spans.get(layer)!;
    top.fill(layer.desc.lsnStart, first, end);
  }
  return top;
}

/** Whether a read at the end may come to the layer, over some of its keys. */
function isLive({ desc, isComplete }: PlanLayer, [first, end]: Span, top: Float64Array): boolean {
  const isTop = desc.kind === 'image' && isComplete;
  for (let i = first; i < end; i++) {
    if (isTop ? top[i] === desc.lsnStart : top[i]! < desc.lsnEnd - 1) return true;
  }
  return false;
}

/** The intervals at which columns begin: where no live layer goes on from the interval before, and one begins. */
function columnStarts<L extends PlanLayer>(live: readonly L[], spans: ReadonlyMap<L, Span>, count: number): number[] {
  const change = new Int32Array(count + 1);
  const begins = new Uint8Array(count + 1);
  for (const layer of live) {
    const [first, end] = spans.get(layer)!;
    begins[first] = 1;
    change[first + 1]!++;
    change[end]!--;
  }
  const starts = [0];
  // Layers that span the border before interval i.
  let across = 0;
  for (let i = 1; i < count; i++) {
    across += change[i]!;
    if (across === 0 && begins[i] === 1) starts.push(i);
  }
  // What lies before the first live layer belongs to it.
  if (starts.length > 1 && !live.some((layer) => spans.get(layer)![0] < starts[1]!)) starts.splice(1, 1);
  return starts;
}

/** The column of an interval. */
function placeOf(starts: readonly number[], interval: number): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (starts[middle]! <= interval) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function runsOf<L extends PlanLayer>(deltas: readonly L[]): Run<L>[] {
  const byLsns = new Map<string, L[]>();
  for (const layer of [...deltas].sort(byKey)) {
    const key = `${layer.desc.lsnStart}-${layer.desc.lsnEnd}`;
    const group = byLsns.get(key) ?? [];
    group.push(layer);
    byLsns.set(key, group);
  }
  return [...byLsns.values()]
    .map((layers) => {
      const { lsnStart, lsnEnd } = layers[0]!.desc;
      return { lsnStart, lsnEnd, layers, bytes: layers.reduce((sum, { size }) => sum + size, 0) };
    })
    .sort((a, b) => b.lsnEnd - a.lsnEnd || b.lsnStart - a.lsnStart);
}

function byKey(a: PlanLayer, b: PlanLayer): number {
  return compareKeys(a.desc.keys.start, b.desc.keys.start);
}
