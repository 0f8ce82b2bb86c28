/**
 * W9. Delta layers: every value of a timeline in a rectangle of keys and LSNs. Written from a frozen in-memory layer; read as any LayerFile.
 */
import type { TenantTimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { InMemoryLayer } from './in-memory-layer.ts';
import { LayerWriter, type WrittenLayer } from './layer-writer.ts';

/** Columns, prefixes and index beside the values. */
const overheadFactor = 1.05;

/** The layer's values below `lsnEnd`, null if it has none. Lets others run in between. */
export async function writeDeltaLayer(
  id: TenantTimelineId,
  layer: InMemoryLayer,
  lsnEnd: Lsn,
  yieldTurn: () => Promise<void>,
): Promise<WrittenLayer | null> {
  const writer = new LayerWriter('delta', id, Math.ceil(layer.bytes * overheadFactor));
  const walk = layer.walk(lsnEnd, (prefix, block, lsn, kind, bytes, start, length) => {
    writer.add(prefix, block, lsn, kind, bytes, start, length);
  });
  for (const _ of walk) await yieldTurn();
  return writer.finish(layer.lsnStart, lsnEnd);
}
