/**
 * A branch at a place of its history as a tarball that plain PGlite opens (`loadDataDir`): the same for the command line and the library.
 *
 * The LSN is held by a lease until the archive is whole, so that garbage collection takes nothing away.
 */
import type { Writable } from 'node:stream';
import { dataDirectoryContents } from '../../engine/export/data-directory-contents.ts';
import type { TenantId, TenantTimelineId } from '../../engine/model/ids.ts';
import { alignLsn, type Lsn } from '../../engine/model/lsn.ts';
import { holdLease } from '../../engine/remote/hold-lease.ts';
import type { Log } from '../../engine/services.ts';
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';
import { recordEnd } from '../../engine/wal/wal-page.ts';
import { writeTarball } from '../export/write-tarball.ts';
import { nodeClock } from '../process/node-host.ts';
import { placeInHistory } from './branch-history.ts';
import { resolveBranch } from './branches.ts';
import { type BranchStart, branchExtent } from './branching.ts';
import type { Repository } from './repository.ts';
import type { TransferStorage } from './storage-api.ts';

export interface ExportBranchOptions {
  readonly tenantId: TenantId;
  readonly branch: string;
  readonly place: BranchStart;
  /** Gets the archive, and is ended. */
  readonly output: Writable;
  readonly isCompressed: boolean;
  readonly progress: (progress: TransferProgress) => void;
  readonly log: Log;
  readonly signal?: AbortSignal;
}

export interface ExportedBranch {
  /** Whose pages they are: the branch's, or its ancestor's for what was before it. */
  readonly id: TenantTimelineId;
  readonly lsn: Lsn;
  /** Of the data directory. */
  readonly bytes: number;
  readonly archiveBytes: number;
  readonly unloggedRelations: number;
}

export async function exportBranch(
  storage: TransferStorage,
  repository: Repository,
  options: ExportBranchOptions,
): Promise<ExportedBranch> {
  const { output, isCompressed, progress, log, signal } = options;
  const { id, lsn } = await placeOf(storage, repository, options);
  const { pages, close } = await storage.openPages(id);
  const ending = new AbortController();
  try {
    await holdLease(pages, lsn, { clock: nodeClock, log, signal: ending.signal });
    const { entries, bytes, unloggedRelations } = await dataDirectoryContents(pages, lsn, signal);
    const archiveBytes = await writeTarball(output, {
      entries,
      isCompressed,
      progress: (done) => progress({ text: 'Exporting', done, total: bytes, unit: 'bytes' }),
      ...(signal && { signal }),
    });
    return { id, lsn, bytes, archiveBytes, unloggedRelations };
  } finally {
    ending.abort();
    close();
  }
}

/** The end: everything that was acknowledged until now. */
async function placeOf(
  storage: TransferStorage,
  repository: Repository,
  { tenantId, branch, place }: ExportBranchOptions,
): Promise<{ id: TenantTimelineId; lsn: Lsn }> {
  const config = repository.readConfig();
  const id = { tenantId, timelineId: resolveBranch(config, tenantId, branch) };
  if (place === 'end') {
    return { id, lsn: recordEnd(alignLsn((await branchExtent(storage, config, id, branch)).endLsn)) };
  }
  const found = await placeInHistory(storage, config, id, branch, place);
  return { id: found.id, lsn: recordEnd(alignLsn(found.lsn)) };
}
