/**
 * A template imported into values and taken out again as a basebackup is a data directory that Postgres boots from, at its LSN and at any LSN
 * that a synthetic checkpoint can be placed at: inside a page, at a page's end, at a segment's end, straddling either.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { createTenantTemplate, decodeTemplate, encodeTemplate } from '../../engine/basebackup/tenant-template.ts';
import { crc32c } from '../../engine/crc32c.ts';
import { pageSize, walSegmentSize } from '../../engine/limits.ts';
import { invalidLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import type { TenantTemplate } from '../../engine/services.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { ValueMap } from '../support/value-map.ts';

describe('tenant template', () => {
  let template: TenantTemplate;
  const values = new ValueMap();

  beforeAll(async () => {
    template = await createTenantTemplate();
    importTemplate(template, values);
  });

  it('survives its encoding, and a damaged blob is refused', () => {
    const blob = encodeTemplate(template);
    const back = decodeTemplate(blob);
    expect(back.lsn).toBe(template.lsn);
    expect(back.systemIdentifier).toBe(template.systemIdentifier);
    const digest = (files: TenantTemplate['files']) =>
      files.map(({ path, bytes }) => [path, bytes?.length, bytes && crc32c(bytes)]);
    expect(digest(back.files)).toEqual(digest(template.files));
    for (const at of [0, 30, 5000, blob.length - 1]) {
      blob[at]! ^= 1;
      expect(() => decodeTemplate(blob)).toThrow(/template|check/);
      blob[at]! ^= 1;
    }
    expect(() => decodeTemplate(blob.subarray(0, blob.length - 100))).toThrow(/check/);
  });

  const next = (lsn: number, size: number) => Math.ceil((lsn + 1) / size) * size;
  const places: [string, (lsn: number) => number][] = [
    ['its own LSN', (lsn) => lsn],
    ['the end of a page', (lsn) => next(lsn, pageSize)],
    ['a record that straddles a page', (lsn) => next(lsn, pageSize) - 40],
    ['the last 8 bytes of a page', (lsn) => next(lsn, pageSize) - 8],
    ['the end of a segment', (lsn) => next(lsn, walSegmentSize)],
    ['a record that straddles a segment', (lsn) => next(lsn, walSegmentSize) - 64],
    ['beyond 4 GB of WAL', () => 0x5_1234_5678],
  ];
  for (const [name, place] of places) {
    it(`boots and writes at ${name}`, async () => {
      const lsn = place(template.lsn) as Lsn;
      const reader = values.reader();
      const basebackup = await buildBasebackup(reader, lsn, invalidLsn);
      const pg = await bootDirectory(await dataDirectory(basebackup, reader));
      const { rows } = await pg.query<{ lsn: string; role: string }>(
        `select pg_current_wal_insert_lsn()::text as lsn, (select rolname from pg_roles where rolname = 'cloud_admin') as role`,
      );
      expect(rows[0]!.role).toBe('cloud_admin');
      expect(parseLsn(rows[0]!.lsn)).toBeGreaterThan(lsn);
      expect(parseLsn(rows[0]!.lsn)).toBeLessThan(lsn + 400);
      await pg.exec(
        'create table t(id serial primary key, v text); insert into t(v) select g::text from generate_series(1, 100) g',
      );
      expect((await pg.query('select count(*)::int as n, max(id) as m from t')).rows).toEqual([{ n: 100, m: 100 }]);
      await pg.close();
    });
  }
});
