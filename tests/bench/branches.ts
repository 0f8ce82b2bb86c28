/**
 * Branches of a 500 MB database: opening one to its first row against PGlite opening a folder with the same data, and making one against
 * making one of an empty database.
 */
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type BenchContext, type Benchmark, interleave, median, type Row, spread, timed } from './harness.ts';
import { RemoteRepository } from './remote-compute.ts';

const rowsFull = 450_000;
const cacheBytes = 64 * 1024 * 1024;

export const branchesBenchmark: Benchmark = {
  name: 'branches',
  about: 'opening and making a branch of a 500 MB database',
  async run(context: BenchContext): Promise<Row[]> {
    const artefacts = await loadPGliteArtefacts();
    const { pgliteWasmModule, initdbWasmModule, fsBundle } = artefacts;
    const repository = RemoteRepository.start(join(context.folder, 'repository'));
    try {
      const rows = Math.round(rowsFull * context.scale);
      const load = `create table big(id int primary key, v text);
        insert into big select g, repeat(md5(g::text), 33) from generate_series(1, ${rows}) g`;
      const empty = await repository.createBranch(repository.main);
      const writer = await repository.open(repository.main, artefacts, cacheBytes);
      const took = await timed(() => writer.pg.exec(load));
      const { rows: sizes } = await writer.pg.query<{ mb: number }>(
        'select (pg_database_size(current_database()) / 1e6)::float8 as mb',
      );
      const size = `${sizes[0]!.mb.toFixed(0)} MB`;
      context.say(`loaded ${size} into the repository in ${(took / 1000).toFixed(1)} s`);
      await writer.close();
      await repository.flush(repository.main);
      const folder = join(context.folder, 'pglite');
      const plain = await PGlite.create(folder, { pgliteWasmModule, initdbWasmModule, fsBundle });
      await plain.exec(load);
      await plain.close();
      context.say('loaded the same into a folder of PGlite');

      const first = 'select id, length(v) from big where id = 4242';
      const [ours, theirs] = await interleave(context.rounds, [
        async () => {
          const branch = await repository.createBranch(repository.main);
          let close = async () => {};
          const ms = await timed(async () => {
            const opened = await repository.open(branch, artefacts, cacheBytes);
            close = opened.close;
            await opened.pg.query(first);
          });
          await close();
          return ms;
        },
        async () => {
          let pg: PGlite | null = null;
          const ms = await timed(async () => {
            pg = await PGlite.create(folder, { pgliteWasmModule, initdbWasmModule, fsBundle });
            await pg.query(first);
          });
          await (pg as PGlite | null)?.close();
          return ms;
        },
      ]);
      const make = (from: string) => timed(() => repository.createBranch(from));
      await make(repository.main);
      const [large, small] = await interleave(context.rounds * 5, [() => make(repository.main), () => make(empty)]);
      const ms = (value: number) => `${value.toFixed(1)} ms`;
      return [
        {
          what: `open a branch of ${size} to its first row`,
          measured: ms(median(ours!)),
          against: 'PGlite opening the same in a folder',
          baseline: ms(median(theirs!)),
          ratio: median(ours!) / median(theirs!),
          target: { op: '<=', bound: 1 },
          note: `${spread(ours!)} and ${spread(theirs!)}`,
        },
        {
          what: `create a branch of ${size}`,
          measured: ms(median(large!)),
          against: 'create a branch of an empty database',
          baseline: ms(median(small!)),
          ratio: median(large!) / median(small!),
          target: { op: '<=', bound: 1.5 },
          note: `${spread(large!)} and ${spread(small!)}`,
        },
      ];
    } finally {
      repository.stop();
    }
  },
};
