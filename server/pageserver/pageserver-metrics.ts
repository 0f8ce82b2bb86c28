/**
 * A pageserver's numbers for Prometheus. Names and labels are Neon's (pageserver/src/metrics.rs) where the number means the same; tests/pageserver/
 * neon-names.test.ts lists what is ours alone.
 *
 * The engine counts in plain objects (engine/counters.ts), which are read here when Prometheus asks; requests of computes are counted here.
 *
 * Invariants
 * - counters over all timelines never go down: what a deleted timeline counted stays in them
 * - nothing is kept, or told, of timelines that are gone
 */
import { CountHistogram, type OperationCounter, type TimelineCounters } from '../../engine/counters.ts';
import type { PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { PagestreamRequest } from '../../engine/protocol/pagestream.ts';
import type { StagingCounters } from '../../engine/services.ts';
import type { PageserverObservation, TimelineObservation } from '../../engine/timeline/observation.ts';
import type { Counter, Histogram, HistogramValues, Labels, Metrics } from '../process/metrics.ts';
import type { RedoCounters } from './metered-redo.ts';

/** Neon's bounds of reads of one timeline, few because there are many timelines. */
const getPageSecondsBounds = [0.0006, 0.001, 0.003, 0.006, 0.01, 0.03, 0.1, 1, 3];
/** Neon's, seconds of a compute's start. */
const basebackupSecondsBounds = [
  5, 10, 20, 30, 50, 70, 100, 120, 150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1000, 1500, 2000, 2500, 3000, 5000,
  10000, 20000, 40000, 60000,
].map((ms) => ms / 1000);
/** Neon's pageserver_layers_per_read has these bounds of those that are counted. */
const layersPerReadBounds = [4, 8, 16, 32, 64, 128, 256];
/** Neon's smgr_query_type, for the requests that it has, too. */
const queryTypes: Readonly<Partial<Record<PagestreamRequest['kind'], string>>> = {
  getPages: 'get_page_at_lsn',
  getRelSize: 'get_rel_size',
  getImages: 'get_images',
  listRels: 'list_rels',
  getStatus: 'get_status',
};
const milliseconds = 0.001;

export interface ObservedPageserver {
  observe(): PageserverObservation;
}

/** Tenants are not cut into shards; this is how Neon names the one of those that are not. */
export const labelsOf = ({ tenantId, timelineId }: TenantTimelineId) => ({
  tenant_id: tenantId,
  shard_id: '0000',
  timeline_id: timelineId,
});

interface GetPages {
  started: number;
  readonly seconds: CountHistogram;
}

export class PageserverMetrics {
  readonly #metrics: Metrics;
  readonly #pageserver: ObservedPageserver;
  #observed: PageserverObservation;
  #all: TimelineCounters;
  readonly #getPages = new Map<string, GetPages>();
  readonly #started: Counter;
  readonly #seconds: Histogram;
  readonly #errors: Counter;
  readonly #basebackups: Histogram;

  constructor(metrics: Metrics, pageserver: ObservedPageserver, redo: RedoCounters | null) {
    this.#metrics = metrics;
    this.#pageserver = pageserver;
    this.#observed = pageserver.observe();
    this.#all = this.#observed.total;
    metrics.beforeText(() => this.#look());
    const started = 'pageserver_smgr_query_started_global_count';
    this.#started = metrics.counter(started, 'Requests of computes that were begun');
    this.#seconds = metrics.histogram('pageserver_smgr_query_seconds_global', 'Time from a request to its answer');
    this.#errors = metrics.counter('pageserver_smgr_query_errors_total', 'Requests that were answered with an error');
    const basebackup = 'pageserver_basebackup_query_seconds';
    this.#basebackups = metrics.histogram(basebackup, 'Time to send a basebackup', basebackupSecondsBounds);
    this.#addReads();
    this.#addTimelines();
    this.#addIngest();
    this.#addOperations();
    this.#addCaches();
    if (redo !== null) this.#addRedo(redo);
  }

  // Requests of computes

  onStarted(kind: PagestreamRequest['kind'], timeline: TenantTimelineId): void {
    const type = queryTypes[kind];
    if (type === undefined) return;
    this.#started.add(1, { smgr_query_type: type });
    if (kind === 'getPages') this.#getPagesOf(timeline).started++;
  }

  onServed(
    kind: PagestreamRequest['kind'],
    timeline: TenantTimelineId,
    seconds: number,
    error: PageliteError | undefined,
  ): void {
    if (error !== undefined) this.#errors.add(1, { smgr_query_type: queryTypes[kind] ?? kind, kind: error.kind });
    if (kind === 'getBasebackup') this.#basebackups.observe(seconds, { result: error === undefined ? 'ok' : 'error' });
    const type = queryTypes[kind];
    if (type === undefined) return;
    this.#seconds.observe(seconds, { smgr_query_type: type });
    if (kind === 'getPages') this.#getPagesOf(timeline).seconds.observe(seconds);
  }

  #getPagesOf({ timelineId }: TenantTimelineId): GetPages {
    let found = this.#getPages.get(timelineId);
    if (found === undefined) {
      found = { started: 0, seconds: new CountHistogram(getPageSecondsBounds) };
      this.#getPages.set(timelineId, found);
    }
    return found;
  }

  /** Once for a scrape. */
  #look(): void {
    this.#observed = this.#pageserver.observe();
    this.#all = this.#observed.total;
    const there = new Set<string>(this.#observed.timelines.map(({ id }) => id.timelineId));
    for (const id of this.#getPages.keys()) if (!there.has(id)) this.#getPages.delete(id);
  }

  #addReads(): void {
    const getPages = <T>(read: (of: GetPages) => T) =>
      this.#observed.timelines.flatMap(({ id }): [Labels, T][] => {
        const found = this.#getPages.get(id.timelineId);
        return found === undefined ? [] : [[{ smgr_query_type: 'get_page_at_lsn', ...labelsOf(id) }, read(found)]];
      });
    const metrics = this.#metrics;
    metrics.readCounter('pageserver_smgr_query_started_count', 'Reads of pages that were begun', () =>
      getPages(({ started }) => started),
    );
    metrics.readHistogram('pageserver_smgr_query_seconds', 'Time from a request for pages to its answer', () =>
      getPages(({ seconds }) => valuesOf(seconds)),
    );
    const layers = 'Layers that were looked into for one value';
    metrics.readHistogram('pageserver_layers_per_read', `${layers} (read amplification)`, () =>
      this.#each(({ counters }) => coarser(valuesOf(counters.layersPerRead), layersPerReadBounds)),
    );
    metrics.readHistogram('pageserver_layers_per_read_global', `${layers}, all timelines`, () => [
      [{}, valuesOf(this.#all.layersPerRead)],
    ]);
    metrics.readHistogram('pageserver_deltas_per_read_global', 'Records and patches that one value was made of', () => [
      [{}, valuesOf(this.#all.deltasPerRead)],
    ]);
    const wait = 'Waits of reads for WAL that had not arrived';
    metrics.readCounter('pageserver_wait_lsn_started_count', `${wait}, begun`, () =>
      this.#each(({ counters }) => counters.waitLsn.started),
    );
    metrics.readCounter('pageserver_wait_lsn_finished_count', `${wait}, ended`, () =>
      this.#each(({ counters }) => countOf(counters.waitLsn)),
    );
    metrics.readHistogram('pageserver_wait_lsn_seconds', `${wait}: how long they took`, () => [
      [{}, valuesOf(this.#all.waitLsn.took, milliseconds)],
    ]);
  }

  /** Zero where the store is the local disk. */
  #addRemoteStorage(): void {
    const metrics = this.#metrics;
    const counter = (name: string, help: string, read: (counters: StagingCounters) => number) =>
      metrics.readCounter(name, help, () => {
        const { staging } = this.#observed;
        return [[{}, staging === null ? 0 : read(staging)]];
      });
    counter(
      'pageserver_remote_ondemand_downloaded_bytes_total',
      'Bytes of layers that were fetched because a read wanted them',
      ({ downloadedBytes }) => downloadedBytes,
    );
    counter(
      'pageserver_remote_ondemand_downloaded_chunks_total',
      'Chunks of layers that were fetched because a read wanted them',
      ({ downloads }) => downloads,
    );
    counter('pageserver_evicted_chunks_total', 'Chunks that the local disk gave up', ({ evictions }) => evictions);
    counter('pageserver_remote_uploaded_bytes_total', 'Bytes of layers that were uploaded', (all) => all.uploadedBytes);
    counter('pageserver_remote_uploaded_layers_total', 'Layers that were uploaded', ({ uploads }) => uploads);
  }

  #addTimelines(): void {
    const metrics = this.#metrics;
    const gauge = (name: string, help: string, read: (timeline: TimelineObservation) => number | null) =>
      metrics.gauge(name, help, () =>
        this.#each(read).flatMap(([labels, value]) => (value === null ? [] : [[labels, value]])),
      );
    gauge('pageserver_last_record_lsn', 'All WAL up to here is ingested', ({ lastRecordLsn }) => lastRecordLsn);
    gauge(
      'pageserver_disk_consistent_lsn',
      'All up to here is in layer files',
      (timeline) => timeline.diskConsistentLsn,
    );
    gauge(
      'pageserver_projected_remote_consistent_lsn',
      'All up to here is in the object store',
      (timeline) => timeline.remoteConsistentLsn,
    );
    gauge('pageserver_current_logical_size', 'Bytes of all relations at the end', ({ logicalSize }) => logicalSize);
    const resident = ({ residentBytes }: TimelineObservation) => residentBytes;
    gauge('pageserver_resident_physical_size', 'Bytes of layer files on the local disk', resident);
    gauge('pageserver_remote_physical_size', 'Bytes of layer files in the object store', physicalSize);
    const sumOf = (read: (timeline: TimelineObservation) => number) => () =>
      this.#observed.timelines.reduce((sum, timeline) => sum + read(timeline), 0);
    metrics.gauge(
      'pageserver_resident_physical_size_global',
      'Bytes of layer files on the local disk',
      sumOf(resident),
    );
    metrics.gauge(
      'pageserver_remote_physical_size_global',
      'Bytes of layer files in the object store',
      sumOf(physicalSize),
    );
    this.#addRemoteStorage();
    metrics.gauge('pageserver_timeline_ephemeral_bytes', 'Bytes of layers in memory', () =>
      this.#observed.timelines.reduce((sum, { openLayerBytes, frozen }) => sum + openLayerBytes + frozen.bytes, 0),
    );
    const layers = (read: (totals: TimelineObservation['deltas']) => number) => () =>
      this.#observed.timelines.flatMap(({ id, deltas, images }): [Labels, number][] => [
        [{ ...labelsOf(id), kind: 'delta' }, read(deltas)],
        [{ ...labelsOf(id), kind: 'image' }, read(images)],
      ]);
    metrics.gauge(
      'pageserver_layer_count',
      'Layer files',
      layers(({ count }) => count),
    );
    metrics.gauge(
      'pageserver_layer_bytes',
      'Bytes of layer files',
      layers(({ bytes }) => bytes),
    );
    metrics.gauge('pageserver_tenant_states_count', 'Tenants', () => [
      [{ state: 'Active' }, this.#observed.tenantCount],
    ]);
    metrics.gauge('pageserver_timeline_states_count', 'Timelines; broken ones cannot be read or have stopped', () => {
      const { timelines, brokenCount } = this.#observed;
      const active = timelines.filter(({ state }) => state === 'Active').length;
      return [
        [{ state: 'Active' }, active],
        [{ state: 'Broken' }, timelines.length - active + brokenCount],
      ];
    });
  }

  #addIngest(): void {
    const metrics = this.#metrics;
    const counter = (name: string, help: string, read: (all: TimelineCounters) => number) =>
      metrics.readCounter(name, help, () => [[{}, read(this.#all)]]);
    counter('pageserver_wal_ingest_bytes_received', 'WAL from safekeepers', (all) => all.walBytesReceived);
    counter('pageserver_wal_ingest_records_received', 'WAL records', (all) => all.walRecordsReceived);
    counter(
      'pageserver_wal_ingest_records_committed',
      'WAL records that put a value',
      (all) => all.walRecordsCommitted,
    );
    metrics.readCounter('pageserver_wal_ingest_values_committed', 'Values that ingest put', () =>
      ['metadata', 'data'].flatMap((kindClass, c) =>
        ['image', 'delta'].map((kind, k): [Labels, number] => [
          { class: kindClass, kind },
          this.#all.valuesPut[c * 2 + k]!,
        ]),
      ),
    );
    metrics.readCounter('pageserver_timeline_wal_records_received', 'WAL records', () =>
      this.#each(({ counters }) => counters.walRecordsReceived),
    );
  }

  #addOperations(): void {
    const metrics = this.#metrics;
    const operations: [string, (counters: TimelineCounters) => OperationCounter][] = [
      ['layer flush', ({ layerFlush }) => layerFlush],
      ['compact', ({ compact }) => compact],
      ['create images', ({ createImages }) => createImages],
      ['logical size', ({ logicalSize }) => logicalSize],
    ];
    const each = (read: (counter: OperationCounter) => number) => () =>
      operations.flatMap(([operation, of]) =>
        this.#each(({ counters }) => read(of(counters))).map(([labels, value]): [Labels, number] => [
          { operation, ...labels },
          value,
        ]),
      );
    const name = 'pageserver_storage_operations_seconds';
    metrics.readCounter(
      `${name}_sum`,
      'Time of work in the background',
      each(({ took }) => took.sum * milliseconds),
    );
    metrics.readCounter(`${name}_count`, 'Pieces of work in the background', each(countOf));
    metrics.readHistogram(`${name}_global`, 'Time of work in the background, all timelines', () =>
      operations.map(([operation, of]) => [{ operation }, valuesOf(of(this.#all).took, milliseconds)]),
    );
  }

  /** Blocks of layer files, which never change, and pages that were rebuilt from records. */
  #addCaches(): void {
    const metrics = this.#metrics;
    const caches = (read: (cache: PageserverObservation['blocks']) => number) => (): [Labels, number][] => [
      [{ key_kind: 'immutable' }, read(this.#observed.blocks)],
      [{ key_kind: 'materialized' }, read(this.#observed.versions)],
    ];
    const cache = 'pageserver_page_cache';
    metrics.gauge(
      `${cache}_size_current_bytes`,
      'Bytes in the page cache',
      caches(({ bytes }) => bytes),
    );
    metrics.gauge(
      `${cache}_size_max_bytes`,
      'Bytes that the page cache may have',
      () => this.#observed.blocks.bytesMax + this.#observed.versions.bytesMax,
    );
    metrics.readCounter(
      `${cache}_read_accesses_total`,
      'Look-ups in the page cache',
      caches(({ lookups }) => lookups),
    );
    metrics.readCounter(
      `${cache}_read_hits_total`,
      'Look-ups that found something',
      caches(({ hits }) => hits),
    );
  }

  #addRedo({ seconds, records, bytes }: RedoCounters): void {
    const metrics = this.#metrics;
    const histogram = (name: string, help: string, counted: CountHistogram) =>
      metrics.readHistogram(name, help, () => [[{}, valuesOf(counted)]]);
    histogram('pageserver_wal_redo_seconds', 'Time to redo the records of a page', seconds);
    histogram('pageserver_wal_redo_records_histogram', 'Records that were redone for a page', records);
    histogram('pageserver_wal_redo_bytes_histogram', 'Their bytes', bytes);
    metrics.readCounter('pageserver_replayed_wal_records_total', 'Records that were redone', () => [[{}, records.sum]]);
  }

  #each<T>(read: (timeline: TimelineObservation) => T): [Labels, T][] {
    return this.#observed.timelines.map((timeline) => [labelsOf(timeline.id), read(timeline)]);
  }
}

const physicalSize = ({ deltas, images }: TimelineObservation): number => deltas.bytes + images.bytes;

const countOf = ({ took }: OperationCounter): number => took.counts.reduce((sum, count) => sum + count, 0);

function valuesOf({ bounds, counts, sum }: CountHistogram, unit = 1): HistogramValues {
  return { bounds: Array.from(bounds, (bound) => bound * unit), counts, sum: sum * unit };
}

/** The same in fewer ranges. `bounds` are some of those that it has. */
function coarser(values: HistogramValues, bounds: readonly number[]): HistogramValues {
  const counts = new Float64Array(bounds.length + 1);
  for (let i = 0; i < values.counts.length; i++) {
    const at = bounds.findIndex((bound) => (values.bounds[i] ?? Number.POSITIVE_INFINITY) <= bound);
    counts[at < 0 ? bounds.length : at]! += values.counts[i]!;
  }
  return { bounds, counts, sum: values.sum };
}
