/**
 * How many WAL records a second Postgres's rm_redo replays in a PGlite instance, page by page, against how many the decoder reads.
 *
 * The WAL is that of the broad workload (every access method, DDL, vacuum) and of more rows in a table with an index of each kind; every page of every
 * relation is rebuilt from its records, as a pageserver does for a page that has no image.
 */
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { keyKind } from '../../engine/model/key.ts';
import { invalidLsn } from '../../engine/model/lsn.ts';
import type { ForkNumber } from '../../engine/model/rel.ts';
import { valueKind } from '../../engine/model/value.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import type { RedoRequest } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { redoWorkload } from '../support/redo-workload.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

/** Runs of WAL records of one page that need nothing but an image before them; patches end a run. */
function requestsOf(values: ValueMap): RedoRequest[] {
  const requests: RedoRequest[] = [];
  for (const { prefix, block } of values.keys()) {
    if (prefix.kind !== keyKind.rel || prefix.rel === 0) continue;
    const rel = { spc: prefix.spc, db: prefix.db, rel: prefix.rel, fork: prefix.fork as ForkNumber };
    let base: Uint8Array | null = null;
    const lsns = [];
    const records: Uint8Array[] = [];
    for (const { lsn, kind, bytes } of values.versions(prefix, block)) {
      if (kind === valueKind.image && records.length === 0) base = bytes.length === 8192 ? bytes : null;
      else if (kind === valueKind.record || kind === valueKind.recordWillInit) {
        lsns.push(lsn);
        records.push(bytes);
      } else break;
    }
    const initialised =
      base !== null || (records.length > 0 && values.versions(prefix, block)[0]!.kind === valueKind.recordWillInit);
    if (records.length > 0 && initialised) requests.push({ rel, block, base, lsns, records });
  }
  return requests;
}

export const redoBenchmark: Benchmark = {
  name: 'redo',
  about: 'WAL redo by rm_redo, all resource managers mixed, against the decoder',
  async run(context: BenchContext): Promise<Row[]> {
    const template = await createTenantTemplate();
    const values = new ValueMap();
    importTemplate(template, values);
    const redo = await PostgresRedo.create({ template, log: silentLog });
    const start = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
    const pg = await bootDirectory(await dataDirectory(start, values.reader()), keepWal);
    const rows = Math.round(20_000 * context.scale);
    const more = `insert into t(v, n) select 'more ' || g || md5(g::text), g from generate_series(1, ${rows}) g`;
    for (const sql of [...redoWorkload, more, 'update t set n = n + 1 where id % 5 = 0', 'vacuum t'])
      await pg.exec(sql);
    await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
    const wal = readPgWal(pg, template.lsn, await currentLsn(pg));
    await pg.close();
    const decode = () => {
      const decoder = new WalDecoder(template.lsn);
      decoder.feed(template.lsn, wal);
      let count = 0;
      while (decoder.next() !== null) count++;
      return count;
    };
    const ingest = await WalIngest.open(values.reader(undefined, redo), values);
    const decoder = new WalDecoder(template.lsn);
    decoder.feed(template.lsn, wal);
    for (let record = decoder.next(); record !== null; record = decoder.next()) await ingest.ingest(record);

    const requests = requestsOf(values);
    const records = requests.reduce((sum, request) => sum + request.records.length, 0);
    context.say(`${records} records on ${requests.length} pages, ${(wal.length / 1e6).toFixed(0)} MB of WAL`);
    const replay = () => {
      for (const request of requests) redo.redoPage(request);
    };
    replay();
    const total = decode();
    const [redone, decoded] = await interleave(context.rounds, [
      async () => (records / (await timed(replay))) * 1000,
      async () => (total / (await timed(decode))) * 1000,
    ]);
    await redo.close();
    const perSecond = (rate: number) => `${Math.round(rate).toLocaleString('en')}/s`;
    const measured = median(redone!);
    return [
      {
        what: 'WAL redo, records a second',
        measured: perSecond(measured),
        against: 'decoder alone on the same WAL',
        baseline: perSecond(median(decoded!)),
        ratio: measured / median(decoded!),
        target: { op: '>=', bound: 0.2 },
        note: `${records} records on ${requests.length} pages; ${spread(redone!)}`,
      },
      {
        what: 'WAL redo, records a second',
        measured: perSecond(measured),
        against: 'what the issue asks for',
        baseline: perSecond(200_000),
        ratio: measured / 200_000,
        target: { op: '>=', bound: 1 },
      },
    ];
  },
};
