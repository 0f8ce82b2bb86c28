/**
 * Every page that Postgres wrote, rebuilt from WAL alone by rm_redo one page at a time, is the page that Postgres has on its disk, under
 * Postgres's own rm_mask. Over every access method and every kind of record that changes pages (tests/support/redo-workload.ts).
 *
 * Only what Postgres itself does not log may differ, by name: tests/support/page-equality.ts.
 */
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import { isPageliteError } from '../../engine/errors.ts';
import { pageRecordNames } from '../../engine/ingest/page-records.ts';
import { readRels } from '../../engine/ingest/readers.ts';
import { decodeDatabases } from '../../engine/ingest/small-directories.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { pageSize } from '../../engine/limits.ts';
import { dbDirectoryKey, relPrefix } from '../../engine/model/key.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import { fsmFork, globalTablespace } from '../../engine/model/rel.ts';
import { valueKind } from '../../engine/model/value.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { RedoRequest } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { rmgr } from '../../engine/wal/wal-record.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { accessMethods, comparePages, databaseOids } from '../support/page-equality.ts';
import { redoWorkload } from '../support/redo-workload.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

/** Extensions write it: redo.pg.test.ts. */
const writtenElsewhere = 'generic GENERIC';
/** Written for logical decoding and for standbys only, or without blocks. */
const withoutPages = /REWRITE|NEW_CID|heap TRUNCATE|REUSE|ASSIGN_LSN|META_CLEANUP|\+INIT$/;

const rmgrName = (rmid: number) => Object.entries(rmgr).find(([, id]) => id === rmid)![0];

describe('WAL redo with rm_redo', () => {
  const seen = new Set<string>();
  const values = new ValueMap();
  let pg: PGlite;
  let redo: PostgresRedo;
  let endLsn: Lsn;
  /** relfilenode -> access method, of the database that ran the workload and of shared catalogs. */
  let methods: Map<number, string>;
  let copiedByWal: number | undefined;

  beforeAll(async () => {
    const template = await createTenantTemplate();
    redo = await PostgresRedo.create({ template, log: silentLog });
    importTemplate(template, values);
    const start = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
    pg = await bootDirectory(await dataDirectory(start, values.reader()), keepWal);
    for (const sql of redoWorkload) await pg.exec(sql);
    await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
    endLsn = await currentLsn(pg);
    const wal = readPgWal(pg, template.lsn, endLsn);
    await pg.exec('checkpoint');
    methods = await accessMethods(pg);
    copiedByWal = (await databaseOids(pg)).get('by_wal');

    const ingest = await WalIngest.open(values.reader(endLsn, redo), values);
    const decoder = new WalDecoder(template.lsn, { systemIdentifier: template.systemIdentifier });
    decoder.feed(template.lsn, wal);
    for (let record = decoder.next(); record !== null; record = decoder.next()) {
      const name = pageRecordNames[record.rmid]?.[record.info >> 4];
      if (name) seen.add(`${rmgrName(record.rmid)} ${name}`);
      await ingest.ingest(record);
    }
    expect(decoder.position).toBe(endLsn);
  });
  afterAll(async () => {
    await pg?.close();
    await redo?.close();
  });

  it('is shown every kind of record that changes pages', () => {
    const missing = Object.entries(pageRecordNames)
      .filter(([rmid]) => ![rmgr.standby, rmgr.logicalMessage].includes(Number(rmid) as never))
      .flatMap(([rmid, names]) =>
        names.filter((name) => name !== '').map((name) => `${rmgrName(Number(rmid))} ${name}`),
      )
      .filter((name) => !seen.has(name) && name !== writtenElsewhere && !withoutPages.test(name));
    expect(missing).toEqual([]);
    for (const name of ['heap INSERT+INIT', 'heap UPDATE+INIT', 'heap2 MULTI_INSERT+INIT', 'brin INSERT+INIT']) {
      expect(seen).toContain(name);
    }
  });

  it('rebuilds every page', async () => {
    const reader = values.reader(endLsn, redo);
    const differing: string[] = [];
    let compared = 0;
    let rebuilt = 0;
    for (const { spc, db } of decodeDatabases(await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block))) {
      const folder = spc === globalTablespace ? 'global' : `base/${db}`;
      for (const { rel, size } of await readRels(reader, spc, db)) {
        // The free space map is not logged; unlogged relations have only their init fork here.
        if (rel.fork === fsmFork || size === 0) continue;
        const file = `/pglite/data/${folder}/${rel.rel}${['', '_fsm', '_vm', '_init'][rel.fork]}`;
        const theirs: Uint8Array = pg.Module.FS.readFile(file);
        const method = methods.get(rel.rel) ?? 'heap';
        for (let block = 0; block < size; block++) {
          const versions = values.versions(relPrefix(rel), block);
          if (
            versions.some((version) => version.kind === valueKind.record || version.kind === valueKind.recordWillInit)
          )
            rebuilt++;
          const ours = (await reader.getImage(relPrefix(rel), block)) ?? new Uint8Array(pageSize);
          const page = theirs.slice(block * pageSize, (block + 1) * pageSize);
          const comparison = comparePages(
            { method, fork: rel.fork, block, copiedByWal: db === copiedByWal },
            ours,
            page,
            redo,
          );
          compared++;
          if (comparison.kind === 'different') {
            differing.push(
              `${method} ${folder}/${rel.rel}_${rel.fork} block ${block} from byte ${comparison.at}, ${versions.length} versions`,
            );
          }
        }
      }
    }
    console.info(`${compared} pages compared, ${rebuilt} of them rebuilt from WAL records`);
    expect(rebuilt).toBeGreaterThan(1000);
    expect(differing).toEqual([]);
  });

  it('gives an error for one bad page and rebuilds the next', async () => {
    const good = values.keys().find(({ prefix, block }) => {
      const versions = values.versions(prefix, block);
      return (
        prefix.kind === 0 &&
        prefix.fork === 0 &&
        versions.length > 3 &&
        versions.every((v) => v.kind === valueKind.record || v.kind === valueKind.recordWillInit)
      );
    })!;
    const versions = values.versions(good.prefix, good.block);
    const { spc, db, rel } = good.prefix;
    const request: RedoRequest = {
      rel: { spc, db, rel, fork: 0 },
      block: good.block,
      base: null,
      lsns: versions.map((version) => version.lsn),
      records: versions.map((version) => version.bytes),
    };
    const page = redo.redoPage(request);
    for (let round = 0; round < 3; round++) {
      // The first record initialises the page; without the second the others do not fit, and Postgres panics.
      const broken = {
        ...request,
        lsns: [request.lsns[0]!, ...request.lsns.slice(2)],
        records: [request.records[0]!, ...request.records.slice(2)],
      };
      let error: unknown = null;
      try {
        redo.redoPage(broken);
      } catch (caught) {
        error = caught;
      }
      expect(isPageliteError(error, 'corrupt')).toBe(true);
      expect(String(error)).toContain(`block ${good.block}`);
      await redo.ready();
      expect(redo.redoPage(request)).toEqual(page);

      const garbage = request.records.map((record) => record.slice());
      garbage.at(-1)!.fill(0xff, 24);
      expect(() => redo.redoPage({ ...request, records: garbage })).toThrow(/WAL record/);
      expect(redo.redoPage(request)).toEqual(page);

      // An info that heap does not know is an ereport(PANIC) in heap_redo; in the sequence manager, too.
      const unknown = request.records.map((record) => record.slice());
      unknown.at(-1)![17] = rmgr.sequence;
      unknown.at(-1)![16] = 0x70;
      expect(() => redo.redoPage({ ...request, records: unknown })).toThrow(/cannot redo/);
      await redo.ready();
      expect(redo.redoPage(request)).toEqual(page);
    }
  });
});
