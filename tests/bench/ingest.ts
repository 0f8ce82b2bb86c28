/**
 * How fast a pageserver takes in WAL, against how fast a PGlite can make it.
 *
 * A PGlite in memory (no disk in the way: the most that one can make) inserts rows in bulk into a table with a primary key and a second index.
 * Its WAL is then decoded and ingested into open layers, each dropped when it is full, which is what the pageserver's ingest loop does.
 */
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import { WalIngest } from '../../engine/ingest/wal-ingest.ts';
import { InMemoryLayer } from '../../engine/layers/in-memory-layer.ts';
import { ingestBytesPerTurn, openLayerBytesMax } from '../../engine/limits.ts';
import type { KeyPrefix } from '../../engine/model/key.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { TenantTemplate, ValueSink } from '../../engine/services.ts';
import { WalDecoder } from '../../engine/wal/wal-decoder.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { ValueMap } from '../support/value-map.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';

/** The timeline's open layer, as far as ingest sees it. */
class OpenLayers implements ValueSink {
  #layer = new InMemoryLayer(invalidLsn);
  layers = 1;

  #open(): InMemoryLayer {
    if (this.#layer.bytes < openLayerBytesMax) return this.#layer;
    this.layers++;
    this.#layer = new InMemoryLayer(invalidLsn);
    return this.#layer;
  }

  addRecord(lsn: Lsn, bytes: Uint8Array, start: number, length: number): number {
    return this.#open().addRecord(lsn, bytes, start, length);
  }
  putRecord(prefix: KeyPrefix, block: number, lsn: Lsn, handle: number, willInit: boolean): void {
    this.#layer.putRecord(prefix, block, lsn, handle, willInit);
  }
  putImage(prefix: KeyPrefix, block: number, lsn: Lsn, image: Uint8Array): void {
    this.#layer.putImage(prefix, block, lsn, image);
  }
  putPatch(prefix: KeyPrefix, block: number, lsn: Lsn, patch: Uint8Array): void {
    this.#layer.putPatch(prefix, block, lsn, patch);
  }
}

interface Work {
  readonly template: TenantTemplate;
  readonly startLsn: Lsn;
  readonly wal: Uint8Array;
}

/** Runs the inserts `rounds` times; the WAL of the last is what is ingested. Returns seconds and bytes of each. */
async function produce(context: BenchContext): Promise<{ rates: number[]; work: Work }> {
  const template = await createTenantTemplate();
  const values = new ValueMap();
  importTemplate(template, values);
  const basebackup = await buildBasebackup(values.reader(), template.lsn, invalidLsn);
  const pg = await bootDirectory(await dataDirectory(basebackup, values.reader()), keepWal);
  try {
    const rows = Math.round(150_000 * context.scale);
    const rates: number[] = [];
    for (let round = 0; round < context.rounds; round++) {
      await pg.exec(`create table t${round}(id int primary key, v text, n int); create index on t${round}(n)`);
      const before = await currentLsn(pg);
      const ms = await timed(() =>
        pg.exec(
          `insert into t${round} select g, md5(g::text), (g::bigint * 7919) % 1000003 from generate_series(1, ${rows}) g`,
        ),
      );
      const bytes = (await currentLsn(pg)) - before;
      rates.push(bytes / 1e3 / ms);
      context.say(`PGlite: ${(bytes / 1e6).toFixed(0)} MB of WAL in ${ms.toFixed(0)} ms`);
    }
    const startLsn = template.lsn;
    return { rates, work: { template, startLsn, wal: readPgWal(pg, startLsn, await currentLsn(pg)) } };
  } finally {
    await pg.close();
  }
}

const messages = (work: Work, take: (lsn: Lsn, bytes: Uint8Array) => void): void => {
  for (let at = 0; at < work.wal.length; at += ingestBytesPerTurn) {
    take((work.startLsn + at) as Lsn, work.wal.subarray(at, at + ingestBytesPerTurn));
  }
};

/** MB/s of the decoder alone. */
async function decodeRate(work: Work): Promise<number> {
  const decoder = new WalDecoder(work.startLsn);
  const ms = await timed(() =>
    messages(work, (lsn, bytes) => {
      decoder.feed(lsn, bytes);
      while (decoder.next() !== null);
    }),
  );
  return work.wal.length / 1e3 / ms;
}

/** MB/s of decoder and ingest together. */
async function ingestRate(work: Work): Promise<number> {
  const values = new ValueMap();
  importTemplate(work.template, values);
  const layers = new OpenLayers();
  const ingest = await WalIngest.open(values.reader(), layers);
  const decoder = new WalDecoder(work.startLsn);
  const ms = await timed(async () => {
    for (let at = 0; at < work.wal.length; at += ingestBytesPerTurn) {
      decoder.feed((work.startLsn + at) as Lsn, work.wal.subarray(at, at + ingestBytesPerTurn));
      for (let record = decoder.next(); record !== null; record = decoder.next()) {
        const pending = ingest.ingest(record);
        if (pending !== undefined) await pending;
      }
    }
  });
  return work.wal.length / 1e3 / ms;
}

export const ingestBenchmark: Benchmark = {
  name: 'ingest',
  about: 'WAL ingest against the WAL that a PGlite can make',
  async run(context: BenchContext): Promise<Row[]> {
    const { rates, work } = await produce(context);
    await ingestRate(work);
    const [decode, ingest] = await interleave(context.rounds, [() => decodeRate(work), () => ingestRate(work)]);
    const mb = (rate: number) => `${rate.toFixed(0)} MB/s`;
    return [
      {
        what: 'WAL ingest, bulk insert',
        measured: mb(median(ingest!)),
        against: 'WAL that PGlite makes, bulk insert in memory',
        baseline: mb(median(rates)),
        ratio: median(ingest!) / median(rates),
        target: { op: '>=', bound: 3 },
        note: `decoder alone ${mb(median(decode!))}; ingest ${spread(ingest!)}, PGlite ${spread(rates)} MB/s`,
      },
    ];
  },
};
