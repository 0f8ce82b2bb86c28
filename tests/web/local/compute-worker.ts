/** A compute in a worker, for tests: the PGlite of smgr-plugin/compute.ts behind calls. Runs in Chromium. */
import type { ComputeStart } from '../../../smgr-plugin/bridge/io-host.ts';
import { type Compute, openCompute } from '../../../smgr-plugin/compute.ts';
import { serveCalls } from './calls.ts';

let pg: Compute;

serveCalls({
  async start(start: ComputeStart, pageCacheBytes?: number) {
    pg = await openCompute(start, pageCacheBytes === undefined ? {} : { pageCacheBytes });
  },
  async query(sql: string, params?: unknown[]) {
    try {
      return (await pg.query(sql, params)).rows;
    } catch (error) {
      // An error of PostgreSQL's, with the storage's reason for it.
      const { message, detail } = error as { message: string; detail?: string };
      if (detail === undefined) throw error;
      throw new Error(`${message}: ${detail}`);
    }
  },
  close: () => pg.close(),
});
