/**
 * Whatever way PostgreSQL cuts its writes, the stream is its WAL, byte for byte, from the boot LSN to the last record, each byte once.
 *
 * PostgreSQL is modelled as it writes: whole pages, the last one partial and padded with zeros, written again by the next flush; sometimes full
 * pages in the middle of a record; new segments appear as they are reached.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { WalPiece } from '../../engine/basebackup/control-data.ts';
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import { type Lsn, lsn } from '../../engine/model/lsn.ts';
import { WalTap } from '../../smgr-plugin/wal/wal-tap.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';

class Sink {
  bytes: number[] = [];
  flushedTo = 0;

  pushWal(source: Uint8Array, start: number, end: number): number {
    for (let i = start; i < end; i++) this.bytes.push(source[i]!);
    return this.bytes.length;
  }

  flushWal(position: number): void {
    expect(position).toBe(this.bytes.length);
    this.flushedTo = position;
  }

  readWal(): Uint8Array {
    throw new Error('nothing is read back here');
  }
}

/** `before` bytes of a page lie before the start. */
function run(start: Lsn, sizes: readonly number[], cuts: readonly boolean[]): void {
  const wal = SyntheticWal.afterBoot(start);
  const records = sizes.map((size) => wal.next(new Uint8Array(size).fill(size % 251)));
  const all = new Uint8Array(wal.endLsn - start);
  for (const { startLsn, bytes } of records) all.set(bytes, startLsn - start);
  const firstPage = start - (start % pageSize);

  /** Pages [from, to) as PostgreSQL has them when everything up to `end` is inserted. */
  const pages = (from: number, to: number, end: number) => {
    const out = new Uint8Array(to - from);
    const take = all.subarray(Math.max(0, from - start), Math.max(0, Math.min(to, end) - start));
    out.set(take, Math.max(0, start - from));
    return out;
  };
  const sink = new Sink();
  const flushed: number[] = [];
  const bootEnd = records[0]!.endLsn;
  const bootTo = Math.ceil(bootEnd / pageSize) * pageSize;
  const bootWal: WalPiece[] = [];
  for (let at = firstPage; at < bootTo; at += pageSize) {
    bootWal.push({ lsn: at as Lsn, bytes: pages(at, at + pageSize, bootEnd) });
  }
  const tap = new WalTap({
    bridge: sink,
    startLsn: start,
    bootWal,
    discard: false,
    onFlushed: (at) => flushed.push(at),
  });
  const write = (from: number, to: number, end: number) => {
    const bytes = pages(from, to, end);
    for (let at = from; at < to; ) {
      const segment = at - (at % walSegmentSize);
      const until = Math.min(to, segment + walSegmentSize);
      tap.write(segment, at - segment, bytes, at - from, until - at);
      at = until;
    }
  };
  tap.sync();
  expect(sink.bytes.length, 'a boot alone sends nothing').toBe(0);
  let writtenTo = bootEnd as number;
  for (const [i, { endLsn }] of records.entries()) {
    const from = writtenTo - (writtenTo % pageSize);
    if (cuts[i % cuts.length]) {
      const to = Math.ceil(endLsn / pageSize) * pageSize;
      write(from, to, endLsn);
      writtenTo = endLsn;
      tap.sync();
      // The boot record ends with its page: PostgreSQL has written nothing yet.
      if (to === from) continue;
      expect(sink.flushedTo).toBe(endLsn - start);
      expect(flushed.at(-1)).toBe(endLsn);
    } else {
      // Buffers are full: whole pages leave, in the middle of a record.
      const to = endLsn - (endLsn % pageSize);
      if (to > from) {
        write(from, to, endLsn);
        writtenTo = to;
        expect(sink.bytes.length).toBeLessThanOrEqual(to - start);
      }
    }
  }
  write(writtenTo - (writtenTo % pageSize), Math.ceil(wal.endLsn / pageSize) * pageSize, wal.endLsn);
  tap.sync();
  expect(tap.endLsn).toBe(wal.endLsn);
  expect(Buffer.compare(Buffer.from(sink.bytes), Buffer.from(all))).toBe(0);
}

describe('the stream of a compute', () => {
  it('is what PostgreSQL wrote, each byte once', () => {
    const size = fc.oneof(
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 7000, max: 9000 }),
      fc.integer({ min: 1, max: 60000 }),
    );
    fc.assert(
      fc.property(
        fc.integer({ min: 3000, max: 200000 }),
        fc.array(size, { minLength: 2, maxLength: 30 }),
        fc.array(fc.boolean(), { minLength: 1, maxLength: 7 }),
        (eighths, sizes, cuts) => run(lsn(0x1000000 + eighths * 8), [88, ...sizes], cuts),
      ),
      { numRuns: 60 },
    );
  });

  it('begins with a boot record that ends with its page', () => {
    run(lsn(0x1000000 + 3 * pageSize - 120), [88, 1, 7000], [true, false]);
  });

  it.each([0, 8, 24, 32, 40, 8152, 8160, 8168, 8184])(
    'goes over the end of a segment, from %i bytes before it',
    (before) => {
      run(lsn(0x2000000 - before), [88, 100, 9000, 30000], [true]);
      run(lsn(0x2000000 - 8192 - before), [88, 9000, 100, 30000], [false, true]);
    },
  );
});
