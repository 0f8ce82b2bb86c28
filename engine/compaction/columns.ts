/**
 * The key space of a timeline, cut into columns: ranges of keys that are compacted independently of each other. Pure.
 *
 * What a read at the end may come to in a column are its live layers: over each key the topmost complete image, and what lies above it (deltas, sparse
 * images). A live layer never spans two columns, so a column can be merged, or get a new image, without the others. What lies below is history.
 *
 * A key whose values are more than a layer holds has several delta layers, one above another (merge-deltas.ts). Those that are full are `sealed`: they end
 * with the key's image, so a read that comes to one stops there, and merging it again would give nothing; nor would it for what is left right below one.
 *
 * Layers that are set aside, as they cannot be read whole (timeline/compaction.ts), stay where they are and as wide as they are: they make no columns.
 *
 * Invariants:
 * - columns tile all keys: the first begins at the least key, the last ends behind the greatest, each begins where the one before ends
 * - flushed layers (those above `compactedLsn`) play no part: they span everything until they are merged into the columns
 * - the layers of a run have disjoint keys
 * - no other delta layer that is live has anything in the rectangle of a sealed one
 */
import { keyAfter, type LayerDesc } from '../layers/layer-name.ts';
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

/** Delta layers that end at one LSN, as a merge left them. */
export interface Run<L extends PlanLayer> {
  /** The least of its layers'. */
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
  /** Live deltas that may be merged again, newest first. */
  readonly runs: readonly Run<L>[];
  /** Live deltas of one key that are full. By key, then newest first. */
  readonly sealed: readonly L[];
  /** Exclusive: what is below complete images has values of some of its keys up to here. */
  readonly historyEnd: Lsn;
  /** Deltas that are set aside and have keys of the column. */
  readonly setAside: readonly L[];
  /** Those of them that a read at `compactedLsn` may come to. */
  readonly setAsideLive: readonly L[];
}

export interface ColumnsInput {
  readonly compactedLsn: Lsn;
  /** A delta layer of one key that has so many bytes is sealed. */
  readonly sealedBytesMin: number;
  /** Names of layers that are set aside. */
  readonly setAside: ReadonlySet<string>;
}

export const leastKey: Key = { prefix: keyPrefix(0, 0, 0, 0, 0), block: 0 };
/** Behind every key. */
export const keyLimit: Key = { prefix: keyPrefix(255, 0, 0, 0, 0), block: 0 };

export const isFlushed = ({ desc }: PlanLayer, compactedLsn: Lsn): boolean =>
  desc.kind === 'delta' && desc.lsnEnd > compactedLsn + 1;

/** In key order; at least one. */
export function findColumns<L extends PlanLayer>(layers: readonly L[], input: ColumnsInput): Column<L>[] {
  const { compactedLsn, sealedBytesMin } = input;
  const isAside = (layer: L) => input.setAside.has(layer.name) && layer.desc.kind === 'delta';
  const settled = layers.filter((layer) => !isFlushed(layer, compactedLsn) && !isAside(layer));
  const aside = input.setAside.size === 0 ? [] : layers.filter(isAside);
  const cuts = sortedCuts([...settled, ...aside]);
  const spans = new Map([...settled, ...aside].map((layer) => [layer, spanOf(cuts, layer.desc)]));
  const top = topImages(settled, spans, cuts.length + 1);
  const live: L[] = [];
  const below: L[] = [];
  for (const layer of settled) {
    if (isLive(layer, spans.get(layer)!, top)) live.push(layer);
    else if (layer.desc.kind === 'delta') below.push(layer);
  }
  const starts = columnStarts(live, spans, cuts.length + 1);
  const members: L[][] = starts.map(() => []);
  for (const layer of live) members[placeOf(starts, spans.get(layer)![0])]!.push(layer);
  const history = historyEnds(below, spans, starts);
  const keyOf = (interval: number): Key => (interval === 0 ? leastKey : cuts[interval - 1]!);
  return starts.map((first, i) => {
    const next = i + 1 < starts.length ? starts[i + 1]! : cuts.length + 1;
    const end = i + 1 < starts.length ? keyOf(next) : keyLimit;
    const start = i === 0 ? leastKey : keyOf(first);
    const own = members[i]!;
    const images = own.filter(({ desc }) => desc.kind === 'image');
    const deltas = own.filter(({ desc }) => desc.kind === 'delta');
    const sealed = sealedOf(deltas, sealedBytesMin);
    const isSealed = new Set(sealed);
    /** What a layer has of the column. */
    const within = (layer: L): Span => {
      const [from, to] = spans.get(layer)!;
      return [Math.max(from, i === 0 ? 0 : first), Math.min(to, next)];
    };
    const setAside = aside.filter((layer) => {
      const [from, to] = within(layer);
      return from < to;
    });
    return {
      start,
      end,
      images: images.filter(({ isComplete }) => isComplete).sort(byKey),
      sparse: images.filter(({ isComplete }) => !isComplete),
      runs: runsOf(deltas.filter((layer) => !isSealed.has(layer))),
      sealed,
      historyEnd: history[i]! as Lsn,
      setAside,
      setAsideLive: setAside.filter(
        (layer) => layer.desc.lsnStart <= compactedLsn && isLive(layer, within(layer), top),
      ),
    };
  });
}

/** Of each column the end of the highest of these layers. */
function historyEnds<L extends PlanLayer>(
  layers: L[],
  spans: ReadonlyMap<L, Span>,
  starts: readonly number[],
): Float64Array {
  const ends = new Float64Array(starts.length);
  for (const layer of layers.sort((a, b) => a.desc.lsnEnd - b.desc.lsnEnd)) {
    const [first, end] = spans.get(layer)!;
    // The first column also has what lies before it.
    ends.fill(layer.desc.lsnEnd, Math.max(0, placeOf(starts, first)), placeOf(starts, end - 1) + 1);
  }
  return ends;
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

/** Of one key, full or right below one that is, and alone in their rectangle. */
function sealedOf<L extends PlanLayer>(deltas: readonly L[], bytesMin: number): L[] {
  const single = deltas.some((layer) => layer.size >= bytesMin && isOneKey(layer)) ? deltas.filter(isOneKey) : [];
  single.sort(byKeyNewestFirst);
  const sealed: L[] = [];
  for (let i = 0; i < single.length; ) {
    const { start } = single[i]!.desc.keys;
    let end = i;
    while (end < single.length && compareKeys(single[end]!.desc.keys.start, start) === 0) end++;
    const ofKey = single.slice(i, end);
    i = end;
    if (!ofKey.some(({ size }) => size >= bytesMin)) continue;
    const shared = sharingLsns(
      deltas.filter(({ desc: { keys } }) => compareKeys(keys.start, start) <= 0 && compareKeys(start, keys.end) < 0),
    );
    let above: Lsn | null = null;
    for (const layer of ofKey) {
      if (shared.has(layer) || (layer.size < bytesMin && layer.desc.lsnEnd !== above)) continue;
      sealed.push(layer);
      above = layer.desc.lsnStart;
    }
  }
  return sealed;
}

/** Of layers that all have one key those that have LSNs in common with another one. */
function sharingLsns<L extends PlanLayer>(layers: L[]): Set<L> {
  const shared = new Set<L>();
  layers.sort((a, b) => a.desc.lsnStart - b.desc.lsnStart);
  let highest = layers[0]!;
  for (const layer of layers.slice(1)) {
    if (layer.desc.lsnStart < highest.desc.lsnEnd) shared.add(layer).add(highest);
    if (layer.desc.lsnEnd > highest.desc.lsnEnd) highest = layer;
  }
  return shared;
}

export const isOneKey = ({ desc: { keys } }: PlanLayer): boolean => compareKeys(keyAfter(keys.start), keys.end) === 0;

function runsOf<L extends PlanLayer>(deltas: readonly L[]): Run<L>[] {
  const byEnd = new Map<Lsn, L[][]>();
  for (const layer of [...deltas].sort(byKey)) {
    const groups = byEnd.get(layer.desc.lsnEnd) ?? [];
    // Where layers from elsewhere overlap, they are several runs.
    const group = groups.find((others) => compareKeys(others.at(-1)!.desc.keys.end, layer.desc.keys.start) <= 0);
    if (group === undefined) groups.push([layer]);
    else group.push(layer);
    byEnd.set(layer.desc.lsnEnd, groups);
  }
  return [...byEnd.values()]
    .flat()
    .map((layers) => {
      const lsnStart = Math.min(...layers.map(({ desc }) => desc.lsnStart)) as Lsn;
      const { lsnEnd } = layers[0]!.desc;
      return { lsnStart, lsnEnd, layers, bytes: layers.reduce((sum, { size }) => sum + size, 0) };
    })
    .sort((a, b) => b.lsnEnd - a.lsnEnd || b.lsnStart - a.lsnStart);
}

function byKey(a: PlanLayer, b: PlanLayer): number {
  return compareKeys(a.desc.keys.start, b.desc.keys.start);
}

function byKeyNewestFirst(a: PlanLayer, b: PlanLayer): number {
  return byKey(a, b) || b.desc.lsnEnd - a.desc.lsnEnd;
}
