/** A plain PGlite over `idb://` or `opfs-ahp://` in a worker: what a branch in the tab is compared with. Runs in Chromium. */
import { PGlite } from '@electric-sql/pglite';
import { serveCalls } from './calls.ts';

let pg: PGlite;

serveCalls({
  async open(dataDir: string) {
    pg = await PGlite.create(dataDir);
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
