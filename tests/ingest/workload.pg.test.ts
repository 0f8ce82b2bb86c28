/**
 * What ingest keeps beside relation pages is, at every LSN looked at, what PostgreSQL itself has in its files; and a compute boots there.
 *
 * A plain PGlite starts from the template and runs a workload in stages; its WAL is ingested over the imported template. After each stage, at
 * the end of a checkpoint, everything is compared with the plain PGlite's files: which relation forks exist and their sizes, clog, multixacts,
 * relation maps, prepared transactions, visibility map bits. Then a PGlite boots from a basebackup at that LSN and must answer as the plain one.
 *
 * Relation pages themselves are the subject of redo's tests; here they are taken from the plain PGlite's files.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { pageSize } from '../../engine/limits.ts';
import { keyKind, sizeBlock } from '../../engine/model/key.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { ValueReader } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { bootDirectory, bootFiles, dataDirectory } from '../support/boot-directory.ts';
import {
  compareDirectory,
  type DirectoryFiles,
  isRelationFile,
  readDataDirectory,
} from '../support/compare-directory.ts';
import { stages } from '../support/ingest-workload.ts';
import { testTemplate } from '../support/test-template.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

interface Snapshot {
  readonly lsn: Lsn;
  readonly prevLsn: Lsn;
  readonly files: DirectoryFiles;
  readonly answers: unknown;
}

/** Questions whose answers depend on clog, multixacts, prepared transactions, maps and sizes. */
const questions = [
  "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relpersistence = 'p' order by 1",
  'select gid, owner, database from pg_prepared_xacts order by 1',
  'select datname from pg_database order by 1',
  'select count(*) as n, sum(hashtext(v::text)) as h from t',
  'select count(*) as n, sum(length(v)) as h from toasted',
  'select md5(lo_get(100000)) as lo',
  'select count(*) as n, sum(id) as s, sum(v) as v from x',
  'select id from x where id between 1990 and 2100 order by 1',
  'select count(*) as n, sum(id) as s from tail',
  'select count(*) as n, sum(v) as v from clustered',
];

async function ask(pg: PGlite): Promise<unknown[]> {
  const answers: unknown[] = [];
  for (const question of questions) {
    try {
      answers.push((await pg.query(question)).rows);
    } catch (error) {
      answers.push((error as Error).message);
    }
  }
  return answers;
}

/** Relation pages out of a data directory's files, everything else out of `reader`. */
function withPagesOf(files: DirectoryFiles, reader: ValueReader): ValueReader {
  return {
    getImage: async (prefix, block) => {
      if (prefix.kind !== keyKind.rel || prefix.rel === 0 || block === sizeBlock) return reader.getImage(prefix, block);
      const folder = prefix.db === 0 ? 'global' : `base/${prefix.db}`;
      const file = files.get(`${folder}/${prefix.rel}`);
      return file?.slice(block * pageSize, (block + 1) * pageSize) ?? null;
    },
  };
}

async function run(pg: PGlite, statement: string): Promise<void> {
  if (!statement.startsWith('!')) await pg.exec(statement);
  else await expect(pg.exec(statement.slice(1))).rejects.toThrow();
}

describe('ingest of a workload, stage by stage', () => {
  let pg: PGlite;
  const values = new ValueMap();
  const snapshots: Snapshot[] = [];

  beforeAll(async () => {
    const template = await testTemplate();
    importTemplate(template, values);
    const basebackup = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
    pg = await bootDirectory(await dataDirectory(basebackup, values.reader()), keepWal);
    const ingest = await WalIngest.open(values.reader(), values);
    const decoder = new WalDecoder(template.lsn, { systemIdentifier: template.systemIdentifier });
    for (const stage of stages) {
      for (const statement of stage.sql) await run(pg, statement);
      await pg.exec('checkpoint');
      decoder.feed(decoder.fedTo, readPgWal(pg, decoder.fedTo, await currentLsn(pg)));
      for (let record = decoder.next(); record !== null; record = decoder.next()) {
        const pending = ingest.ingest(record);
        if (pending !== undefined) await pending;
      }
      const { position: lsn, prevLsn } = decoder;
      snapshots.push({ lsn, prevLsn, files: readDataDirectory(pg), answers: await ask(pg) });
    }
  });
  afterAll(() => pg.close());

  for (const [index, { name }] of stages.entries()) {
    it(`keeps the same state as PostgreSQL after: ${name}`, async () => {
      const { lsn, files } = snapshots[index]!;
      expect(await compareDirectory(values, lsn, files)).toEqual([]);
    });

    it(`boots after: ${name}`, async () => {
      const { lsn, prevLsn, files, answers } = snapshots[index]!;
      const basebackup = await buildBasebackup(withPagesOf(files, values.reader(lsn)), lsn, prevLsn);
      const directory = bootFiles(basebackup);
      for (const [path, bytes] of files) if (isRelationFile(path)) directory.set(path, bytes);
      const compute = await bootDirectory(directory);
      try {
        expect(await ask(compute)).toEqual(answers);
        // What was prepared before the boot can be ended after it: its state file, its locks and its row are there.
        const prepared = await compute.query<{ gid: string }>("select gid from pg_prepared_xacts where gid = 'stays'");
        for (const { gid } of prepared.rows) {
          await compute.exec(`commit prepared '${gid}'`);
          expect((await compute.query('select id from x where id = 2004')).rows).toEqual([{ id: 2004 }]);
          await expect(compute.query('select * from kept')).rejects.toThrow('does not exist');
        }
        await compute.exec('create table after_boot(id serial primary key); insert into after_boot default values');
        expect((await compute.query('select * from after_boot')).rows).toEqual([{ id: 1 }]);
        await compute.exec('checkpoint');
      } finally {
        await compute.close();
      }
    });
  }
});
