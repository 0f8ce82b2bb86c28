/**
 * Compares what a values keeps at an LSN with the data directory of a PostgreSQL that has just ended a checkpoint there.
 *
 * Differences that are none, by name:
 * - free space maps are not logged
 * - visibility maps of a database copied by WAL may have fewer bits (visibility-map-redo.ts)
 * - a main fork or visibility map may have more blocks in the file, if those are zeros: extension is not logged
 * - main forks of unlogged relations (there is an init fork), temporary relations, pg_internal.init: local to a compute
 */
import type { PGlite } from '@electric-sql/pglite';
import { readRels } from '../../engine/ingest/readers.ts';
import { allSlrus, readSlruSegments, slruFolders } from '../../engine/ingest/slru.ts';
import { decodeDatabases, decodePrepared } from '../../engine/ingest/small-directories.ts';
import { pageSize, relSegmentBlocks } from '../../engine/limits.ts';
import { dbDirectoryKey, relMapKey, relPrefix, twoPhaseDirectoryKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { formatRel, fsmFork, initFork, mainFork, type RelTag, vmFork } from '../../engine/model/rel.ts';
import type { ValueMap } from './value-map.ts';
import { visibilityMapRedo } from './visibility-map-redo.ts';

const relFile = /^(?:base\/(\d+)|global)\/(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$/;
const forkOf: Record<string, 0 | 1 | 2 | 3> = { '': 0, _fsm: 1, _vm: 2, _init: 3 };

/** Path to content; null is a folder. */
export type DirectoryFiles = ReadonlyMap<string, Uint8Array | null>;

const dataFolder = '/pglite/data';

export const isRelationFile = (path: string): boolean => relFile.test(path);

/** Every file of a PGlite's data directory but its WAL. Run `checkpoint` first: what is in shared buffers is not here. */
export function readDataDirectory(pg: PGlite): DirectoryFiles {
  const { FS } = pg.Module;
  const files = new Map<string, Uint8Array | null>();
  const walk = (folder: string) => {
    for (const name of FS.readdir(`${dataFolder}/${folder}`) as string[]) {
      if (name === '.' || name === '..') continue;
      const path = folder === '' ? name : `${folder}/${name}`;
      if (FS.isDir(FS.stat(`${dataFolder}/${path}`).mode)) {
        files.set(path, null);
        if (path !== 'pg_wal') walk(path);
      } else {
        files.set(path, FS.readFile(`${dataFolder}/${path}`).slice());
      }
    }
  };
  walk('');
  return files;
}

interface FileRel {
  readonly rel: RelTag;
  readonly pages: Uint8Array[];
}

/** Relation forks in the files, by name. */
function relationsIn(files: DirectoryFiles): Map<string, FileRel> {
  const found = new Map<string, FileRel>();
  for (const [path, bytes] of files) {
    const match = relFile.exec(path);
    if (!match || bytes === null) continue;
    const db = Number(match[1] ?? 0);
    const rel: RelTag = { spc: db === 0 ? 1664 : 1663, db, rel: Number(match[2]), fork: forkOf[match[3] ?? '']! };
    const name = formatRel(rel);
    let entry = found.get(name);
    if (entry === undefined) {
      entry = { rel, pages: [] };
      found.set(name, entry);
    }
    const first = Number(match[4] ?? 0) * relSegmentBlocks;
    for (let at = 0; at < bytes.length; at += pageSize) {
      entry.pages[first + at / pageSize] = bytes.subarray(at, at + pageSize);
    }
  }
  return found;
}

const isZero = (page: Uint8Array | undefined): boolean => page === undefined || page.every((byte) => byte === 0);

export async function compareDirectory(values: ValueMap, lsn: Lsn, files: DirectoryFiles): Promise<string[]> {
  return [
    ...(await compareRelations(values, lsn, files)),
    ...(await compareMaps(values, lsn, files)),
    ...(await compareSlrus(values, lsn, files)),
    ...(await comparePrepared(values, lsn, files)),
  ];
}

async function compareRelations(values: ValueMap, lsn: Lsn, files: DirectoryFiles): Promise<string[]> {
  const reader = values.reader(lsn);
  const differences: string[] = [];
  const actual = relationsIn(files);
  const databases = decodeDatabases(await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block));
  const kept = new Map<string, { rel: RelTag; size: number }>();
  for (const { spc, db } of databases) {
    for (const one of await readRels(reader, spc, db)) kept.set(formatRel(one.rel), one);
  }
  for (const [name, { rel, pages }] of actual) {
    if (rel.fork === fsmFork) continue;
    const unlogged = actual.has(formatRel({ ...rel, fork: initFork }));
    if (unlogged && rel.fork !== initFork) continue;
    const one = kept.get(name);
    if (one === undefined) {
      // A visibility map is made without WAL; it is logged when a bit is set in it.
      if (rel.fork === vmFork && pages.every(isZero)) continue;
      differences.push(`${name}: has ${pages.length} blocks in PostgreSQL, is not kept`);
      continue;
    }
    const extra = pages.slice(one.size);
    if (pages.length < one.size || !extra.every(isZero)) {
      differences.push(`${name}: ${pages.length} blocks in PostgreSQL, ${one.size} kept`);
    }
    if (rel.fork === vmFork) {
      for (let block = 0; block < one.size; block++) {
        const { page, bitsLost } = visibilityMapRedo(values, relPrefix(rel), block, lsn);
        const theirs = pages[block]!;
        if (page.subarray(24).some((bits, i) => (bitsLost ? bits & ~theirs[24 + i]! : bits ^ theirs[24 + i]!) !== 0)) {
          differences.push(`${name}: block ${block} has other bits`);
        }
      }
    }
  }
  for (const [name, { rel, size }] of kept) {
    if (rel.fork === fsmFork || actual.has(name)) continue;
    if (rel.fork === mainFork && actual.has(formatRel({ ...rel, fork: initFork }))) continue;
    differences.push(`${name}: ${size} blocks kept, does not exist in PostgreSQL`);
  }
  return differences;
}

async function compareMaps(values: ValueMap, lsn: Lsn, files: DirectoryFiles): Promise<string[]> {
  const reader = values.reader(lsn);
  const differences: string[] = [];
  const databases = decodeDatabases(await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block));
  const folders = new Set(databases.map(({ db }) => (db === 0 ? 'global' : `base/${db}`)));
  for (const [path, bytes] of files) {
    const match = /^(global|base\/\d+)\/pg_filenode\.map$/.exec(path);
    if (!match || bytes === null) continue;
    const folder = match[1]!;
    if (!folders.delete(folder)) {
      differences.push(`${folder}: the database is not kept`);
      continue;
    }
    const db = folder === 'global' ? 0 : Number(folder.slice(5));
    const key = relMapKey(db === 0 ? 1664 : 1663, db);
    const kept = await reader.getImage(key.prefix, key.block);
    if (kept === null || !sameBytes(kept, bytes)) differences.push(`${path} differs`);
  }
  for (const folder of folders) differences.push(`${folder}: the database does not exist in PostgreSQL`);
  return differences;
}

async function compareSlrus(values: ValueMap, lsn: Lsn, files: DirectoryFiles): Promise<string[]> {
  const differences: string[] = [];
  for (const kind of allSlrus) {
    const kept = new Map(
      (await readSlruSegments(kind, values.reader(lsn))).map(({ segment, pages }) => [
        `${slruFolders[kind]}/${segment.toString(16).toUpperCase().padStart(4, '0')}`,
        pages,
      ]),
    );
    for (const [path, bytes] of files) {
      if (bytes === null || !path.startsWith(`${slruFolders[kind]}/`)) continue;
      const pages = kept.get(path);
      kept.delete(path);
      if (pages === undefined) {
        differences.push(`${path} is not kept`);
        continue;
      }
      if (pages.length * pageSize !== bytes.length) {
        differences.push(`${path}: ${bytes.length / pageSize} pages in PostgreSQL, ${pages.length} kept`);
      }
      pages.forEach((page, i) => {
        const theirs = bytes.subarray(i * pageSize, (i + 1) * pageSize);
        const at = firstDifference(page.subarray(0, pageSize), theirs);
        if (at >= 0) {
          differences.push(`${path}: page ${i}, byte ${at}: ${theirs[at]} in PostgreSQL, ${page[at]} kept`);
        }
      });
    }
    for (const path of kept.keys()) differences.push(`${path} does not exist in PostgreSQL`);
  }
  return differences;
}

/** A checkpoint writes the state of every prepared transaction to its file. */
async function comparePrepared(values: ValueMap, lsn: Lsn, files: DirectoryFiles): Promise<string[]> {
  const reader = values.reader(lsn);
  const xids = decodePrepared(await reader.getImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block));
  const names = xids.map((xid) => `pg_twophase/${xid.toString(16).toUpperCase().padStart(16, '0')}`).sort();
  const actual = [...files.keys()].filter((path) => path.startsWith('pg_twophase/'));
  actual.sort();
  return names.join() === actual.join() ? [] : [`prepared: ${actual.join()} in PostgreSQL, ${names.join()} kept`];
}

export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const end = Math.max(a.length, b.length);
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i;
  return -1;
}

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => firstDifference(a, b) < 0;
