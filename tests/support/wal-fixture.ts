/**
 * Real WAL from a plain PGlite: runs SQL and returns the bytes of pg_wal from the first LSN after start-up.
 *
 * Settings are those of a compute: no full-page writes, no checksums, fsync on (so that nothing stays in WAL buffers after a commit).
 */
import { PGlite } from '@electric-sql/pglite';
import { walSegmentSize } from '../../engine/limits.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { segmentFileName } from '../../engine/wal/wal-page.ts';

export interface WalFixture {
  /** A record boundary: where the SQL began. */
  readonly startLsn: Lsn;
  /** The end of the last record. */
  readonly endLsn: Lsn;
  /** WAL bytes [startLsn, endLsn), page headers included. */
  readonly wal: Uint8Array;
  readonly systemIdentifier: bigint;
}

export const computeParams = [
  '--single',
  '-O',
  '-j',
  ...['search_path=public', 'exit_on_error=false', 'log_checkpoints=false', 'max_worker_processes=0'].flatMap((s) => [
    '-c',
    s,
  ]),
  ...['max_parallel_workers=0', 'max_parallel_workers_per_gather=0', 'io_method=sync'].flatMap((s) => ['-c', s]),
  ...['max_parallel_maintenance_workers=0', 'fsync=on', 'wal_sync_method=fsync', 'full_page_writes=off'].flatMap(
    (s) => ['-c', s],
  ),
];

/** A plain PGlite in memory with a compute's settings. */
export function plainPglite(settings: readonly string[] = []): Promise<PGlite> {
  return PGlite.create({
    initDbStartParams: ['--no-data-checksums'],
    startParams: [
      ...computeParams,
      '-c',
      'max_wal_size=100GB',
      '-c',
      'wal_keep_size=100GB',
      ...settings.flatMap((s) => ['-c', s]),
    ],
  });
}

export async function currentLsn(pg: PGlite): Promise<Lsn> {
  const { rows } = await pg.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
  return parseLsn(rows[0]!.lsn);
}

/** WAL [from, to) out of a PGlite's pg_wal. */
export function readPgWal(pg: PGlite, from: Lsn, to: Lsn): Uint8Array {
  const out = new Uint8Array(to - from);
  for (let at: number = from; at < to; ) {
    const segment = pg.Module.FS.readFile(`/pglite/data/pg_wal/${segmentFileName(at)}`);
    const offset = at % walSegmentSize;
    const take = Math.min(to - at, walSegmentSize - offset);
    out.set(segment.subarray(offset, offset + take), at - from);
    at += take;
  }
  return out;
}

/** Runs `sql` statement by statement (each string is one exec) and returns the WAL that it wrote, flushed. */
export async function captureWal(pg: PGlite, sql: readonly string[]): Promise<WalFixture> {
  await pg.exec('checkpoint');
  const startLsn = await currentLsn(pg);
  for (const statement of sql) await pg.exec(statement);
  const endLsn = await currentLsn(pg);
  // A transaction that commits flushes all WAL before its own record.
  await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
  const { rows } = await pg.query<{ id: string }>('select system_identifier::text as id from pg_control_system()');
  return { startLsn, endLsn, wal: readPgWal(pg, startLsn, endLsn), systemIdentifier: BigInt(rows[0]!.id) };
}
