/**
 * What names, branches and endpoints need of the storage: over HTTP from the processes of a repository (storage-clients.ts), or in the same
 * process (library/embedded-storage.ts).
 */
import type { TenantId, TenantTimelineId, TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { PageService } from '../../engine/services.ts';
import type { BranchNames } from '../../engine/timeline/branch-names.ts';
import type { CommitHistory } from '../../engine/timeline/pageserver.ts';
import type { ImportPeer } from '../../engine/transfer/push-timeline.ts';
import type { TimestampAnswer } from './branch-point.ts';

export type { CommitHistory };

/** Takes layers that were made elsewhere, and can be told to forget them. */
export interface ImportReceiver extends ImportPeer {
  abort(id: TenantTimelineId, importId: string): Promise<void>;
}

export interface TimelineInfo {
  readonly timelineId: TimelineId;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | null;
  /** Up to here the pageserver has ingested. Null if the timeline is broken. */
  readonly lastRecordLsn: Lsn | null;
  /** Start of the record that ends there; null if it is not known. */
  readonly prevRecordLsn: Lsn | null;
  /** The oldest LSN that can be read or branched at. */
  readonly startLsn: Lsn | null;
  /** Bytes of all relations at the end, its ancestors' pages included. Null if they are not counted yet, or it is broken. */
  readonly logicalBytes: number | null;
  /** Bytes of its own layer files. */
  readonly layerBytes: number | null;
  /** It rests: nothing can be read of it. */
  readonly isArchived: boolean;
  /** Why it is broken, or null. */
  readonly broken: string | null;
}

export interface StorageApi {
  listTenants(): Promise<readonly TenantId[]>;
  createTenant(id: TenantId): Promise<void>;
  /** Names of a tenant's branches as the remote storage has them. Rejects `corrupt`, naming the object. */
  branchNames(tenant: TenantId): Promise<BranchNames>;
  /** Replaces all of them. */
  setBranchNames(tenant: TenantId, names: BranchNames): Promise<void>;
  /** Rejects `notFound` for an unknown tenant. */
  listTimelines(tenant: TenantId): Promise<readonly TimelineInfo[]>;
  /** Rejects `notFound`. */
  getTimeline(id: TenantTimelineId): Promise<TimelineInfo>;
  /** Without an ancestor: from the template. `lsn` null: at the end of all that is acknowledged, also what is yet to be ingested. */
  createTimeline(
    id: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
  ): Promise<TimelineInfo>;
  findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampAnswer>;
  /** At most `countMax` commits of the timeline's own, up to `until` (null: all that is ingested), spread over time. */
  commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory>;
  /** The pageserver's layers, then the safekeepers' WAL: done again after a crash it finishes. Rejects `invalid` while other timelines branch from it. */
  deleteTimeline(id: TenantTimelineId): Promise<void>;
  /** Up to where the safekeepers have acknowledged; null if no compute has written yet. */
  getCommitLsn(id: TenantTimelineId): Promise<Lsn | null>;
}

/** What import and export need besides. */
export interface TransferStorage extends StorageApi {
  readonly importPeer: ImportReceiver;
  /** To be closed by who opened it. Rejects `notFound`. */
  openPages(id: TenantTimelineId): Promise<{ readonly pages: PageService; close(): void }>;
}
