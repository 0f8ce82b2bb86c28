/**
 * Real WAL from a plain PGlite: runs SQL and returns the bytes of pg_wal from the first LSN after start-up.
 *
 * Settings are those of a compute: no full-page writes, no checksums, fsync on (so that nothing stays in WAL buffers after a commit).
 */
import { type Extensions, PGlite } from '@electric-sql/pglite';
import { computeStartParams } from '../../engine/basebackup/compute-params.ts';
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

/** No WAL segment is recycled, so that all of it can be read in the end. */
export const keepWal = ['max_wal_size=100GB', 'wal_keep_size=100GB'];

/** A plain PGlite in memory with a compute's settings. */
export function plainPglite(settings: readonly string[] = [], extensions: Extensions = {}): Promise<PGlite> {
  return PGlite.create({
    extensions,
    initDbStartParams: ['--no-data-checksums'],
    startParams: computeStartParams([...keepWal, ...settings]),
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
