/**
 * How Postgres is started wherever Pagelite starts it: PGlite's own parameters without `-F`, so that a commit is one fsync of the WAL segment,
 * and without full-page writes, since pages are never overwritten in place.
 */
const settings = [
  'search_path=public',
  'exit_on_error=false',
  'log_checkpoints=false',
  'max_worker_processes=0',
  'max_parallel_workers=0',
  'max_parallel_workers_per_gather=0',
  'max_parallel_maintenance_workers=0',
  'io_method=sync',
  'fsync=on',
  'wal_sync_method=fsync',
  'full_page_writes=off',
  // PREPARE TRANSACTION works out of the box; each slot costs some hundred bytes.
  'max_prepared_transactions=64',
];

/** PGlite's `startParams`, with further settings (`name=value`) at the end. */
export function computeStartParams(more: readonly string[] = []): string[] {
  return ['--single', '-O', '-j', ...[...settings, ...more].flatMap((setting) => ['-c', setting])];
}
