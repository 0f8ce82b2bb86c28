/**
 * Names of layer files, as Neon's: the key range and the LSN range that a layer covers, both half-open.
 *
 *   delta  <first key>-<end key>__<start LSN>-<end LSN>     000000...-FFFFFF...__00000000016B5A50-0000000001A00000
 *   image  <first key>-<end key>__<LSN>                      values as of that LSN
 *
 * Keys are 36 hex digits, LSNs 16. The end key is the last key with its block number plus one (saturating): good enough for people; the
 * layer's own index is exact.
 */
import { PageliteError } from '../errors.ts';
import type { Lsn } from '../model/lsn.ts';

export interface LayerName {
  readonly kind: 'delta' | 'image';
  readonly firstKey: string;
  readonly endKey: string;
  readonly startLsn: Lsn;
  /** For an image layer `startLsn + 1`: it tells of that LSN only. */
  readonly endLsn: Lsn;
}

const pattern = /^([0-9A-F]{36})-([0-9A-F]{36})__([0-9A-F]{16})(?:-([0-9A-F]{16}))?$/;

const hex16 = (lsn: number) => lsn.toString(16).toUpperCase().padStart(16, '0');

export function formatLayerName(name: LayerName): string {
  const lsns = name.kind === 'image' ? hex16(name.startLsn) : `${hex16(name.startLsn)}-${hex16(name.endLsn)}`;
  return `${name.firstKey}-${name.endKey}__${lsns}`;
}

export function parseLayerName(text: string): LayerName {
  const match = pattern.exec(text);
  if (!match) throw new PageliteError('corrupt', `not a layer file name: ${text}`, { file: text });
  const startLsn = Number.parseInt(match[3]!, 16) as Lsn;
  const endLsn = (match[4] === undefined ? startLsn + 1 : Number.parseInt(match[4], 16)) as Lsn;
  if (!(endLsn > startLsn))
    throw new PageliteError('corrupt', `layer file name with an empty LSN range: ${text}`, { file: text });
  return {
    kind: match[4] === undefined ? 'image' : 'delta',
    firstKey: match[1]!,
    endKey: match[2]!,
    startLsn,
    endLsn,
  };
}
