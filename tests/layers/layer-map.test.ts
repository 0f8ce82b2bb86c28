/**
 * Walking a layer map finds, for every key and LSN, what a plain search through all values finds.
 *
 * A random history of values is cut into overlapping delta layers and sparse image layers, as flushes, compactions and image creation might leave
 * them: each delta holds every value in its rectangle, together they hold everything; an image layer holds some keys of its range. Then every
 * (key, LSN) is looked up by search after search. `blockEnd` is checked by searching the blocks in between on their own.
 */
import { expect, it } from 'vitest';
import { LayerMap, type SearchResult } from '../../engine/layers/layer-map.ts';
import type { LayerDesc } from '../../engine/layers/layer-name.ts';
import { comparePrefixes, type KeyPrefix, keyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const prefixes = [1, 2, 3].map((rel) => keyPrefix(0, 1663, 5, 16384 + rel, 0)).sort(comparePrefixes);
const blockCount = 12;
const lsnMax = 40;

interface TestLayer {
  readonly desc: LayerDesc;
  /** Position of a key -> LSNs of its values, or for an image the LSN of the newest version in it (-1: none exists). */
  readonly content: Map<number, number[]>;
}

const keyOf = (position: number) => ({
  prefix: prefixes[Math.floor(position / blockCount)]!,
  block: position % blockCount,
});
const positions = prefixes.length * blockCount;

/** LSNs of each key's values. */
function history(random: SeededRandom): number[][] {
  return Array.from({ length: positions }, () => {
    const lsns: number[] = [];
    for (let lsn = 1; lsn < lsnMax; lsn++) if (random.chance(0.15)) lsns.push(lsn);
    return lsns;
  });
}

function delta(values: number[][], from: number, to: number, lsnStart: number, lsnEnd: number): TestLayer {
  const content = new Map<number, number[]>();
  for (let p = from; p < to; p++) {
    content.set(
      p,
      values[p]!.filter((lsn) => lsn >= lsnStart && lsn < lsnEnd),
    );
  }
  return layer('delta', from, to, lsnStart, lsnEnd, content);
}

function layer(
  kind: 'delta' | 'image',
  from: number,
  to: number,
  lsnStart: number,
  lsnEnd: number,
  content: Map<number, number[]>,
): TestLayer {
  const last = keyOf(to - 1);
  const keys = { start: keyOf(from), end: { prefix: last.prefix, block: last.block + 1 } };
  return { desc: { kind, keys, lsnStart: lsnStart as Lsn, lsnEnd: lsnEnd as Lsn }, content };
}

function image(random: SeededRandom, values: number[][], from: number, to: number, lsn: number): TestLayer {
  const content = new Map<number, number[]>();
  for (let p = from; p < to; p++) {
    if (random.chance(0.6)) content.set(p, [values[p]!.filter((at) => at <= lsn).at(-1) ?? -1]);
  }
  return layer('image', from, to, lsn, lsn + 1, content);
}

function layers(random: SeededRandom, values: number[][]): TestLayer[] {
  const all: TestLayer[] = [];
  // A cover: slices of LSNs, each cut by keys or not.
  for (let lsn = 0; lsn < lsnMax; ) {
    const end = Math.min(lsnMax, lsn + 1 + random.below(12));
    for (let from = 0; from < positions; ) {
      const to = random.chance(0.5) ? positions : Math.min(positions, from + 1 + random.below(20));
      all.push(delta(values, from, to, lsn, end));
      from = to;
    }
    lsn = end;
  }
  // Others over it.
  for (let i = random.below(5); i > 0; i--) {
    const from = random.below(positions);
    const lsn = random.below(lsnMax);
    const to = Math.min(positions, from + 1 + random.below(20));
    all.push(delta(values, from, to, lsn, Math.min(lsnMax, lsn + 1 + random.below(20))));
  }
  // Image layers, those of one LSN side by side.
  const used = new Set<number>();
  for (let i = random.below(6); i > 0; i--) {
    const lsn = 1 + random.below(lsnMax - 1);
    if (used.has(lsn)) continue;
    used.add(lsn);
    const middle = 1 + random.below(positions - 1);
    if (random.chance(0.7)) all.push(image(random, values, random.below(middle), middle, lsn));
    if (random.chance(0.7)) all.push(image(random, values, middle, positions, lsn));
  }
  return all;
}

/** The map of these layers, some of them added, and others removed, one after another. */
function grown(random: SeededRandom, all: TestLayer[]): LayerMap<TestLayer> {
  const split = random.below(all.length + 1);
  const others = layers(random, history(random)).filter(({ desc }) => desc.kind === 'delta');
  let map = LayerMap.of([...all.slice(0, split), ...others]);
  const removeAt = random.below(all.length - split + 1);
  for (const [i, layer] of all.slice(split).entries()) {
    if (i === removeAt) map = map.with([], others);
    map = map.with([layer]);
  }
  return removeAt === all.length - split ? map.with([], others) : map;
}

interface Found {
  versions: number[];
  imageOf: number | null;
}

/** Versions newest first, down to an image; fails if a version comes twice or out of order. */
function walk(map: LayerMap<TestLayer>, position: number, lsnEnd: number): Found {
  const { prefix, block } = keyOf(position);
  const versions: number[] = [];
  let state = { lsnEnd, imageEnd: lsnEnd };
  for (let steps = 0; steps < 200; steps++) {
    const found = map.search(prefix, block, state.lsnEnd, state.imageEnd);
    checkBlockEnd(map, found, prefix, block, state);
    const { layer } = found;
    if (layer === null) return { versions, imageOf: null };
    if (layer.desc.kind === 'image') {
      const content = layer.content.get(position);
      if (content !== undefined) return { versions, imageOf: content[0]! };
    } else {
      expect(layer.content.has(position)).toBe(true);
      for (const lsn of [...layer.content.get(position)!].reverse()) {
        if (lsn >= found.lsnEnd && lsn < state.lsnEnd) versions.push(lsn);
      }
    }
    state = { lsnEnd: found.lsnEnd, imageEnd: found.imageEnd };
  }
  return expect.fail('the search does not end');
}

function checkBlockEnd(
  map: LayerMap<TestLayer>,
  found: SearchResult<TestLayer>,
  prefix: KeyPrefix,
  block: number,
  state: { lsnEnd: number; imageEnd: number },
): void {
  expect(found.blockEnd).toBeGreaterThan(block);
  for (let other = block + 1; other < Math.min(found.blockEnd, blockCount); other++) {
    const same = map.search(prefix, other, state.lsnEnd, state.imageEnd);
    expect(same.layer).toBe(found.layer);
    expect([same.lsnEnd, same.imageEnd]).toEqual([found.lsnEnd, found.imageEnd]);
  }
}

it('finds what a plain search finds', () => {
  for (let seed = 1; seed <= 25; seed++) {
    const random = new SeededRandom(seed);
    const values = history(random);
    const map = grown(random, layers(random, values));
    for (let position = 0; position < positions; position++) {
      for (const lsnEnd of [1, 7, 20, 33, lsnMax, 1000]) {
        const found = walk(map, position, lsnEnd);
        const expected = values[position]!.filter((lsn) => lsn < lsnEnd).reverse();
        const what = `seed ${seed}, key ${position}, below ${lsnEnd}`;
        if (found.imageOf === null) {
          expect(found.versions, what).toEqual(expected);
        } else {
          // What an image stands for need not be read again.
          const older = expected.filter((lsn) => lsn <= found.imageOf!);
          expect(found.imageOf, what).toBe(older[0] ?? -1);
          expect(found.versions, what).toEqual(expected.slice(0, expected.length - older.length));
        }
      }
    }
  }
});

/** What `search` is to find: the newest image, or else the delta that ends highest above it. */
function plainSearch(all: readonly TestLayer[], position: number, lsnEnd: number, imageEnd: number) {
  const having = all.filter(({ content }) => content.has(position)).map(({ desc }) => desc);
  const images = having.filter(({ kind, lsnStart }) => kind === 'image' && lsnStart < imageEnd);
  const imageLsn = Math.max(-1, ...images.map(({ lsnStart }) => lsnStart));
  const deltas = having.filter((desc) => desc.kind === 'delta' && desc.lsnStart < lsnEnd);
  const newer = lsnEnd > imageLsn + 1 ? deltas.filter((desc) => desc.lsnEnd > imageLsn + 1) : [];
  if (newer.length === 0) return { kind: images.length > 0 ? 'image' : null, lsnEnd: imageLsn };
  return { kind: 'delta', lsnEnd: Math.max(...newer.map((desc) => desc.lsnEnd)) };
}

it('finds among many layers, whether spread evenly or not, what a look at each of them finds', () => {
  const relBlocks = 700;
  const keyAt = (position: number) => ({
    prefix: prefixes[Math.floor(position / relBlocks)]!,
    block: position % relBlocks,
  });
  const keysEnd = prefixes.length * relBlocks - 1;
  for (let seed = 1; seed <= 6; seed++) {
    const random = new SeededRandom(seed);
    const imageLsns = new Set<number>();
    const count = seed % 3 === 0 ? 1500 : 400;
    const all = Array.from({ length: count }, (): TestLayer => {
      const widths = [3, 40, 600, keysEnd];
      const from = random.below(keysEnd);
      const to = Math.min(keysEnd, from + 1 + random.below(widths[random.below(widths.length)]!));
      const content = new Map(Array.from({ length: to - from }, (_, i) => [from + i, []]));
      const lsnStart = Math.floor(1000 * random.next() ** seed) as Lsn;
      const kind = random.chance(0.3) && !imageLsns.has(lsnStart) ? 'image' : 'delta';
      if (kind === 'image') imageLsns.add(lsnStart);
      const lsnEnd = (lsnStart + (kind === 'image' ? 1 : 1 + random.below(300))) as Lsn;
      return { desc: { kind, keys: { start: keyAt(from), end: keyAt(to) }, lsnStart, lsnEnd }, content };
    });
    const map = LayerMap.of(all.slice(0, -20)).with(all.slice(-20));
    for (let i = 0; i < 3000; i++) {
      const position = random.below(keysEnd);
      const [lsnEnd, imageEnd] = [1 + random.below(1300), 1 + random.below(1300)];
      const { prefix, block } = keyAt(position);
      const { layer } = map.search(prefix, block, lsnEnd, imageEnd);
      const found = {
        kind: layer?.desc.kind ?? null,
        lsnEnd: layer === null ? -1 : layer.desc.kind === 'image' ? layer.desc.lsnStart : layer.desc.lsnEnd,
      };
      const what = `seed ${seed}, key ${position}, below ${lsnEnd}, images below ${imageEnd}`;
      expect(found, what).toEqual(plainSearch(all, position, lsnEnd, imageEnd));
    }
  }
});

it('a changed map leaves the old one as it was', () => {
  const values = history(new SeededRandom(1));
  const low = delta(values, 0, positions, 0, 10);
  const high = delta(values, 0, positions, 10, 20);
  const map = LayerMap.of([low]);
  const more = map.with([high]);
  const { prefix, block } = keyOf(3);
  expect(map.search(prefix, block, 100, 100).layer).toBe(low);
  expect(more.search(prefix, block, 100, 100).layer).toBe(high);
  expect(more.with([], [high]).search(prefix, block, 100, 100).layer).toBe(low);
});
