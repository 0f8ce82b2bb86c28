/**
 * A timeline's WAL as it is in the object store, seen as a safekeeper that others catch up from: when no disk has it any more (beside W3 of the write
 * path). Called by safekeeper/upkeep.ts (`restore`) and, before anything is touched, by server/control-plane/recover-timeline.ts.
 *
 * Which terms the WAL was written in is not in the store: it counts as all of the first. A compute that wrote it and still runs finds no acceptor that agrees
 * with its history, and cannot go on.
 */
import { PageliteError } from '../errors.ts';
import { walMessageBytesMax, walSegmentSize } from '../limits.ts';
import { noConfiguration } from '../model/configuration.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { ObjectStore, SafekeeperTimelineStatus, WalChunk } from '../services.ts';
import { firstBoundaryIn, longHeaderBytes, segmentFileName, segmentStart } from '../wal/wal-page.ts';
import type { LogDonor } from './peer-recovery.ts';
import { WalArchive } from './wal-archive.ts';
import {
  type BackupObject,
  type BackupTarget,
  listBackup,
  parseLogFolder,
  walBackupFolder,
  walLogFolder,
} from './wal-backup.ts';

/** One log of a timeline in the store. */
export interface ArchivedLogInfo {
  readonly cluster: string;
  readonly startLsn: Lsn;
  /** Where what is there without a gap ends. */
  readonly endLsn: Lsn;
  /** Name of the first segment that is not there though later ones are; null if none is missing. */
  readonly missing: string | null;
}

/** All logs of a timeline, those of other clusters, too, in the order of where they begin. */
export async function listArchivedLogs(store: ObjectStore, id: TenantTimelineId): Promise<ArchivedLogInfo[]> {
  const logs: ArchivedLogInfo[] = [];
  for (const name of await store.listFolders(walBackupFolder(id))) {
    const log = parseLogFolder(name);
    if (log === null) continue;
    const objects = await listBackup(store, walLogFolder(id, log.startLsn, log.cluster));
    logs.push({ ...log, ...extentOf(log.startLsn, objects) });
  }
  return logs.sort((a, b) => a.startLsn - b.startLsn);
}

function extentOf(startLsn: Lsn, objects: readonly BackupObject[]): Pick<ArchivedLogInfo, 'endLsn' | 'missing'> {
  let endLsn = startLsn;
  for (const object of objects) {
    if (object.startLsn > endLsn) return { endLsn, missing: segmentFileName(segmentStart(endLsn)) };
    if (object.endLsn > endLsn) endLsn = object.endLsn;
  }
  return { endLsn, missing: null };
}

export class ArchivedLog implements LogDonor {
  readonly info: ArchivedLogInfo;
  readonly #id: TenantTimelineId;
  readonly #archive: WalArchive;
  readonly #heldFrom: Lsn;

  private constructor(info: ArchivedLogInfo, id: TenantTimelineId, archive: WalArchive, heldFrom: Lsn) {
    this.info = info;
    this.#id = id;
    this.#archive = archive;
    this.#heldFrom = heldFrom;
  }

  /** The newest log of these safekeepers. Rejects `notFound` if there is none, `corrupt`, naming the segment, if there is a gap in it. */
  static async open(target: BackupTarget, id: TenantTimelineId): Promise<ArchivedLog> {
    const logs = await listArchivedLogs(target.store, id);
    const info = logs.filter(({ cluster }) => cluster === target.cluster).at(-1);
    const folder = walBackupFolder(id);
    if (info === undefined) {
      const others = logs.map(({ cluster }) => cluster).join(', ');
      const text = `no WAL of timeline ${id.timelineId} from these safekeepers (${target.cluster}) is in the object store at ${folder}`;
      throw new PageliteError('notFound', others === '' ? text : `${text}, but of ${others}`, { ...id });
    }
    if (info.missing !== null) {
      const file = walLogFolder(id, info.startLsn, info.cluster) + info.missing;
      throw new PageliteError('corrupt', `WAL segment ${file} is missing`, { ...id, file });
    }
    const archive = new WalArchive(target, id, info.startLsn);
    return new ArchivedLog(info, id, archive, await heldFrom(archive, info));
  }

  async getStatus(): Promise<SafekeeperTimelineStatus> {
    const { startLsn, endLsn } = this.info;
    return {
      term: 1,
      flushLsn: endLsn,
      commitLsn: endLsn,
      startLsn: this.#heldFrom,
      backupLsn: segmentStart(endLsn),
      remoteConsistentLsn: 0 as Lsn,
      configuration: noConfiguration,
      termHistory: [[1, startLsn]],
    };
  }

  async *readWal(_: TenantTimelineId, from: Lsn, signal: AbortSignal): AsyncGenerator<WalChunk, void, undefined> {
    const { endLsn } = this.info;
    let at = from;
    while (at < endLsn) {
      if (signal.aborted) throw new PageliteError('cancelled', 'given up', { ...this.#id, lsn: formatLsn(at) });
      const { bytes } = await this.#archive.read(at, Math.min(walMessageBytesMax, endLsn - at));
      yield { startLsn: at, bytes, commitLsn: endLsn };
      at = (at + bytes.length) as Lsn;
    }
  }
}

/** The first record of the last whole segment: what is older stays in the store, and is read from there. */
async function heldFrom(archive: WalArchive, { startLsn, endLsn }: ArchivedLogInfo): Promise<Lsn> {
  const segment = (segmentStart(endLsn) - walSegmentSize) as Lsn;
  if (segment <= startLsn) return startLsn;
  const { bytes } = await archive.read(segment, longHeaderBytes);
  const boundary = firstBoundaryIn(segment, bytes);
  return boundary < segment + walSegmentSize ? boundary : startLsn;
}
