/**
 * Where records end is known by who has them: an acceptor is neither cut off nor committed in the middle of one, whoever says so. A log that ended there could
 * not be opened again.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NodeId } from '../../engine/model/ids.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import { Acceptor, newControlState, newProposerSession } from '../../engine/safekeeper/acceptor.ts';
import { RecordBoundaries } from '../../engine/safekeeper/record-boundaries.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';
import { append, begin, elected, greet, history, timeline, vote } from './acceptor-talk.ts';

const inside = { kind: 'invalid', message: expect.stringContaining('no record ends here') };

/** Three records of term 1. */
function written() {
  const acceptor = new Acceptor(1 as NodeId, newControlState(timeline), invalidLsn);
  const wal = new SyntheticWal(begin);
  const records = [1, 2, 3].map((fill) => wal.next(new Uint8Array(100).fill(fill)));
  const writer = greet(acceptor, 'a');
  vote(acceptor, writer, 1);
  elected(acceptor, writer, 1, begin, history([1, begin]));
  for (const record of records) append(acceptor, writer, 1, record);
  return { acceptor, wal, writer, records, ends: records.map(({ endLsn }) => endLsn) as [Lsn, Lsn, Lsn] };
}

const empty = (startLsn: Lsn) => ({ startLsn, bytes: new Uint8Array(0) });

describe('an acceptor', () => {
  it('is committed up to ends of records only', () => {
    const { acceptor, writer, ends } = written();
    for (let lsn = ends[0] - 16; lsn < ends[2]; lsn += 8) {
      const { error } = append(acceptor, writer, 1, empty(ends[2]), lsn as Lsn);
      if (ends.includes(lsn as Lsn)) expect(error).toBe(null);
      else if (lsn > acceptor.control.commitLsn) expect(error).toMatchObject(inside);
    }
    expect(acceptor.control.commitLsn).toBe(ends[1]);
    expect(append(acceptor, writer, 1, empty(ends[2]), (ends[2] + 1000) as Lsn).error).toBe(null);
    expect(acceptor.control.commitLsn).toBe(ends[2]);
  });

  it('takes no WAL with a commitLsn inside it', () => {
    const { acceptor, wal, writer, ends } = written();
    const two = [wal.next(new Uint8Array(50)), wal.next(new Uint8Array(50))] as const;
    const bytes = new Uint8Array([...two[0].bytes, ...two[1].bytes]);
    const step = append(acceptor, writer, 1, { startLsn: ends[2], bytes }, (two[0].endLsn - 8) as Lsn);
    expect(step).toMatchObject({ error: inside, persist: [{ kind: 'truncateWal', lsn: ends[2] }], flushLsn: ends[2] });
    expect(acceptor.control.commitLsn).toBe(begin);
    // What was scanned of it is forgotten too.
    elected(acceptor, writer, 1, ends[2], history([1, begin]));
    const other = SyntheticWal.afterBoot(ends[2]).next(new Uint8Array(200));
    expect(append(acceptor, writer, 1, other, two[0].endLsn).error).toMatchObject(inside);
    elected(acceptor, writer, 1, ends[2], history([1, begin]));
    expect(append(acceptor, writer, 1, other, other.endLsn)).toMatchObject({ error: null, commitLsn: other.endLsn });
  });

  it('is cut off at ends of records only', () => {
    const { acceptor, ends } = written();
    const next = greet(acceptor, 'b');
    vote(acceptor, next, 2);
    for (let lsn = (begin + 8) as Lsn; lsn < ends[2]; lsn = (lsn + 8) as Lsn) {
      if (ends.includes(lsn)) continue;
      expect(elected(acceptor, next, 2, lsn, history([1, begin], [2, lsn])).error).toMatchObject(inside);
    }
    expect(elected(acceptor, next, 2, ends[1], history([1, begin], [2, ends[1]]))).toMatchObject({
      error: null,
      flushLsn: ends[1],
    });
  });

  it('is cut off by a peer at ends of records only', () => {
    const { acceptor, ends } = written();
    const peer = (parts: number) => ({
      term: 2 as Term,
      startLsn: begin,
      flushLsn: (ends[2] + 800) as Lsn,
      commitLsn: (ends[2] + 800) as Lsn,
      termHistory: history([1, begin], [2, parts as Lsn]),
    });
    expect(acceptor.adopt(newProposerSession(), peer(ends[1] - 8))?.error).toMatchObject(inside);
    expect(acceptor.flushLsn).toBe(ends[2]);
    expect(acceptor.adopt(newProposerSession(), peer(ends[1]))?.error).toBe(null);
    expect(acceptor.flushLsn).toBe(ends[1]);
  });

  it('learns of a peer no commitLsn inside a record', () => {
    const { acceptor, ends } = written();
    expect(acceptor.learnCommit(1, (ends[1] - 8) as Lsn)).toBe(null);
    expect(acceptor.learnCommit(1, ends[1])).toMatchObject({ commitLsn: ends[1] });
  });
});

it('boundaries are a sorted set that is cut at both ends', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('push' as const), count: fc.integer({ min: 1, max: 200 }) }),
    fc.record({ kind: fc.constantFrom('dropBefore' as const, 'truncate' as const), at: fc.nat(3000) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const boundaries = new RecordBoundaries();
      let model: number[] = [];
      let next = 8;
      for (const one of steps) {
        if (one.kind === 'push') {
          for (let i = 0; i < one.count; i++, next += 8) {
            boundaries.push(next as Lsn);
            model.push(next);
          }
        } else {
          const at = 8 * one.at;
          boundaries[one.kind](at as Lsn);
          model = model.filter((lsn) => (one.kind === 'truncate' ? lsn <= at : lsn >= at));
        }
        for (let lsn = 0; lsn < next + 16; lsn += 4) expect(boundaries.has(lsn as Lsn)).toBe(model.includes(lsn));
      }
    }),
    { numRuns: 20 },
  );
});
