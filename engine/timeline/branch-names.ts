/**
 * Names of a tenant's branches, kept in the store for whoever attaches the tenant next. The pageserver knows timelines by their ids; what a name means is
 * the control plane's, which stores all of a tenant's names at once (server/control-plane/stored-names.ts).
 *
 *   tenants/<tenant>/branches.json      {"version":1,"cluster_id":"4f9e461a2f722cea","names":{"<timeline>":"main", ...}}\n<CRC32C>\n
 */
import { type TenantId, type TimelineId, timelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { decodeVersioned, encodeChecked, tenantFolder } from './index-part.ts';

export interface BranchNames {
  /** Of the safekeepers of whoever has stored this: whose WAL in the store the tenant goes on with (safekeeper/wal-backup.ts). Null: not known. */
  readonly clusterId: string | null;
  /** By timeline. One timeline has one name, and a name is one timeline's. */
  readonly names: ReadonlyMap<TimelineId, string>;
}

export const noBranchNames: BranchNames = { clusterId: null, names: new Map() };

/** Of a tenant's folder. */
export const branchNamesFile = 'branches.json';
const namesVersion = 1;

/** None where none were stored. Throws `corrupt`, naming the object. */
export async function loadBranchNames(store: ObjectStore, tenant: TenantId): Promise<BranchNames> {
  const file = tenantFolder(tenant) + branchNamesFile;
  const found = await store.get(file);
  if (found === null) return noBranchNames;
  const { cluster_id: clusterId, names } = decodeVersioned(found.bytes, file, namesVersion);
  const entries = Object.entries(names).map(([id, name]) => [timelineId(id), String(name)] as const);
  return { clusterId, names: new Map(entries) };
}

export async function storeBranchNames(
  store: ObjectStore,
  tenant: TenantId,
  { clusterId, names }: BranchNames,
): Promise<void> {
  const json = { version: namesVersion, cluster_id: clusterId, names: Object.fromEntries(names) };
  await store.put(tenantFolder(tenant) + branchNamesFile, encodeChecked(JSON.stringify(json)));
}
