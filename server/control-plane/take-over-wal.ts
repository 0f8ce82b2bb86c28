/**
 * Of a tenant that was attached here without having been detached elsewhere: what its safekeepers there have sent to the remote storage, and the pageserver there
 * had not stored as layers, becomes WAL of the safekeepers here. `pagelite tenant attach` calls it; the branches then end where that WAL does.
 *
 * The WAL is appended by a proposer as a compute would, from where a branch's layers end: it is the same bytes at the same LSNs, in a term and a log of these safekeepers.
 *
 * Invariants
 * - only whole records that follow the last one in the layers (its xl_prev says so) are taken, and of one log: that of the last owner's safekeepers, as those of
 *   earlier owners may have gone on elsewhere
 * - a branch of which the safekeepers here have other WAL is left alone; again: goes on where it was cut off, which is told from the bytes
 */
import { concatBytes } from '../../engine/bytes.ts';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import { walInFlightBytesMax, walMessageBytesMax } from '../../engine/limits.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import { nodeId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { type ArchivedLogInfo, listArchivedLogs } from '../../engine/safekeeper/archived-log.ts';
import { WalArchive } from '../../engine/safekeeper/wal-archive.ts';
import type { ObjectStore, WalService } from '../../engine/services.ts';
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { nodeClock, nodeRandom, silentLog } from '../process/node-host.ts';
import { connectSafekeeper } from '../safekeeper/connect.ts';
import { openTruth } from './open-truth.ts';
import { caughtUp } from './recover-timeline.ts';
import type { Repository } from './repository.ts';
import type { TimelineInfo } from './storage-api.ts';
import type { HttpStorage } from './storage-clients.ts';

export interface TakenOverWal {
  readonly timelineId: TimelineId;
  /** Where its layers ended. */
  readonly startLsn: Lsn;
  /** Where it ends now. */
  readonly endLsn: Lsn;
}

export interface TakeOverOptions {
  readonly onProgress: (progress: TransferProgress) => void;
  readonly warn: (text: string) => void;
}

/** Safekeepers that run answer at once. */
const electionTimeoutMs = 30_000;

/** As far as its layers go. */
interface Branch {
  readonly id: TenantTimelineId;
  readonly lastRecordLsn: Lsn;
  readonly prevRecordLsn: Lsn | null;
}

interface Source {
  readonly store: ObjectStore;
  /** Of the safekeepers that the tenant was written through last or, where that is not known, of any but these. */
  readonly isOthers: (log: ArchivedLogInfo) => boolean;
}

/**
 * What a branch cannot be given does not keep others from it: it is told to `warn`. `isComplete`: nothing is left that might be taken another time, when what was away
 * is back.
 */
export async function takeOverWal(
  storage: HttpStorage,
  repository: Repository,
  { tenant, cluster }: { readonly tenant: TenantId; readonly cluster: string | null },
  { onProgress, warn }: TakeOverOptions,
): Promise<{ readonly taken: readonly TakenOverWal[]; readonly isComplete: boolean }> {
  const { clusterId: own } = repository.readConfig();
  const taken: TakenOverWal[] = [];
  let isComplete = true;
  if (cluster !== null && cluster === own) return { taken, isComplete };
  const store = await openTruth(repository);
  const isOthers = (log: ArchivedLogInfo) => (cluster === null ? log.cluster !== own : log.cluster === cluster);
  for (const timeline of parentsFirst(await storage.listTimelines(tenant))) {
    const { timelineId, broken, isArchived, lastRecordLsn: startLsn, prevRecordLsn } = timeline;
    if (broken !== null || isArchived || startLsn === null) continue;
    const branch = { id: { tenantId: tenant, timelineId }, lastRecordLsn: startLsn, prevRecordLsn };
    try {
      const endLsn = await takeOver(storage, repository, { store, isOthers }, branch, onProgress);
      if (endLsn !== null) taken.push({ timelineId, startLsn, endLsn });
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      const isAway = error.kind === 'unavailable' || error.kind === 'cancelled';
      if (isAway) isComplete = false;
      const hint = isAway ? '. Attach the tenant again when that is mended, before anything is written to it' : '';
      warn(`WAL of timeline ${timelineId} was not taken over: ${messageOf(error)}${hint}`);
    }
  }
  return { taken, isComplete };
}

function parentsFirst(timelines: readonly TimelineInfo[]): TimelineInfo[] {
  const ordered: TimelineInfo[] = [];
  const place = (timeline: TimelineInfo) => {
    if (ordered.includes(timeline)) return;
    const parent = timelines.find(({ timelineId }) => timelineId === timeline.ancestor?.timelineId);
    if (parent !== undefined) place(parent);
    ordered.push(timeline);
  };
  for (const timeline of timelines) place(timeline);
  return ordered;
}

/** Where the branch ends now; null if there is nothing to take. */
async function takeOver(
  storage: HttpStorage,
  repository: Repository,
  source: Source,
  { id, lastRecordLsn, prevRecordLsn }: Branch,
  onProgress: (progress: TransferProgress) => void,
): Promise<Lsn | null> {
  const log = await logThatFollows(source, id, lastRecordLsn);
  if (log === null) return null;
  const archive = new WalArchive({ store: source.store, cluster: log.cluster }, id, log.startLsn);
  const services = servicesOf(repository);
  if (!(await isBeginningOf(archive, services, id, log.endLsn))) return null;
  const proposer = await elect(repository, services, id, lastRecordLsn);
  const { startLsn } = proposer;
  try {
    const scan = new RecordScan(
      startLsn,
      startLsn === lastRecordLsn && prevRecordLsn !== null ? prevRecordLsn : (0 as Lsn),
    );
    // Read, and not yet known to be whole records.
    let pending = new Uint8Array(0);
    while (scan.position < log.endLsn) {
      const { bytes } = await archive.read(scan.position, Math.min(walMessageBytesMax, log.endLsn - scan.position));
      const isWal = scan.feed(bytes);
      pending = concatBytes([pending, bytes]);
      const whole = pending.subarray(0, scan.boundaryLsn - proposer.endLsn);
      pending = pending.slice(whole.length);
      if (whole.length > 0) proposer.append(proposer.endLsn, whole.slice());
      // It does not follow what is in the layers, or is damaged: what was whole before that is taken.
      if (!isWal) break;
      while (proposer.inFlightBytes > walInFlightBytesMax) await proposer.waitCommit((proposer.commitLsn + 1) as Lsn);
      onProgress({
        text: 'taking WAL over',
        done: scan.position - startLsn,
        total: log.endLsn - startLsn,
        unit: 'bytes',
      });
    }
    const { endLsn } = proposer;
    await proposer.waitCommit(endLsn);
    if (endLsn === lastRecordLsn) return null;
    await caughtUp(storage, id, startLsn, endLsn, onProgress);
    return endLsn;
  } finally {
    proposer.close();
  }
}

/** The last log that began before the layers end, if it goes on after that; null also if nobody can tell which one that is. */
async function logThatFollows(
  { store, isOthers }: Source,
  id: TenantTimelineId,
  lsn: Lsn,
): Promise<ArchivedLogInfo | null> {
  const logs = (await listArchivedLogs(store, id)).filter(
    (log) => isOthers(log) && log.startLsn <= lsn && log.endLsn > log.startLsn,
  );
  const lastStart = Math.max(...logs.map(({ startLsn }) => startLsn));
  const last = logs.filter(({ startLsn }) => startLsn === lastStart);
  return last.length === 1 && last[0]!.endLsn > lsn ? last[0]! : null;
}

function servicesOf(repository: Repository): WalService[] {
  const { connectHost: host } = repository;
  return repository
    .readConfig()
    .safekeepers.map(({ id, pgPort: port }) =>
      connectSafekeeper({ id: nodeId(id), host, port }, repository.tokensFor('safekeeper')),
    );
}

/** What the safekeepers here have of the branch, if anything, is also in the archive, before `endLsn`. */
async function isBeginningOf(
  archive: WalArchive,
  services: readonly WalService[],
  id: TenantTimelineId,
  endLsn: Lsn,
): Promise<boolean> {
  for (const service of services) {
    // One that is away has nothing that more than half of them do not have.
    const status = await service.getStatus(id).catch(() => null);
    if (status === null || status.commitLsn <= status.startLsn) continue;
    if (status.commitLsn > endLsn) return false;
    const reading = new AbortController();
    try {
      let at = status.startLsn as number;
      for await (const { bytes } of service.readWal(id, status.startLsn, reading.signal)) {
        for (let compared = 0; compared < bytes.length; ) {
          const part = await archive.read((at + compared) as Lsn, bytes.length - compared);
          if (Buffer.compare(part.bytes, bytes.subarray(compared, compared + part.bytes.length)) !== 0) return false;
          compared += part.bytes.length;
        }
        at += bytes.length;
        if (at >= status.commitLsn) break;
      }
    } finally {
      reading.abort();
    }
  }
  return true;
}

function elect(
  repository: Repository,
  services: readonly WalService[],
  id: TenantTimelineId,
  startLsn: Lsn,
): Promise<ProposerDriver> {
  return ProposerDriver.elect({
    id,
    services,
    startLsnIfEmpty: startLsn,
    systemIdentifier: 0n,
    configuration: configurationOf(
      repository.readConfig().safekeepersGeneration,
      services.map((service) => service.nodeId),
    ),
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
    signal: AbortSignal.timeout(electionTimeoutMs),
  });
}
