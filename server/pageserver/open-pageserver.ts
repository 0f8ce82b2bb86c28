/**
 * A Pageserver over a folder: layers on disk, WAL redo in this thread, the template made by initdb once. What the pageserver process and an
 * embedded repository have in common.
 */
import { setImmediate } from 'node:timers/promises';
import type { NodeId } from '../../engine/model/ids.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { Log, WalService } from '../../engine/services.ts';
import { Pageserver, type PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { DiskObjectStore } from '../object-store/disk.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import { CompactionThread } from './compaction-thread.ts';
import { MeteredRedo, type RedoCounters } from './metered-redo.ts';
import { loadTenantTemplate } from './template-cache.ts';

export interface OpenPageserverOptions {
  /** Holds `tenants/` and the cached template. */
  readonly dir: string;
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

export async function openPageserver(options: OpenPageserverOptions): Promise<Pageserver> {
  const { dir, nodeId, wal, artefacts, log, limits, progress } = options;
  const template = await loadTenantTemplate({ dir, artefacts, log, ...(progress && { progress }) });
  const postgres = await PostgresRedo.create({ template, artefacts, log });
  const { redoCounters } = options;
  const redo = redoCounters === undefined ? postgres : new MeteredRedo(postgres, redoCounters);
  try {
    const store = await DiskObjectStore.open(dir);
    return await Pageserver.open({
      store,
      nodeId,
      wal,
      redo,
      template: async () => template,
      clock: nodeClock,
      random: nodeRandom,
      log,
      ...(limits && { limits }),
      ...(options.compactionThread && { compaction: new CompactionThread({ store, dir, artefacts }) }),
      yieldTurn: () => setImmediate(),
    });
  } catch (error) {
    await redo.close();
    throw error;
  }
}
