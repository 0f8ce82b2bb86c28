/**
 * `import.json` beside a timeline's layers: what was imported into it, and what is being imported. With its checksum, as the index has one.
 *
 * The record of an import under way is why files that no index names stay after a restart; the record of a finished one is how a later import
 * of the same history knows where to go on.
 */
import { PageliteError } from '../errors.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import type { ObjectStore } from '../services.ts';
import { decodeChecked, encodeChecked, timelineFolder } from '../timeline/index-part.ts';
import { type ImportManifest, manifestFromJson, manifestToJson } from './import-manifest.ts';

export const importFileName = 'import.json';
const recordVersion = 1;

export interface ImportRecord {
  /** The history up to `lsn` came from `origin`. `importId`: of the import that brought the last of it. */
  readonly committed: { readonly origin: string; readonly lsn: Lsn; readonly importId: string } | null;
  readonly open: { readonly importId: string; readonly touchedAt: number; readonly manifest: ImportManifest } | null;
}

export const emptyRecord: ImportRecord = { committed: null, open: null };

export const importFile = (id: TenantTimelineId): string => timelineFolder(id) + importFileName;

export function encodeImportRecord({ committed, open }: ImportRecord): Uint8Array {
  return encodeChecked(
    JSON.stringify({
      version: recordVersion,
      committed: committed && { ...committed, lsn: formatLsn(committed.lsn) },
      open: open && { ...open, manifest: manifestToJson(open.manifest) },
    }),
  );
}

/** Throws `corrupt`, naming the file. */
export function decodeImportRecord(bytes: Uint8Array, file: string): ImportRecord {
  const bad = (reason: string, cause?: unknown) =>
    new PageliteError('corrupt', `${file} is damaged: ${reason}`, { file }, { cause });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  try {
    const { version, committed, open } = JSON.parse(line);
    if (version !== recordVersion) throw new Error(`version ${version}, this program reads ${recordVersion}`);
    return {
      committed: committed && { ...committed, lsn: parseLsn(committed.lsn) },
      open: open && { ...open, manifest: manifestFromJson(open.manifest) },
    };
  } catch (error) {
    throw bad((error as Error).message, error);
  }
}

/** What is stored; a damaged record is as none, and `onDamage` hears of it: at worst, something is sent once more. */
export async function loadImportRecord(
  store: ObjectStore,
  id: TenantTimelineId,
  onDamage: (error: Error) => void,
): Promise<ImportRecord> {
  const file = importFile(id);
  const found = await store.get(file);
  if (found === null) return emptyRecord;
  try {
    return decodeImportRecord(found.bytes, file);
  } catch (error) {
    onDamage(error as Error);
    return emptyRecord;
  }
}
