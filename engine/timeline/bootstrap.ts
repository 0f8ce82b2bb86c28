/** A timeline out of the template: its files as one image layer at the template's LSN, and the index that names it, which the caller stores. */
import { must } from '../assert.ts';
import { importTemplate } from '../basebackup/import-template.ts';
import { writeImageLayer } from '../layers/image-layer.ts';
import { InMemoryLayer } from '../layers/in-memory-layer.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { invalidLsn } from '../model/lsn.ts';
import type { ObjectStore, TenantTemplate } from '../services.ts';
import { type IndexPart, layerKey, newIndexPart } from './index-part.ts';
import type { YieldTurn } from './reconstruct.ts';

export async function bootstrap(
  store: ObjectStore,
  id: TenantTimelineId,
  generation: number,
  template: TenantTemplate,
  yieldTurn: YieldTurn,
): Promise<IndexPart> {
  const { lsn, systemIdentifier } = template;
  const values = new InMemoryLayer(lsn);
  importTemplate(template, values);
  const layer = must(await writeImageLayer(id, values, lsn, yieldTurn), 'a template has files');
  const entry = { name: layer.name, size: layer.bytes.length, generation, isComplete: true };
  await store.put(layerKey(id, entry), layer.bytes);
  return newIndexPart({ systemIdentifier, lsn, prevRecordLsn: invalidLsn, layers: [entry] });
}
