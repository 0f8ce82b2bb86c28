/** The picture of a timeline's layers as text, exactly; and what must hold of any, as text and as SVG. */
import { describe, expect, it } from 'vitest';
import type { LayerSummary } from '../../engine/protocol/control-api.ts';
import { drawLayerMap, layerMapSvg } from '../../server/cli/layer-drawing.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const key = (n: number) => `00000006${n.toString(16).toUpperCase().padStart(28, '0')}`;
const lsn = (n: number) => `0/${n.toString(16).toUpperCase()}`;

function file(kind: 'delta' | 'image', keys: [number, number], start: number, end: number) {
  const bounds = `${key(keys[0])}-${key(keys[1])}__${start.toString(16).toUpperCase().padStart(16, '0')}`;
  const name = kind === 'image' ? bounds : `${bounds}-${end.toString(16).toUpperCase().padStart(16, '0')}`;
  return { name, bytes: 1_000_000, kind, startLsn: lsn(start), endLsn: lsn(kind === 'image' ? start : end) };
}

const layers: LayerSummary = {
  inMemory: [{ startLsn: '0/4000', endLsn: null }],
  files: [
    file('image', [0, 90], 0x1000, 0),
    file('delta', [0, 40], 0x1001, 0x3000),
    file('delta', [40, 90], 0x1001, 0x3000),
    file('image', [40, 90], 0x2fff, 0),
    file('delta', [3, 80], 0x3000, 0x4000),
  ],
};

it('is drawn with boxes, double lines and dots', () => {
  expect(drawLayerMap(layers, 40)).toEqual([
    '        ································',
    '        ································',
    ' 0/4000 ································',
    '                ┌──────────────┐',
    '                │              │',
    ' 0/3000         └──────────────┘',
    '        ┌──────────────┐════════════════',
    '        │              │════════════════',
    '        │              │════════════════',
    ' 0/2FFF │              │════════════════',
    '        │              ││              │',
    '        │              ││              │',
    ' 0/1001 └──────────────┘└──────────────┘',
    '        ════════════════════════════════',
    '        ════════════════════════════════',
    ' 0/1000 ════════════════════════════════',
    "        keys, in the order of the layers' bounds",
    '',
    '┌─┐ delta   ═══ image   ··· in memory   (LSN: where the layers of that line begin)',
  ]);
  expect(drawLayerMap({ inMemory: [], files: [] }, 80)).toEqual(['no layers']);
});

describe('any layers', () => {
  it('fit the width, and the picture has each of them once, by name', () => {
    const seed = 4;
    const random = new SeededRandom(seed);
    for (const count of [1, 7, 200, 2_000]) {
      const files = Array.from({ length: count }, () => {
        const [first, start] = [random.below(500), 0x1000 + random.below(1_000_000)];
        const keys: [number, number] = [first, first + 1 + random.below(300)];
        return file(random.pick(['delta', 'image'] as const), keys, start, start + 1 + random.below(100_000));
      });
      const summary = { inMemory: [], files };
      for (const width of [30, 80, 211]) {
        const drawn = drawLayerMap(summary, width).slice(0, -3);
        for (const line of drawn) expect(line.length, `seed ${seed}`).toBeLessThanOrEqual(width);
        expect(drawn.length).toBeLessThanOrEqual(40);
      }
      const svg = layerMapSvg(summary, { branchName: 'a<b>&"c', gcCutoffLsn: '0/10' });
      expect(svg).toContain('branch a&lt;b&gt;&amp;&quot;c');
      expect(svg.match(/<title>/g)).toHaveLength(count);
      for (const { name } of files.slice(0, 20)) expect(svg).toContain(name);
      expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    }
  });
});
