/**
 * Full-page images of real WAL are the pages that Postgres wrote to its files, compressed or not; and the WAL of both is restored to the same.
 * Which methods of wal_compression this build has is part of the test: one that comes with another build must not go unnoticed.
 */
import { describe, expect, it } from 'vitest';
import { pageSize } from '../../engine/limits.ts';
import { restoreImage } from '../../engine/wal/block-image.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { captureWal, plainPglite } from '../support/wal-fixture.ts';

const compressed = 0x1c;

/** Indexes are built page by page and logged as images; nothing changes them afterwards. */
async function imagesOfBuiltIndexes(method: string) {
  const pg = await plainPglite([`wal_compression=${method}`]);
  try {
    await pg.exec(`create table t(id int, v text, n int);
      insert into t select g, repeat(md5((g % 40)::text), 1 + g % 9), g % 50 from generate_series(1, 3000) g`);
    const { startLsn, wal } = await captureWal(pg, [
      'create index t_v on t(v)',
      'create index t_n on t using hash (n)',
      'create index t_p on t using gist (point(id, n))',
      'create index t_t on t using gin (to_tsvector($$simple$$, v))',
    ]);
    await pg.exec('checkpoint');
    const { rows } = await pg.query<{ file: number; path: string }>(
      `select pg_relation_filenode(oid)::int8::float8 as file, pg_relation_filepath(oid) as path from pg_class
       where relname in ('t_v', 't_p', 't_t')`,
    );
    const files = new Map<number, Uint8Array>(
      rows.map(({ file, path }) => [file, pg.Module.FS.readFile(`/pglite/data/${path}`)]),
    );
    const decoder = new WalDecoder(startLsn);
    decoder.feed(startLsn, wal);
    let [equal, packed, holes] = [0, 0, 0];
    const last = new Map<
      string,
      { page: Uint8Array; file: number; block: number; hole: [start: number, end: number] }
    >();
    for (let record = decoder.next(); record !== null; record = decoder.next()) {
      for (let i = 0; i < record.blockCount; i++) {
        const block = record.blocks[i]!;
        if (!files.has(block.rel) || block.fork !== 0) continue;
        const name = `${block.rel}/${block.block}`;
        if (!block.applyImage) {
          last.delete(name);
          continue;
        }
        if (block.imageInfo & compressed) packed++;
        if (block.holeLength > 0) holes++;
        const hole: [number, number] = [block.holeOffset, block.holeOffset + block.holeLength];
        last.set(name, { page: restoreImage(record, block), file: block.rel, block: block.block, hole });
      }
    }
    for (const { page, file, block, hole } of last.values()) {
      const written = files.get(file)!.slice(block * pageSize, (block + 1) * pageSize);
      // Postgres leaves what it moved away from in the free space; an image has zeros there.
      written.fill(0, ...hole);
      const at = page.findIndex((byte, i) => byte !== written[i]);
      expect(at, `block ${block} of ${file}`).toBe(-1);
      equal++;
    }
    return { equal, packed, holes };
  } finally {
    await pg.close();
  }
}

describe('full-page images', () => {
  it('are the written pages when wal_compression is off', async () => {
    const { equal, packed, holes } = await imagesOfBuiltIndexes('off');
    expect(packed).toBe(0);
    expect(equal).toBeGreaterThan(50);
    expect(holes).toBeGreaterThan(50);
  });

  it('are the written pages when wal_compression is pglz', async () => {
    const { equal, packed } = await imagesOfBuiltIndexes('pglz');
    expect(packed).toBeGreaterThan(40);
    expect(equal).toBeGreaterThan(50);
  });

  it('come in no other way: this build has pglz only', async () => {
    const pg = await plainPglite();
    const { rows } = await pg.query<{ enumvals: string[] }>(
      "select enumvals from pg_settings where name = 'wal_compression'",
    );
    await pg.close();
    expect(rows[0]!.enumvals).toEqual(['pglz', 'on', 'off']);
  });
});
