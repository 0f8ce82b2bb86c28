/**
 * Real WAL decodes to the same records however it is cut, and damaged WAL never decodes to a wrong record.
 *
 * Attacked by: chunks of random sizes, every kind of single-bit flip over random positions, cuts, records larger than a page and than a
 * segment, a segment switch.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isPageliteError, type PageliteError } from '../../engine/errors.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { captureWal, currentLsn, plainPglite, readPgWal, type WalFixture } from '../support/wal-fixture.ts';

type Seen = [lsn: number, end: number, rmid: number, info: number, blocks: string];

function decode(fixture: WalFixture, sizes: Iterable<number>, wal = fixture.wal): Seen[] {
  const decoder = new WalDecoder(fixture.startLsn, { systemIdentifier: fixture.systemIdentifier });
  const seen: Seen[] = [];
  let at = 0;
  const take = (size: number) => {
    decoder.feed((fixture.startLsn + at) as Lsn, wal.subarray(at, at + size));
    at = Math.min(wal.length, at + size);
    for (let r = decoder.next(); r !== null; r = decoder.next()) {
      const blocks = Array.from({ length: r.blockCount }, (_, i) => r.blocks[i]!);
      seen.push([r.lsn, r.endLsn, r.rmid, r.info, blocks.map((b) => `${b.rel}/${b.fork}/${b.block}`).join()]);
    }
  };
  for (const size of sizes) {
    if (at >= wal.length) break;
    take(size);
  }
  while (at < wal.length) take(wal.length);
  return seen;
}

describe('WAL decoder', () => {
  let pg: Awaited<ReturnType<typeof plainPglite>>;
  let fixture: WalFixture;
  let whole: Seen[];

  beforeAll(async () => {
    pg = await plainPglite();
    fixture = await captureWal(pg, [
      'create table t(id serial primary key, v text, n int)',
      'create index on t(v)',
      'create index on t using gin (to_tsvector($$english$$, v))',
      'create index on t using gist (point(n, n))',
      "insert into t(v, n) select 'hello ' || g || ' ' || md5(g::text), g from generate_series(1, 2000) g",
      "update t set v = v || 'x' where id % 7 = 0",
      'delete from t where id % 11 = 0',
      'vacuum t',
      'select pg_switch_wal()',
      "select pg_logical_emit_message(true, 'big', repeat('abcdefgh', 3000000))",
      "insert into t(v, n) select 'after', g from generate_series(1, 50) g",
    ]);
    whole = decode(fixture, [fixture.wal.length]);
  });
  afterAll(() => pg.close());

  it('reaches the end of the WAL, each record beginning where the one before ended', () => {
    expect(whole.at(-1)![1]).toBe(fixture.endLsn);
    expect(whole.length).toBeGreaterThan(8000);
    for (let i = 1; i < whole.length; i++) expect(whole[i]![0] - whole[i - 1]![1]).toBeLessThanOrEqual(40);
    expect(whole.some(([lsn, end, rmid]) => rmid === 21 && end - lsn > 24_000_000)).toBe(true);
  });

  it('does not depend on how the stream is cut', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 50_000 }))), (sizes) => {
        expect(decode(fixture, sizes)).toEqual(whole);
      }),
      { numRuns: 12 },
    );
    const small = { ...fixture, wal: fixture.wal.subarray(0, 300_000) };
    expect(decode(small, Array(300_000).fill(1))).toEqual(whole.filter(([, end]) => end <= fixture.startLsn + 300_000));
  });

  it('never turns damaged bytes into other records', () => {
    const part = { ...fixture, wal: fixture.wal.slice(0, 400_000) };
    const intact = decode(part, [part.wal.length]).map((record) => JSON.stringify(record));
    fc.assert(
      fc.property(fc.integer({ min: 0, max: part.wal.length * 8 - 1 }), (bit) => {
        part.wal[bit >> 3]! ^= 1 << (bit & 7);
        const decoder = new WalDecoder(part.startLsn, { systemIdentifier: part.systemIdentifier });
        let error: unknown = null;
        let count = 0;
        try {
          decoder.feed(part.startLsn, part.wal);
          for (let r = decoder.next(); r !== null; r = decoder.next()) {
            const blocks = Array.from({ length: r.blockCount }, (_, i) => r.blocks[i]!);
            const text = [r.lsn, r.endLsn, r.rmid, r.info, blocks.map((b) => `${b.rel}/${b.fork}/${b.block}`).join()];
            expect(JSON.stringify(text)).toBe(intact[count++]);
          }
        } catch (caught) {
          if (!isPageliteError(caught, 'corrupt')) throw caught;
          error = caught;
        } finally {
          part.wal[bit >> 3]! ^= 1 << (bit & 7);
        }
        // Not every bit is covered (padding, the PostgreSQL timeline in a page header), and a longer length may wait for more bytes.
        if (error !== null) expect((error as PageliteError).data.lsn).toMatch(/^0\/[0-9A-F]+$/);
      }),
      { numRuns: 400 },
    );
  });

  it('refuses a gap, a wrong start, a wrong system identifier and a wrong xl_prev', () => {
    const decoder = new WalDecoder(fixture.startLsn);
    expect(() => decoder.feed((fixture.startLsn + 8) as Lsn, fixture.wal)).toThrow(/gap in the WAL stream/);
    expect(() => decode({ ...fixture, systemIdentifier: 1n }, [fixture.wal.length])).toThrow(/system identifier/);
    const prev = new WalDecoder(fixture.startLsn, { prevLsn: 4096 as Lsn });
    prev.feed(fixture.startLsn, fixture.wal.subarray(0, 8192));
    expect(() => prev.next()).toThrow(/xl_prev/);
    const zeros = new WalDecoder(fixture.startLsn);
    zeros.feed(fixture.startLsn, new Uint8Array(8192));
    expect(() => zeros.next()).toThrow(/length 0/);
    expect(() => zeros.next()).toThrow(/length 0/);
  });

  it('finds the end of what was written where zeros follow', async () => {
    const from = await currentLsn(pg);
    await pg.exec("insert into t(v, n) values ('one', 1)");
    const to = await currentLsn(pg);
    const tap = new WalDecoder(from, { framingOnly: true, zeroIsEnd: true });
    tap.feed(from, readPgWal(pg, from, (to + 100_000) as Lsn));
    while (tap.next() !== null);
    expect(tap.position).toBe(to);
  });
});
