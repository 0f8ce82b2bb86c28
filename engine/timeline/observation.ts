/** What a pageserver's timelines and caches are like at one moment: numbers for operators, read without waiting for anything. */
import type { TimelineCounters } from '../counters.ts';
import type { ClockCache } from '../layers/clock-cache.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { LayerStaging, StagingCounters } from '../services.ts';
import type { RunningTimeline } from './running-timeline.ts';

export interface LayerTotals {
  count: number;
  bytes: number;
}

export interface TimelineObservation {
  readonly id: TenantTimelineId;
  readonly state: 'Active' | 'Broken';
  readonly lastRecordLsn: Lsn;
  readonly diskConsistentLsn: Lsn;
  readonly remoteConsistentLsn: Lsn;
  /** Of layer files on the local disk. */
  readonly residentBytes: number;
  readonly deltas: LayerTotals;
  readonly images: LayerTotals;
  /** In-memory layers that are not written yet. */
  readonly frozen: LayerTotals;
  readonly openLayerBytes: number;
  /** Null if it is not counted yet. */
  readonly logicalSize: number | null;
  readonly counters: TimelineCounters;
}

export interface CacheObservation {
  readonly bytes: number;
  readonly bytesMax: number;
  readonly lookups: number;
  readonly hits: number;
}

export interface PageserverObservation {
  readonly tenantCount: number;
  readonly timelines: readonly TimelineObservation[];
  /** Of all timelines since this process began, those that are deleted too. */
  readonly total: TimelineCounters;
  /** What was moved between the local disk and a remote storage; null: there is none. */
  readonly staging: StagingCounters | null;
  /** Timelines that could not be opened. */
  readonly brokenCount: number;
  /** Blocks of layer files. */
  readonly blocks: CacheObservation;
  /** Pages rebuilt from records. */
  readonly versions: CacheObservation;
}

export function observeTimeline(
  { timeline, uploads, logicalSize }: RunningTimeline,
  staging: LayerStaging | null,
): TimelineObservation {
  let residentBytes = 0;
  const deltas = { count: 0, bytes: 0 };
  const images = { count: 0, bytes: 0 };
  for (const { key, desc, size } of timeline.layers.files.layers()) {
    const totals = desc.kind === 'delta' ? deltas : images;
    totals.count++;
    totals.bytes += size;
    residentBytes += staging === null ? size : staging.residentBytesOf(key);
  }
  const { frozenLayers, openLayer, lastRecordLsn, diskConsistentLsn, counters } = timeline;
  return {
    id: timeline.id,
    state: timeline.stopped === null ? 'Active' : 'Broken',
    lastRecordLsn,
    diskConsistentLsn,
    remoteConsistentLsn: uploads.storedPart.diskConsistentLsn,
    residentBytes,
    deltas,
    images,
    frozen: { count: frozenLayers.length, bytes: frozenLayers.reduce((sum, { bytes }) => sum + bytes, 0) },
    openLayerBytes: openLayer.bytes,
    logicalSize: logicalSize.bytes,
    counters,
  };
}

export const observeCache = ({ bytes, bytesMax, lookups, hits }: ClockCache): CacheObservation => ({
  bytes,
  bytesMax,
  lookups,
  hits,
});
