/**
 * Names of a tenant's branches, kept in the store for whoever attaches the tenant next. The pageserver knows timelines by their ids; what a name means is
 * the control plane's, which stores all of a tenant's names at once (server/control-plane/stored-names.ts).
 *
 *   tenants/<tenant>/branches.json      {"version":1,"cluster_id":"4f9e461a2f722cea","names":{"<timeline>":"main", ...}}\n<CRC32C>\n
 */
import { PageliteError } from '../errors.ts';
import { type TenantId, type TimelineId, timelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { decodeChecked, encodeChecked, tenantFolder } from './index-part.ts';

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
  return found === null ? noBranchNames : decodeBranchNames(found.bytes, file);
}

/** Throws `corrupt`, naming the object. */
export function decodeBranchNames(bytes: Uint8Array, file: string): BranchNames {
  const bad = (reason: string) => new PageliteError('corrupt', `${file} is damaged: ${reason}`, { file });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  const { version, cluster_id, names } = JSON.parse(line);
  if (version !== namesVersion) throw bad(`version ${version}, this program reads ${namesVersion}`);
  const entries = Object.entries(names).map(([id, name]) => [timelineId(id), String(name)] as const);
  return { clusterId: cluster_id, names: new Map(entries) };
}

export function encodeBranchNames({ clusterId, names }: BranchNames): Uint8Array {
  const json = { version: namesVersion, cluster_id: clusterId, names: Object.fromEntries(names) };
  return encodeChecked(JSON.stringify(json));
}

export async function storeBranchNames(store: ObjectStore, tenant: TenantId, names: BranchNames): Promise<void> {
  await store.put(tenantFolder(tenant) + branchNamesFile, encodeBranchNames(names));
}
