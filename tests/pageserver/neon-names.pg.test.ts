/**
 * Names that the pageserver shares with Neon's mean the same, and what is ours alone is listed here with its reason.
 *
 * Must hold: a route is Neon's (method and path), or on the list of ours; so are the fields of what is answered and the names of metrics. The tables
 * are from Neon's pageserver at 2026-03-25: src/http/openapi_spec.yml and routes.rs, libs/pageserver_api/src/models.rs, src/metrics.rs.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tenantConfigNames } from '../../engine/timeline/tenant-config.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';

/** Of those that Neon has, the ones that are here. */
const neonRoutes: Readonly<Record<string, string>> = {
  'GET /metrics': 'Prometheus text',
  'GET /v1/status': 'the node id',
  'GET /v1/tenant': 'TenantInfo[]',
  'GET /v1/tenant/{tenant_id}': 'TenantDetails',
  'GET /v1/tenant/{tenant_id}/timeline': 'TimelineInfo[]',
  'POST /v1/tenant/{tenant_id}/timeline': 'TimelineInfo, 201',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}': 'TimelineInfo',
  'DELETE /v1/tenant/{tenant_id}/timeline/{timeline_id}': '412 if it has children',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/get_lsn_by_timestamp': 'LsnByTimestampResponse',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/get_timestamp_of_lsn': 'a date-time',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/checkpoint': 'flushes what is in memory',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/layer': 'LayerMapInfo',
  'DELETE /v1/tenant/{tenant_id}': 'deletes it with its timelines',
  'GET /v1/tenant/{tenant_id}/config': 'TenantConfigResponse',
  'PUT /v1/tenant/config': 'replaces the overrides',
  'PATCH /v1/tenant/config': 'changes some; null unsets',
  'PUT /v1/tenant/{tenant_id}/location_config':
    'mode AttachedSingle or Detached; the generation is claimed in the store',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/compact': 'compacts now',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/do_gc': 'GcResult',
  'POST /v1/tenant/{tenant_id}/timeline/{timeline_id}/lsn_lease': 'LsnLease',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/detach_ancestor': 'the timelines that were reparented',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/archival_config': 'Archived or Unarchived',
};

const ownRoutes: Readonly<Record<string, string>> = {
  'POST /v1/tenant': "in Neon's description still, though its server makes tenants by location_config; the CLI uses it",
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/storage': 'what is kept and why: pagelite timeline info',
  'GET /v1/tenant/{tenant_id}/branch_names': "Neon's control plane keeps names in a database of its own",
  'PUT /v1/tenant/{tenant_id}/branch_names': 'the same',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/rebuild':
    'a timeline from its WAL alone: pagelite timeline recover',
  'GET /v1/openapi.json': 'Neon keeps a file, /swagger.yml; this one is made of the routes',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/commit_history': 'what a time slider ranges over',
  'GET /v1/tenant/{tenant_id}/timeline/{timeline_id}/layer/{layer_file_name}/content':
    "a layer's bytes, for layer dump; Neon's GET of the layer brings it to the local disk",
  'POST /v1/tenant/{tenant_id}/timeline/{timeline_id}/import': 'timelines that were made in a tab',
  'PUT /v1/tenant/{tenant_id}/timeline/{timeline_id}/import/{import_id}/layer/{imported_layer}': 'the same',
  'POST /v1/tenant/{tenant_id}/timeline/{timeline_id}/import/{import_id}/commit': 'the same',
  'DELETE /v1/tenant/{tenant_id}/timeline/{timeline_id}/import/{import_id}': 'the same',
};

/** Fields as Neon has them, with the JSON type. */
const neonFields: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  TenantInfo: { id: 'string', state: 'object', current_physical_size: 'integer', attachment_status: 'object' },
  TenantDetails: {
    id: 'string',
    state: 'object',
    current_physical_size: 'integer',
    attachment_status: 'object',
    timelines: 'array',
  },
  TimelineInfo: {
    tenant_id: 'string',
    timeline_id: 'string',
    ancestor_timeline_id: 'string|null',
    ancestor_lsn: 'lsn|null',
    last_record_lsn: 'lsn',
    prev_record_lsn: 'lsn|null',
    disk_consistent_lsn: 'lsn',
    remote_consistent_lsn: 'lsn',
    min_readable_lsn: 'lsn',
    current_logical_size: 'integer',
    current_logical_size_is_accurate: 'boolean',
    current_physical_size: 'integer',
    pg_version: 'number',
    is_archived: 'boolean',
    state: 'string|object',
  },
  LayerMapInfo: { in_memory_layers: 'array', historic_layers: 'array' },
  LsnLease: { valid_until: 'string' },
  GcResult: { layers_total: 'integer', layers_removed: 'integer' },
  TenantConfigResponse: { tenant_specific_overrides: 'undefined', effective_config: 'undefined' },
  TenantConfig: Object.fromEntries(tenantConfigNames.map((name) => [name, 'number,string'])),
  LsnByTimestampResponse: { lsn: 'lsn', kind: 'string' },
  TimelineCreateRequest: {
    new_timeline_id: 'string',
    ancestor_timeline_id: 'string|null',
    ancestor_start_lsn: 'lsn|null',
    pg_version: 'number',
  },
  Error: { msg: 'string' },
};
/** Members of unions that are told apart by `kind`. */
const neonVariants: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  InMemoryLayerInfo: { Open: ['lsn_start'], Frozen: ['lsn_start', 'lsn_end'] },
  HistoricLayerInfo: {
    Delta: ['layer_file_name', 'layer_file_size', 'lsn_start', 'lsn_end', 'remote'],
    Image: ['layer_file_name', 'layer_file_size', 'lsn_start', 'remote'],
  },
};
const neonRequired: Readonly<Record<string, readonly string[]>> = {
  TenantInfo: ['id', 'attachment_status'],
  TimelineInfo: ['timeline_id', 'tenant_id', 'last_record_lsn', 'disk_consistent_lsn', 'state', 'min_readable_lsn'],
  LsnByTimestampResponse: ['lsn', 'kind'],
  Error: ['msg'],
};
const ownFields: Readonly<Record<string, string>> = {
  'GcResult.bytes_removed': 'what it gave back',
  'GcResult.cutoff_lsn': 'where history begins now',
  'GcResult.skipped': 'why nothing was done',
  'Error.kind': 'the kind of a PageliteError: what to do about it',
  'Error.data': 'what it is about',
};
/** Schemas of ours alone. */
const ownSchemas = [
  'BranchNames',
  'BrokenTimelineInfo',
  'CommitHistory',
  'ImportState',
  'Lsn',
  'TimelineRebuildRequest',
  'TimelineStorageInfo',
];

const timelineLabels = ['tenant_id', 'shard_id', 'timeline_id'];
const neonMetrics: Readonly<Record<string, readonly string[]>> = {
  libmetrics_build_info: ['revision', 'build_tag'],
  process_resident_memory_bytes: [],
  process_cpu_seconds_total: [],
  process_start_time_seconds: [],
  process_open_fds: [],
  pageserver_smgr_query_started_global_count: ['smgr_query_type'],
  pageserver_smgr_query_started_count: ['smgr_query_type', ...timelineLabels],
  pageserver_smgr_query_seconds: ['smgr_query_type', ...timelineLabels],
  pageserver_smgr_query_seconds_global: ['smgr_query_type'],
  pageserver_basebackup_query_seconds: ['result'],
  pageserver_layers_per_read: timelineLabels,
  pageserver_layers_per_read_global: [],
  pageserver_deltas_per_read_global: [],
  pageserver_wait_lsn_started_count: timelineLabels,
  pageserver_wait_lsn_finished_count: timelineLabels,
  pageserver_wait_lsn_seconds: [],
  pageserver_last_record_lsn: timelineLabels,
  pageserver_disk_consistent_lsn: timelineLabels,
  pageserver_projected_remote_consistent_lsn: timelineLabels,
  pageserver_current_logical_size: timelineLabels,
  pageserver_resident_physical_size: timelineLabels,
  pageserver_resident_physical_size_global: [],
  pageserver_remote_physical_size: timelineLabels,
  pageserver_remote_physical_size_global: [],
  pageserver_timeline_ephemeral_bytes: [],
  pageserver_remote_ondemand_downloaded_bytes_total: [],
  pageserver_tenant_states_count: ['state'],
  pageserver_timeline_states_count: ['state'],
  pageserver_wal_ingest_bytes_received: [],
  pageserver_wal_ingest_records_received: [],
  pageserver_wal_ingest_records_committed: [],
  pageserver_wal_ingest_values_committed: ['class', 'kind'],
  pageserver_timeline_wal_records_received: timelineLabels,
  pageserver_storage_operations_seconds_sum: ['operation', ...timelineLabels],
  pageserver_storage_operations_seconds_count: ['operation', ...timelineLabels],
  pageserver_storage_operations_seconds_global: ['operation'],
  pageserver_page_cache_size_current_bytes: ['key_kind'],
  pageserver_page_cache_size_max_bytes: [],
  // Of Neon's labels: task_kind and content_kind are not told apart here.
  pageserver_page_cache_read_accesses_total: ['key_kind'],
  pageserver_page_cache_read_hits_total: ['key_kind'],
  pageserver_wal_redo_seconds: [],
  pageserver_wal_redo_records_histogram: [],
  pageserver_wal_redo_bytes_histogram: [],
  pageserver_replayed_wal_records_total: [],
  // Without Neon's `level`: there are no levels before compaction.
  pageserver_layer_count: ['kind', ...timelineLabels],
  pageserver_layer_bytes: ['kind', ...timelineLabels],
};
const ownMetrics: Readonly<Record<string, string>> = {
  pageserver_remote_ondemand_downloaded_chunks_total: 'Neon counts layers, which it fetches whole',
  pageserver_evicted_chunks_total: 'the same',
  pageserver_remote_uploaded_bytes_total: 'Neon counts calls of its remote client',
  pageserver_remote_uploaded_layers_total: 'the same',
  pageserver_smgr_query_errors_total: 'by the kind of the error; Neon has them in its logs',
};

type Json = Record<string, unknown>;
type Schemas = Record<string, { type?: string; properties?: Json; required?: string[]; oneOf?: Json[] }>;

let rig: MemoryPageserver;
let description: { paths: Record<string, Json>; components: { schemas: Schemas } };
let metrics: string;

beforeAll(async () => {
  rig = await MemoryPageserver.open();
  description = (await (await rig.call('GET', '/v1/openapi.json')).json()) as typeof description;
  const id = await rig.createTimeline();
  for (const kind of ['getPages', 'getRelSize', 'getBasebackup'] as const) {
    rig.counted.onStarted(kind, id);
    rig.counted.onServed(kind, id, 0.001, undefined);
  }
  // On a busy machine it is counted after the first answer.
  while ((await rig.pageserver.logicalSize(id)) === null);
  metrics = await (await rig.call('GET', '/metrics')).text();
});
afterAll(() => rig?.close());

const routes = () =>
  Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );

/** The type of a field, in few words. */
function typeOf(schema: Json): string {
  if (schema.$ref === '#/components/schemas/Lsn') return 'lsn';
  const some = (schema.anyOf ?? schema.oneOf) as Json[] | undefined;
  return some ? some.map(typeOf).join('|') : String(schema.type);
}

describe('routes', () => {
  it("are Neon's, or listed as ours", () => {
    const known = [...Object.keys(neonRoutes), ...Object.keys(ownRoutes)];
    expect(routes().sort()).toEqual(known.sort());
  });
});

describe('fields', () => {
  it("are Neon's, of the same type, or listed as ours", () => {
    for (const [name, schema] of Object.entries(description.components.schemas)) {
      if (ownSchemas.includes(name) || name in neonVariants) continue;
      const theirs = neonFields[name];
      expect(theirs, `schema ${name} is on neither list`).toBeDefined();
      for (const [field, ours] of Object.entries(schema.properties ?? {})) {
        if (`${name}.${field}` in ownFields) continue;
        expect({ name, field, type: typeOf(ours as Json) }).toEqual({ name, field, type: theirs![field] });
      }
    }
  });

  it('that Neon always tells are always told', () => {
    for (const [name, fields] of Object.entries(neonRequired)) {
      expect(description.components.schemas[name]!.required).toEqual(expect.arrayContaining([...fields]));
    }
  });

  it("of layers are those of Neon's variants", () => {
    for (const [name, variants] of Object.entries(neonVariants)) {
      const ours = (description.components.schemas[name]!.oneOf ?? []).map(({ properties }) => {
        const { kind, ...fields } = properties as Record<string, { const?: string }>;
        return [kind!.const, Object.keys(fields).sort()];
      });
      const theirs = Object.entries(variants).map(([kind, fields]) => [kind, [...fields].sort()]);
      expect(ours).toEqual(theirs);
    }
  });
});

describe('metrics', () => {
  const ours = () => [...metrics.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name]) => name!);

  it("have Neon's names, or are listed as ours", () => {
    const unknown = ours().filter(
      (name) => !(name in neonMetrics) && !(name in ownMetrics) && !name.startsWith('nodejs_'),
    );
    expect(unknown).toEqual([]);
    expect(ours()).toEqual(expect.arrayContaining(Object.keys(neonMetrics)));
  });

  it("have Neon's labels", () => {
    for (const [name, labels] of Object.entries(neonMetrics)) {
      const sample = new RegExp(`^${name}(?:_count)?(?:\\{([^}]*)\\})? `, 'm').exec(metrics);
      expect(sample, `${name} has no sample`).not.toBeNull();
      const found = [...(sample![1] ?? '').matchAll(/(\w+)="/g)].map(([, label]) => label!);
      expect({ name, labels: found.sort() }).toEqual({ name, labels: [...labels].sort() });
    }
  });
});
