/**
 * Records wherever pages and segments end: decoded and followed alike, however the stream is cut, and abandoned ones as PostgreSQL marks them.
 *
 * Attacked by: records of every size around a page's and a segment's end, headers cut by it, chunks of any size, one flipped bit anywhere.
 * The decoder (pageserver) and the scan (safekeeper) are independent readers of the same bytes: they must agree on where valid WAL ends.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c } from '../../engine/crc32c.ts';
import { isPageliteError } from '../../engine/errors.ts';
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import { type Lsn, lsn, writeLsn } from '../../engine/model/lsn.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { firstIsContrecord, firstIsOverwriteContrecord } from '../../engine/wal/wal-page.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';

interface Stream {
  readonly startLsn: Lsn;
  readonly bytes: Uint8Array;
  readonly ends: readonly Lsn[];
}

function stream(startLsn: Lsn, payloads: readonly number[]): Stream {
  const wal = new SyntheticWal(startLsn);
  const parts = payloads.map((size, i) => wal.next(new Uint8Array(size).fill(i + 1)));
  const bytes = Uint8Array.from(parts.flatMap((part) => [...part.bytes]));
  return { startLsn, bytes, ends: parts.map(({ endLsn }) => endLsn) };
}

interface Read {
  readonly ends: Lsn[];
  readonly position: Lsn;
  readonly error: unknown;
}

function decode({ startLsn, bytes }: Stream, chunk = bytes.length): Read {
  const decoder = new WalDecoder(startLsn);
  const ends: Lsn[] = [];
  try {
    for (let at = 0; at < bytes.length; at += chunk) {
      decoder.feed((startLsn + at) as Lsn, bytes.subarray(at, at + chunk));
      for (let record = decoder.next(); record !== null; record = decoder.next()) ends.push(record.endLsn);
    }
  } catch (error) {
    return { ends, position: decoder.position, error };
  }
  return { ends, position: decoder.position, error: null };
}

function scan({ startLsn, bytes }: Stream, chunk = bytes.length): RecordScan {
  const follower = new RecordScan(startLsn);
  for (let at = 0; at < bytes.length; at += chunk) follower.feed(bytes.subarray(at, at + chunk));
  return follower;
}

/** Just before a segment's end, on a record boundary. */
const nearSegmentEnd = fc.integer({ min: 0, max: 60 }).map((words) => lsn(2 * walSegmentSize - 8 * words - 8));
const nearPageEnd = fc.integer({ min: 0, max: 60 }).map((words) => lsn(walSegmentSize + 3 * pageSize - 8 * words - 8));
const startLsns = fc.oneof(nearSegmentEnd, nearPageEnd).filter((start) => start % pageSize >= 40);
const payloads = fc.array(fc.oneof(fc.nat(120), fc.integer({ min: pageSize - 200, max: 3 * pageSize })), {
  minLength: 1,
  maxLength: 8,
});

describe('records at the ends of pages and segments', () => {
  it('are decoded and followed alike, however the stream is cut', () => {
    fc.assert(
      fc.property(startLsns, payloads, fc.integer({ min: 1, max: 20_000 }), (startLsn, sizes, chunk) => {
        const wal = stream(startLsn, sizes);
        expect(decode(wal, chunk)).toEqual({ ends: wal.ends, position: wal.ends.at(-1), error: null });
        expect(scan(wal, chunk)).toMatchObject({ boundaryLsn: wal.ends.at(-1), problem: null });
      }),
      { numRuns: 150 },
    );
  });

  it('are never taken for others when a bit is wrong, and both readers stop at the same record', () => {
    fc.assert(
      fc.property(startLsns, payloads, fc.nat(), (startLsn, sizes, where) => {
        const wal = stream(startLsn, sizes);
        const bit = where % (wal.bytes.length * 8);
        wal.bytes[bit >> 3]! ^= 1 << (bit & 7);
        const { ends, position, error } = decode(wal);
        expect(ends).toEqual(wal.ends.slice(0, ends.length));
        if (error !== null && !isPageliteError(error, 'corrupt')) throw error;
        const follower = scan(wal);
        // What no check covers (padding, the PostgreSQL timeline, a system identifier that nobody told) is ignored by both.
        expect(follower.boundaryLsn).toBe(position);
        if (error !== null) expect(position).toBeLessThan(wal.ends.at(-1)!);
      }),
      { numRuns: 300 },
    );
  });
});

describe('a record that was abandoned', () => {
  const startLsn = lsn(walSegmentSize + 2 * pageSize - 512);

  /** A record, the first page of one that goes on for pages, and a page that begins with a new record of the writer after it. */
  function abandoned(flags: number): Stream {
    const first = new SyntheticWal(startLsn);
    const whole = first.next(new Uint8Array(100));
    const lost = first.next(new Uint8Array(3 * pageSize));
    const page = lsn(walSegmentSize + 2 * pageSize);
    const kept = lost.bytes.subarray(0, page - lost.startLsn);
    // The writer after it continues at the page; the record before it is the last whole one.
    const after = new SyntheticWal(page, nextLsn(startLsn)).next(new Uint8Array(50));
    const bytes = Uint8Array.from([...whole.bytes, ...kept, ...after.bytes]);
    new DataView(bytes.buffer).setUint16(page - startLsn + 2, flags, true);
    return { startLsn, bytes, ends: [whole.endLsn, after.endLsn] };
  }
  const nextLsn = (at: Lsn): Lsn => at;

  it('is passed over where the next page says so', () => {
    const wal = abandoned(firstIsOverwriteContrecord);
    for (const chunk of [wal.bytes.length, 1, 7, 700]) {
      expect(decode(wal, chunk)).toEqual({ ends: wal.ends, position: wal.ends[1], error: null });
    }
  });

  it('is an error where the next page does not say so, or says both', () => {
    for (const flags of [0, firstIsOverwriteContrecord | firstIsContrecord]) {
      const { ends, error } = decode(abandoned(flags));
      expect(ends).toHaveLength(1);
      expect(isPageliteError(error, 'corrupt')).toBe(true);
      expect(String(error)).toContain('0/1004000');
    }
  });
});

describe('xl_prev', () => {
  it('of 0 is taken from a compute that has booted, and from no other record', () => {
    const startLsn = lsn(walSegmentSize + 4096);
    const boot = SyntheticWal.afterBoot(startLsn).next(new Uint8Array(88));
    const decoder = new WalDecoder(startLsn, { prevLsn: lsn(startLsn - 64) });
    decoder.feed(startLsn, boot.bytes);
    expect(decoder.next()?.endLsn).toBe(boot.endLsn);

    const other = new SyntheticWal(startLsn).next(new Uint8Array(88));
    const strict = new WalDecoder(startLsn, { prevLsn: lsn(startLsn - 64) });
    strict.feed(startLsn, other.bytes);
    expect(() => strict.next()).toThrow(/xl_prev is 0\/0/);
  });

  it('must be the record before, also with a right CRC', () => {
    const startLsn = lsn(walSegmentSize + 4096);
    const wal = stream(startLsn, [50, 50, 50]);
    const second = wal.ends[0]! - startLsn;
    const view = new DataView(wal.bytes.buffer);
    writeLsn(view, second + 8, startLsn - 8);
    const total = view.getUint32(second, true);
    const crc = crc32c(wal.bytes, second, second + 20, crc32c(wal.bytes, second + 24, second + total));
    view.setUint32(second + 20, crc, true);
    const { ends, error } = decode(wal);
    expect(ends).toHaveLength(1);
    expect(String(error)).toMatch(/xl_prev/);
  });
});
