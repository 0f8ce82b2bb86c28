/**
 * Real computes over a real pageserver and safekeeper, without processes: storage lives in a worker thread, computes in the test's own.
 *
 * The worker runs JavaScript, so the tree must be built (`npm test` does).
 */
import { Worker } from 'node:worker_threads';
import type { TimelineId } from '../../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import type { PageserverLimits } from '../../engine/timeline/pageserver.ts';
import { RpcClient } from '../../server/library/worker-rpc.ts';
import type { LogLevel } from '../../server/process/log.ts';
import { loadPGliteArtefacts, type PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type Compute, type ComputeOptions, openCompute } from '../../smgr-plugin/compute.ts';
import { distUrl } from './dist.ts';
import type { HostMode, StorageData, StorageMethods } from './embedded-storage.ts';

export interface RigComputeOptions extends ComputeOptions {
  /** `primary` by default. */
  readonly mode?: HostMode;
}

/** Shared buffers of 32 pages (with 16 some GiST scans run out of them) and a cache of 64: what PostgreSQL looks at has nearly always been evicted in between. */
export const tiny: ComputeOptions = { pageCacheBytes: 64 * 8192, settings: ['shared_buffers=256kB'] };

export class RigCompute {
  readonly pg: Compute;
  readonly bootLsn: Lsn;
  readonly #host: number;
  readonly #rig: EmbeddedRig;

  constructor(rig: EmbeddedRig, host: number, bootLsn: Lsn, pg: Compute) {
    this.#rig = rig;
    this.#host = host;
    this.bootLsn = bootLsn;
    this.pg = pg;
  }

  async lsn(): Promise<Lsn> {
    const { rows } = await this.pg.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn');
    return parseLsn(rows[0]!.lsn);
  }

  failure(): Promise<string | null> {
    return this.#rig.storage.call('hostFailure', this.#host);
  }

  /** What it commits from now on waits for ever, and `ms` later its I/O host goes. */
  loseCommits(ms: number): Promise<void> {
    return this.#rig.storage.call('loseCommits', this.#host, ms);
  }

  /** Ends in order. */
  async close(): Promise<void> {
    await this.pg.close();
    await this.#rig.storage.call('closeHost', this.#host);
  }

  /** As if its process had been killed: PostgreSQL does nothing more. */
  async kill(): Promise<void> {
    await this.#rig.storage.call('closeHost', this.#host);
  }
}

export class EmbeddedRig {
  readonly artefacts: PGliteArtefacts;
  readonly storage: RpcClient<StorageMethods, string>;

  private constructor(artefacts: PGliteArtefacts, storage: RpcClient<StorageMethods, string>) {
    this.artefacts = artefacts;
    this.storage = storage;
  }

  static async start(logLevel: LogLevel = 'error', limits: Partial<PageserverLimits> = {}): Promise<EmbeddedRig> {
    const artefacts = await loadPGliteArtefacts();
    const workerData: StorageData = { artefacts, logLevel, limits };
    const worker = new Worker(distUrl('tests/support/embedded-storage.js'), { workerData });
    const ready = new Promise<void>((resolve, reject) => {
      worker.once('error', reject);
      worker.once('message', () => resolve());
    });
    await ready;
    return new EmbeddedRig(artefacts, new RpcClient<StorageMethods, string>(worker, () => {}));
  }

  createTimeline(): Promise<TimelineId> {
    return this.storage.call('createTimeline');
  }

  /** At the last ingested LSN if none is given. */
  branch(from: TimelineId, lsn: Lsn | null = null): Promise<TimelineId> {
    return this.storage.call('branch', from, lsn);
  }

  async open(timeline: TimelineId, options: RigComputeOptions = {}): Promise<RigCompute> {
    const { host, start } = await this.storage.call('startHost', timeline, options.mode ?? 'primary');
    try {
      const pg = await openCompute(start, { artefacts: this.artefacts, ...options });
      return new RigCompute(this, host, start.lsn, pg);
    } catch (error) {
      await this.storage.call('closeHost', host);
      throw error;
    }
  }

  /** The pageserver has everything that was committed. */
  async catchUp(timeline: TimelineId): Promise<Lsn> {
    const lsn = await this.storage.call('commitLsn', timeline);
    await this.storage.call('catchUp', timeline, lsn);
    return lsn;
  }

  async close(): Promise<void> {
    await this.storage.call('close');
    await this.storage.terminate();
  }
}
