/** The page index is a map: any sequence of set, get and delete gives what a Map gives. Few keys, so that they collide and move. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PageIndex } from '../../smgr-plugin/pages/page-index.ts';

describe('page index', () => {
  it('behaves as a map', () => {
    const key = fc.tuple(fc.nat(5), fc.oneof(fc.nat(60), fc.integer({ min: 0xffffffe0, max: 0xfffffffe })));
    const step = fc.tuple(fc.constantFrom('set', 'set', 'delete', 'get'), key, fc.nat(100000));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 600 }), (steps) => {
        const index = new PageIndex(8);
        const model = new Map<string, number>();
        for (const [what, [relation, block], slot] of steps) {
          const name = `${relation}/${block}`;
          if (what === 'set') {
            index.set(relation, block, slot);
            model.set(name, slot);
          } else if (what === 'delete') {
            expect(index.delete(relation, block)).toBe(model.get(name) ?? -1);
            model.delete(name);
          } else expect(index.get(relation, block)).toBe(model.get(name) ?? -1);
          expect(index.count).toBe(model.size);
        }
        const seen = new Map<string, number>();
        index.forEach((relation, block, slot) => {
          seen.set(`${relation}/${block}`, slot);
        });
        expect(seen).toEqual(model);
      }),
      { numRuns: 200 },
    );
  });
});
