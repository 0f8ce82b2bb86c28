/**
 * A pageserver on its ports: the store on disk, PGlite's artefacts, the tenant template, WAL redo and the engine's Pageserver, put together.
 *
 * Invariants
 * - one process at a time per folder: the caller holds its pid file (process/run-process.ts)
 * - nothing is served before every timeline's index was looked at; nothing of the Pageserver is used after the ports are closed
 * - what fails on the way is undone: no port, timer or thread stays behind
 */
import type { Log, ObjectStore } from '../../engine/services.ts';
import type { Pageserver, PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { accessOf } from '../auth/access.ts';
import { checkListenHost, storageWayOut } from '../auth/listen-policy.ts';
import { tokenFile } from '../auth/tokens.ts';
import { nodeRandom } from '../process/node-host.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';
import { connectSafekeeper } from '../safekeeper/connect.ts';
import type { PageserverConfig } from './config.ts';
import { RedoCounters } from './metered-redo.ts';
import { openPageserver } from './open-pageserver.ts';
import { type PageserverPorts, servePageserver } from './serve.ts';

export interface PageserverServerOptions extends PageserverConfig {
  readonly log: Log;
  /** What takes long at a start. */
  readonly progress?: (text: string) => void;
  readonly limits?: Partial<PageserverLimits>;
  /** Stands between the truth and who uses it: faults, for tests. */
  readonly around?: (store: ObjectStore) => ObjectStore;
}

export interface PageserverServer {
  readonly ports: PageserverPorts;
  readonly pageserver: Pageserver;
  /** Closes the ports, then the timelines. Loses nothing: what is not in layers is read from the safekeepers again. */
  close(): Promise<void>;
}

export async function startPageserver(options: PageserverServerOptions): Promise<PageserverServer> {
  const access = accessOf('pageserver', options.publicKeyPath ?? null, options.log);
  // Before anything is opened.
  for (const { host } of [options.listen, options.http]) {
    checkListenHost('pageserver', host, access !== null, storageWayOut);
  }
  const token = tokenFile(options.tokenPath ?? null);
  const wal = options.safekeepers.map((address) => connectSafekeeper(address, token));
  const redoCounters = new RedoCounters();
  const pageserver = await openPageserver({
    ...options,
    wal,
    artefacts: await loadPGliteArtefacts(),
    redoCounters,
    compactionThread: true,
  });
  try {
    const served = await servePageserver({ ...options, access, pageserver, random: nodeRandom, redoCounters });
    return {
      ports: served.ports,
      pageserver,
      close: async () => {
        await served.close();
        await pageserver.close();
      },
    };
  } catch (error) {
    await pageserver.close();
    throw error;
  }
}
