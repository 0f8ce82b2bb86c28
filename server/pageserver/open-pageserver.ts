/**
 * A Pageserver over a folder: layers on disk, WAL redo in this thread, the template made by initdb once. What the pageserver process and an
 * embedded repository have in common.
 */
import { setImmediate } from 'node:timers/promises';
import { diskBudgetBytes } from '../../engine/limits.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { Log, ObjectStore, WalService } from '../../engine/services.ts';
import { Pageserver, type PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { type DiskFolder, DiskObjectStore } from '../object-store/disk.ts';
import { formatRemoteStorage, openRemoteStorage, type RemoteStorage } from '../object-store/remote-storage.ts';
import { TieredObjectStore } from '../object-store/tiered.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { CompactionThread } from './compaction-thread.ts';
import { MeteredRedo, type RedoCounters } from './metered-redo.ts';
import { loadTenantTemplate } from './template-cache.ts';

export interface OpenPageserverOptions {
  /** Holds the cached template; and `tenants/`, or what is kept of it. */
  readonly dir: string;
  /** Where the truth is; null: in `dir`. */
  readonly remoteStorage: RemoteStorage | null;
  /** It may be empty, and is made then (object-store/storage-marker.ts). */
  readonly mayCreateStorage: boolean;
  readonly diskBudgetBytes?: number;
  /** Stands between the truth and who uses it: faults, for tests. */
  readonly around?: (store: ObjectStore) => ObjectStore;
  readonly nodeId: NodeId;
  readonly wal: readonly WalService[];
  readonly artefacts: PGliteArtefacts;
  readonly log: Log;
  readonly limits?: Partial<PageserverLimits>;
  /** Compaction has a thread of its own; otherwise it takes turns in this one. */
  readonly compactionThread?: boolean;
  /** Counts what WAL redo does. */
  readonly redoCounters?: RedoCounters;
  /** Told what takes long. */
  readonly progress?: (text: string) => void;
}

interface OpenStore {
  readonly store: ObjectStore;
  readonly staging: TieredObjectStore | null;
  /** Where `store` has its objects as files, if nothing stands between. */
  readonly folder: DiskFolder | null;
}

/** A bucket is behind a part of the disk; a folder is used as it is. */
async function openStore({
  dir,
  remoteStorage,
  mayCreateStorage: mayCreate,
  diskBudgetBytes: budgetBytes = diskBudgetBytes,
  around,
  log,
}: OpenPageserverOptions): Promise<OpenStore> {
  const inFolder = (store: DiskObjectStore): OpenStore =>
    around === undefined
      ? { store, staging: null, folder: store.place }
      : { store: around(store), staging: null, folder: null };
  if (remoteStorage === null) return inFolder(await DiskObjectStore.open(dir));
  const remote = await openRemoteStorage(remoteStorage, { mayCreate });
  log.info('opened the remote storage', { remoteStorage: formatRemoteStorage(remoteStorage) });
  if (remote instanceof DiskObjectStore) return inFolder(remote);
  const tiered = await TieredObjectStore.open({ remote: around?.(remote) ?? remote, folder: dir, budgetBytes, log });
  return { store: tiered, staging: tiered, folder: null };
}

export async function openPageserver(options: OpenPageserverOptions): Promise<Pageserver> {
  const { dir, nodeId, wal, artefacts, log, limits, progress } = options;
  const template = await loadTenantTemplate({ dir, artefacts, log, ...(progress && { progress }) });
  const postgres = await PostgresRedo.create({ template, artefacts, log });
  const { redoCounters } = options;
  const redo = redoCounters === undefined ? postgres : new MeteredRedo(postgres, redoCounters);
  try {
    const { store, staging, folder } = await openStore(options);
    return await Pageserver.open({
      store,
      ...(staging && { staging }),
      nodeId,
      wal,
      redo,
      template: async () => template,
      clock: nodeClock,
      random: nodeRandom,
      log,
      ...(limits && { limits }),
      ...(options.compactionThread && { compaction: new CompactionThread({ store, folder, dir, artefacts }) }),
      yieldTurn: () => setImmediate(),
    });
  } catch (error) {
    await redo.close();
    throw error;
  }
}
