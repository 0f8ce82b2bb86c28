/**
 * The template: a fresh data directory made by PGlite's initdb, with what a Neon database has from the start (role cloud_admin).
 *
 * Made once and cached by the host as one blob (`encodeTemplate`): initdb takes seconds, and every tenant starts from the same files.
 *
 *   u32 magic "PLT1" | u64 LSN | u64 system identifier | files (data-files.ts, with its CRC32C)
 */
import { PGlite, type PGliteOptions } from '@electric-sql/pglite';
import { PageliteError } from '../errors.ts';
import { pageSize } from '../limits.ts';
import { parseLsn, readLsn, writeLsn } from '../model/lsn.ts';
import type { DataFile, TenantTemplate } from '../services.ts';
import { headerBytesAt } from '../wal/wal-page.ts';
import { computeStartParams } from './compute-params.ts';
import { systemIdentifierOf } from './control-data.ts';
import { decodeFiles, encodeFiles } from './data-files.ts';

/** Goes up when the template's content changes; part of the cache's file name. */
export const templateVersion = 1;

const magic = 0x31544c50;
const headerBytes = 20;
const dataFolder = '/pglite/data';

const setUp = [
  'create role cloud_admin superuser createdb createrole replication bypassrls login',
  'vacuum (freeze, analyze)',
];

/** Takes about five seconds. `artefacts` are PGlite's own files where the host has loaded them already. */
export async function createTenantTemplate(
  artefacts: Pick<PGliteOptions, 'pgliteWasmModule' | 'initdbWasmModule' | 'fsBundle'> = {},
): Promise<TenantTemplate> {
  const pg = await PGlite.create({
    ...artefacts,
    initDbStartParams: ['--no-data-checksums'],
    startParams: computeStartParams(),
  });
  try {
    for (const statement of setUp) await pg.exec(statement);
    await pg.exec('checkpoint');
    const { rows } = await pg.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn');
    const insert = parseLsn(rows[0]!.lsn);
    // An insert position right behind a page header is the end of the page before.
    const lsn =
      insert % pageSize === headerBytesAt(insert - (insert % pageSize)) ? insert - (insert % pageSize) : insert;
    const files = collectFiles(pg);
    const control = files.find((file) => file.path === 'global/pg_control');
    if (!control?.bytes) throw new PageliteError('corrupt', 'initdb made no pg_control');
    return { lsn: lsn as TenantTemplate['lsn'], systemIdentifier: systemIdentifierOf(control.bytes), files };
  } finally {
    await pg.close();
  }
}

/** Everything but WAL and what the server rebuilds by itself. */
function collectFiles(pg: PGlite): DataFile[] {
  const { FS } = pg.Module;
  const files: DataFile[] = [];
  const walk = (folder: string) => {
    for (const name of FS.readdir(`${dataFolder}/${folder}`)) {
      if (name === '.' || name === '..' || name === 'pg_internal.init' || name === 'postmaster.pid') continue;
      const path = folder === '' ? name : `${folder}/${name}`;
      if (FS.isDir(FS.stat(`${dataFolder}/${path}`).mode)) {
        files.push({ path, bytes: null });
        if (path !== 'pg_wal' && path !== 'pg_stat') walk(path);
      } else {
        files.push({ path, bytes: FS.readFile(`${dataFolder}/${path}`).slice() });
      }
    }
  };
  walk('');
  return files;
}

export function encodeTemplate(template: TenantTemplate): Uint8Array {
  const files = encodeFiles(template.files);
  const blob = new Uint8Array(headerBytes + files.length);
  const view = new DataView(blob.buffer);
  view.setUint32(0, magic, true);
  writeLsn(view, 4, template.lsn);
  view.setBigUint64(12, template.systemIdentifier, true);
  blob.set(files, headerBytes);
  return blob;
}

/** Throws `corrupt`; the host then makes the template anew. */
export function decodeTemplate(blob: Uint8Array): TenantTemplate {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  if (blob.length < headerBytes || view.getUint32(0, true) !== magic) {
    throw new PageliteError('corrupt', 'not a tenant template');
  }
  return {
    lsn: readLsn(view, 4),
    systemIdentifier: view.getBigUint64(12, true),
    files: decodeFiles(blob.subarray(headerBytes)),
  };
}
