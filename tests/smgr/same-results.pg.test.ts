/**
 * The same SQL gives the same rows on a plain PGlite and on a compute, row for row, statement for statement.
 *
 * The compute has 32 shared buffers and a page cache of 64 pages, so nearly every page is evicted, spilled or rebuilt by the pageserver between
 * two looks at it. Errors count as results. Nothing is modelled: storage is the real pageserver and safekeeper.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { broadWorkload } from '../support/broad-workload.ts';
import { EmbeddedRig, type RigCompute, tiny } from '../support/embedded-rig.ts';
import { plainPglite } from '../support/wal-fixture.ts';

async function resultOf(pg: PGlite, sql: string): Promise<unknown> {
  try {
    const results = await pg.exec(sql);
    return results.map(({ rows, affectedRows, fields }) => ({ rows, affectedRows, fields: fields.map((f) => f.name) }));
  } catch (error) {
    await pg.exec('rollback');
    return `ERROR: ${(error as Error).message}`;
  }
}

describe('a compute with a cache of 64 pages', () => {
  let rig: EmbeddedRig;
  let compute: RigCompute;
  let plain: PGlite;
  beforeAll(async () => {
    rig = await EmbeddedRig.start();
    plain = await plainPglite(['max_prepared_transactions=64']);
    compute = await rig.open(await rig.createTimeline(), tiny);
  });
  afterAll(async () => {
    await compute?.close();
    await plain?.close();
    await rig?.close();
  });

  for (const { name, sql } of broadWorkload) {
    it(name, async () => {
      const expected = await resultOf(plain, sql);
      expect(await resultOf(compute.pg, sql)).toEqual(expected);
      expect(expected, 'a step that fails on both shows nothing').toBeInstanceOf(Array);
    });
  }

  it('has really worked with pages that were not there', () => {
    expect(compute.pg.cacheCounters.misses).toBeGreaterThan(1000);
    expect(compute.pg.cacheCounters.spilled).toBeGreaterThan(100);
  });
});
