/**
 * `transfer.json` beside a timeline's layers: where its copies are. In a tab: the server timeline that it was pulled from, and the one that it
 * was pushed to, so that the next push or pull sends what is new.
 */
import { type TenantTimelineId, tenantId, timelineId } from '../model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import type { ObjectStore } from '../services.ts';
import { decodeVersioned, encodeChecked, timelineFolder } from '../timeline/index-part.ts';

export const transferFileName = 'transfer.json';
const transferVersion = 1;

export interface RemoteCopy {
  readonly id: TenantTimelineId;
  /** Up to where it is there. Null: a push has begun. */
  readonly lsn: Lsn | null;
  /** The branch's name there. */
  readonly name: string | null;
}

export interface TransferRecord {
  /** Its pages at its start are this timeline's at `lsn`. */
  readonly pulledFrom: RemoteCopy | null;
  readonly pushedTo: RemoteCopy | null;
}

export async function loadTransferRecord(store: ObjectStore, id: TenantTimelineId): Promise<TransferRecord> {
  const file = timelineFolder(id) + transferFileName;
  const found = await store.get(file);
  if (found === null) return { pulledFrom: null, pushedTo: null };
  const { pulledFrom, pushedTo } = decodeVersioned(found.bytes, file, transferVersion, { ...id });
  return { pulledFrom: copyFromJson(pulledFrom), pushedTo: copyFromJson(pushedTo) };
}

export async function storeTransferRecord(
  store: ObjectStore,
  id: TenantTimelineId,
  { pulledFrom, pushedTo }: TransferRecord,
): Promise<void> {
  const line = JSON.stringify({
    version: transferVersion,
    pulledFrom: copyToJson(pulledFrom),
    pushedTo: copyToJson(pushedTo),
  });
  await store.put(timelineFolder(id) + transferFileName, encodeChecked(line));
}

function copyToJson(copy: RemoteCopy | null): object | null {
  return copy && { ...copy.id, lsn: copy.lsn === null ? null : formatLsn(copy.lsn), name: copy.name };
}

function copyFromJson(json: { tenantId: string; timelineId: string; lsn: string | null; name: string | null } | null) {
  if (json === null) return null;
  return {
    id: { tenantId: tenantId(json.tenantId), timelineId: timelineId(json.timelineId) },
    lsn: json.lsn === null ? null : parseLsn(json.lsn),
    name: json.name,
  };
}
