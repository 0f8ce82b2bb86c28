/**
 * The page cache against a model of what was written: a page that must stay is there, whole and newest, whatever the pressure; any other page is
 * there newest or not at all. Attacked with far more pages than it holds, transactions that end, truncations, and commits that come late.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { pageSize } from '../../engine/limits.ts';
import { cachePagesMin, forever, PageCache } from '../../smgr-plugin/pages/page-cache.ts';
import { MemorySpill } from '../../smgr-plugin/pages/spill-store.ts';

interface Written {
  readonly stamp: number;
  readonly transaction: number;
  readonly needRecord: number;
  readonly local: boolean;
}

function page(stamp: number): Uint8Array {
  const bytes = new Uint8Array(pageSize);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, stamp);
  view.setUint32(pageSize - 4, stamp);
  return bytes;
}

class Model {
  readonly cache = new PageCache(0, new MemorySpill(), (relation, block, needRecord) => {
    expect(needRecord).toBe(this.written.get(`${relation}/${block}`)?.needRecord);
    expect(needRecord).toBeLessThanOrEqual(this.flushedRecords);
  });
  readonly written = new Map<string, Written>();
  transaction = 1;
  flushedRecords = 0;
  #stamp = 0;
  #records = 0;
  readonly #buffer = new Uint8Array(pageSize);

  write(relation: number, block: number, how: 'transaction' | 'committed' | 'unflushed' | 'local'): void {
    const stamp = ++this.#stamp;
    const needRecord = how === 'unflushed' ? ++this.#records : 0;
    const epoch = how === 'local' ? forever : how === 'transaction' ? this.cache.epoch : 0;
    this.cache.write(relation, block, page(stamp), 0, epoch, needRecord);
    const transaction = how === 'transaction' ? this.transaction : 0;
    this.written.set(`${relation}/${block}`, { stamp, transaction, needRecord, local: how === 'local' });
  }

  addRead(relation: number, block: number): void {
    // What comes from afar is the newest version, unless the page had to stay here.
    const newest = this.written.get(`${relation}/${block}`);
    this.cache.addRead(relation, block, page(newest?.stamp ?? 0), 0);
  }

  flush(): void {
    this.flushedRecords = this.#records;
    this.cache.flushedRecords = this.#records;
  }

  end(): void {
    this.transaction++;
    this.cache.endTransaction();
  }

  drop(relation: number, firstBlock: number): void {
    this.cache.drop(relation, firstBlock);
    for (const name of [...this.written.keys()]) {
      const [ofRelation, block] = name.split('/').map(Number) as [number, number];
      if (ofRelation === relation && block >= firstBlock) this.written.delete(name);
    }
  }

  check(relation: number, block: number): void {
    const found = this.cache.read(relation, block, 0, pageSize, this.#buffer, 0);
    const written = this.written.get(`${relation}/${block}`);
    const view = new DataView(this.#buffer.buffer);
    if (found) {
      expect(view.getUint32(0)).toBe(written?.stamp ?? 0);
      expect(view.getUint32(pageSize - 4)).toBe(written?.stamp ?? 0);
    } else if (written) {
      const mustStay =
        written.local || written.transaction === this.transaction || written.needRecord > this.flushedRecords;
      expect(mustStay).toBe(false);
    }
  }
}

describe('page cache', () => {
  it('keeps what must stay and never serves an old page', () => {
    const relation = fc.nat(3);
    const block = fc.nat(80);
    const how = fc.constantFrom('transaction' as const, 'committed' as const, 'unflushed' as const, 'local' as const);
    const step = fc.oneof(
      { weight: 8, arbitrary: fc.tuple(fc.constant('write' as const), relation, block, how) },
      { weight: 6, arbitrary: fc.tuple(fc.constant('addRead' as const), relation, block) },
      { weight: 8, arbitrary: fc.tuple(fc.constant('check' as const), relation, block) },
      { weight: 1, arbitrary: fc.tuple(fc.constantFrom('flush' as const, 'end' as const)) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('drop' as const), relation, block) },
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 200, maxLength: 1200, size: 'max' }), (steps) => {
        const model = new Model();
        for (const [what, a, b, c] of steps) {
          if (what === 'write') model.write(a!, b!, c!);
          else if (what === 'flush') model.flush();
          else if (what === 'end') model.end();
          else model[what as 'addRead' | 'check' | 'drop'](a!, b!);
        }
        for (let r = 0; r <= 3; r++) for (let n = 0; n <= 80; n++) model.check(r, n);
      }),
      { numRuns: 40 },
    );
  });

  it('holds what it was given room for', () => {
    const cache = new PageCache(100 * pageSize, new MemorySpill(), () => {});
    expect(cache.capacity).toBe(100);
    for (let block = 0; block < 100; block++) cache.addRead(1, block, page(block), 0);
    for (let block = 0; block < 100; block++) expect(cache.has(1, block)).toBe(true);
    expect(new PageCache(0, new MemorySpill(), () => {}).capacity).toBe(cachePagesMin);
  });

  it('gives the places of a transaction back when it ends', () => {
    const cache = new PageCache(0, new MemorySpill(), () => {});
    for (let block = 0; block < 1000; block++) cache.write(1, block, page(block), 0, cache.epoch, 0);
    expect(cache.spilledCount).toBe(1000 - cachePagesMin);
    cache.endTransaction();
    expect(cache.spilledCount).toBe(0);
    for (let block = 0; block < 1000; block++) cache.write(2, block, page(block), 0, 0, 0);
    expect(cache.spilledCount).toBe(0);
  });

  it('keeps all of a relation that turns out to exist only here', () => {
    const cache = new PageCache(0, new MemorySpill(), () => {});
    for (let block = 0; block < 200; block++) cache.write(7, block, page(block), 0, cache.epoch, 0);
    cache.keepForever(7);
    cache.endTransaction();
    for (let block = 0; block < 500; block++) cache.addRead(8, block, page(block), 0);
    const buffer = new Uint8Array(pageSize);
    for (let block = 0; block < 200; block++) {
      expect(cache.read(7, block, 0, pageSize, buffer, 0)).toBe(true);
      expect(new DataView(buffer.buffer).getUint32(0)).toBe(block);
    }
  });
});
