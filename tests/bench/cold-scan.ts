/**
 * A sequential scan of a 200 MB table whose pages all come from the pageserver process, against the same scan with the pages at the compute.
 *
 * The table is built by single-row inserts, the hardest case for the pageserver (each page is the work of many records).
 */
import { join } from 'node:path';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type BenchContext, type Benchmark, median, type Row, spread, timed } from './harness.ts';
import { RemoteRepository } from './remote-compute.ts';

const cacheBytes = 512 * 1024 * 1024;
const rowsFull = 800_000;

export const coldScanBenchmark: Benchmark = {
  name: 'cold-scan',
  about: 'a cold sequential scan of a 200 MB table from the pageserver process against a warm one',
  async run(context: BenchContext): Promise<Row[]> {
    const artefacts = await loadPGliteArtefacts();
    const repository = RemoteRepository.start(join(context.folder, 'repository'));
    try {
      const rows = Math.round(rowsFull * context.scale);
      const writer = await repository.open(repository.main, artefacts, cacheBytes);
      await writer.pg.exec('create table big(id int, v text)');
      const load = await timed(() =>
        writer.pg.exec(`insert into big select g, repeat(md5(g::text), 6) from generate_series(1, ${rows}) g`),
      );
      const { rows: sizes } = await writer.pg.query<{ mb: number }>(
        `select (pg_relation_size('big') / 1e6)::float8 as mb`,
      );
      context.say(`loaded ${sizes[0]!.mb.toFixed(0)} MB in ${(load / 1000).toFixed(1)} s`);
      await writer.close();
      await repository.flush(repository.main);

      const cold: number[] = [];
      const warm: number[] = [];
      for (let round = 0; round < context.rounds; round++) {
        const reader = await repository.open(repository.main, artefacts, cacheBytes);
        const scan = () => reader.pg.query('select count(*), sum(length(v)) from big');
        cold.push(await timed(scan));
        await scan();
        warm.push(await timed(scan));
        context.say(`cold ${cold.at(-1)!.toFixed(0)} ms, warm ${warm.at(-1)!.toFixed(0)} ms`);
        await reader.close();
      }
      return [
        {
          what: `cold sequential scan, ${sizes[0]!.mb.toFixed(0)} MB`,
          measured: `${median(cold).toFixed(0)} ms`,
          against: 'the same scan warm',
          baseline: `${median(warm).toFixed(0)} ms`,
          ratio: median(cold) / median(warm),
          target: { op: '<=', bound: 4 },
          note: `${spread(cold)} and ${spread(warm)}`,
        },
      ];
    } finally {
      repository.stop();
    }
  },
};
