/**
 * Names of a tenant's branches, kept in the store for whoever attaches the tenant next. The pageserver knows timelines by their ids; what a name means is
 * the control plane's, which stores all of a tenant's names at once (server/control-plane/stored-names.ts).
 *
 *   tenants/<tenant>/branches.json      {"version":1,"names":{"<timeline>":"main", ...}}\n<CRC32C>\n
 */
import { PageliteError } from '../errors.ts';
import { type TenantId, type TimelineId, timelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { decodeChecked, encodeChecked, tenantFolder } from './index-part.ts';

/** By timeline. One timeline has one name, and a name is one timeline's. */
export type BranchNames = ReadonlyMap<TimelineId, string>;

/** Of a tenant's folder. */
export const branchNamesFile = 'branches.json';
const namesVersion = 1;

/** None where none were stored. Throws `corrupt`, naming the object. */
export async function loadBranchNames(store: ObjectStore, tenant: TenantId): Promise<BranchNames> {
  const file = tenantFolder(tenant) + branchNamesFile;
  const found = await store.get(file);
  return found === null ? new Map() : decodeBranchNames(found.bytes, file);
}

/** Throws `corrupt`, naming the object. */
export function decodeBranchNames(bytes: Uint8Array, file: string): BranchNames {
  const bad = (reason: string) => new PageliteError('corrupt', `${file} is damaged: ${reason}`, { file });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  const { version, names } = JSON.parse(line);
  if (version !== namesVersion) throw bad(`version ${version}, this program reads ${namesVersion}`);
  return new Map(Object.entries(names).map(([id, name]) => [timelineId(id), String(name)]));
}

export function encodeBranchNames(names: BranchNames): Uint8Array {
  return encodeChecked(JSON.stringify({ version: namesVersion, names: Object.fromEntries(names) }));
}

export async function storeBranchNames(store: ObjectStore, tenant: TenantId, names: BranchNames): Promise<void> {
  await store.put(tenantFolder(tenant) + branchNamesFile, encodeBranchNames(names));
}
