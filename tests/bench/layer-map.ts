/**
 * How a layer map's search grows with the layers: 100,000 of them against 1,000.
 *
 * The layers are those of a timeline that was compacted for long: rows of L1 deltas over equal spans of LSNs, each row cut by keys into files of
 * about equal size, an image layer over every tenth row, and a few L0 deltas over all keys at the top. Searches are for the next layer below
 * random LSNs, at random pages of ten relations.
 */
import { LayerMap } from '../../engine/layers/layer-map.ts';
import type { LayerDesc } from '../../engine/layers/layer-name.ts';
import { type Key, relPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

const relations = Array.from({ length: 10 }, (_, i) => relPrefix({ spc: 1663, db: 5, rel: 16384 + i, fork: 0 }));
const relBlocks = 1_000_000;
const rowLsns = 256 * 1024 * 1024;
const rowsPerImage = 10;
const recentLayers = 10;
const searches = 200_000;

const keyAt = (position: number): Key => ({
  prefix: relations[Math.floor(position / relBlocks)]!,
  block: position % relBlocks,
});
const allKeys = { start: keyAt(0), end: keyAt(relations.length * relBlocks - 1) };

function layersOf(count: number): { desc: LayerDesc }[] {
  const columns = Math.round(Math.sqrt(count));
  const layers: { desc: LayerDesc }[] = [];
  let lsn = 0;
  const add = (kind: 'delta' | 'image', keys: LayerDesc['keys'], lsnEnd: number) =>
    layers.push({
      desc: { kind, keys, lsnStart: (kind === 'delta' ? lsn : lsnEnd - 1) as Lsn, lsnEnd: lsnEnd as Lsn },
    });
  for (let row = 0; layers.length < count - recentLayers; row++, lsn += rowLsns) {
    // Each row is cut elsewhere, as what was written differs.
    const width = (relations.length * relBlocks - 1) / columns;
    const shift = (row * 7919) % width;
    const kinds = row % rowsPerImage === 0 ? (['delta', 'image'] as const) : (['delta'] as const);
    for (const kind of kinds) {
      for (let column = 0; column < columns; column++) {
        const from = column === 0 ? 0 : Math.floor(column * width - shift);
        const to = column === columns - 1 ? relations.length * relBlocks - 1 : Math.floor((column + 1) * width - shift);
        add(kind, { start: keyAt(from), end: keyAt(to) }, lsn + rowLsns);
      }
    }
  }
  for (let i = 0; i < recentLayers; i++, lsn += rowLsns) add('delta', allKeys, lsn + rowLsns);
  return layers;
}

/** Microseconds of one search. */
async function measure(map: LayerMap<{ desc: LayerDesc }>, lsnEnd: number, seed: number): Promise<number> {
  const random = new SeededRandom(seed);
  const prefixes = Array.from({ length: searches }, () => relations[random.below(relations.length)]!);
  const blocks = Float64Array.from({ length: searches }, () => random.below(relBlocks - 1));
  const lsns = Float64Array.from({ length: searches }, () => 1 + Math.floor(random.next() * lsnEnd));
  let found = 0;
  const ms = await timed(() => {
    for (let i = 0; i < searches; i++) {
      if (map.search(prefixes[i]!, blocks[i]!, lsns[i]!, lsns[i]!).layer !== null) found++;
    }
  });
  if (found !== searches) throw new Error(`${found} of ${searches} searches found a layer`);
  return (ms * 1e3) / searches;
}

export const layerMapBenchmark: Benchmark = {
  name: 'layer-map',
  about: 'search in a layer map of 100,000 layers, against one of 1,000',
  async run(context: BenchContext): Promise<Row[]> {
    const sides = [1_000, 100_000].map((count) => {
      const layers = layersOf(count);
      const start = performance.now();
      const map = LayerMap.of(layers);
      context.say(`${layers.length} layers ordered in ${(performance.now() - start).toFixed(0)} ms`);
      return { map, lsnEnd: Math.max(...layers.map(({ desc }) => desc.lsnEnd)) };
    });
    let seed = 1;
    const [few, many] = await interleave(
      context.rounds + 1,
      sides.map(
        ({ map, lsnEnd }) =>
          () =>
            measure(map, lsnEnd, seed++),
      ),
    );
    // The first round compiles.
    const [small, large] = [few!.slice(1), many!.slice(1)];
    return [
      {
        what: 'layer-map search, 100,000 layers',
        measured: `${median(large).toFixed(2)} us`,
        against: '1,000 layers',
        baseline: `${median(small).toFixed(2)} us`,
        ratio: median(large) / median(small),
        target: { op: '<=', bound: 3 },
        note: `${spread(large)} us`,
      },
    ];
  },
};
