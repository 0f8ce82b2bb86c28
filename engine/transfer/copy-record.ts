/**
 * `copy.json` beside the layers of a timeline that is being copied from elsewhere (copy-timeline.ts): where from, and how far it is.
 */
import { messageOf, PageliteError } from '../errors.ts';
import { parseLayerName } from '../layers/layer-name.ts';
import { importIdleMaxMs } from '../limits.ts';
import { type TenantId, type TenantTimelineId, tenantId, timelineId } from '../model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import type { ObjectStore } from '../services.ts';
import { decodeChecked, encodeChecked, tenantFolder, timelineFolder } from '../timeline/index-part.ts';

export const copyFileName = 'copy.json';
const copyVersion = 1;

export interface CopyRecord {
  readonly id: TenantTimelineId;
  readonly source: { readonly id: TenantTimelineId; readonly name: string | null };
  readonly lsn: Lsn;
  readonly prevRecordLsn: Lsn;
  readonly systemIdentifier: bigint;
  readonly layers: readonly { readonly name: string; readonly size: number }[];
  /** The first thing that no layer has: a step of timelineContents, and a key or block in it. */
  readonly next: { readonly step: number; readonly block: number };
  readonly touchedAt: number;
}

export const copyFile = (id: TenantTimelineId): string => timelineFolder(id) + copyFileName;

export function encodeCopyRecord({
  id,
  source,
  lsn,
  prevRecordLsn,
  systemIdentifier,
  ...rest
}: CopyRecord): Uint8Array {
  const line = JSON.stringify({
    version: copyVersion,
    ...id,
    source: { ...source.id, name: source.name },
    lsn: formatLsn(lsn),
    prevRecordLsn: formatLsn(prevRecordLsn),
    systemIdentifier: String(systemIdentifier),
    ...rest,
  });
  return encodeChecked(line);
}

/** Throws `corrupt`, naming the file. */
export function decodeCopyRecord(bytes: Uint8Array, file: string): CopyRecord {
  const bad = (reason: string, cause?: unknown) =>
    new PageliteError('corrupt', `${file} is damaged: ${reason}`, { file }, { cause });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  try {
    const json = JSON.parse(line);
    if (json.version !== copyVersion) throw new Error(`version ${json.version}, this program reads ${copyVersion}`);
    const layers = json.layers as CopyRecord['layers'];
    if (!layers.every(({ name, size }) => parseLayerName(name) !== null && Number.isSafeInteger(size))) {
      throw new Error('layers that are none');
    }
    return {
      id: idFromJson(json),
      source: { id: idFromJson(json.source), name: json.source.name },
      lsn: parseLsn(json.lsn),
      prevRecordLsn: parseLsn(json.prevRecordLsn),
      systemIdentifier: BigInt(json.systemIdentifier),
      layers,
      next: { step: json.next.step, block: json.next.block },
      touchedAt: json.touchedAt,
    };
  } catch (error) {
    throw bad(messageOf(error), error);
  }
}

export async function storeCopyRecord(store: ObjectStore, record: CopyRecord): Promise<void> {
  await store.put(copyFile(record.id), encodeCopyRecord(record));
}

/** Null if it is damaged or too old to go on with: then what it describes is waste. */
export async function loadCopyRecord(store: ObjectStore, file: string, now: number): Promise<CopyRecord | null> {
  const found = await store.get(file);
  if (found === null) return null;
  try {
    const record = decodeCopyRecord(found.bytes, file);
    return now - record.touchedAt > importIdleMaxMs ? null : record;
  } catch {
    return null;
  }
}

/** A copy of `source` that was begun and not finished. */
export async function findCopy(
  store: ObjectStore,
  tenant: TenantId,
  source: TenantTimelineId,
  now: number,
): Promise<CopyRecord | null> {
  for (const { key } of await store.list(`${tenantFolder(tenant)}timelines/`)) {
    if (!key.endsWith(`/${copyFileName}`)) continue;
    const record = await loadCopyRecord(store, key, now);
    if (record?.source.id.timelineId === source.timelineId && record.source.id.tenantId === source.tenantId)
      return record;
  }
  return null;
}

/** It is finished. */
export async function removeCopyRecord(store: ObjectStore, id: TenantTimelineId): Promise<void> {
  await store.delete(copyFile(id));
}

function idFromJson(json: { tenantId: string; timelineId: string }): TenantTimelineId {
  return { tenantId: tenantId(json.tenantId), timelineId: timelineId(json.timelineId) };
}
