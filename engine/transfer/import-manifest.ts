/**
 * What an import is going to bring: a timeline, or the next piece of one, as a list of layer files made elsewhere.
 *
 * Written by who sends (push-timeline.ts, copy-timeline.ts), checked by who takes (timeline-imports.ts) before the first byte of a layer is
 * accepted. As JSON it is the body of a request and a part of `import.json` (docs/formats.md).
 *
 *   base null     a timeline that is not there yet: all its layers
 *   base L        one that was imported from the same origin up to L, and not written since: the layers above L
 *
 * Invariants of a checked manifest:
 * - every delta layer is inside (start, diskConsistentLsn] and ends above base, every image layer is inside [start, diskConsistentLsn] and above base
 * - delta layers do not overlap; nor do image layers of one LSN
 * - a timeline without ancestor has an image layer at its start
 */
import { PageliteError } from '../errors.ts';
import { footerBytes, headerBytes } from '../layers/layer-format.ts';
import { type LayerDesc, parseLayerName } from '../layers/layer-name.ts';
import { importLayerBytesMax, importLayersMax } from '../limits.ts';
import { type TenantTimelineId, type TimelineId, timelineId } from '../model/ids.ts';
import { compareKeys, type Key } from '../model/key.ts';
import { alignLsn, formatLsn, type Lsn, parseLsn } from '../model/lsn.ts';
import { recordEnd } from '../wal/wal-page.ts';

/** Version 1 had no `compacted_lsn` and did not say which layers are complete. */
export const manifestVersion = 2;

export interface ManifestLayer {
  readonly name: string;
  readonly size: number;
  /** CRC32C of the whole file, as it is for the timeline that it goes to. */
  readonly crc32c: number;
  /** See LayerEntry. */
  readonly isComplete: boolean;
}

export interface ImportManifest {
  /** Which history this is, wherever it goes: the tenant and the timeline where it was written. */
  readonly origin: string;
  readonly base: Lsn | null;
  readonly systemIdentifier: bigint;
  readonly startLsn: Lsn;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null;
  readonly diskConsistentLsn: Lsn;
  readonly prevRecordLsn: Lsn;
  /** See IndexPart. */
  readonly compactedLsn: Lsn;
  readonly layers: readonly ManifestLayer[];
}

export const originOf = (id: TenantTimelineId): string => `${id.tenantId}/${id.timelineId}`;

const originPattern = /^[0-9a-f]{32}\/[0-9a-f]{32}$/;
const identifierPattern = /^[0-9]{1,20}$/;
/** LSNs above it would leave no room for exact arithmetic. */
const lsnLimit = 2 ** 52;

export function manifestToJson(manifest: ImportManifest): object {
  const { origin, base, systemIdentifier, startLsn, ancestor, layers } = manifest;
  return {
    version: manifestVersion,
    origin,
    base_lsn: base === null ? null : formatLsn(base),
    system_identifier: String(systemIdentifier),
    start_lsn: formatLsn(startLsn),
    ancestor_timeline_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
    disk_consistent_lsn: formatLsn(manifest.diskConsistentLsn),
    prev_record_lsn: formatLsn(manifest.prevRecordLsn),
    compacted_lsn: formatLsn(manifest.compactedLsn),
    layers: layers.map(({ name, size, crc32c, isComplete }) => ({
      name,
      size,
      crc32c,
      ...(isComplete && { complete: true }),
    })),
  };
}

/** Checked. Throws `invalid`. */
export function manifestFromJson(json: unknown): ImportManifest {
  const fields = (typeof json === 'object' && json !== null ? json : {}) as Record<string, unknown>;
  const { version } = fields;
  if (version !== 1 && version !== manifestVersion) {
    throw invalid(`version ${JSON.stringify(version)}, this program reads ${manifestVersion}`);
  }
  const text = (name: string): string => {
    const value = fields[name];
    if (typeof value !== 'string') throw invalid(`${name} is missing`);
    return value;
  };
  const identifier = text('system_identifier');
  if (!identifierPattern.test(identifier)) throw invalid('system_identifier is no number');
  if (!Array.isArray(fields.layers)) throw invalid('layers is no list');
  const ancestorId = fields.ancestor_timeline_id === null ? null : timelineId(text('ancestor_timeline_id'));
  const manifest = {
    origin: text('origin'),
    base: fields.base_lsn === null ? null : parseLsn(text('base_lsn')),
    systemIdentifier: BigInt(identifier),
    startLsn: parseLsn(text('start_lsn')),
    ancestor: ancestorId === null ? null : { timelineId: ancestorId, lsn: parseLsn(text('ancestor_lsn')) },
    diskConsistentLsn: parseLsn(text('disk_consistent_lsn')),
    prevRecordLsn: parseLsn(text('prev_record_lsn')),
    compactedLsn: parseLsn(text(version === 1 ? 'start_lsn' : 'compacted_lsn')),
    layers: fields.layers.map(layerFromJson),
  };
  if (version !== 1) checkImages(manifest);
  return checkManifest(manifest);
}

function layerFromJson(json: unknown): ManifestLayer {
  const { name, size, crc32c, complete } = (json ?? {}) as Record<string, unknown>;
  if (typeof name !== 'string') throw invalid('a layer has no name');
  if (typeof size !== 'number' || typeof crc32c !== 'number') throw invalid(`layer ${name} has no size or checksum`);
  return { name, size, crc32c, isComplete: complete === true };
}

/** The receiver makes images of its own above compactedLsn. */
function checkImages({ layers, compactedLsn }: ImportManifest): void {
  for (const { name } of layers) {
    const desc = parseLayerName(name);
    if (desc?.kind === 'image' && desc.lsnStart > compactedLsn)
      throw invalid(`image layer ${name} is above compacted_lsn`);
  }
}

/** Throws `invalid`, saying what is wrong. */
export function checkManifest(manifest: ImportManifest): ImportManifest {
  const { origin, base, systemIdentifier, startLsn, ancestor, diskConsistentLsn, layers } = manifest;
  if (!originPattern.test(origin)) throw invalid('origin is not a tenant and a timeline');
  if (systemIdentifier >= 1n << 64n) throw invalid('system_identifier has more than 64 bits');
  if (!isRecordEnd(startLsn) || !isRecordEnd(diskConsistentLsn)) throw invalid('an LSN is not the end of a record');
  if (startLsn > diskConsistentLsn) throw invalid(`it ends at ${formatLsn(diskConsistentLsn)}, before it starts`);
  if (manifest.prevRecordLsn >= diskConsistentLsn) throw invalid('the last record begins behind its end');
  if (manifest.compactedLsn < startLsn || manifest.compactedLsn > diskConsistentLsn) {
    throw invalid('compacted_lsn is outside');
  }
  if (base !== null && (base < startLsn || base > diskConsistentLsn)) throw invalid('base_lsn is outside');
  if (ancestor !== null && ancestor.lsn !== startLsn) throw invalid('a branch starts at its branch point');
  if (layers.length > importLayersMax)
    throw invalid(`${layers.length} layers, at most ${importLayersMax} are possible`);
  const descs = layers.map((layer) => checkLayer(layer, manifest));
  if (new Set(layers.map(({ name }) => name)).size !== layers.length) throw invalid('a layer is listed twice');
  checkDisjoint(descs);
  const hasStart = descs.some(({ kind, lsnStart }) => kind === 'image' && lsnStart === startLsn);
  if (ancestor === null && base === null && !hasStart)
    throw invalid('it has no ancestor and no image layer at its start');
  return manifest;
}

function isRecordEnd(lsn: Lsn): boolean {
  return lsn > 0 && lsn < lsnLimit && alignLsn(lsn) === lsn && recordEnd(lsn) === lsn;
}

function checkLayer({ name, size, crc32c }: ManifestLayer, manifest: ImportManifest): LayerDesc {
  const desc = parseLayerName(name);
  if (desc === null) throw invalid(`${JSON.stringify(name.slice(0, 200))} is not the name of a layer`);
  if (!Number.isSafeInteger(size) || size < headerBytes + footerBytes || size > importLayerBytesMax) {
    throw invalid(`layer ${name} of ${size} bytes, at most ${importLayerBytesMax} are possible`);
  }
  if (!Number.isInteger(crc32c) || crc32c < 0 || crc32c > 0xffffffff) throw invalid(`layer ${name} has no checksum`);
  const { base, startLsn, diskConsistentLsn } = manifest;
  const first = desc.kind === 'delta' ? startLsn + 1 : base !== null ? base + 1 : startLsn;
  // A merged delta layer may begin below the base: what the receiver has of it already is there twice, and the same.
  if (base !== null && desc.lsnEnd <= base + 1) throw invalid(`layer ${name} ends at or below base_lsn`);
  if (desc.lsnStart < first || desc.lsnEnd > diskConsistentLsn + 1) {
    throw invalid(`layer ${name} is outside of ${formatLsn(first)} to ${formatLsn(diskConsistentLsn)}`);
  }
  return desc;
}

/** No two rectangles of key range and LSN range have a point in common, images and deltas each for themselves. In O(n log n) but for what is moved. */
function checkDisjoint(descs: readonly LayerDesc[]): void {
  for (const kind of ['delta', 'image']) {
    const sorted = descs.filter((desc) => desc.kind === kind).sort((a, b) => a.lsnStart - b.lsnStart);
    const ending = [...sorted].sort((a, b) => a.lsnEnd - b.lsnEnd);
    /** Those that an LSN is in, by key. */
    const active: LayerDesc[] = [];
    let ended = 0;
    for (const desc of sorted) {
      for (; ending[ended]!.lsnEnd <= desc.lsnStart; ended++)
        active.splice(placeOf(active, ending[ended]!.keys.start), 1);
      const at = placeOf(active, desc.keys.start);
      const overlaps = (other: LayerDesc | undefined) =>
        other !== undefined &&
        compareKeys(other.keys.start, desc.keys.end) < 0 &&
        compareKeys(desc.keys.start, other.keys.end) < 0;
      if (overlaps(active[at - 1]) || overlaps(active[at])) throw invalid(`two ${kind} layers overlap`);
      active.splice(at, 0, desc);
    }
  }
}

/** Where in a list in key order a key is, or would be. */
function placeOf(sorted: readonly LayerDesc[], key: Key): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(sorted[middle]!.keys.start, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function invalid(problem: string): PageliteError {
  return new PageliteError('invalid', `malformed list of what is to be imported: ${problem}`);
}
