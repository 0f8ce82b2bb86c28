/** Where safekeepers send their WAL, as settings name it. */
import type { BackupTarget } from '../../engine/safekeeper/wal-backup.ts';
import { openRemoteStorage, type RemoteStorage } from '../object-store/remote-storage.ts';

/** See BackupTarget. */
export interface BackupLocation {
  readonly remoteStorage: RemoteStorage;
  readonly cluster: string;
}

/** Throws `unavailable`, saying what is wrong. */
export async function openBackup({ remoteStorage, cluster }: BackupLocation): Promise<BackupTarget> {
  return { store: await openRemoteStorage(remoteStorage, { mayCreate: false }), cluster };
}
