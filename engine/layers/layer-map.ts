/**
 * R7. Which layer holds the next version down.
 *
 * Called by reconstruct for a key and an LSN, again and again until the value is complete. Pure and immutable: a change makes a new map, and
 * a reader goes on with the one it began with. Most layers are in two LayerCoverages (deltas, images), which are searched in sub-linear time; to
 * build them costs as much as there are layers, so the last few that were added are looked at one by one.
 *
 * Invariants
 * - a delta layer holds every value of the timeline in its rectangle, so where two overlap either one may be read
 * - an image layer holds, for the keys that it has, the value as of its LSN; for others it says nothing
 * - two image layers of the same LSN have disjoint key ranges
 */
import { assert } from '../assert.ts';
import { blockLimit, compareKeys, comparePrefixes, type KeyPrefix } from '../model/key.ts';
import { KeyIntervals } from './key-intervals.ts';
import { LayerCoverage } from './layer-coverage.ts';
import type { LayerDesc } from './layer-name.ts';

export interface MapLayer {
  readonly desc: LayerDesc;
}

/**
 * The layer to read next, and what is left afterwards: versions below `lsnEnd`, images below `imageEnd`. To be read are its versions at or
 * above the new `lsnEnd` for a delta, the image at its LSN for an image layer. The same holds for all blocks from the one searched for up to
 * `blockEnd`. Without a layer nothing is left in this timeline.
 */
export interface SearchResult<L> {
  layer: L | null;
  lsnEnd: number;
  imageEnd: number;
  blockEnd: number;
}

/** Layers that are added before all of them are ordered anew: one by one they cost a read no more than the search through the others. */
const recentLayersMax = 32;

/** Layers that are searched at once. */
interface Settled<L> {
  /** By end LSN, the later start last among equals. */
  readonly deltas: readonly L[];
  readonly images: readonly L[];
  readonly intervals: KeyIntervals;
  readonly deltaCoverage: LayerCoverage;
  readonly imageCoverage: LayerCoverage;
}

export class LayerMap<L extends MapLayer> {
  readonly #settled: Settled<L>;
  readonly #recentDeltas: readonly L[];
  readonly #recentImages: readonly L[];

  private constructor(settled: Settled<L>, recent: readonly L[]) {
    this.#settled = settled;
    this.#recentDeltas = recent.filter(isDelta);
    this.#recentImages = recent.filter(isImage);
  }

  static of<L extends MapLayer>(layers: Iterable<L>): LayerMap<L> {
    const all = [...layers];
    const deltas = all.filter(isDelta).sort(byEnd);
    const images = all.filter(isImage).sort(byEnd);
    assertDisjoint(images);
    const intervals = new KeyIntervals(all.flatMap(({ desc: { keys } }) => [keys.start, keys.end]));
    const coverageOf = (some: readonly L[]) =>
      new LayerCoverage(
        some.map(({ desc }) => desc),
        intervals,
      );
    const [deltaCoverage, imageCoverage] = [coverageOf(deltas), coverageOf(images)];
    return new LayerMap({ deltas, images, intervals, deltaCoverage, imageCoverage }, []);
  }

  with(added: readonly L[], removed: readonly L[] = []): LayerMap<L> {
    const gone = new Set(removed);
    const before = [...this.#recentDeltas, ...this.#recentImages];
    const recent = [...before.filter((layer) => !gone.has(layer)), ...added];
    // A merge of what was flushed just now takes nothing out of the others.
    const isRecent = before.length - (recent.length - added.length) === gone.size;
    if (isRecent && recent.length <= recentLayersMax) return new LayerMap(this.#settled, recent);
    return LayerMap.of([...this.layers().filter((layer) => !gone.has(layer)), ...added]);
  }

  layers(): L[] {
    const { deltas, images } = this.#settled;
    return [...deltas, ...this.#recentDeltas, ...images, ...this.#recentImages];
  }

  /** The next layer down for (prefix, block): versions below `lsnEnd`, images below `imageEnd`. */
  search(prefix: KeyPrefix, block: number, lsnEnd: number, imageEnd: number): SearchResult<L> {
    const { deltas, images, intervals, deltaCoverage, imageCoverage } = this.#settled;
    const interval = intervals.locate(prefix, block);
    let blockEnd = intervals.blockEnd(interval, prefix);
    let place = imageCoverage.highest(interval, imageEnd);
    let imageLsn = place < 0 ? -1 : imageCoverage.lsnStarts[place]!;
    let recent: L | null = null;
    for (const layer of this.#recentImages) {
      const { lsnStart } = layer.desc;
      if (lsnStart >= imageEnd) continue;
      const edge = nextEdge(layer.desc, prefix, block);
      if (edge !== 0) blockEnd = Math.min(blockEnd, Math.abs(edge));
      if (edge < 0 && lsnStart > imageLsn) {
        recent = layer;
        imageLsn = lsnStart;
      }
    }
    const image = recent ?? (place < 0 ? null : images[place]!);
    if (lsnEnd > imageLsn + 1) {
      place = deltaCoverage.highest(interval, lsnEnd);
      let start = place < 0 ? -1 : deltaCoverage.lsnStarts[place]!;
      let end = place < 0 ? -1 : deltaCoverage.lsnEnds[place]!;
      recent = null;
      for (const layer of this.#recentDeltas) {
        const { desc } = layer;
        if (desc.lsnStart >= lsnEnd) continue;
        const edge = nextEdge(desc, prefix, block);
        if (edge !== 0) blockEnd = Math.min(blockEnd, Math.abs(edge));
        if (edge < 0 && (desc.lsnEnd > end || (desc.lsnEnd === end && desc.lsnStart > start))) {
          recent = layer;
          start = desc.lsnStart;
          end = desc.lsnEnd;
        }
      }
      // One that ends at or below the image has nothing to add to it.
      if (end > imageLsn + 1) {
        const layer = recent ?? deltas[place]!;
        return { layer, lsnEnd: Math.max(start, imageLsn + 1), imageEnd, blockEnd };
      }
    }
    if (image === null) return { layer: null, lsnEnd: 0, imageEnd: 0, blockEnd };
    return { layer: image, lsnEnd: Math.min(lsnEnd, imageLsn + 1), imageEnd: imageLsn, blockEnd };
  }
}

const isDelta = ({ desc }: MapLayer): boolean => desc.kind === 'delta';
const isImage = ({ desc }: MapLayer): boolean => desc.kind === 'image';

function byEnd(a: MapLayer, b: MapLayer): number {
  return a.desc.lsnEnd - b.desc.lsnEnd || a.desc.lsnStart - b.desc.lsnStart;
}

function assertDisjoint(images: readonly MapLayer[]): void {
  const sorted = images
    .map(({ desc }) => desc)
    .sort((a, b) => a.lsnStart - b.lsnStart || compareKeys(a.keys.start, b.keys.start));
  for (let i = 1; i < sorted.length; i++) {
    const [before, desc] = [sorted[i - 1]!, sorted[i]!];
    const disjoint = before.lsnStart !== desc.lsnStart || compareKeys(before.keys.end, desc.keys.start) <= 0;
    assert(disjoint, 'image layers of one LSN have disjoint key ranges');
  }
}

/**
 * How a layer's keys lie to (prefix, block): minus the block where it ends if it has the key, the block where it begins if that is further
 * on in the same relation, else 0: no block of this relation from `block` on is in it.
 */
function nextEdge({ keys: { start, end } }: LayerDesc, prefix: KeyPrefix, block: number): number {
  if (start.prefix === prefix) {
    if (start.block > block) return start.block;
  } else if (comparePrefixes(start.prefix, prefix) > 0) {
    return 0;
  }
  if (end.prefix === prefix) return end.block > block ? -end.block : 0;
  return comparePrefixes(end.prefix, prefix) > 0 ? -blockLimit : 0;
}
