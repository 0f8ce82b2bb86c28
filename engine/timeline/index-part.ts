/**
 * The index of a timeline: which layer files it has and from where WAL is to be read again. One object, `index_part.json`, swapped whole by
 * compare-and-set: a layer counts from the moment the index that names it is stored, and a file that it does not name is waste.
 *
 *   {"version":1, ...}\n<CRC32C of the first line, 8 hex digits>\n
 *
 * Invariants
 * - layers first, index second, deletes last
 * - every value with an LSN of at most `diskConsistentLsn` is in the layers (or the ancestor); `prevRecordLsn` is the record that ends there
 * - whoever swaps the index fences others who read the version before
 */
import { crc32c } from '../crc32c.ts';
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { parseLayerName } from '../layers/layer-name.ts';
import { type TenantTimelineId, type TimelineId, timelineId } from '../model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import type { ObjectStore } from '../services.ts';

export const indexVersion = 1;
export const indexFileName = 'index_part.json';

export interface IndexPart {
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null;
  readonly diskConsistentLsn: Lsn;
  /** Start of the record that ends at diskConsistentLsn; 0 if not known. */
  readonly prevRecordLsn: Lsn;
  /** Delta layers that end at or below this were looked through for pages that want an image. */
  readonly imagedLsn: Lsn;
  readonly layers: readonly { readonly name: string; readonly size: number }[];
}

export const tenantFolder = (tenant: string): string => `tenants/${tenant}/`;
export const timelineFolder = (id: TenantTimelineId): string =>
  `${tenantFolder(id.tenantId)}timelines/${id.timelineId}/`;

export function encodeIndexPart(index: IndexPart): Uint8Array {
  const line = JSON.stringify({
    version: indexVersion,
    system_identifier: String(index.systemIdentifier),
    start_lsn: formatLsn(index.startLsn),
    ancestor_timeline_id: index.ancestor?.timelineId ?? null,
    ancestor_lsn: index.ancestor ? formatLsn(index.ancestor.lsn) : null,
    disk_consistent_lsn: formatLsn(index.diskConsistentLsn),
    prev_record_lsn: formatLsn(index.prevRecordLsn),
    imaged_lsn: formatLsn(index.imagedLsn),
    layers: index.layers.map(({ name, size }) => ({ name, size })),
  });
  return encodeChecked(line);
}

/** Throws `corrupt`, naming the file. */
export function decodeIndexPart(bytes: Uint8Array, file: string): IndexPart {
  const bad = (reason: string, cause?: unknown) =>
    new PageliteError('corrupt', `index ${file} is damaged: ${reason}`, { file }, { cause });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  try {
    const json = JSON.parse(line);
    if (json.version !== indexVersion) throw bad(`version ${json.version}, this program reads ${indexVersion}`);
    const layers = (json.layers as { name: string; size: number }[]).map(({ name, size }) => {
      if (parseLayerName(name) === null || !Number.isSafeInteger(size)) throw bad(`layer ${name}`);
      return { name, size };
    });
    return {
      systemIdentifier: BigInt(json.system_identifier),
      startLsn: parseLsn(json.start_lsn),
      ancestor:
        json.ancestor_timeline_id === null
          ? null
          : { timelineId: timelineId(json.ancestor_timeline_id), lsn: parseLsn(json.ancestor_lsn) },
      diskConsistentLsn: parseLsn(json.disk_consistent_lsn),
      prevRecordLsn: parseLsn(json.prev_record_lsn),
      imagedLsn: parseLsn(json.imaged_lsn),
      layers,
    };
  } catch (error) {
    if (isPageliteError(error, 'corrupt')) throw error;
    throw bad(messageOf(error), error);
  }
}

export function encodeChecked(line: string): Uint8Array {
  const body = new TextEncoder().encode(line);
  const checksum = crc32c(body).toString(16).padStart(8, '0');
  return new TextEncoder().encode(`${line}\n${checksum}\n`);
}

/** The line, or null if its checksum is not there or wrong. */
export function decodeChecked(bytes: Uint8Array): string | null {
  const text = new TextDecoder().decode(bytes);
  const match = /^([^\n]*)\n([0-9a-f]{8})\n$/.exec(text);
  if (match === null) return null;
  return crc32c(bytes, 0, bytes.length - 10) === Number.parseInt(match[2]!, 16) ? match[1]! : null;
}

/** The index as stored, with its version; changes are made one after another. */
export class StoredIndex {
  readonly key: string;
  readonly #store: ObjectStore;
  #part: IndexPart;
  #version: string;
  #last: Promise<void> = Promise.resolve();

  private constructor(store: ObjectStore, key: string, part: IndexPart, version: string) {
    this.#store = store;
    this.key = key;
    this.#part = part;
    this.#version = version;
  }

  /** Throws `notFound`, `corrupt`. */
  static async load(store: ObjectStore, id: TenantTimelineId): Promise<StoredIndex> {
    const key = timelineFolder(id) + indexFileName;
    const found = await store.get(key);
    if (found === null) throw new PageliteError('notFound', `timeline ${id.timelineId} does not exist`, { ...id });
    return new StoredIndex(store, key, decodeIndexPart(found.bytes, key), found.version);
  }

  /** The timeline comes into being. Throws `invalid` if it is there. */
  static async create(store: ObjectStore, id: TenantTimelineId, part: IndexPart): Promise<StoredIndex> {
    const key = timelineFolder(id) + indexFileName;
    return new StoredIndex(store, key, part, await store.put(key, encodeIndexPart(part), { ifAbsent: true }));
  }

  get part(): IndexPart {
    return this.#part;
  }

  /** Stores what `change` makes of the newest index. Throws `fenced` if somebody else has swapped it, `unavailable`. */
  update(change: (part: IndexPart) => IndexPart): Promise<void> {
    const done = this.#last.then(async () => {
      const next = change(this.#part);
      this.#version = await this.#swap(encodeIndexPart(next));
      this.#part = next;
    });
    this.#last = done.catch(() => {});
    return done;
  }

  async #swap(bytes: Uint8Array): Promise<string> {
    try {
      return await this.#store.put(this.key, bytes, { ifVersion: this.#version });
    } catch (error) {
      if (!isPageliteError(error, 'fenced')) throw error;
      // An earlier attempt whose answer was lost may have stored exactly this.
      const found = await this.#store.get(this.key);
      if (found !== null && sameBytes(found.bytes, bytes)) return found.version;
      throw error;
    }
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
