/**
 * RecordScan knows where the last whole record ends, however the bytes are cut, and notices every flipped bit of a record before it
 * counts it. Attacked with records of all sizes around page and segment ends, cut at random, and with one changed byte.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { SyntheticWal, syntheticWal } from '../support/synthetic-wal.ts';

const starts = fc.constantFrom(
  walSegmentSize,
  walSegmentSize + pageSize,
  walSegmentSize + 8,
  2 * walSegmentSize - 8,
  2 * walSegmentSize - 3 * pageSize,
  3 * walSegmentSize - 24,
);
const sizes = fc.array(
  fc.oneof(fc.nat(64), fc.nat(3 * pageSize), fc.integer({ min: pageSize - 120, max: pageSize + 20 })),
  {
    minLength: 1,
    maxLength: 12,
  },
);

it('finds the same boundaries as the decoder, wherever the bytes are cut', () => {
  fc.assert(
    fc.property(starts, sizes, fc.infiniteStream(fc.integer({ min: 1, max: 20_000 })), (start, payloads, cuts) => {
      const wal = new SyntheticWal(start as Lsn);
      const scan = new RecordScan(start as Lsn);
      const decoder = new WalDecoder(start as Lsn);
      const ends: number[] = [start];
      for (const size of payloads) {
        const { bytes, startLsn, endLsn } = wal.next(new Uint8Array(size).fill(0xa5));
        decoder.feed(startLsn, bytes);
        expect(decoder.next()?.endLsn).toBe(endLsn);
        for (let at = 0; at < bytes.length; ) {
          const part = bytes.subarray(at, at + cuts.next().value);
          expect(scan.feed(part)).toBe(true);
          at += part.length;
          expect(scan.position).toBe(startLsn + at);
          expect(scan.boundaryLsn).toBe(at === bytes.length ? endLsn : ends.at(-1));
        }
        ends.push(endLsn);
      }
      expect(scan.lastRecordLsn).toBe(wal.lastRecordLsn);
    }),
    { numRuns: 200 },
  );
});

it('never counts a record with a changed byte', () => {
  fc.assert(
    fc.property(starts, fc.nat(), fc.integer({ min: 1, max: 255 }), (start, position, change) => {
      // 24 + 5 + 9003 bytes are a multiple of 8: no padding, which nothing covers.
      const bytes = syntheticWal(start as Lsn, 3, 9003);
      const at = position % bytes.length;
      const clean = new RecordScan(start as Lsn);
      clean.feed(bytes.subarray(0, at));
      const damaged = bytes.slice();
      damaged[at]! ^= change;
      const scan = new RecordScan(start as Lsn);
      scan.feed(damaged);
      // What lies in a page header's PostgreSQL timeline, system identifier or padding changes no record.
      if (scan.problem === null) expect(scan.boundaryLsn).toBe(start + bytes.length);
      else expect(scan.boundaryLsn).toBe(clean.boundaryLsn);
      const inHeader = (start + at) % pageSize < 40;
      if (!inHeader) expect(scan.problem === null && change !== 0 ? `byte ${at} unnoticed` : null).toBe(null);
    }),
    { numRuns: 300 },
  );
});

it('stops at zeros, at a wrong xl_prev and at a length that cannot be', () => {
  const start = walSegmentSize as Lsn;
  const zeros = new RecordScan(start);
  zeros.feed(syntheticWal(start, 1, 100));
  expect(zeros.feed(new Uint8Array(64))).toBe(false);
  expect(zeros.problem).toBe('a record of length zero');

  const wrongPrev = new RecordScan(start);
  const first = new SyntheticWal(start);
  const { bytes, endLsn } = first.next(new Uint8Array(10));
  wrongPrev.feed(bytes);
  expect(wrongPrev.feed(new SyntheticWal(endLsn, 0x123 as Lsn).next(new Uint8Array(10)).bytes)).toBe(false);
  expect(wrongPrev.problem).toMatch(/xl_prev is 0\/123, not 0\/1000028/);
  expect(wrongPrev.boundaryLsn).toBe(endLsn);

  const long = new RecordScan(endLsn);
  expect(long.feed(Uint8Array.of(255, 255, 255, 255))).toBe(false);
  expect(long.problem).toBe('a record of 4294967295 bytes');
});
