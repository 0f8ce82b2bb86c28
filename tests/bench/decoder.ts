/**
 * How fast WAL is read: by the pageserver's decoder (headers, CRC, block references) and by the safekeeper's scan (headers, CRC), against the CRC of
 * the same bytes alone, below which neither can get.
 *
 * The WAL is that of the redo workload: every access method, many short records.
 */
import { crc32c } from '../../engine/crc32c.ts';
import { ingestBytesPerTurn, pageSize } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { redoWorkload } from '../support/redo-workload.ts';
import { captureWal, plainPglite, type WalFixture } from '../support/wal-fixture.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

function decode({ startLsn, wal }: WalFixture): number {
  const decoder = new WalDecoder(startLsn);
  let records = 0;
  for (let at = 0; at < wal.length; at += ingestBytesPerTurn) {
    decoder.feed((startLsn + at) as Lsn, wal.subarray(at, at + ingestBytesPerTurn));
    while (decoder.next() !== null) records++;
  }
  return records;
}

function scan({ startLsn, wal }: WalFixture): void {
  const follower = new RecordScan(startLsn);
  for (let at = 0; at < wal.length; at += ingestBytesPerTurn) follower.feed(wal.subarray(at, at + ingestBytesPerTurn));
}

function checksum({ wal }: WalFixture): number {
  let sum = 0;
  for (let at = 0; at < wal.length; at += pageSize) sum ^= crc32c(wal, at, Math.min(at + pageSize, wal.length));
  return sum;
}

export const decoderBenchmark: Benchmark = {
  name: 'decoder',
  about: 'WAL decoder and record scan, against the CRC of the same bytes',
  async run(context: BenchContext): Promise<Row[]> {
    const pg = await plainPglite();
    const fixture = await captureWal(pg, redoWorkload);
    await pg.close();
    const records = decode(fixture);
    scan(fixture);
    context.say(`${records} records, ${(fixture.wal.length / 1e6).toFixed(0)} MB of WAL`);
    const rate = async (work: () => unknown) => fixture.wal.length / 1e3 / (await timed(work));
    const [decoded, scanned, summed] = await interleave(context.rounds, [
      () => rate(() => decode(fixture)),
      () => rate(() => scan(fixture)),
      () => rate(() => checksum(fixture)),
    ]);
    const mb = (figures: readonly number[]) => `${median(figures).toFixed(0)} MB/s`;
    const row = (what: string, figures: readonly number[], bound: number): Row => ({
      what,
      measured: mb(figures),
      against: 'CRC32C alone, same bytes',
      baseline: mb(summed!),
      ratio: median(figures) / median(summed!),
      target: { op: '>=', bound },
      note: `${(fixture.wal.length / records).toFixed(0)} bytes a record; ${spread(figures)} MB/s`,
    });
    return [row('WAL decoder', decoded!, 0.15), row('WAL record scan of a safekeeper', scanned!, 0.15)];
  },
};
