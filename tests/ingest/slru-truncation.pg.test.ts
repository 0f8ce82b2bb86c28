/**
 * A cluster of some age: its transaction ids are in the fourth epoch, and clog and multixacts span several segments, of which PostgreSQL's own
 * VACUUM cuts the oldest. What ingest keeps is what PostgreSQL then has in its files, and a compute boots from it.
 *
 * Then multixact ids and member offsets that wrap around at 2^32, written by PostgreSQL itself.
 *
 * The age is made: a template whose counters were moved, with empty pages for the transactions that never were.
 */
import { describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { readSlruSegments } from '../../engine/ingest/slru.ts';
import { encodeSegments } from '../../engine/ingest/small-directories.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { pageSize } from '../../engine/limits.ts';
import {
  checkpointKey,
  type SlruKind,
  sizeBlock,
  slruDirectoryKey,
  slruKind,
  slruPrefix,
} from '../../engine/model/key.ts';
import { invalidLsn } from '../../engine/model/lsn.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { bootDirectory, bootFiles, dataDirectory } from '../support/boot-directory.ts';
import { compareDirectory, isRelationFile, readDataDirectory } from '../support/compare-directory.ts';
import { testTemplate } from '../support/test-template.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

const epoch = 3;
const nextXid = 2_200_000;
// Fifty multixacts of two members cross the end of a page in both.
const nextMulti = 200_690;
const nextOffset = 170_103;

/** A transaction and its subtransaction lock the same row; the same members would be the same multixact. */
const fiftyMultixacts = Array.from(
  { length: 50 },
  (_, i) =>
    `begin; select * from x where id = ${i + 1} for share; savepoint a; update x set v = 1 where id = ${i + 1}; commit`,
);

describe('an aged cluster', () => {
  it('loses the segments that VACUUM cuts, and boots', async () => {
    const template = await testTemplate();
    const values = new ValueMap();
    importTemplate(template, values);
    const { lsn } = template;
    const state = (await values.reader().getImage(checkpointKey.prefix, checkpointKey.block))!.slice();
    const view = new DataView(state.buffer);
    view.setUint32(24, nextXid, true);
    view.setUint32(28, epoch, true);
    view.setUint32(36, nextMulti, true);
    view.setUint32(40, nextOffset, true);
    values.putImage(checkpointKey.prefix, checkpointKey.block, lsn, state);
    const fill = (kind: SlruKind, pages: number) => {
      const segments = Array.from({ length: Math.ceil(pages / 32) }, (_, i) => i);
      for (const segment of segments) {
        const size = Math.min(32, pages - segment * 32);
        values.putImage(slruPrefix(kind, segment), sizeBlock, lsn, encodeSize(size));
      }
      const directory = slruDirectoryKey(kind);
      values.putImage(directory.prefix, directory.block, lsn, encodeSegments(segments));
    };
    fill(slruKind.clog, Math.floor(nextXid / 32768) + 1);
    fill(slruKind.multixactOffsets, Math.floor(nextMulti / 2048) + 1);
    // VACUUM looks up where the members of the oldest multixact begin.
    const oldest = new Uint8Array(pageSize);
    oldest[4] = 1;
    values.putImage(slruPrefix(slruKind.multixactOffsets, 0), 0, lsn, oldest);
    fill(slruKind.multixactMembers, Math.floor(nextOffset / 1636) + 1);

    const basebackup = await buildBasebackup(values.reader(), lsn, invalidLsn);
    const pg = await bootDirectory(await dataDirectory(basebackup, values.reader()), keepWal);
    for (const sql of [
      'create table x(id int primary key, v int)',
      'insert into x select g, 0 from generate_series(1, 100) g',
      ...fiftyMultixacts,
      "begin; insert into x values (1000, 1); prepare transaction 'in the fourth epoch'",
      // The other databases cannot be connected to here; they were frozen when the template was made.
      `update pg_database set datfrozenxid = '${nextXid - 50}', datminmxid = '${nextMulti}'
       where datname <> current_database()`,
      "rollback prepared 'in the fourth epoch'",
      'vacuum (freeze)',
      "begin; insert into x values (1001, 1); prepare transaction 'stays'",
      'insert into x values (1002, 2)',
      'checkpoint',
    ]) {
      await pg.exec(sql);
    }
    const endLsn = await currentLsn(pg);
    const ingest = await WalIngest.open(values.reader(), values);
    const decoder = new WalDecoder(lsn);
    decoder.feed(lsn, readPgWal(pg, lsn, endLsn));
    for (let record = decoder.next(); record !== null; record = decoder.next()) await ingest.ingest(record);

    const files = readDataDirectory(pg);
    const segments = async (kind: SlruKind) =>
      (await readSlruSegments(kind, values.reader())).map(({ segment }) => segment);
    expect(await segments(slruKind.clog)).toEqual([2]);
    expect(await segments(slruKind.multixactOffsets)).toEqual([3]);
    expect(await segments(slruKind.multixactMembers)).toEqual([3]);
    expect(await compareDirectory(values, decoder.position, files)).toEqual([]);

    const reader = values.reader(decoder.position);
    const later = bootFiles(
      await buildBasebackup(
        {
          getImage: (prefix, block) =>
            prefix.kind === 0 && prefix.rel !== 0 && block !== sizeBlock
              ? Promise.resolve(null)
              : reader.getImage(prefix, block),
        },
        decoder.position,
        decoder.prevLsn,
      ),
    );
    for (const [path, bytes] of files) if (isRelationFile(path)) later.set(path, bytes);
    const compute = await bootDirectory(later);
    const one = async (sql: string) => (await compute.query<{ value: unknown }>(sql)).rows[0]!.value;
    expect(await one('select count(*)::int as value from x')).toBe(101);
    expect(await one('select sum(v)::int as value from x where id <= 100')).toBe(50);
    expect(Number(await one('select pg_current_xact_id()::text as value'))).toBeGreaterThan(epoch * 2 ** 32 + nextXid);
    await compute.exec("commit prepared 'stays'");
    expect(await one('select count(*)::int as value from x')).toBe(102);
    await Promise.all([pg.close(), compute.close()]);
  });

  it('has multixact ids and member offsets that wrap around', async () => {
    const template = await testTemplate();
    const values = new ValueMap();
    importTemplate(template, values);
    const { lsn } = template;
    const state = (await values.reader().getImage(checkpointKey.prefix, checkpointKey.block))!.slice();
    const view = new DataView(state.buffer);
    const lastMulti = 0xffffffff - 20;
    const lastOffset = 0xffffffff - 40;
    view.setUint32(36, lastMulti, true);
    view.setUint32(40, lastOffset, true);
    view.setUint32(52, lastMulti, true);
    values.putImage(checkpointKey.prefix, checkpointKey.block, lsn, state);
    const only = (kind: SlruKind, page: number) => {
      const directory = slruDirectoryKey(kind);
      values.putImage(directory.prefix, directory.block, lsn, encodeSegments([Math.floor(page / 32)]));
      values.putImage(slruPrefix(kind, Math.floor(page / 32)), sizeBlock, lsn, encodeSize((page % 32) + 1));
    };
    only(slruKind.multixactOffsets, Math.floor(lastMulti / 2048));
    only(slruKind.multixactMembers, Math.floor(lastOffset / 1636));

    const basebackup = await buildBasebackup(values.reader(), lsn, invalidLsn);
    const pg = await bootDirectory(await dataDirectory(basebackup, values.reader()), keepWal);
    await pg.exec('create table x(id int primary key, v int)');
    await pg.exec('insert into x select g, 0 from generate_series(1, 100) g');
    for (const sql of fiftyMultixacts) await pg.exec(sql);
    await pg.exec('checkpoint');
    const ingest = await WalIngest.open(values.reader(), values);
    const decoder = new WalDecoder(lsn);
    decoder.feed(lsn, readPgWal(pg, lsn, await currentLsn(pg)));
    for (let record = decoder.next(); record !== null; record = decoder.next()) await ingest.ingest(record);
    expect(await compareDirectory(values, decoder.position, readDataDirectory(pg))).toEqual([]);
    const { rows } = await pg.query<{ multi: string; offset: string }>(
      'select next_multixact_id::text as multi, next_multi_offset::text as "offset" from pg_control_checkpoint()',
    );
    const after = (await values.reader().getImage(checkpointKey.prefix, checkpointKey.block))!;
    const ours = new DataView(after.buffer, after.byteOffset);
    expect([ours.getUint32(36, true), ours.getUint32(40, true)]).toEqual([
      Number(rows[0]!.multi),
      Number(rows[0]!.offset),
    ]);
    expect(ours.getUint32(36, true)).toBeLessThan(100);
    await pg.close();
  });
});
