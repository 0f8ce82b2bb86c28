/** What the HTTP API needs of a Pageserver (engine/timeline/pageserver.ts). */
import type { TenantId, TenantTimelineId, TimelineId } from '../../../engine/model/ids.ts';
import type { Lsn } from '../../../engine/model/lsn.ts';
import type { PageService } from '../../../engine/services.ts';
import type { BranchNames } from '../../../engine/timeline/branch-names.ts';
import type { CompactionForce, CompactionStatus } from '../../../engine/timeline/compaction.ts';
import type { GcResult } from '../../../engine/timeline/garbage-collection.ts';
import type { IndexPart } from '../../../engine/timeline/index-part.ts';
import type { PageserverObservation } from '../../../engine/timeline/observation.ts';
import type { CommitHistory, LayerInfo } from '../../../engine/timeline/pageserver.ts';
import type { Retention } from '../../../engine/timeline/retention.ts';
import type { TenantConfig } from '../../../engine/timeline/tenant-config.ts';
import type { UploadStatus } from '../../../engine/timeline/upload-queue.ts';
import type { TimelineImports } from '../../../engine/transfer/timeline-imports.ts';

export interface PageserverApi {
  readonly imports: TimelineImports;
  createTenant(id: TenantId): Promise<void>;
  listTenants(): Promise<readonly TenantId[]>;
  createTimeline(id: TenantTimelineId, ancestor: { timelineId: TimelineId; lsn: Lsn | null } | null): Promise<void>;
  listTimelines(tenant: TenantId): Promise<readonly TimelineId[]>;
  rebuildTimeline(id: TenantTimelineId, ancestor: { timelineId: TimelineId; lsn: Lsn } | null): Promise<void>;
  deleteTimeline(id: TenantTimelineId): Promise<void>;
  openPages(id: TenantTimelineId): Promise<PageService>;
  findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<{ kind: TimestampMatch; lsn: Lsn }>;
  timestampOfLsn(id: TenantTimelineId, lsn: Lsn): Promise<number | null>;
  commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory>;
  /** Bytes of all relations at the end; null if they are not counted yet, which begins then. */
  logicalSize(id: TenantTimelineId): Promise<number | null>;
  /** Bytes of a timeline's own layer files; 0 of one that cannot be opened. */
  physicalSize(id: TenantTimelineId): number;
  observe(): PageserverObservation;
  flush(id: TenantTimelineId): Promise<void>;
  compactionStatus(id: TenantTimelineId): CompactionStatus;
  uploadStatus(id: TenantTimelineId): UploadStatus;
  retention(id: TenantTimelineId): Promise<Retention>;
  collectGarbage(id: TenantTimelineId): Promise<GcResult>;
  detachAncestor(id: TenantTimelineId): Promise<void>;
  archiveTimeline(id: TenantTimelineId): Promise<void>;
  unarchiveTimeline(id: TenantTimelineId): Promise<void>;
  archived(id: TenantTimelineId): IndexPart | null;
  attachTenant(id: TenantId): Promise<void>;
  detachTenant(id: TenantId): Promise<void>;
  deleteTenant(id: TenantId): Promise<void>;
  tenantConfig(id: TenantId): { readonly overrides: Partial<TenantConfig>; readonly effective: TenantConfig };
  setTenantConfig(id: TenantId, overrides: Partial<TenantConfig>): Promise<void>;
  branchNames(id: TenantId): Promise<BranchNames>;
  setBranchNames(id: TenantId, names: BranchNames): Promise<void>;
  compact(id: TenantTimelineId, force?: CompactionForce): Promise<void>;
  listLayers(id: TenantTimelineId): Promise<LayerInfo>;
  /** Bytes of a layer file; null if it is not in the store. */
  readLayer(id: TenantTimelineId, name: string, range: { start: number; end: number }): Promise<Uint8Array | null>;
}

/** Neon's LsnForTimestamp: a commit is there; all commits are older; all are younger; there are none. */
export type TimestampMatch = 'present' | 'future' | 'past' | 'nodata';

/** PostgreSQL's major version in this build. */
export const pgVersion = 18;
