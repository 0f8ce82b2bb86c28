/** Sequential reads grow, announcements are gathered into ranges, and last-written LSNs are never too old. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LastWrittenLsn } from '../../smgr-plugin/pages/last-written-lsn.ts';
import { Announced, announceLength, runBlocksMax, runLength } from '../../smgr-plugin/pages/prefetch.ts';
import { Relation } from '../../smgr-plugin/pages/rel-size-cache.ts';

const relation = (size: number, id = 1) =>
  new Relation(id, { spc: 1663, db: 5, rel: 16384 + id, fork: 0 }, size, false);

describe('sequential reads', () => {
  it('ask for 1, 4, 16, 64 and then 128 pages, to the end and not past it', () => {
    const table = relation(500);
    const counts: number[] = [];
    for (let block = 0; block < 500; ) {
      const count = runLength(table, block, 128);
      counts.push(count);
      block += count;
    }
    expect(counts).toEqual([1, 4, 16, 64, 128, 128, 128, 31]);
  });

  it('announce what follows once they are evident', () => {
    const table = relation(1000);
    const announced: number[] = [];
    for (let block = 0; block < 300; block += runLength(table, block, 128)) announced.push(announceLength(table, 128));
    expect(announced).toEqual([0, 0, 0, 64, 128, 128]);
  });

  it('are no longer than a small cache can hold until they are looked at', () => {
    expect(runBlocksMax(64)).toBe(16);
    expect(runBlocksMax(100000)).toBe(128);
    const table = relation(1000);
    const counts = [0, 1, 5, 21, 37].map((block) => runLength(table, block, 16));
    expect(counts).toEqual([1, 4, 16, 16, 16]);
  });

  it('begin anew after a jump', () => {
    const table = relation(1000);
    for (let block = 0; block < 85; ) block += runLength(table, block, 128);
    expect(runLength(table, 700, 128)).toBe(1);
    expect(runLength(table, 701, 128)).toBe(4);
    expect(runLength(table, 3, 128)).toBe(1);
  });
});

describe('announced blocks', () => {
  it('are handed over once, as ranges in their order', () => {
    const announced = new Announced(10);
    const a = relation(1000, 1);
    const b = relation(1000, 2);
    for (const block of [5, 6, 7, 7, 9, 10]) announced.add(a, block);
    announced.add(b, 11);
    const ranges: unknown[] = [];
    announced.take((of, first, count) => ranges.push([of.id, first, count]));
    expect(ranges).toEqual([
      [1, 5, 3],
      [1, 9, 2],
      [2, 11, 1],
    ]);
    expect(announced.count).toBe(0);
  });

  it('are bounded', () => {
    const announced = new Announced(10);
    for (let block = 0; block < 1000; block += 2) announced.add(relation(1000), block);
    expect(announced.count).toBe(10);
  });
});

describe('last-written LSNs', () => {
  it('are never older than the last write of that page', () => {
    const write = fc.tuple(fc.nat(3), fc.nat(2000), fc.integer({ min: 1, max: 1e6 }));
    fc.assert(
      fc.property(fc.array(write, { maxLength: 300 }), (writes) => {
        const lsns = new LastWrittenLsn(100);
        const model = new Map<string, number>();
        for (const [rel, block, lsn] of writes) {
          lsns.note(rel, block, lsn);
          model.set(`${rel}/${block}`, Math.max(lsn, model.get(`${rel}/${block}`) ?? 0));
        }
        for (const [name, lsn] of model) {
          const [rel, block] = name.split('/').map(Number) as [number, number];
          expect(lsns.get(rel, block)).toBeGreaterThanOrEqual(Math.max(100, lsn));
          expect(lsns.getRange(rel, Math.max(0, block - 2), 5)).toBeGreaterThanOrEqual(lsn);
        }
        expect(new LastWrittenLsn(100).get(1, 1)).toBe(100);
      }),
      { numRuns: 50 },
    );
  });
});
