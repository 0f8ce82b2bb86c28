/** A compute in a worker, for tests: the PGlite of smgr-plugin/compute.ts behind calls. Runs in Chromium. */
import type { ComputeStart } from '../../../smgr-plugin/bridge/io-host.ts';
import { type Compute, openCompute } from '../../../smgr-plugin/compute.ts';
import { serveCalls } from './calls.ts';

let pg: Compute;

serveCalls({
  async start(start: ComputeStart, pageCacheBytes?: number) {
    pg = await openCompute(start, pageCacheBytes === undefined ? {} : { pageCacheBytes });
  },
  query: async (sql: string, params?: unknown[]) => (await pg.query(sql, params)).rows,
  /** Statements a second. `$1` is the number of the statement. */
  async rate(sql: string, count: number) {
    const params = sql.includes('$1');
    const start = performance.now();
    for (let i = 1; i <= count; i++) await pg.query(sql, params ? [i] : []);
    return (count * 1000) / (performance.now() - start);
  },
  close: () => pg.close(),
});
