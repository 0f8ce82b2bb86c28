/**
 * Boots a plain PGlite from a basebackup whose relation files are written out in full: the proof that a basebackup at an LSN is a data
 * directory, without any of the compute's own machinery.
 */
import { PGlite } from '@electric-sql/pglite';
import { computeStartParams } from '../../engine/basebackup/compute-params.ts';
import { bootWal } from '../../engine/basebackup/control-data.ts';
import { readRels } from '../../engine/ingest/readers.ts';
import { decodeDatabases } from '../../engine/ingest/small-directories.ts';
import { pageSize, relSegmentBlocks, walSegmentSize } from '../../engine/limits.ts';
import { dbDirectoryKey, relPrefix } from '../../engine/model/key.ts';
import { globalTablespace } from '../../engine/model/rel.ts';
import type { Basebackup, ValueReader } from '../../engine/services.ts';
import { segmentFileName } from '../../engine/wal/wal-page.ts';

const root = '/pglite/data';

/** The basebackup's files and the WAL it boots from; `null` is a folder. */
export function bootFiles(basebackup: Basebackup): Map<string, Uint8Array | null> {
  const files = new Map<string, Uint8Array | null>();
  for (const { path, bytes } of basebackup.files) files.set(path, bytes);
  const control = files.get('global/pg_control')!;
  for (const { lsn, bytes } of bootWal(control, basebackup.lsn, basebackup.prevLsn)) {
    const path = `pg_wal/${segmentFileName(lsn)}`;
    const segment = files.get(path) ?? new Uint8Array(walSegmentSize);
    segment.set(bytes, lsn % walSegmentSize);
    files.set(path, segment);
  }
  return files;
}

/** Every file of the data directory as of the basebackup, relations included. */
export async function dataDirectory(
  basebackup: Basebackup,
  reader: ValueReader,
): Promise<Map<string, Uint8Array | null>> {
  const files = bootFiles(basebackup);
  for (const { spc, db } of decodeDatabases(await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block))) {
    for (const { rel, size } of await readRels(reader, spc, db)) {
      const folder = spc === globalTablespace ? 'global' : `base/${db}`;
      const bytes = new Uint8Array(size * pageSize);
      for (let block = 0; block < size; block++) {
        const page = await reader.getImage(relPrefix(rel), block);
        if (page !== null) bytes.set(page, block * pageSize);
      }
      if (size > relSegmentBlocks) throw new Error('a relation of this size needs segments');
      files.set(`${folder}/${rel.rel}${['', '_fsm', '_vm', '_init'][rel.fork]}`, bytes);
    }
  }
  return files;
}

/** `beforeStart` is called when the files are there and Postgres has not started. */
export async function bootDirectory(
  files: ReadonlyMap<string, Uint8Array | null>,
  settings: readonly string[] = [],
  beforeStart: (pglite: PGlite) => void = () => {},
): Promise<PGlite> {
  let pglite: PGlite | null = null;
  const log: string[] = [];
  try {
    return await PGlite.create({
      startParams: computeStartParams(settings),
      fs: {
        async init(pg, emscriptenOpts) {
          pglite = pg;
          return { emscriptenOpts: { ...emscriptenOpts, printErr: (text: string) => log.push(text) } };
        },
        async initialSyncFs() {
          const { FS } = pglite!.Module;
          FS.mkdirTree(root);
          for (const [path, bytes] of files) {
            if (bytes === null) FS.mkdirTree(`${root}/${path}`);
            else FS.writeFile(`${root}/${path}`, bytes, { mode: 0o600 });
          }
          FS.chmod(root, 0o700);
          beforeStart(pglite!);
        },
        async syncToFs() {},
        async closeFs() {},
        async dumpTar(): Promise<File> {
          throw new Error('not needed');
        },
      },
    });
  } catch (error) {
    throw new Error(`Postgres did not start: ${error}\n${log.join('\n')}`);
  }
}
