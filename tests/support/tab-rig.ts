/**
 * A tab in Node beside a server's real processes: the tab's storage in a worker thread (tab-storage.ts), computes on its branches and on the server's
 * in the test's own. The worker runs JavaScript, so the tree must be built.
 */
import { Worker } from 'node:worker_threads';
import type { TimelineId } from '../../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { RpcClient } from '../../server/library/worker-rpc.ts';
import { loadPGliteArtefacts, type PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type Compute, openCompute } from '../../smgr-plugin/compute.ts';
import { distUrl } from './dist.ts';
import type { StorageProcesses } from './storage-processes.ts';
import type { Place, TabData, TabMethods } from './tab-storage.ts';

export class TabRig {
  readonly #artefacts: PGliteArtefacts;
  readonly storage: RpcClient<TabMethods, string>;

  private constructor(artefacts: PGliteArtefacts, storage: RpcClient<TabMethods, string>) {
    this.#artefacts = artefacts;
    this.storage = storage;
  }

  static async start(server: StorageProcesses): Promise<TabRig> {
    const artefacts = await loadPGliteArtefacts();
    const { tenantId, port, httpPort, safekeeperPort } = server;
    const workerData: TabData = { artefacts, server: { tenantId, pagestreamPort: port, httpPort, safekeeperPort } };
    const worker = new Worker(distUrl('tests/support/tab-storage.js'), { workerData });
    await new Promise<void>((resolve, reject) => {
      worker.once('error', reject);
      worker.once('message', () => resolve());
    });
    return new TabRig(artefacts, new RpcClient<TabMethods, string>(worker, () => {}));
  }

  /** What `work` does with a compute for writing on the timeline. */
  async compute<T>(place: Place, timeline: TimelineId, work: (pg: Compute) => Promise<T>): Promise<T> {
    const { host, start } = await this.storage.call('startHost', place, timeline);
    try {
      const pg = await openCompute(start, { artefacts: this.#artefacts });
      const result = await work(pg);
      await pg.close();
      return result;
    } finally {
      await this.storage.call('closeHost', host);
    }
  }

  exec(place: Place, timeline: TimelineId, sql: string): Promise<void> {
    return this.compute(place, timeline, async (pg) => {
      await pg.exec(sql);
    });
  }

  /** The rows of a query as one text. */
  query(place: Place, timeline: TimelineId, sql: string): Promise<string> {
    return this.compute(place, timeline, async (pg) => {
      const { rows } = await pg.query<Record<string, unknown>>(sql);
      return rows.map((row) => Object.values(row).join(' ')).join('\n');
    });
  }

  async close(): Promise<void> {
    await this.storage.call('close');
    await this.storage.terminate();
  }
}

export async function currentLsn(pg: Compute): Promise<Lsn> {
  const { rows } = await pg.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn');
  return parseLsn(rows[0]!.lsn);
}
