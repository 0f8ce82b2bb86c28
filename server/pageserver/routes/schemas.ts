/**
 * What the pageserver's HTTP API speaks of, under Neon's names (libs/pageserver_api/src/models.rs) where it is the same. The descriptions are a
 * part of the OpenAPI description; tests/pageserver/neon-names.test.ts lists what is ours alone.
 */
import { z } from 'zod';
import { tenantConfigNames } from '../../../engine/timeline/tenant-config.ts';
import { idText } from '../../process/path-parameters.ts';
import { pgVersion } from './pageserver-api.ts';

export const lsnText = z
  .string()
  .regex(/^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/, 'expected an LSN such as 0/16B5A50')
  .meta({
    id: 'Lsn',
    description: 'A position in the WAL as PostgreSQL writes it: two hex numbers',
    examples: ['0/16B5A50'],
  });

const bytes = z.int().nonnegative();
const timestampText = z.iso.datetime().describe('RFC 3339, UTC');

// Tenants

const tenantFields = {
  id: idText,
  state: z.object({ slug: z.literal('Active') }),
  attachment_status: z.object({ slug: z.literal('attached') }),
};

export const tenantInfo = z.object(tenantFields).meta({ id: 'TenantInfo' });

export const tenantDetails = z
  .object({
    ...tenantFields,
    current_physical_size: bytes.describe('Bytes of the layer files of all its timelines'),
    timelines: z.array(idText),
  })
  .meta({ id: 'TenantDetails' });

const setting = z.union([z.number(), z.string()]);
/** Durations as text, sizes in bytes. */
export const tenantConfig = z
  .object(Object.fromEntries(tenantConfigNames.map((name) => [name, setting.optional()])))
  .meta({
    id: 'TenantConfig',
    description: 'Settings of a tenant. Durations such as 10s, 1h or 7days; sizes in bytes',
  });

export const tenantConfigAnswer = z
  .object({ tenant_specific_overrides: tenantConfig, effective_config: tenantConfig })
  .meta({ id: 'TenantConfigResponse' });

export const branchNames = z
  .object({
    cluster_id: z
      .string()
      .regex(/^[0-9a-f]{16}$/, 'expected 16 hex digits')
      .nullable()
      .describe('Of the safekeepers that the tenant is written through; null: not known'),
    names: z.record(idText, z.string().min(1).max(128)).describe('By timeline id'),
  })
  .meta({ id: 'BranchNames', description: "Names of a tenant's timelines" });

// Timelines

const brokenState = z
  .object({ Broken: z.object({ reason: z.string(), backtrace: z.string() }) })
  .describe('It cannot be read, or ingests no more; other timelines go on');

export const timelineInfo = z
  .object({
    tenant_id: idText,
    timeline_id: idText,
    ancestor_timeline_id: idText.nullable().describe('The timeline that it branched from'),
    ancestor_lsn: lsnText.nullable().describe('Its branch point'),
    last_record_lsn: lsnText.describe('All WAL up to here is ingested'),
    prev_record_lsn: lsnText.nullable().describe('Where the record begins that ends at last_record_lsn'),
    disk_consistent_lsn: lsnText.describe('Everything up to here is in layer files'),
    remote_consistent_lsn: lsnText.describe('Everything up to here is in the remote storage'),
    min_readable_lsn: lsnText.describe('The oldest LSN that can be read or branched at'),
    current_logical_size: bytes
      .optional()
      .describe(
        "Bytes of all its relations at last_record_lsn, ancestors' pages included. Absent until it was counted once",
      ),
    current_logical_size_is_accurate: z.boolean().describe('False: not counted yet; ask again'),
    current_physical_size: bytes.describe("Bytes of its own layer files, without its ancestors'"),
    pg_version: z.literal(pgVersion),
    is_archived: z.boolean().describe('It rests: it cannot be read until it is taken up again'),
    state: z.union([z.literal('Active'), brokenState]),
  })
  .meta({ id: 'TimelineInfo' });

export const brokenTimelineInfo = z
  .object({ tenant_id: idText, timeline_id: idText, state: brokenState })
  .meta({ id: 'BrokenTimelineInfo', description: 'A timeline whose index cannot be read' });

export const anyTimelineInfo = z.union([timelineInfo, brokenTimelineInfo]);

export const lsnLease = z.object({ valid_until: timestampText }).meta({ id: 'LsnLease' });

export const gcResult = z
  .object({
    layers_total: bytes,
    layers_removed: bytes,
    bytes_removed: bytes,
    cutoff_lsn: lsnText.nullable().describe('What is older is gone, but for what is retained'),
    skipped: z.string().nullable().describe('Why nothing was looked at'),
  })
  .meta({ id: 'GcResult' });

export const storageInfo = z
  .object({
    gc_cutoff_lsn: lsnText.describe('Everything from here on is kept: the older of the two below'),
    space_cutoff_lsn: lsnText.describe('gc_horizon bytes of WAL before the end'),
    time_cutoff_lsn: lsnText.nullable().describe('As of pitr_interval ago; null: that is 0'),
    retained: z
      .array(
        z.object({
          lsn: lsnText,
          reason: z.enum(['branch', 'lease', 'read']),
          timeline_id: idText.optional().describe('The branch'),
          valid_until: timestampText.optional().describe('When the lease ends unless it is renewed'),
        }),
      )
      .describe('Points that stay readable, whatever the cutoff'),
    uploads: z.object({
      layers: bytes.describe('Waiting for their upload'),
      bytes,
      deletes: bytes.describe('Objects that are going to be deleted'),
      last_error: z.string().nullable(),
    }),
    compaction: z.object({
      running: z.boolean(),
      job: z
        .object({ kind: z.enum(['l0_compaction', 'image_layer_creation']), bytes_written: bytes })
        .nullable()
        .describe('What is done now, and the bytes of layers that it has written so far'),
      l0_layers: bytes.describe('Flushed layers that are not merged yet'),
      last_error: z.string().nullable(),
      blocked: z
        .array(
          z.object({
            kind: z.enum(['image_layer_creation', 'l0_compaction']),
            what: z.string().describe('The key range that gets no images, or the layer that is not merged'),
            error: z.string(),
            retry_at: timestampText,
          }),
        )
        .describe('What is damaged and left alone until then; the rest is compacted'),
    }),
  })
  .meta({ id: 'TimelineStorageInfo' });

// Layers

export const inMemoryLayer = z
  .discriminatedUnion('kind', [
    z.object({ kind: z.literal('Open'), lsn_start: lsnText }),
    z.object({ kind: z.literal('Frozen'), lsn_start: lsnText, lsn_end: lsnText }),
  ])
  .meta({ id: 'InMemoryLayerInfo' });

const layerFileFields = {
  layer_file_name: z.string().describe('First key, end key, and LSNs: docs/formats.md'),
  layer_file_size: bytes,
  lsn_start: lsnText,
  remote: z.boolean().describe('Not on the local disk'),
};

export const historicLayer = z
  .discriminatedUnion('kind', [
    z.object({ kind: z.literal('Delta'), ...layerFileFields, lsn_end: lsnText.describe('Exclusive') }),
    z.object({ kind: z.literal('Image'), ...layerFileFields }),
  ])
  .meta({ id: 'HistoricLayerInfo' });

export const layerMapInfo = z
  .object({ in_memory_layers: z.array(inMemoryLayer), historic_layers: z.array(historicLayer) })
  .meta({ id: 'LayerMapInfo' });

// Times

export const lsnByTimestamp = z
  .object({
    lsn: lsnText,
    kind: z
      .enum(['present', 'future', 'past', 'nodata'])
      .describe('A commit is there; all commits are older; all are younger; there are none'),
  })
  .meta({ id: 'LsnByTimestampResponse' });

const historyPoint = z.object({
  lsn: lsnText,
  timestamp: timestampText.nullable().describe('Of the latest transaction that had ended by then; null if none had'),
});

export const commitHistory = z
  .object({
    start: historyPoint,
    end: historyPoint,
    commits: z.array(z.object({ lsn: lsnText, timestamp: timestampText })).describe('Oldest first, spread over time'),
  })
  .meta({ id: 'CommitHistory' });

export const timestampOrNull = timestampText.nullable();
