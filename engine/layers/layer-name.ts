/**
 * Names of layer files: the rectangle of keys and LSNs that a layer holds, as in Neon.
 *
 *   delta  <first key>-<end key>__<start LSN>-<end LSN>   every value of the timeline in this rectangle
 *   image  <first key>-<end key>__<LSN>                   whole values as of this LSN, of some keys of this range
 *
 * Keys are 36 hex digits, LSNs 16; all ranges are half-open. Example of a delta:
 *
 *   000000067F0000000500004000000000000-...__0000000001F52C31-0000000002A4F1D9
 *
 * The object of a layer is named after it and after the generation of the tenant in which it was written (timeline/tenant-claims.ts), so that two
 * owners of a tenant never write the same object:
 *
 *   <layer name>-0000000a      in generation 10
 *   <layer name>               in generation 0: a store that nobody else has
 *
 * A value that a record ending at LSN E made has the LSN E, so a delta that was closed at E ends at E + 1.
 */
import { assert } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { blockLimit, compareKeys, formatKey, type Key, type KeyPrefix, keyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';

export interface KeyRange {
  readonly start: Key;
  /** Exclusive. */
  readonly end: Key;
}

export interface LayerDesc {
  readonly kind: 'delta' | 'image';
  readonly keys: KeyRange;
  readonly lsnStart: Lsn;
  /** Exclusive. An image layer at L has [L, L + 1). */
  readonly lsnEnd: Lsn;
}

/** The key right after this one. After a fork's last block comes the next fork number, whether PostgreSQL has it or not. */
export function keyAfter({ prefix, block }: Key): Key {
  if (block + 1 < blockLimit) return { prefix, block: block + 1 };
  return { prefix: keyPrefix(prefix.kind, prefix.spc, prefix.db, prefix.rel, prefix.fork + 1), block: 0 };
}

export function rangeContains(range: KeyRange, key: Key): boolean {
  return compareKeys(range.start, key) <= 0 && compareKeys(key, range.end) < 0;
}

export function formatLayerName(layer: LayerDesc): string {
  const { start, end } = layer.keys;
  const keys = `${formatKey(start.prefix, start.block)}-${formatKey(end.prefix, end.block)}`;
  const lsns = layer.kind === 'delta' ? `${hexLsn(layer.lsnStart)}-${hexLsn(layer.lsnEnd)}` : hexLsn(layer.lsnStart);
  return `${keys}__${lsns}`;
}

const namePattern = /^([0-9A-F]{36})-([0-9A-F]{36})__([0-9A-F]{16})(?:-([0-9A-F]{16}))?$/;

/** The layer of this name, or null if it is not the name of a layer. */
export function parseLayerName(name: string): LayerDesc | null {
  const match = namePattern.exec(name);
  if (match === null) return null;
  try {
    const keys = { start: parseKey(match[1]!), end: parseKey(match[2]!) };
    const lsnStart = Number.parseInt(match[3]!, 16) as Lsn;
    const lsnEnd = (match[4] === undefined ? lsnStart + 1 : Number.parseInt(match[4], 16)) as Lsn;
    if (!Number.isSafeInteger(lsnEnd) || lsnStart >= lsnEnd || compareKeys(keys.start, keys.end) >= 0) return null;
    return { kind: match[4] === undefined ? 'image' : 'delta', keys, lsnStart, lsnEnd };
  } catch {
    // Fields that no key has.
    return null;
  }
}

/** The name of a layer's object in its timeline's folder. */
export function formatLayerFile(name: string, generation: number): string {
  return generation === 0 ? name : `${name}-${generation.toString(16).padStart(8, '0')}`;
}

/** The layer and the generation of a file in a timeline's folder; null if it is not a layer's. */
export function parseLayerFile(file: string): { readonly name: string; readonly generation: number } | null {
  const match = /^(.*)-([0-9a-f]{8})$/.exec(file);
  if (match !== null && parseLayerName(match[1]!) !== null) {
    return { name: match[1]!, generation: Number.parseInt(match[2]!, 16) };
  }
  return parseLayerName(file) === null ? null : { name: file, generation: 0 };
}

/** Whether an object is a layer, by its key. */
export const isLayerKey = (key: string): boolean => parseLayerFile(key.slice(key.lastIndexOf('/') + 1)) !== null;

function hexLsn(lsn: number): string {
  assert(Number.isSafeInteger(lsn) && lsn >= 0);
  return lsn.toString(16).toUpperCase().padStart(16, '0');
}

function parseKey(hex: string): Key {
  const part = (from: number, to: number) => Number.parseInt(hex.slice(from, to), 16);
  const prefix: KeyPrefix = keyPrefix(part(0, 2), part(2, 10), part(10, 18), part(18, 26), part(26, 28));
  return { prefix, block: part(28, 36) };
}

/** An object of a layer that is not what it should be. `file` is its key in the object store. */
export function corruptLayer(file: string, reason: string): PageliteError {
  return new PageliteError('corrupt', `layer file ${file} is damaged: ${reason}`, { file });
}
