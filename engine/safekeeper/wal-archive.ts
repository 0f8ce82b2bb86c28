/**
 * WAL that a safekeeper has given up, from where it was sent (beside W4 of the write path): whoever needs it, a safekeeper that was away for long or a
 * pageserver that lost what it had, reads it through the safekeeper as if it were still there. Called by safekeeper/wal-reader.ts.
 *
 * Invariants
 * - what is given is committed: nothing else is ever sent there (wal-backup.ts)
 * - what a segment that is still partial has may be more at the next call, never other bytes
 *
 * Source: Neon's safekeeper/src/wal_storage.rs (WalReader), which reads from remote storage what is not on the disk.
 */
import { PageliteError } from '../errors.ts';
import { walSegmentSize } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { segmentFileName, segmentStart } from '../wal/wal-page.ts';
import { type BackupTarget, listBackup, walLogFolder } from './wal-backup.ts';

export interface ArchivedWal {
  readonly key: string;
  readonly bytes: Uint8Array;
}

export class WalArchive {
  readonly #target: BackupTarget;
  readonly #id: TenantTimelineId;
  readonly #folder: string;

  /** The log that begins at `beginsLsn`. */
  constructor(target: BackupTarget, id: TenantTimelineId, beginsLsn: Lsn) {
    this.#target = target;
    this.#id = id;
    this.#folder = walLogFolder(id, beginsLsn, target.cluster);
  }

  /** Up to `lengthMax` bytes at `lsn`, of one segment; at least one. Rejects `unavailable`, naming the object, if they are not there. */
  async read(lsn: Lsn, lengthMax: number): Promise<ArchivedWal> {
    const { store } = this.#target;
    const start = segmentStart(lsn);
    const full = this.#folder + segmentFileName(start);
    const length = Math.min(lengthMax, start + walSegmentSize - lsn);
    const whole = await store.get(full, { start: lsn - start, end: lsn - start + length });
    if (whole !== null && whole.bytes.length > 0) return { key: full, bytes: whole.bytes };
    const partials = (await listBackup(store, this.#folder)).filter(
      (object) => object.isPartial && object.startLsn === start && object.endLsn > lsn,
    );
    const last = partials.at(-1);
    const range = last && { start: lsn - start, end: Math.min(lsn - start + length, last.endLsn - start) };
    const part = last && range && (await store.get(last.key, range));
    // Gone meanwhile: what replaces it is there at the next call.
    if (!part || part.bytes.length === 0) {
      throw new PageliteError('unavailable', `WAL at ${formatLsn(lsn)} is not on this disk, and ${full} is not there`, {
        ...this.#id,
        lsn: formatLsn(lsn),
        file: full,
      });
    }
    return { key: last.key, bytes: part.bytes };
  }
}
