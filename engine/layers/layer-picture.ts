/**
 * A timeline's layers as rectangles: keys across, LSNs upwards. Both axes are ordinal, as real distances would show nothing: most of a key's 18 bytes
 * never differ, and an image layer is one LSN high.
 */
import { type Lsn, parseLsn } from '../model/lsn.ts';
import type { LayerSummary } from '../protocol/control-api.ts';

export interface LayerBox {
  readonly name: string;
  readonly bytes: number;
  readonly kind: 'delta' | 'image' | 'memory';
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly startLsn: string;
  readonly endLsn: string;
}

const keyRange = /^([0-9A-Fa-f]+)-([0-9A-Fa-f]+)__/;

/** Boxes in a square of 1 by 1; y goes down, so the newest is at the top. */
export function layerBoxes({ inMemory, files }: LayerSummary): LayerBox[] {
  const memory = inMemory.map(({ startLsn, endLsn }) => ({
    name: 'in memory',
    bytes: 0,
    kind: 'memory' as const,
    keys: null,
    startLsn,
    endLsn: endLsn ?? startLsn,
  }));
  const all = [...files.map((file) => ({ ...file, keys: keysOf(file.name) })), ...memory];
  if (all.length === 0) return [];
  const keys = ranks(all.flatMap((layer) => layer.keys ?? []));
  const top = Math.max(...all.map(({ endLsn }) => parseLsn(endLsn))) + 1;
  const lsns = ranks([...all.flatMap((layer) => [parseLsn(layer.startLsn), endOf(layer, top)])]);
  const across = Math.max(1, keys.size - 1);
  const up = Math.max(1, lsns.size - 1);
  return all.map((layer) => {
    const [left, right] = layer.keys ? [keys.get(layer.keys[0])!, keys.get(layer.keys[1])!] : [0, across];
    const [low, high] = [lsns.get(parseLsn(layer.startLsn))!, lsns.get(endOf(layer, top))!];
    const { name, bytes, kind, startLsn, endLsn } = layer;
    const [x, width] = [left / across, (right - left) / across];
    return { name, bytes, kind, startLsn, endLsn, x, width, y: 1 - high / up, height: (high - low) / up };
  });
}

/** Where the boxes' edges are: the distinct bounds of keys and LSNs, ascending. */
export function layerEdges({ inMemory, files }: LayerSummary): { keys: string[]; lsns: Lsn[] } {
  const keys = ranks(files.flatMap(({ name }) => keysOf(name) ?? []));
  const lsns = ranks(
    [...files, ...inMemory].flatMap(({ startLsn, endLsn }) => [startLsn, endLsn ?? startLsn].map(parseLsn)),
  );
  return { keys: [...keys.keys()], lsns: [...lsns.keys()] };
}

const endOf = ({ kind, startLsn, endLsn }: { kind: string; startLsn: string; endLsn: string }, top: number): number => {
  if (kind === 'memory' && endLsn === startLsn) return top;
  return Math.max(parseLsn(endLsn), parseLsn(startLsn) + 1);
};

function keysOf(name: string): [string, string] | null {
  const match = keyRange.exec(name);
  return match ? [match[1]!, match[2]!] : null;
}

function ranks<T extends string | number>(values: readonly T[]): Map<T, number> {
  const sorted = [...new Set(values)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return new Map(sorted.map((value, rank) => [value, rank]));
}
