/**
 * The data directory that a compute boots from at an LSN, without the relations (those are read page by page) and without WAL (the
 * compute makes it from pg_control, see `bootWal`).
 *
 * Called by the page service of a timeline with a reader at that LSN. Everything is a plain file: pg_control, clog and multixact segments,
 * relation maps, prepared transactions, configuration. In-flight transactions need nothing: nextXid is past them and they have no
 * commit record, so they read as aborted. As Neon's pageserver/src/basebackup.rs.
 */
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import { allSlrus, readSlruSegments, slruFolders } from '../ingest/slru.ts';
import { decodeDatabases, decodeOrigins, decodePrepared } from '../ingest/small-directories.ts';
import { pageSize } from '../limits.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  type Key,
  relMapKey,
  replicationOriginsKey,
  staticFilesKey,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../model/key.ts';
import { formatLsn, type Lsn, writeLsn } from '../model/lsn.ts';
import { defaultTablespace, globalTablespace } from '../model/rel.ts';
import type { Basebackup, DataFile, ValueReader } from '../services.ts';
import { controlFileAt, systemIdentifierOf } from './control-data.ts';
import { decodeFiles } from './data-files.ts';
import { prewarmPages } from './prewarm.ts';

export const emptyFolders = [
  'base',
  'global',
  'pg_commit_ts',
  'pg_dynshmem',
  'pg_logical',
  'pg_logical/mappings',
  'pg_logical/snapshots',
  'pg_multixact',
  'pg_multixact/members',
  'pg_multixact/offsets',
  'pg_notify',
  'pg_replslot',
  'pg_serial',
  'pg_snapshots',
  'pg_stat',
  'pg_stat_tmp',
  'pg_subtrans',
  'pg_tblspc',
  'pg_twophase',
  'pg_wal',
  'pg_wal/archive_status',
  'pg_wal/summaries',
  'pg_xact',
];

/** REPLICATION_STATE_MAGIC */
const replicationStateMagic = 0x1257dade;
const postgresVersion = new TextEncoder().encode('18\n');

/** `reader` sees the timeline at `lsn`. Throws `corrupt` if a part is missing. */
export async function buildBasebackup(reader: ValueReader, lsn: Lsn, prevLsn: Lsn): Promise<Basebackup> {
  const need = async (key: Key, what: string): Promise<Uint8Array> => {
    const image = await reader.getImage(key.prefix, key.block);
    if (image !== null) return image;
    throw new PageliteError('corrupt', `there is no ${what} at ${formatLsn(lsn)}`, { lsn: formatLsn(lsn) });
  };
  const control = controlFileAt(await need(controlFileKey, 'pg_control'), await need(checkpointKey, 'checkpoint'), lsn);
  const files: DataFile[] = emptyFolders.map((path) => ({ path, bytes: null }));
  files.push({ path: 'global/pg_control', bytes: control }, { path: 'PG_VERSION', bytes: postgresVersion });
  files.push(...decodeFiles(await need(staticFilesKey, 'configuration')));
  const databases = decodeDatabases(await need(dbDirectoryKey, 'list of databases'));
  for (const { spc, db } of databases) files.push(...(await databaseFiles(reader, spc, db)));
  for (const kind of allSlrus) files.push(...(await slruFiles(reader, kind)));
  files.push(...(await preparedFiles(reader)), ...(await originFiles(reader)));
  const prewarm = await prewarmPages(reader, databases);
  return { lsn, prevLsn, systemIdentifier: systemIdentifierOf(control), files, prewarm };
}

async function databaseFiles(reader: ValueReader, spc: number, db: number): Promise<DataFile[]> {
  if (spc !== defaultTablespace && spc !== globalTablespace) {
    throw new PageliteError('invalid', `database ${db} is in tablespace ${spc}: tablespaces are not supported`);
  }
  const folder = spc === globalTablespace ? 'global' : `base/${db}`;
  const key = relMapKey(spc, db);
  const map = await reader.getImage(key.prefix, key.block);
  const files: DataFile[] = [];
  if (folder !== 'global') {
    files.push({ path: folder, bytes: null }, { path: `${folder}/PG_VERSION`, bytes: postgresVersion });
  }
  if (map !== null && map.length > 0) files.push({ path: `${folder}/pg_filenode.map`, bytes: map });
  return files;
}

async function slruFiles(reader: ValueReader, kind: (typeof allSlrus)[number]): Promise<DataFile[]> {
  const segments = await readSlruSegments(kind, reader);
  return segments.map(({ segment, pages }) => {
    const bytes = new Uint8Array(pages.length * pageSize);
    // A clog page's value carries eight bytes of time behind the page.
    pages.forEach((page, i) => {
      bytes.set(page.subarray(0, pageSize), i * pageSize);
    });
    const name = segment.toString(16).toUpperCase().padStart(4, '0');
    return { path: `${slruFolders[kind]}/${name}`, bytes };
  });
}

/** pg_twophase: file name is the full transaction id, content is the state and its CRC32C (twophase.c, RecreateTwoPhaseFile). */
async function preparedFiles(reader: ValueReader): Promise<DataFile[]> {
  const xids = decodePrepared(await reader.getImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block));
  const files: DataFile[] = [];
  for (const xid of xids) {
    const key = twoPhaseKey(xid);
    const state = await reader.getImage(key.prefix, key.block);
    if (state === null) throw new PageliteError('corrupt', `prepared transaction ${xid} has no state`);
    const bytes = new Uint8Array(state.length + 4);
    bytes.set(state);
    new DataView(bytes.buffer).setUint32(state.length, crc32c(state), true);
    files.push({ path: `pg_twophase/${xid.toString(16).toUpperCase().padStart(16, '0')}`, bytes });
  }
  return files;
}

/**
 * pg_logical/replorigin_checkpoint (origin.c, CheckPointReplicationOrigin): u32 magic, per origin u16 id, 6 bytes of padding and u64 remote
 * LSN, then u32 CRC32C. None if there are no origins.
 */
async function originFiles(reader: ValueReader): Promise<DataFile[]> {
  const origins = decodeOrigins(await reader.getImage(replicationOriginsKey.prefix, replicationOriginsKey.block));
  if (origins.size === 0) return [];
  const bytes = new Uint8Array(4 + origins.size * 16 + 4);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, replicationStateMagic, true);
  [...origins].forEach(([origin, lsn], i) => {
    view.setUint16(4 + i * 16, origin, true);
    writeLsn(view, 12 + i * 16, lsn);
  });
  view.setUint32(bytes.length - 4, crc32c(bytes, 0, bytes.length - 4), true);
  return [{ path: 'pg_logical/replorigin_checkpoint', bytes }];
}
