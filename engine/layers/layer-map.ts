/**
 * R7. Which layer holds the next version down.
 *
 * Called by reconstruct for a key and an LSN, again and again until the value is complete. Pure and immutable: a change makes a new map, and
 * a reader goes on with the one it began with. A search walks the layers from the newest; the delta layer that holds the newest versions
 * is usually among the first.
 *
 * Invariants
 * - a delta layer holds every value of the timeline in its rectangle, so where two overlap either one may be read
 * - an image layer holds, for the keys that it has, the value as of its LSN; for others it says nothing
 * - two image layers of the same LSN have disjoint key ranges
 */
import { assert } from '../assert.ts';
import { compareKeys, comparePrefixes, type KeyPrefix } from '../model/key.ts';
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

const blockLimit = 4294967296;

export class LayerMap<L extends MapLayer> {
  /** By end LSN, highest first; the later start first among equals. */
  readonly #deltas: readonly L[];
  /** By LSN, highest first. */
  readonly #images: readonly L[];

  private constructor(deltas: readonly L[], images: readonly L[]) {
    this.#deltas = deltas;
    this.#images = images;
  }

  static of<L extends MapLayer>(layers: Iterable<L>): LayerMap<L> {
    const all = [...layers];
    const deltas = all.filter((layer) => layer.desc.kind === 'delta').sort(byLsn);
    const images = all.filter((layer) => layer.desc.kind === 'image').sort(byLsn);
    for (const [i, image] of images.entries()) {
      for (let j = i + 1; j < images.length && images[j]!.desc.lsnStart === image.desc.lsnStart; j++) {
        assert(disjoint(image.desc, images[j]!.desc), 'image layers of one LSN have disjoint key ranges');
      }
    }
    return new LayerMap(deltas, images);
  }

  with(added: readonly L[], removed: readonly L[] = []): LayerMap<L> {
    return LayerMap.of([...this.layers().filter((layer) => !removed.includes(layer)), ...added]);
  }

  layers(): L[] {
    return [...this.#deltas, ...this.#images];
  }

  /** The next layer down for (prefix, block): versions below `lsnEnd`, images below `imageEnd`. */
  search(prefix: KeyPrefix, block: number, lsnEnd: number, imageEnd: number): SearchResult<L> {
    let blockEnd = blockLimit;
    let image: L | null = null;
    for (const layer of this.#images) {
      if (layer.desc.lsnStart >= imageEnd) continue;
      const edge = nextEdge(layer.desc, prefix, block);
      if (edge > 0) {
        // It begins further on in this relation.
        if (edge < blockEnd) blockEnd = edge;
      } else if (edge < 0) {
        image = layer;
        if (-edge < blockEnd) blockEnd = -edge;
        break;
      }
    }
    const imageLsn = image === null ? -1 : image.desc.lsnStart;
    for (const layer of lsnEnd > imageLsn + 1 ? this.#deltas : []) {
      const { desc } = layer;
      if (desc.lsnStart >= lsnEnd) continue;
      // From here on deltas end at or below the image, which is the newest then.
      if (desc.lsnEnd <= imageLsn + 1) break;
      const edge = nextEdge(desc, prefix, block);
      if (edge > 0) {
        if (edge < blockEnd) blockEnd = edge;
      } else if (edge < 0) {
        if (-edge < blockEnd) blockEnd = -edge;
        return { layer, lsnEnd: Math.max(desc.lsnStart, imageLsn + 1), imageEnd, blockEnd };
      }
    }
    if (image === null) return { layer: null, lsnEnd: 0, imageEnd: 0, blockEnd };
    return { layer: image, lsnEnd: Math.min(lsnEnd, imageLsn + 1), imageEnd: imageLsn, blockEnd };
  }
}

function byLsn(a: MapLayer, b: MapLayer): number {
  return b.desc.lsnEnd - a.desc.lsnEnd || b.desc.lsnStart - a.desc.lsnStart;
}

function disjoint(a: LayerDesc, b: LayerDesc): boolean {
  return compareKeys(a.keys.end, b.keys.start) <= 0 || compareKeys(b.keys.end, a.keys.start) <= 0;
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
