/**
 * The LSN found for a time is the end of the last transaction that ended by then, whatever the times are; checked against a plain list of the
 * ends, over random histories of several clog pages.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clogValueBytes, xactStatusPatch } from '../../engine/ingest/patch.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { encodeSegments } from '../../engine/ingest/small-directories.ts';
import { sizeBlock, slruDirectoryKey, slruKind, slruPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { findLsnByTimestamp } from '../../engine/timeline/find-lsn.ts';
import { ValueMap } from '../support/value-map.ts';

const startLsn = 0x1000 as Lsn;
const epoch = Date.UTC(2000, 0, 1);

interface End {
  readonly lsn: Lsn;
  readonly timeMs: number;
  readonly page: number;
}

function history(ends: readonly End[]): ValueMap {
  const values = new ValueMap();
  const directory = slruDirectoryKey(slruKind.clog);
  const prefix = slruPrefix(slruKind.clog, 0);
  values.putImage(directory.prefix, directory.block, startLsn, encodeSegments([0]));
  values.putImage(prefix, sizeBlock, startLsn, encodeSize(3));
  for (let page = 0; page < 3; page++) values.putImage(prefix, page, startLsn, new Uint8Array(clogValueBytes));
  ends.forEach(({ lsn, timeMs, page }, i) => {
    const time = new Uint8Array(8);
    new DataView(time.buffer).setBigInt64(0, BigInt((timeMs - epoch) * 1000), true);
    values.putPatch(prefix, page, lsn, xactStatusPatch(1, time, [i]));
  });
  return values;
}

const find = (values: ValueMap, end: number, timeMs: number) =>
  findLsnByTimestamp((lsn) => values.reader(lsn), startLsn, end as Lsn, timeMs);

describe('LSN for a time', () => {
  it('finds the end of the last transaction by then', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ gap: fc.integer({ min: 1, max: 500 }), ms: fc.integer({ min: 0, max: 3 }) }), {
          minLength: 1,
          maxLength: 40,
        }),
        fc.integer({ min: -5, max: 130 }),
        async (steps, offset) => {
          let lsn: number = startLsn;
          let timeMs = epoch + 800_000_000_000;
          const first = timeMs;
          const ends = steps.map(({ gap, ms }, i): End => {
            lsn += gap * 8;
            timeMs += ms;
            return { lsn: lsn as Lsn, timeMs, page: Math.floor(i / 15) };
          });
          const endLsn = lsn + 800;
          const asked = first + offset;
          const { kind, lsn: found } = await find(history(ends), endLsn, asked);
          const before = ends.filter((end) => end.timeMs <= asked);
          if (before.length === 0) expect([kind, found]).toEqual(['past', startLsn]);
          else {
            expect([kind, found]).toEqual([before.length === ends.length ? 'future' : 'present', before.at(-1)!.lsn]);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('says when no transaction has ended', async () => {
    expect(await find(history([]), 0x9000, epoch + 1e12)).toEqual({ kind: 'nodata', lsn: startLsn });
  });

  it('starts at the start of a branch whose ancestor has older transactions', async () => {
    const values = history([
      { lsn: 0x1008 as Lsn, timeMs: epoch + 1000, page: 0 },
      { lsn: 0x5000 as Lsn, timeMs: epoch + 9000, page: 0 },
    ]);
    const from = (timeMs: number) =>
      findLsnByTimestamp((lsn) => values.reader(lsn), 0x4000 as Lsn, 0x6000 as Lsn, timeMs);
    expect(await from(epoch + 5000)).toEqual({ kind: 'present', lsn: 0x4000 });
    expect(await from(epoch + 500)).toEqual({ kind: 'past', lsn: 0x4000 });
    expect(await from(epoch + 9000)).toEqual({ kind: 'future', lsn: 0x5000 });
  });
});
