/**
 * The object that says that a bucket's prefix or a folder is a remote storage of Pagelite's, however empty: `pagelite init` writes it, and whoever opens the
 * storage wants to see it. Without it a folder that is not mounted, or a prefix that somebody has emptied, would be taken for a new storage, without tenants.
 *
 *   storage.json      {"version":1}\n<CRC32C>\n
 *
 * Storages from before there was one have tenants: they get it when they are opened.
 */
import { PageliteError } from '../../engine/errors.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { encodeChecked } from '../../engine/timeline/index-part.ts';

export const storageMarker = 'storage.json';

/** `mayCreate`: it may be a new one. Throws `unavailable` if it is none; `where` names it. */
export async function checkStorageMarker(store: ObjectStore, where: string, mayCreate: boolean): Promise<void> {
  if ((await store.head(storageMarker)) !== null) return;
  if (!mayCreate && (await store.listFolders('tenants/')).length === 0) throw noStorage(where);
  await store.put(storageMarker, encodeChecked(JSON.stringify({ version: 1 })));
}

export function noStorage(where: string): PageliteError {
  const hint =
    'Is it not mounted, or was it moved or emptied? Bring it back, and start again. If it is lost, so are its branches: begin anew with pagelite init in another folder';
  return new PageliteError('unavailable', `${where} is no storage of branches: ${storageMarker} is not there. ${hint}`);
}
