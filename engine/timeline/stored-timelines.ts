/**
 * The timelines that a tenant's folder in the store has, with their indexes: what is read of them when the tenant is attached. Called by tenant.ts.
 *
 * What has no index does not exist: its creation or its deletion was cut off. Its files are removed, but for those of an import under way.
 */
import { eachAtOnce } from '../at-once.ts';
import { isPageliteError, messageOf } from '../errors.ts';
import { type TenantId, type TenantTimelineId, type TimelineId, timelineId } from '../model/ids.ts';
import type { Log, ObjectStore } from '../services.ts';
import type { TimelineImports } from '../transfer/timeline-imports.ts';
import { StoredIndex, tenantFolder } from './index-part.ts';
import type { TenantAttachment } from './tenant-claims.ts';
import { unnamedKeys } from './timeline-files.ts';

/** One whose index was read. */
export interface LoadedTimeline {
  readonly id: TenantTimelineId;
  readonly index: StoredIndex;
  /** Files in its folder that belong to nothing: left by a crash. */
  readonly leftovers: readonly string[];
}

/** One whose index cannot be read, and why. */
export interface BrokenTimeline {
  readonly id: TenantTimelineId;
  readonly error: Error;
}

export interface StoredTimelines {
  readonly loaded: readonly LoadedTimeline[];
  readonly broken: readonly BrokenTimeline[];
}

export interface LoadParts {
  readonly store: ObjectStore;
  readonly attachment: TenantAttachment;
  readonly imports: TimelineImports;
  readonly log: Log;
}

/** Timelines whose indexes are read at the same time. */
const loadsAtOnce = 8;
const timelineKeyPattern = /^timelines\/([0-9a-f]{32})\/([^/]+)$/;

export async function loadTimelines(tenant: TenantId, parts: LoadParts): Promise<StoredTimelines> {
  const loaded: LoadedTimeline[] = [];
  const broken: BrokenTimeline[] = [];
  await eachAtOnce(await foldersOf(tenant, parts), loadsAtOnce, async ([timeline, keys]) => {
    const found = await load({ tenantId: tenant, timelineId: timeline }, keys, parts);
    if (found === null) return;
    if ('index' in found) loaded.push(found);
    else broken.push(found);
  });
  return { loaded, broken };
}

/** Keys by the id of the timeline in whose folder they are. */
async function foldersOf(tenant: TenantId, { store, log }: LoadParts): Promise<Map<TimelineId, string[]>> {
  const folder = tenantFolder(tenant);
  const folders = new Map<TimelineId, string[]>();
  for (const { key } of await store.list(`${folder}timelines/`)) {
    const match = timelineKeyPattern.exec(key.slice(folder.length));
    if (match === null) {
      log.warn('an object that is not ours is in the store', { file: key });
      continue;
    }
    const id = timelineId(match[1]!);
    const keys = folders.get(id) ?? [];
    keys.push(key);
    folders.set(id, keys);
  }
  return folders;
}

/** Null if it does not exist. */
async function load(
  id: TenantTimelineId,
  keys: readonly string[],
  { store, attachment, imports, log }: LoadParts,
): Promise<LoadedTimeline | BrokenTimeline | null> {
  const isUnderWay = await imports.filesUnderWay(id, keys);
  try {
    const index = await StoredIndex.load(store, id, attachment.generation);
    return { id, index, leftovers: unnamedKeys(index, keys).filter((key) => !isUnderWay(key)) };
  } catch (error) {
    if (!isPageliteError(error, 'notFound')) {
      log.error('a timeline cannot be opened', { ...id, error: messageOf(error) });
      return { id, error: error as Error };
    }
    for (const key of keys) if (!isUnderWay(key)) await store.delete(key);
    return null;
  }
}
