/**
 * The index of a timeline: which layer files it has and from where WAL is to be read again. One object for each generation in which the tenant was
 * attached (tenant-claims.ts), written by its owner only and replaced whole. The newest one is the timeline's: a layer counts from the moment the
 * index that names it is stored, and a file that it does not name is waste.
 *
 *   tenants/<tenant>/timelines/<timeline>/index_part.json-0000000a      {"version":3, ...}\n<CRC32C of the first line, 8 hex digits>\n
 *   tenants/<tenant>/timelines/<timeline>/index_part.json               the same in generation 0: a store that nobody else has
 *
 * Invariants
 * - layers first, index second, deletes last
 * - every value with an LSN of at most `diskConsistentLsn` is in the layers (or the ancestor); `prevRecordLsn` is the record that ends there
 * - an index names layers of its own generation and of earlier ones
 * - of an LSN that it has a lease of, nothing was removed; a lease is in the store before anybody is told that it was given
 * - `gcCutoffLsn` is at most `diskConsistentLsn`: whoever has only the store reads from the cutoff on
 * - it is replaced only by who knows what it replaces (`ifVersion`): a put that was given up and comes late changes nothing, or is put right by the next one
 */
import { crc32c } from '../crc32c.ts';
import { type ErrorData, isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { formatLayerFile, parseLayerName } from '../layers/layer-name.ts';
import { type TenantTimelineId, type TimelineId, timelineId } from '../model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import { formatTimestamp, parseTimestamp } from '../model/timestamp.ts';
import type { ObjectStore } from '../services.ts';

export const indexVersion = 3;
export const indexFileName = 'index_part.json';

/** A layer as the index names it. */
export interface LayerEntry {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** In which it was written: part of its object's key. */
  readonly generation: number;
  /**
   * Of an image layer: for every key of its range of which the timeline itself has a value at or below its LSN it has the value as of its LSN. Other
   * image layers have some of them.
   */
  readonly isComplete: boolean;
}

/** An LSN that somebody was promised (lsn-leases.ts). */
export interface StoredLease {
  readonly lsn: Lsn;
  /** Milliseconds since the Unix epoch: not before this. */
  readonly validUntilMs: number;
}

export interface IndexPart {
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null;
  readonly diskConsistentLsn: Lsn;
  /** Start of the record that ends at diskConsistentLsn; 0 if not known. */
  readonly prevRecordLsn: Lsn;
  /** Delta layers that end at or below this were merged by key; those above it are as they were flushed. */
  readonly compactedLsn: Lsn;
  /** History before this may be gone. */
  readonly gcCutoffLsn: Lsn;
  /** Milliseconds since the Unix epoch; null: not archived. */
  readonly archivedAtMs: number | null;
  /** By LSN. */
  readonly leases: readonly StoredLease[];
  readonly layers: readonly LayerEntry[];
}

/** The index of a timeline that begins at `lsn`. */
export function newIndexPart(start: {
  readonly systemIdentifier: bigint;
  readonly lsn: Lsn;
  readonly prevRecordLsn: Lsn;
  readonly ancestor?: IndexPart['ancestor'];
  readonly layers?: readonly LayerEntry[];
}): IndexPart {
  const { systemIdentifier, lsn, prevRecordLsn, ancestor = null, layers = [] } = start;
  return {
    systemIdentifier,
    startLsn: lsn,
    ancestor,
    diskConsistentLsn: lsn,
    prevRecordLsn,
    compactedLsn: lsn,
    gcCutoffLsn: lsn,
    archivedAtMs: null,
    leases: [],
    layers,
  };
}

export const tenantFolder = (tenant: string): string => `tenants/${tenant}/`;
export const timelineFolder = (id: TenantTimelineId): string =>
  `${tenantFolder(id.tenantId)}timelines/${id.timelineId}/`;
export const layerKey = (id: TenantTimelineId, { name, generation }: { name: string; generation: number }): string =>
  timelineFolder(id) + formatLayerFile(name, generation);
const indexFile = (generation: number): string =>
  generation === 0 ? indexFileName : `${indexFileName}-${generation.toString(16).padStart(8, '0')}`;

/** The generation of an index by its file name; null if it is not an index. */
export function parseIndexFile(file: string): number | null {
  if (file === indexFileName) return 0;
  const match = /^index_part\.json-([0-9a-f]{8})$/.exec(file);
  return match === null ? null : Number.parseInt(match[1]!, 16);
}

export function encodeIndexPart(index: IndexPart): Uint8Array {
  const line = JSON.stringify({
    version: indexVersion,
    system_identifier: String(index.systemIdentifier),
    start_lsn: formatLsn(index.startLsn),
    ancestor_timeline_id: index.ancestor?.timelineId ?? null,
    ancestor_lsn: index.ancestor ? formatLsn(index.ancestor.lsn) : null,
    disk_consistent_lsn: formatLsn(index.diskConsistentLsn),
    prev_record_lsn: formatLsn(index.prevRecordLsn),
    compacted_lsn: formatLsn(index.compactedLsn),
    gc_cutoff_lsn: formatLsn(index.gcCutoffLsn),
    archived_at: index.archivedAtMs === null ? null : formatTimestamp(index.archivedAtMs),
    leases: index.leases.map(({ lsn, validUntilMs }) => ({
      lsn: formatLsn(lsn),
      valid_until: formatTimestamp(validUntilMs),
    })),
    layers: index.layers.map(({ name, size, generation, isComplete }) => ({
      name,
      size,
      ...(generation > 0 && { generation }),
      ...(isComplete && { complete: true }),
    })),
  });
  return encodeChecked(line);
}

/** Reads versions 1 to 3. Throws `corrupt`, naming the file. */
export function decodeIndexPart(bytes: Uint8Array, file: string): IndexPart {
  const bad = (reason: string, cause?: unknown) =>
    new PageliteError('corrupt', `index ${file} is damaged: ${reason}`, { file }, { cause });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  try {
    const json = JSON.parse(line);
    if (![1, 2, indexVersion].includes(json.version)) {
      throw bad(`version ${json.version}, this program reads ${indexVersion}`);
    }
    const startLsn = parseLsn(json.start_lsn);
    const diskConsistentLsn = parseLsn(json.disk_consistent_lsn);
    // Programs before version 3 could store a cutoff that only their memory had reached. What is below it and in layers was kept up to their end.
    const gcCutoffLsn = json.version === 1 ? startLsn : parseLsn(json.gc_cutoff_lsn);
    const layers = (json.layers as unknown[]).map((layer) => decodeLayer(layer, json.version, startLsn, bad));
    return {
      systemIdentifier: BigInt(json.system_identifier),
      startLsn,
      ancestor:
        json.ancestor_timeline_id === null
          ? null
          : { timelineId: timelineId(json.ancestor_timeline_id), lsn: parseLsn(json.ancestor_lsn) },
      diskConsistentLsn,
      prevRecordLsn: parseLsn(json.prev_record_lsn),
      compactedLsn: json.version === 1 ? startLsn : parseLsn(json.compacted_lsn),
      gcCutoffLsn: Math.min(gcCutoffLsn, diskConsistentLsn) as Lsn,
      archivedAtMs: json.archived_at == null ? null : parseTimestamp(json.archived_at),
      leases: json.version < 3 ? [] : (json.leases as unknown[]).map(decodeLease),
      layers,
    };
  } catch (error) {
    if (isPageliteError(error, 'corrupt')) throw error;
    throw bad(messageOf(error), error);
  }
}

function decodeLease(json: unknown): StoredLease {
  const { lsn, valid_until: until } = json as Record<string, string>;
  return { lsn: parseLsn(lsn!), validUntilMs: parseTimestamp(until!) };
}

function decodeLayer(
  json: unknown,
  version: number,
  startLsn: Lsn,
  bad: (reason: string) => PageliteError,
): LayerEntry {
  const { name, size, generation = 0, complete } = json as Record<string, unknown>;
  const desc = typeof name === 'string' ? parseLayerName(name) : null;
  if (desc === null || !Number.isSafeInteger(size) || !isGeneration(generation)) throw bad(`layer ${name}`);
  // Before version 2 nothing said so, but nothing of a timeline is older than what it began with.
  const isFirst = version === 1 && desc.kind === 'image' && desc.lsnStart === startLsn;
  return { name: name as string, size: size as number, generation, isComplete: complete === true || isFirst };
}

const isGeneration = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= 0xffffffff;

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

/** What the JSON of a checked line of this version says. Throws `corrupt`, naming the object; `about` goes with the error. */
export function decodeVersioned(
  bytes: Uint8Array,
  file: string,
  expected: number,
  about: ErrorData = {},
): ReturnType<typeof JSON.parse> {
  const bad = (reason: string) => new PageliteError('corrupt', `${file} is damaged: ${reason}`, { ...about, file });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  const json = JSON.parse(line);
  if (json.version !== expected) throw bad(`version ${json.version}, this program reads ${expected}`);
  return json;
}

/** Puts that may still come, of which it is remembered that they were ours. */
const attemptsMax = 1000;

/** The index as this owner of the tenant has it in the store. Not for use at once by several: the upload queue's. */
export class StoredIndex {
  readonly id: TenantTimelineId;
  readonly generation: number;
  readonly #store: ObjectStore;
  #part: IndexPart;
  /** Of the object of this generation, as we have put or read it last; null: it is not there yet. */
  #version: string | null;
  /** What we have put in this generation, the longest ago first: an answer may be lost, and a put that was given up may come late. */
  readonly #attempts = new Set<string>();

  private constructor(
    store: ObjectStore,
    id: TenantTimelineId,
    generation: number,
    part: IndexPart,
    version: string | null,
  ) {
    this.#store = store;
    this.id = id;
    this.generation = generation;
    this.#part = part;
    this.#version = version;
  }

  /** What the owners up to this generation have stored last. Throws `notFound`, `corrupt`. */
  static async load(store: ObjectStore, id: TenantTimelineId, generation: number): Promise<StoredIndex> {
    const folder = timelineFolder(id);
    for (;;) {
      const found = (await store.list(folder + indexFileName))
        .map(({ key }) => parseIndexFile(key.slice(folder.length)))
        .filter((one) => one !== null && one <= generation) as number[];
      if (found.length === 0) {
        throw new PageliteError('notFound', `timeline ${id.timelineId} does not exist`, { ...id });
      }
      const newest = Math.max(...found);
      const key = folder + indexFile(newest);
      const object = await store.get(key);
      // A newer owner has removed it since: then that one's is there, which is not for us.
      if (object === null) continue;
      const version = newest === generation ? object.version : null;
      const index = new StoredIndex(store, id, generation, decodeIndexPart(object.bytes, key), version);
      if (version !== null) index.#remember(object.bytes);
      return index;
    }
  }

  /** The timeline comes into being. Throws `invalid` if it is there. */
  static async create(
    store: ObjectStore,
    id: TenantTimelineId,
    generation: number,
    part: IndexPart,
  ): Promise<StoredIndex> {
    const index = new StoredIndex(store, id, generation, part, null);
    const bytes = encodeIndexPart(part);
    try {
      index.#version = await store.put(index.key, bytes, { ifAbsent: true });
    } catch (error) {
      if (!isPageliteError(error, 'invalid')) throw error;
      // An earlier attempt whose answer was lost may have stored exactly this.
      const found = await store.get(index.key);
      if (found === null || !sameBytes(found.bytes, bytes)) throw error;
      index.#version = found.version;
    }
    index.#remember(bytes);
    return index;
  }

  /** Of a timeline whose index cannot be read: to be replaced by a put. `part`: what it will have. */
  static async unread(
    store: ObjectStore,
    id: TenantTimelineId,
    generation: number,
    part: IndexPart,
  ): Promise<StoredIndex> {
    const found = await store.get(timelineFolder(id) + indexFile(generation));
    return new StoredIndex(store, id, generation, part, found?.version ?? null);
  }

  /** The store has one of this owner, which replaces what owners of before had. */
  get isOwn(): boolean {
    return this.#version !== null;
  }

  get key(): string {
    return timelineFolder(this.id) + indexFile(this.generation);
  }

  /** As it is in the store. */
  get part(): IndexPart {
    return this.#part;
  }

  /** Replaces the index, one put after another. Throws `unavailable`; `fenced` if somebody else writes in this generation. */
  async put(part: IndexPart): Promise<void> {
    const bytes = encodeIndexPart(part);
    this.#remember(bytes);
    // Each attempt of before can come between once.
    for (let round = 0; ; round++) {
      try {
        const condition = this.#version === null ? ({ ifAbsent: true } as const) : { ifVersion: this.#version };
        this.#version = await this.#store.put(this.key, bytes, condition);
        break;
      } catch (error) {
        const isOther = isPageliteError(error, 'fenced') || isPageliteError(error, 'invalid');
        if (!isOther) throw error;
        const found = await this.#store.get(this.key);
        if (found === null || !this.#attempts.has(fingerprint(found.bytes)) || round > this.#attempts.size) {
          const message = `somebody else has written ${this.key}: two processes with one generation`;
          throw new PageliteError('fenced', message, { ...this.id, file: this.key }, { cause: error });
        }
        this.#version = found.version;
        if (sameBytes(found.bytes, bytes)) break;
      }
    }
    this.#part = part;
  }

  #remember(bytes: Uint8Array): void {
    const attempt = fingerprint(bytes);
    this.#attempts.delete(attempt);
    this.#attempts.add(attempt);
    if (this.#attempts.size > attemptsMax) this.#attempts.delete(this.#attempts.keys().next().value!);
  }
}

/** Nobody who writes in our generation by mistake writes the same length and the same sum by chance. */
const fingerprint = (bytes: Uint8Array): string => `${bytes.length}-${crc32c(bytes)}`;

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
