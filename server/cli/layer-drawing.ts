/** Pictures of a timeline's layers, keys across and LSNs upwards (engine/layers/layer-picture.ts): as text for a terminal, and as SVG. */
import { type LayerBox, layerBoxes, layerEdges } from '../../engine/layers/layer-picture.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import type { LayerSummary } from '../../engine/protocol/control-api.ts';
import { formatBytes } from './progress.ts';

export interface DrawingNotes {
  readonly branchName: string;
  /** As text; null: not known. */
  readonly gcCutoffLsn: string | null;
}

/** Rows of a text picture; as many as there are LSNs to tell apart, up to this. */
const rowsMax = 40;

/**
 * Lines of at most `width` characters: a box for each delta layer, a double line for each image layer, dots for what is in memory. What is drawn
 * later covers what is below it, so smaller layers come last.
 */
export function drawLayerMap(layers: LayerSummary, width: number): string[] {
  const boxes = layerBoxes(layers);
  if (boxes.length === 0) return ['no layers'];
  const { lsns } = layerEdges(layers);
  const label = Math.max(...lsns.map((lsn) => formatLsn(lsn).length)) + 1;
  const columns = Math.max(10, width - label - 1);
  const heights = new Set(boxes.flatMap(({ y, height }) => [y, y + height]));
  const rows = Math.min(rowsMax, Math.max(4, 2 * heights.size));
  const grid = Array.from({ length: rows }, () => Array<string>(columns).fill(' '));
  const labels = new Map<number, string>();
  for (const box of [...boxes].sort((a, b) => rank(a) - rank(b) || b.width * b.height - a.width * a.height)) {
    const place = placeOf(box, columns, rows);
    paint(grid, box, place);
    labels.set(place.bottom, box.startLsn);
  }
  return [
    ...grid.map((row, y) => `${(labels.get(y) ?? '').padStart(label)} ${row.join('').trimEnd()}`.trimEnd()),
    `${' '.repeat(label)} keys, in the order of the layers' bounds`,
    '',
    '┌─┐ delta   ═══ image   ··· in memory   (LSN: where the layers of that line begin)',
  ];
}

/** Images over deltas over memory: they are one line high. */
const rank = ({ kind }: LayerBox): number => (kind === 'memory' ? 0 : kind === 'delta' ? 1 : 2);

interface Place {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

function placeOf({ x, y, width, height }: LayerBox, columns: number, rows: number): Place {
  const left = Math.min(columns - 1, Math.round(x * columns));
  const right = Math.min(columns - 1, Math.max(left, Math.round((x + width) * columns) - 1));
  const top = Math.min(rows - 1, Math.round(y * rows));
  return { left, right, top, bottom: Math.min(rows - 1, Math.max(top, Math.round((y + height) * rows) - 1)) };
}

function paint(grid: string[][], { kind }: LayerBox, { left, right, top, bottom }: Place): void {
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++)
      grid[y]![x] = characterAt(kind, x === left, x === right, y === top, y === bottom);
  }
}

function characterAt(
  kind: LayerBox['kind'],
  isLeft: boolean,
  isRight: boolean,
  isTop: boolean,
  isBottom: boolean,
): string {
  if (kind === 'memory') return '·';
  if (kind === 'image') return '═';
  if (isTop && isBottom) return isLeft && isRight ? '▪' : isLeft ? '╶' : isRight ? '╴' : '─';
  if (isLeft && isRight) return '│';
  if (isTop) return isLeft ? '┌' : isRight ? '┐' : '─';
  if (isBottom) return isLeft ? '└' : isRight ? '┘' : '─';
  return isLeft || isRight ? '│' : ' ';
}

const picture = { width: 1200, left: 130, right: 30, top: 70, bottom: 50 } as const;
const fills = { delta: '#4c8bf5', image: '#f29900', memory: '#7cb342' } as const;

/** A picture that stands alone: no scripts, no fonts from elsewhere; readable on light and dark. */
export function layerMapSvg(layers: LayerSummary, { branchName, gcCutoffLsn }: DrawingNotes): string {
  const boxes = layerBoxes(layers);
  const { lsns } = layerEdges(layers);
  const inner = Math.min(1600, Math.max(240, 26 * lsns.length));
  const height = picture.top + inner + picture.bottom;
  const across = picture.width - picture.left - picture.right;
  const total = layers.files.reduce((sum, { bytes }) => sum + bytes, 0);
  const about = `${layers.files.length} layer files, ${formatBytes(total)}; kept from Lsn ${gcCutoffLsn ?? '---'}`;
  const rects = [...boxes]
    .sort((a, b) => rank(a) - rank(b) || b.width * b.height - a.width * a.height)
    .map((box) => {
      const x = picture.left + box.x * across;
      const y = picture.top + box.y * inner;
      const w = Math.max(2, box.width * across - 1);
      const h = Math.max(box.kind === 'image' ? 4 : 2, box.height * inner - 1);
      const title = `${box.name}\n${box.kind}, Lsn ${box.startLsn} to ${box.endLsn}, ${formatBytes(box.bytes)}`;
      return `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${w.toFixed(1)}" height="${h.toFixed(1)}" rx="2" fill="${fills[box.kind]}" fill-opacity="${box.kind === 'image' ? 0.95 : 0.45}" stroke="${fills[box.kind]}"><title>${escapeXml(title)}</title></rect>`;
    });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${picture.width} ${height}" width="${picture.width}" height="${height}" font-family="system-ui, sans-serif" font-size="12">
<style>text{fill:#24292f}.page{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}}</style>
<rect class="page" width="100%" height="100%"/>
<text x="${picture.left}" y="28" font-size="18" font-weight="600">Layers of branch ${escapeXml(branchName)}</text>
<text x="${picture.left}" y="50">${escapeXml(about)}</text>
${lsnLabels(boxes, inner)}
${rects.join('\n')}
<text x="${picture.left}" y="${height - 18}">keys → (in the order of the layers' bounds)</text>
${legend(picture.width - picture.right - 270, 24)}
</svg>
`;
}

/** Beside the lower edges, as many as there is room for. */
function lsnLabels(boxes: readonly LayerBox[], inner: number): string {
  const at = new Map<number, string>();
  for (const { y, height, startLsn } of boxes) at.set(Math.round(picture.top + (y + height) * inner), startLsn);
  const labels: string[] = [];
  let last = Number.POSITIVE_INFINITY;
  for (const [y, lsn] of [...at].sort((a, b) => b[0] - a[0])) {
    if (last - y < 14) continue;
    last = y;
    labels.push(`<text x="${picture.left - 8}" y="${y}" text-anchor="end">${lsn}</text>`);
  }
  return labels.join('\n');
}

function legend(x: number, y: number): string {
  const kinds = ['delta', 'image', 'memory'] as const;
  return kinds
    .map((kind, i) => {
      const left = x + 90 * i;
      const box = `<rect x="${left}" y="${y - 10}" width="14" height="12" rx="2" fill="${fills[kind]}" fill-opacity="0.6" stroke="${fills[kind]}"/>`;
      return `${box}<text x="${left + 20}" y="${y}">${kind === 'memory' ? 'in memory' : kind}</text>`;
    })
    .join('\n');
}

const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
