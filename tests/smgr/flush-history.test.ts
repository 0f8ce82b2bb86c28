/** A record number looks up to an LSN that is never before its record, and exact for what is recent. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlushHistory } from '../../smgr-plugin/pages/flush-history.ts';

describe('flush history', () => {
  it('is never too old and exact for the latest flushes', () => {
    const flush = fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 8, max: 5000 }));
    fc.assert(
      fc.property(fc.array(flush, { minLength: 1, maxLength: 5000, size: 'max' }), (flushes) => {
        const history = new FlushHistory(1000);
        let records = 0;
        let lsn = 1000;
        const exact: [number, number][] = [[0, 1000]];
        for (const [more, bytes] of flushes) {
          records += more;
          lsn += bytes;
          history.add(records, lsn);
          exact.push([records, lsn]);
        }
        exact.forEach(([of, at], i) => {
          expect(history.lsnOf(of)).toBeGreaterThanOrEqual(at);
          expect(history.lsnOf(of)).toBeLessThanOrEqual(lsn);
          if (i >= exact.length - 500) expect(history.lsnOf(of)).toBe(at);
        });
      }),
      { numRuns: 30 },
    );
  });
});
