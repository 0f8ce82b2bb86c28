/**
 * What PGlite reads from its start to its first query came with the basebackup, also after catalogs were rewritten and have grown.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { pageSize } from '../../engine/limits.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import { formatRel } from '../../engine/model/rel.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { TenantTemplate } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { testTemplate } from '../support/test-template.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

describe('pages that come with a basebackup', () => {
  const values = new ValueMap();
  let template: TenantTemplate;
  let redo: PostgresRedo;

  beforeAll(async () => {
    template = await testTemplate();
    redo = await PostgresRedo.create({ template, log: silentLog });
    importTemplate(template, values);
  });
  afterAll(() => redo?.close());

  /** Boots at `lsn`; relation blocks that were read, and those among them that had come with the basebackup. */
  async function bootReads(lsn: Lsn): Promise<{ read: Set<string>; came: Set<string> }> {
    const reader = values.reader(lsn, redo);
    const basebackup = await buildBasebackup(reader, lsn, invalidLsn);
    const came = new Set<string>();
    for (const { rel, firstBlock, pages } of basebackup.prewarm) {
      for (let i = 0; i < pages.length / pageSize; i++) came.add(`${formatRel(rel)} ${firstBlock + i}`);
    }
    const read = new Set<string>();
    const watch = (path: string, position: number, length: number) => {
      const match = /^\/pglite\/data\/(?:base\/(\d+)|global)\/(\d+)$/.exec(path);
      if (!match) return;
      const rel = { spc: match[1] ? 1663 : 1664, db: Number(match[1] ?? 0), rel: Number(match[2]), fork: 0 } as const;
      for (let at = 0; at < length; at += pageSize) read.add(`${formatRel(rel)} ${(position + at) / pageSize}`);
    };
    const pg = await bootDirectory(await dataDirectory(basebackup, reader), [], (host) => watchReads(host, watch));
    await pg.query('select 1');
    await pg.close();
    return { read, came };
  }

  it('are those that a fresh compute reads', async () => {
    const { read, came } = await bootReads(template.lsn);
    expect(read.size).toBeGreaterThan(80);
    const missing = [...read].filter((block) => !came.has(block));
    // Single pages of pg_proc and pg_statistic are not worth sending all of them.
    expect([missing.length <= 8, missing]).toEqual([true, missing]);
  });

  it('are those that a compute reads after its catalogs were rewritten and have grown', async () => {
    const start = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
    const pg = await bootDirectory(await dataDirectory(start, values.reader()), keepWal);
    await pg.exec('vacuum full pg_class');
    await pg.exec('vacuum full pg_attribute');
    await pg.exec(
      "do $$ begin for i in 1..200 loop execute format('create table t%s(id int primary key, a int, b text)', i); end loop; end $$",
    );
    const lsn = await currentLsn(pg);
    await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
    const decoder = new WalDecoder(template.lsn);
    decoder.feed(template.lsn, readPgWal(pg, template.lsn, lsn));
    const ingest = await WalIngest.open(values.reader(undefined, redo), values);
    for (let record = decoder.next(); record !== null; record = decoder.next()) await ingest.ingest(record);
    await pg.close();
    const { read, came } = await bootReads(decoder.position);
    expect(read.size).toBeGreaterThan(80);
    const missing = [...read].filter((block) => !came.has(block));
    expect([missing.length <= 12, missing]).toEqual([true, missing]);
  });
});

/** Tells of every read of a file from now on. */
function watchReads(pg: PGlite, tell: (path: string, position: number, length: number) => void): void {
  const { FS } = pg.Module;
  const stream = FS.open('/pglite/data/PG_VERSION', 'r');
  const operations: { read: FileRead } = stream.stream_ops;
  FS.close(stream);
  const { read } = operations;
  operations.read = (from, buffer, offset, length, position) => {
    tell(from.path ?? '', position ?? 0, length);
    return read(from, buffer, offset, length, position);
  };
}

/** Emscripten's stream_ops.read, which all files in memory share. */
type FileRead = (
  from: { readonly path?: string },
  buffer: Uint8Array,
  offset: number,
  length: number,
  position?: number,
) => number;
