/**
 * Which layers nothing needs any more. Pure.
 *
 * A point p of a timeline's history needs a layer that begins at or below p, unless complete image layers lie between the two: for every key of the layer
 * one with an LSN that is no older than the layer's last value and at most p. Then a read at p ends there and never comes down to the layer.
 *
 * In O(n log n): with images entered from the newest down, `nearest` of a key interval is the lowest image at or above the layer being asked about.
 */
import { KeyIntervals } from '../layers/key-intervals.ts';
import type { LayerDesc } from '../layers/layer-name.ts';
import type { Lsn } from '../model/lsn.ts';

export interface RetainableLayer {
  readonly desc: LayerDesc;
  readonly isComplete: boolean;
}

/** Of `layers`, those that neither history from `cutoffLsn` on needs, nor a point of `points`. */
export function removableLayers<L extends RetainableLayer>(
  layers: readonly L[],
  cutoffLsn: Lsn,
  points: readonly Lsn[],
): L[] {
  const complete = layers.filter(({ desc, isComplete }) => desc.kind === 'image' && isComplete);
  if (complete.length === 0) return [];
  const intervals = new KeyIntervals(layers.flatMap(({ desc: { keys } }) => [keys.start, keys.end]));
  const nearest = new NearestImage(intervals.count);
  const retained = [...points, cutoffLsn].sort((a, b) => a - b);
  const removable: L[] = [];
  complete.sort((a, b) => b.desc.lsnStart - a.desc.lsnStart);
  let entered = 0;
  for (const layer of [...layers].sort((a, b) => coverFrom(b) - coverFrom(a))) {
    const { desc } = layer;
    const from = coverFrom(layer);
    for (; entered < complete.length && complete[entered]!.desc.lsnStart >= from; entered++) {
      const image = complete[entered]!.desc;
      nearest.enter(...span(intervals, image), image.lsnStart);
    }
    // Part of it is history that is kept whole.
    if (desc.lsnEnd > cutoffLsn + 1) continue;
    const coveredFrom = nearest.highest(...span(intervals, desc));
    if (!hasPoint(retained, desc.lsnStart, coveredFrom)) removable.push(layer);
  }
  return removable;
}

/** The lowest LSN of an image that makes this layer superfluous. */
const coverFrom = ({ desc }: RetainableLayer): number => (desc.kind === 'image' ? desc.lsnStart + 1 : desc.lsnEnd - 1);

function span(intervals: KeyIntervals, { keys: { start, end } }: LayerDesc): [first: number, end: number] {
  return [intervals.locate(start.prefix, start.block), intervals.locate(end.prefix, end.block)];
}

/** Whether one of the ascending points is in [start, end). */
function hasPoint(points: readonly number[], start: number, end: number): boolean {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (points[middle]! < start) low = middle + 1;
    else high = middle;
  }
  return low < points.length && points[low]! < end;
}

/** For each key interval an LSN that only falls: a range is set, the highest of a range is asked for. Infinity at first. */
class NearestImage {
  readonly #leaves: number;
  readonly #highest: Float64Array;
  /** Set for the whole of a node and not yet for what is below it; NaN: nothing. */
  readonly #pending: Float64Array;

  constructor(count: number) {
    this.#leaves = 2 ** Math.ceil(Math.log2(Math.max(1, count)));
    this.#highest = new Float64Array(2 * this.#leaves).fill(Number.POSITIVE_INFINITY);
    this.#pending = new Float64Array(2 * this.#leaves).fill(Number.NaN);
  }

  enter(first: number, end: number, lsn: number): void {
    this.#set(1, 0, this.#leaves, first, end, lsn);
  }

  highest(first: number, end: number): number {
    return this.#ask(1, 0, this.#leaves, first, end);
  }

  #set(node: number, from: number, to: number, first: number, end: number, lsn: number): void {
    if (end <= from || to <= first) return;
    if (first <= from && to <= end) {
      this.#highest[node] = lsn;
      this.#pending[node] = lsn;
      return;
    }
    this.#push(node);
    const middle = (from + to) >>> 1;
    this.#set(2 * node, from, middle, first, end, lsn);
    this.#set(2 * node + 1, middle, to, first, end, lsn);
    this.#highest[node] = Math.max(this.#highest[2 * node]!, this.#highest[2 * node + 1]!);
  }

  #ask(node: number, from: number, to: number, first: number, end: number): number {
    if (end <= from || to <= first) return Number.NEGATIVE_INFINITY;
    if (first <= from && to <= end) return this.#highest[node]!;
    this.#push(node);
    const middle = (from + to) >>> 1;
    return Math.max(this.#ask(2 * node, from, middle, first, end), this.#ask(2 * node + 1, middle, to, first, end));
  }

  #push(node: number): void {
    const lsn = this.#pending[node]!;
    if (Number.isNaN(lsn)) return;
    this.#pending[node] = Number.NaN;
    for (const child of [2 * node, 2 * node + 1]) {
      this.#highest[child] = lsn;
      this.#pending[child] = lsn;
    }
  }
}
