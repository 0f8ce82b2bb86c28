/**
 * The storage of a repository inside this process: a Pageserver and its safekeepers over the same folders that the processes use, so that a folder
 * can be opened by the library today and served by `pagelite start` tomorrow.
 *
 * Lives in the storage thread of the library (storage-worker.ts) and in the main thread of the development server (cli/dev-server.ts).
 *
 * Invariants
 * - it holds the pid files of the pageserver and the safekeepers, and `embedded.pid`: nobody else has the folders open
 * - `close` writes nothing that a crash would miss: what was acknowledged is on disk before. What it sends to the remote storage is for a disk that is lost
 */
import { mkdir } from 'node:fs/promises';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { lastBackupMaxMs } from '../../engine/limits.ts';
import { nodeId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { Log, PageService, TimelineStatus, WalService } from '../../engine/services.ts';
import type { BranchNames } from '../../engine/timeline/branch-names.ts';
import type { IndexPart } from '../../engine/timeline/index-part.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';
import type { TimestampAnswer } from '../control-plane/branch-point.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { CommitHistory, ImportReceiver, TimelineInfo, TransferStorage } from '../control-plane/storage-api.ts';
import { RedoCounters } from '../pageserver/metered-redo.ts';
import { openPageserver } from '../pageserver/open-pageserver.ts';
import { nodeClock } from '../process/node-host.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { claimPidFile, type PidFile } from '../process/pid-file.ts';
import { openBackup } from '../safekeeper/backup-location.ts';
import { DiskSafekeeperStorage } from '../safekeeper/disk-segments.ts';

export interface EmbeddedStorageOptions {
  readonly repository: Repository;
  readonly artefacts: PGliteArtefacts;
  readonly log: Log;
  /** Told what takes long: initdb at the first use of a folder. */
  readonly progress?: (text: string) => void;
  /** See DiskStorageOptions: for a thread that has nothing else to do. */
  readonly syncInThread?: boolean;
}

export interface EmbeddedSafekeeper {
  readonly safekeeper: Safekeeper;
  readonly storage: DiskSafekeeperStorage;
  readonly upkeep: SafekeeperUpkeep;
}

export class EmbeddedStorage implements TransferStorage {
  readonly pageserver: Pageserver;
  /** In the order of the settings. */
  readonly safekeepers: readonly EmbeddedSafekeeper[];
  readonly redoCounters: RedoCounters;
  readonly #locks: readonly PidFile[];

  private constructor(
    pageserver: Pageserver,
    safekeepers: readonly EmbeddedSafekeeper[],
    redoCounters: RedoCounters,
    locks: readonly PidFile[],
  ) {
    this.pageserver = pageserver;
    this.safekeepers = safekeepers;
    this.redoCounters = redoCounters;
    this.#locks = locks;
  }

  /** Throws `invalid` while the folder is in use. */
  static async open(options: EmbeddedStorageOptions): Promise<EmbeddedStorage> {
    const { repository, artefacts, log, progress } = options;
    const ids = repository.readConfig().safekeepers.map(({ id }) => id);
    await mkdir(repository.pageserverDir, { recursive: true });
    for (const id of ids) await mkdir(repository.safekeeperDir(id), { recursive: true });
    const backup = await repository.walBackup();
    const locks = claimAll(repository, ids);
    // Several synchronise side by side only where none holds up the thread.
    const syncInThread = ids.length === 1 && (options.syncInThread ?? false);
    const openTarget = backup === null ? null : () => openBackup(backup);
    const bare = ids.map((id) => {
      const storage = new DiskSafekeeperStorage(repository.safekeeperDir(id), { syncInThread });
      return { safekeeper: new Safekeeper({ nodeId: nodeId(id), storage, log, backup: openTarget }), storage };
    });
    const safekeepers = bare.map(({ safekeeper, storage }) => {
      const peers = bare.map((other) => other.safekeeper).filter((other) => other !== safekeeper);
      return {
        safekeeper,
        storage,
        upkeep: new SafekeeperUpkeep({ safekeeper, peers, backup: openTarget, clock: nodeClock, log }),
      };
    });
    try {
      const dir = repository.pageserverDir;
      const redoCounters = new RedoCounters();
      const { id, diskBudgetBytes } = repository.readConfig().pageserver;
      const pageserver = await openPageserver({
        dir,
        remoteStorage: repository.remoteStorage,
        mayCreateStorage: repository.mayCreateStorage,
        ...(diskBudgetBytes !== undefined && { diskBudgetBytes }),
        nodeId: nodeId(id),
        wal: safekeepers.map(({ safekeeper }) => safekeeper),
        artefacts,
        log,
        redoCounters,
        ...(progress && { progress }),
      });
      for (const { upkeep } of safekeepers) upkeep.start();
      return new EmbeddedStorage(pageserver, safekeepers, redoCounters, locks);
    } catch (error) {
      for (const { safekeeper } of safekeepers) await safekeeper.close();
      for (const lock of locks) lock.release();
      throw error;
    }
  }

  async close(): Promise<void> {
    try {
      await this.pageserver.close();
      for (const { upkeep } of this.safekeepers) await upkeep.close(lastBackupMaxMs);
      for (const { safekeeper } of this.safekeepers) await safekeeper.close();
    } finally {
      for (const lock of this.#locks) lock.release();
    }
  }

  /** For a compute in this process. */
  get wal(): readonly WalService[] {
    return this.safekeepers.map(({ safekeeper }) => safekeeper);
  }

  // StorageApi

  get importPeer(): ImportReceiver {
    return this.pageserver.imports;
  }

  async openPages(id: TenantTimelineId): Promise<{ pages: PageService; close(): void }> {
    return { pages: await this.pageserver.openPages(id), close: () => {} };
  }

  listTenants(): Promise<readonly TenantId[]> {
    return this.pageserver.listTenants();
  }

  createTenant(id: TenantId): Promise<void> {
    return this.pageserver.createTenant(id);
  }

  branchNames(tenant: TenantId): Promise<BranchNames> {
    return this.pageserver.branchNames(tenant);
  }

  setBranchNames(tenant: TenantId, names: BranchNames): Promise<void> {
    return this.pageserver.setBranchNames(tenant, names);
  }

  async listTimelines(tenantId: TenantId): Promise<readonly TimelineInfo[]> {
    const timelines = await this.pageserver.listTimelines(tenantId);
    return Promise.all(timelines.map((timelineId) => this.getTimeline({ tenantId, timelineId })));
  }

  async getTimeline(id: TenantTimelineId): Promise<TimelineInfo> {
    const rests = this.pageserver.archived(id);
    if (rests !== null) return restingInfo(id.timelineId, rests);
    try {
      const pages = await this.pageserver.openPages(id);
      return timelineInfo(id.timelineId, await pages.getStatus(), await this.pageserver.logicalSize(id));
    } catch (error) {
      if (!isPageliteError(error, 'corrupt')) throw error;
      const { message: broken } = error;
      return {
        timelineId: id.timelineId,
        ancestor: null,
        lastRecordLsn: null,
        prevRecordLsn: null,
        startLsn: null,
        logicalBytes: null,
        layerBytes: null,
        isArchived: false,
        broken,
      };
    }
  }

  async createTimeline(
    id: TenantTimelineId,
    ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn | null } | null,
  ): Promise<TimelineInfo> {
    await this.pageserver.createTimeline(id, ancestor);
    return this.getTimeline(id);
  }

  findLsnByTimestamp(id: TenantTimelineId, timestampMs: number): Promise<TimestampAnswer> {
    return this.pageserver.findLsnByTimestamp(id, timestampMs);
  }

  commitHistory(id: TenantTimelineId, until: Lsn | null, countMax: number): Promise<CommitHistory> {
    return this.pageserver.commitHistory(id, until, countMax);
  }

  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    await this.pageserver.deleteTimeline(id).catch((error: unknown) => {
      if (!isPageliteError(error, 'notFound')) throw error;
    });
    for (const { safekeeper, storage, upkeep } of this.safekeepers) {
      await safekeeper.deleteTimeline(id, () => storage.removeTimeline(id));
      await upkeep.forget(id);
    }
  }

  async getCommitLsn(id: TenantTimelineId): Promise<Lsn | null> {
    const statuses = await Promise.all(this.wal.map((safekeeper) => safekeeper.getStatus(id)));
    const known = statuses.flatMap((status) => (status === null ? [] : [status.commitLsn]));
    return known.length === 0 ? null : (Math.max(...known) as Lsn);
  }
}

/** All or none. */
function claimAll(repository: Repository, safekeeperIds: readonly number[]): PidFile[] {
  const ofSafekeepers = safekeeperIds.map((id) => repository.safekeeperPidFile(id));
  const paths = [repository.embeddedPidFile, repository.pageserverPidFile, ...ofSafekeepers];
  const claimed: PidFile[] = [];
  try {
    for (const path of paths) claimed.push(claimPidFile(path));
    return claimed;
  } catch (error) {
    for (const lock of claimed) lock.release();
    if (!isPageliteError(error, 'invalid')) throw error;
    const { pid } = error.data;
    const hint = pid === process.pid ? 'It is open in this process already' : 'Close it there, or: pagelite stop';
    const text = `${repository.dir} is in use by process ${pid}. ${hint}`;
    throw new PageliteError('invalid', text, error.data, { cause: error });
  }
}

function restingInfo(
  timelineId: TimelineId,
  { ancestor, diskConsistentLsn, prevRecordLsn, gcCutoffLsn, layers }: IndexPart,
): TimelineInfo {
  return {
    timelineId,
    ancestor,
    lastRecordLsn: diskConsistentLsn,
    prevRecordLsn,
    startLsn: gcCutoffLsn,
    logicalBytes: null,
    layerBytes: layers.reduce((sum, { size }) => sum + size, 0),
    isArchived: true,
    broken: null,
  };
}

function timelineInfo(timelineId: TimelineId, status: TimelineStatus, logicalBytes: number | null): TimelineInfo {
  return {
    timelineId,
    ancestor: status.ancestor && {
      timelineId: status.ancestor.timelineId as TimelineId,
      lsn: status.ancestor.lsn,
    },
    lastRecordLsn: status.lastRecordLsn,
    prevRecordLsn: status.prevRecordLsn,
    startLsn: status.gcCutoffLsn,
    logicalBytes,
    layerBytes: status.layerBytes,
    isArchived: false,
    broken: status.stopped,
  };
}
