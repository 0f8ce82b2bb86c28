/** The folder of a timeline in the store, as whoever creates, removes or replaces all of it sees it. */
import type { TenantTimelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { importFileName } from '../transfer/import-record.ts';
import { transferFileName } from '../transfer/transfer-record.ts';
import { indexFileName, layerKey, parseIndexFile, type StoredIndex, timelineFolder } from './index-part.ts';

/**
 * The indexes first, the newest of them last: without it the rest is waste, whenever we crash, and an older one would name layers that are gone.
 */
export async function deleteFiles(store: ObjectStore, id: TenantTimelineId): Promise<void> {
  const folder = timelineFolder(id);
  const rank = (key: string) => parseIndexFile(key.slice(folder.length)) ?? Number.MAX_SAFE_INTEGER;
  const keys = (await store.list(folder)).map(({ key }) => ({ key, rank: rank(key) }));
  for (const { key } of keys.sort((a, b) => a.rank - b.rank)) await store.delete(key);
}

export async function deleteIndexes(store: ObjectStore, id: TenantTimelineId): Promise<void> {
  const folder = timelineFolder(id);
  for (const { key } of await store.list(folder + indexFileName)) {
    if (parseIndexFile(key.slice(folder.length)) !== null) await store.delete(key);
  }
}

/** Files beside layers and index that stay with a timeline: what was imported, and where from or where to. */
export function isOwnFile(file: string): boolean {
  return file === importFileName || file === transferFileName;
}

/** Objects of a timeline's folder that its index does not name, and that are not its own otherwise. */
export function unnamedKeys({ id, key, part }: StoredIndex, keys: readonly string[]): string[] {
  const folder = timelineFolder(id);
  const named = new Set([key, ...part.layers.map((entry) => layerKey(id, entry))]);
  return keys.filter((one) => !named.has(one) && !isOwnFile(one.slice(folder.length)));
}

/** Removes what an index does not name, but for what is `kept`. */
export async function deleteUnnamed(
  store: ObjectStore,
  index: StoredIndex,
  kept: (keys: readonly string[]) => Promise<(key: string) => boolean>,
): Promise<void> {
  const keys = (await store.list(timelineFolder(index.id))).map(({ key }) => key);
  const isKept = await kept(keys);
  for (const key of unnamedKeys(index, keys)) if (!isKept(key)) await store.delete(key);
}
