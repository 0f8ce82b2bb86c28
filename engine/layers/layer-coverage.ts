/**
 * R7. Of layers of one kind, which one that has a key reaches up highest below an LSN: in O(log² layers), whatever they look like.
 *
 * The layer map asks it once per layer that a read visits. Built once from all layers, never changed.
 *
 * The keys at which layers begin or end cut all keys into intervals (key-intervals.ts). A leaf is a run of `leafIntervals` of them, and over the leaves
 * stands a segment tree of eight children a node: a layer is listed at the O(log n) nodes that make up the leaves it has whole, and among the few odd ones of the
 * leaves at its edges. A key looks at the odd ones of its leaf and at the nodes from there up to the root.
 *
 * With many layers a search is as slow as the memory it touches, so everything is small numbers: a layer is its rank by start LSN in the lists, and
 * its rank by end LSN in what they answer. A node's list ascends by start, and with each place stands the highest end up to there: one binary
 * search gives the node's answer. Leaves of one interval would do without odd ones, but take three times as many lists.
 */
import type { KeyIntervals } from './key-intervals.ts';
import type { LayerDesc } from './layer-name.ts';

const leafIntervalsLog2 = 6;
const leafIntervals = 2 ** leafIntervalsLog2;
/** Children of a node. */
const fanOutLog2 = 3;
const fanOut = 2 ** fanOutLog2;
/** Numbers of an odd layer: the lowest start rank from there on, start rank, end rank, its intervals of the leaf as (first | end << 8). */
const oddStride = 4;
/** Numbers of a list's place: start rank, highest end rank. */
const listStride = 2;

/** A layer's ranks, and the intervals [first, end) that it has. */
interface Span {
  readonly startRank: number;
  readonly endRank: number;
  readonly first: number;
  readonly end: number;
}

export class LayerCoverage {
  /** Of each layer given; a search need not touch the layers themselves. */
  readonly lsnStarts: Float64Array;
  readonly lsnEnds: Float64Array;
  /** The LSNs at which layers start, ascending, and of each the number of layers that start below it. */
  readonly #startLsns: Float64Array;
  readonly #startsBelow: Uint32Array;

  /** For each leaf where its odd ones begin, and behind the last one the number of all. Each leaf's ascend by end rank. */
  readonly #oddFirst: Uint32Array;
  readonly #odd: Uint32Array;
  /** Where the nodes of each level begin, from the leaves up to the root. */
  readonly #levelFirst: readonly number[];
  /** For each node where its list begins, and behind the last one the length of all lists. */
  readonly #listFirst: Uint32Array;
  readonly #lists: Uint32Array;

  /** `byEnd` ascend by (end LSN, start LSN). `intervals` are cut by the keys of these layers, and perhaps of others. */
  constructor(byEnd: readonly LayerDesc[], intervals: KeyIntervals) {
    this.lsnStarts = Float64Array.from(byEnd, ({ lsnStart }) => lsnStart);
    this.lsnEnds = Float64Array.from(byEnd, ({ lsnEnd }) => lsnEnd);
    const byStart = byEnd.map((_, endRank) => endRank).sort((a, b) => this.lsnStarts[a]! - this.lsnStarts[b]!);
    const starts: number[] = [];
    const below: number[] = [];
    for (const [startRank, endRank] of byStart.entries()) {
      const lsnStart = this.lsnStarts[endRank]!;
      if (starts.at(-1) === lsnStart) continue;
      starts.push(lsnStart);
      below.push(startRank);
    }
    this.#startLsns = Float64Array.from(starts);
    this.#startsBelow = Uint32Array.from([...below, byEnd.length]);

    const leafCount = Math.ceil(intervals.count / leafIntervals);
    const levels: number[] = [];
    let nodeCount = 0;
    for (let count = leafCount; ; count = Math.ceil(count / fanOut)) {
      levels.push(nodeCount);
      nodeCount += count;
      if (count <= 1) break;
    }
    this.#levelFirst = levels;
    this.#oddFirst = new Uint32Array(leafCount + 1);
    this.#listFirst = new Uint32Array(nodeCount + 1);
    const spans = byStart.map((endRank, startRank): Span => {
      const { start, end } = byEnd[endRank]!.keys;
      const first = intervals.locate(start.prefix, start.block);
      return { startRank, endRank, first, end: intervals.locate(end.prefix, end.block) };
    });
    for (const span of spans) {
      this.#place(
        span,
        (leaf) => this.#oddFirst[leaf + 1]!++,
        (node) => this.#listFirst[node + 1]!++,
      );
    }
    sumUp(this.#oddFirst);
    sumUp(this.#listFirst);
    this.#odd = new Uint32Array(this.#oddFirst.at(-1)! * oddStride);
    this.#lists = new Uint32Array(this.#listFirst.at(-1)! * listStride);
    this.#fill(spans);
  }

  /** Of the layers that have this interval and start below `lsn`, the one whose place is highest; -1 if there is none. */
  highest(interval: number, lsn: number): number {
    const startEnd = this.#countStartsBelow(lsn);
    // Layers are spread over the LSNs, in each list about as in all of them.
    const share = startEnd / this.lsnStarts.length;
    const odd = this.#odd;
    let found = -1;
    const leaf = interval >>> leafIntervalsLog2;
    const inLeaf = interval % leafIntervals;
    const oddFirst = this.#oddFirst[leaf]!;
    const oddEnd = lowerBound(odd, oddStride, oddFirst, this.#oddFirst[leaf + 1]!, startEnd, share);
    for (let i = (oddEnd - 1) * oddStride; i >= oddFirst * oddStride; i -= oddStride) {
      const span = odd[i + 3]!;
      if (odd[i + 1]! < startEnd && (span & 255) <= inLeaf && inLeaf < span >>> 8) {
        found = odd[i + 2]!;
        break;
      }
    }
    const lists = this.#lists;
    const levels = this.#levelFirst;
    for (let level = 0, place = leaf; level < levels.length; level++, place >>>= fanOutLog2) {
      const node = levels[level]! + place;
      const first = this.#listFirst[node]!;
      const end = lowerBound(lists, listStride, first, this.#listFirst[node + 1]!, startEnd, share);
      if (end > first) found = Math.max(found, lists[(end - 1) * listStride + 1]!);
    }
    return found;
  }

  #countStartsBelow(lsn: number): number {
    const starts = this.#startLsns;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! < lsn) low = middle + 1;
      else high = middle;
    }
    return this.#startsBelow[low]!;
  }

  /** Where a layer stands: leaves of which it has some intervals but not all; nodes that it has whole. */
  #place({ first, end }: Span, odd: (leaf: number) => void, whole: (node: number) => void): void {
    const wholeFirst = Math.ceil(first / leafIntervals);
    const wholeEnd = end >>> leafIntervalsLog2;
    if (first % leafIntervals !== 0) odd(wholeFirst - 1);
    if (end % leafIntervals !== 0 && wholeEnd >= wholeFirst) odd(wholeEnd);
    let left = wholeFirst;
    let right = Math.max(wholeFirst, wholeEnd);
    for (const levelFirst of this.#levelFirst) {
      while (left < right && left % fanOut !== 0) whole(levelFirst + left++);
      while (left < right && right % fanOut !== 0) whole(levelFirst + --right);
      left /= fanOut;
      right /= fanOut;
    }
  }

  #fill(spans: readonly Span[]): void {
    const lists = this.#lists;
    const listNext = this.#listFirst.slice();
    const oddOfLeaf: Span[][] = [];
    for (const span of spans) {
      this.#place(
        span,
        (leaf) => {
          oddOfLeaf[leaf] ??= [];
          oddOfLeaf[leaf].push(span);
        },
        (node) => {
          const place = listNext[node]!++;
          const before = place === this.#listFirst[node]! ? 0 : lists[place * listStride - 1]!;
          lists[place * listStride] = span.startRank;
          lists[place * listStride + 1] = Math.max(before, span.endRank);
        },
      );
    }
    for (const [leaf, odd] of oddOfLeaf.entries()) {
      if (odd === undefined) continue;
      odd.sort((a, b) => a.endRank - b.endRank);
      let lowest = spans.length;
      for (let i = odd.length - 1; i >= 0; i--) {
        const { startRank, endRank, first, end } = odd[i]!;
        const base = leaf * leafIntervals;
        const span = Math.max(0, first - base) | (Math.min(leafIntervals, end - base) << 8);
        lowest = Math.min(lowest, startRank);
        this.#odd.set([lowest, startRank, endRank, span], (this.#oddFirst[leaf]! + i) * oddStride);
      }
    }
  }
}

/**
 * Of places [low, high), whose first numbers ascend, the first one that is not below `bound`. Looks first where `share` of them would be, and from there in
 * steps that double: what is spread evenly takes a place or two, anything else at most twice the steps of a binary search.
 */
function lowerBound(
  numbers: Uint32Array,
  stride: number,
  low: number,
  high: number,
  bound: number,
  share: number,
): number {
  if (low === high) return low;
  const guess = Math.min(high - 1, low + Math.floor((high - low) * share));
  if (numbers[guess * stride]! < bound) {
    low = guess + 1;
    for (let step = 2; low + step < high; step *= 2) {
      if (numbers[(low + step) * stride]! >= bound) {
        high = low + step;
        break;
      }
      low += step + 1;
    }
  } else {
    high = guess;
    for (let step = 2; high - step >= low; step *= 2) {
      if (numbers[(high - step) * stride]! < bound) {
        low = high - step + 1;
        break;
      }
      high -= step;
    }
  }
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (numbers[middle * stride]! < bound) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Counts, each one place further on, become sums. */
function sumUp(counts: Uint32Array): void {
  for (let i = 1; i < counts.length; i++) counts[i]! += counts[i - 1]!;
}
