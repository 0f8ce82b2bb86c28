/** The store that holds a repository's truth, beside the pageserver that uses it. Throws `unavailable`, saying what is wrong, if it is away. */
import type { ObjectStore } from '../../engine/services.ts';
import { DiskObjectStore } from '../object-store/disk.ts';
import { openRemoteStorage } from '../object-store/remote-storage.ts';
import type { Repository } from './repository.ts';

export async function openTruth({ remoteStorage, pageserverDir, mayCreateStorage }: Repository): Promise<ObjectStore> {
  if (remoteStorage === null) return DiskObjectStore.open(pageserverDir, { sweep: false });
  return openRemoteStorage(remoteStorage, { mayCreate: mayCreateStorage });
}
