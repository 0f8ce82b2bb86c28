/**
 * PostgreSQL's own recovery of a data directory that was not shut down: a PGlite opens it, redoes its WAL, and ends with a shutdown checkpoint.
 *
 * Only ever done to a copy. What a PGlite's dumpDataDir() gives is such a directory, too: it takes the files as they are while the server runs.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { computeStartParams } from '../../engine/basebackup/compute-params.ts';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';

/** Enough for redo; PGlite's own 128 MB would be memory for nothing. */
const memorySettings = ['shared_buffers=32MB', 'fsync=off', 'autovacuum=off'];
/** Extensions of the old server are not here, and redo needs none. */
const librarySettings = ['shared_preload_libraries=', 'session_preload_libraries=', 'local_preload_libraries='];

/** `name`: for messages. Throws `corrupt` if PostgreSQL cannot. */
export async function recoverDataDirectory(dir: string, name: string): Promise<void> {
  // Of a process that is not this one; PostgreSQL would look for it.
  await rm(join(dir, 'postmaster.pid'), { force: true });
  const { pgliteWasmModule, fsBundle } = await loadPGliteArtefacts();
  try {
    const pg = await PGlite.create({
      dataDir: dir,
      pgliteWasmModule,
      fsBundle,
      startParams: computeStartParams([...memorySettings, ...librarySettings]),
    });
    await pg.close();
  } catch (error) {
    const message = `PostgreSQL cannot recover ${name}, which was not shut down: ${messageOf(error)}`;
    throw new PageliteError('corrupt', message, {}, { cause: error });
  }
}
