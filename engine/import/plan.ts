/**
 * What of a data directory becomes keys of a timeline, from its list of files alone, in the order of the keys: so that layers are written one after
 * another from a directory of any size.
 *
 * Left out, as PostgreSQL itself forgets it:
 * - relations of sessions that are gone (temporary), and main forks of unlogged relations: an endpoint begins as a server does after a crash, which
 *   makes those from their init forks
 * - a database folder without a relation map: what is left of a CREATE DATABASE that was cut off
 * - WAL, statistics, caches, replication slots
 */
import { type DataFileMeaning, databaseFolder, databaseOf, meaningOfPath } from '../basebackup/data-directory-paths.ts';
import { PageliteError } from '../errors.ts';
import { allSlrus, slruFolders } from '../ingest/slru.ts';
import type { DatabaseEntry } from '../ingest/small-directories.ts';
import { blockNumberMax, pageSize, relSegmentBlocks, slruSegmentBlocks } from '../limits.ts';
import type { SlruKind } from '../model/key.ts';
import { fsmFork, initFork, type RelTag, vmFork } from '../model/rel.ts';
import type { DataDirectory } from './data-directory.ts';

/** A file of whole pages. */
export interface PlannedFile {
  readonly path: string;
  readonly blocks: number;
}

export interface PlannedFork {
  readonly rel: RelTag;
  /** Its first file, its second, ...: all but the last are full. */
  readonly files: readonly PlannedFile[];
  readonly blocks: number;
}

export interface PlannedDatabase extends DatabaseEntry {
  readonly mapPath: string;
  readonly forks: readonly PlannedFork[];
}

export interface ImportPlan {
  readonly databases: readonly PlannedDatabase[];
  readonly slrus: ReadonlyMap<SlruKind, readonly (PlannedFile & { readonly segment: number })[]>;
  readonly prepared: readonly { readonly xid: number; readonly path: string }[];
  readonly configuration: readonly string[];
  readonly hasOrigins: boolean;
  /** Of all files that are read. */
  readonly bytes: number;
  /** How many relations begin empty. */
  readonly unloggedRelations: number;
  /** Database folders that are left out. */
  readonly unfinishedDatabases: readonly string[];
}

type Meaning<K extends DataFileMeaning['kind']> = Extract<DataFileMeaning, { kind: K }>;

/** A relation fork's main, and what stands or falls with it. */
const isOfContents = ({ fork }: RelTag): boolean => fork !== initFork;

/** Throws `invalid` (not a data directory, tablespaces) and `corrupt`, naming the file. */
export function planImport(directory: DataDirectory): ImportPlan {
  const { name, files } = directory;
  const relations: { meaning: Meaning<'relation'>; path: string; size: number }[] = [];
  const maps = new Map<number, string>();
  const slrus = new Map<SlruKind, (PlannedFile & { segment: number })[]>(allSlrus.map((kind) => [kind, []]));
  const prepared: { xid: number; path: string }[] = [];
  const configuration: string[] = [];
  let hasOrigins = false;
  let bytes = 0;
  for (const { path, size } of files) {
    if (path.startsWith('pg_tblspc/')) throw withTablespaces(path, name);
    const meaning = meaningOfPath(path);
    if (meaning === null) continue;
    if (meaning.kind === 'relation') relations.push({ meaning, path, size });
    else if (meaning.kind === 'relationMap') maps.set(meaning.database.db, path);
    else if (meaning.kind === 'slru')
      slrus.get(meaning.slru)!.push({ segment: meaning.segment, ...wholePages(path, size, name) });
    else if (meaning.kind === 'prepared') prepared.push({ xid: meaning.xid, path });
    else if (meaning.kind === 'configuration') configuration.push(path);
    else if (meaning.kind === 'origins') hasOrigins = true;
    if (meaning.kind !== 'relation' && meaning.kind !== 'temporary') bytes += size;
  }
  for (const [kind, segments] of slrus) checkSegments(kind, segments, name);
  if (!maps.has(0)) throw incomplete(`${databaseFolder(0)}/pg_filenode.map`, name);

  const { forks, unloggedRelations } = plannedForks(relations, name);
  for (const fork of forks) if (maps.has(fork.rel.db)) bytes += fork.blocks * pageSize;
  const unfinished = new Set(forks.filter(({ rel }) => !maps.has(rel.db)).map(({ rel }) => databaseFolder(rel.db)));
  const databases = [...maps]
    .map(([db, mapPath]) => ({ ...databaseOf(db), mapPath, forks: forks.filter(({ rel }) => rel.db === db) }))
    .sort((a, b) => a.spc - b.spc || a.db - b.db);
  for (const { db, forks: own } of databases) if (own.length === 0) throw incomplete(`${databaseFolder(db)}/`, name);
  return {
    databases,
    slrus,
    prepared: prepared.sort((a, b) => a.xid - b.xid),
    configuration: configuration.sort(),
    hasOrigins,
    bytes,
    unloggedRelations,
    unfinishedDatabases: [...unfinished],
  };
}

/** In key order, without contents that are forgotten. */
function plannedForks(
  relations: readonly { meaning: Meaning<'relation'>; path: string; size: number }[],
  name: string,
): { forks: PlannedFork[]; unloggedRelations: number } {
  const unlogged = new Set(
    relations.filter(({ meaning }) => meaning.rel.fork === initFork).map(({ meaning }) => relationKey(meaning.rel)),
  );
  const sorted = relations
    .filter(({ meaning: { rel } }) => !(isOfContents(rel) && unlogged.has(relationKey(rel))))
    .sort(({ meaning: a }, { meaning: b }) => {
      const { rel, segment } = a;
      return (
        rel.spc - b.rel.spc || rel.db - b.rel.db || rel.rel - b.rel.rel || rel.fork - b.rel.fork || segment - b.segment
      );
    });
  const forks: PlannedFork[] = [];
  for (let from = 0; from < sorted.length; ) {
    const { rel } = sorted[from]!.meaning;
    let to = from + 1;
    while (to < sorted.length && sameFork(sorted[to]!.meaning.rel, rel)) to++;
    forks.push(plannedFork(rel, sorted.slice(from, to), name));
    from = to;
  }
  return { forks, unloggedRelations: unlogged.size };
}

/** As md.c counts: a file that is not full is the last; empty ones behind it are left of a truncation. */
function plannedFork(
  rel: RelTag,
  segments: readonly { meaning: Meaning<'relation'>; path: string; size: number }[],
  name: string,
): PlannedFork {
  const files: PlannedFile[] = [];
  let blocks = 0;
  let isEnded = false;
  for (const [i, { meaning, path, size }] of segments.entries()) {
    const file = wholePages(path, size, name);
    if (file.blocks > relSegmentBlocks) throw damaged(path, name, `it has ${size} bytes, more than a gigabyte`);
    if (isEnded && file.blocks === 0) continue;
    if (isEnded || meaning.segment !== i) {
      throw damaged(path, name, 'the file before it is missing or cut short');
    }
    files.push(file);
    blocks += file.blocks;
    isEnded = file.blocks < relSegmentBlocks;
  }
  if (blocks > blockNumberMax) throw damaged(segments[0]!.path, name, `it has ${blocks} blocks`);
  return { rel, files, blocks };
}

function wholePages(path: string, size: number, name: string): PlannedFile {
  if (size % pageSize !== 0) {
    throw damaged(path, name, `its size of ${size} bytes is no whole number of ${pageSize}-byte pages`);
  }
  return { path, blocks: size / pageSize };
}

function checkSegments(kind: SlruKind, segments: (PlannedFile & { segment: number })[], name: string): void {
  segments.sort((a, b) => a.segment - b.segment);
  for (const { path, blocks } of segments) {
    if (blocks > slruSegmentBlocks) throw damaged(path, name, `it has ${blocks} pages, at most ${slruSegmentBlocks}`);
  }
  // Transactions that the catalogs were made by are in the first one, or frozen; there is always a newest one.
  if (segments.length === 0) throw incomplete(`${slruFolders[kind]}/`, name);
}

const relationKey = ({ db, rel }: RelTag): string => `${db}/${rel}`;
const sameFork = (a: RelTag, b: RelTag): boolean => a.db === b.db && a.rel === b.rel && a.fork === b.fork;

/** Forks whose damaged pages PostgreSQL itself replaces by zeros when it reads them. */
export const isRebuiltFork = ({ fork }: RelTag): boolean => fork === fsmFork || fork === vmFork;

function damaged(path: string, name: string, problem: string): PageliteError {
  return new PageliteError('corrupt', `${path} of ${name} is damaged: ${problem}`, { file: path });
}

function incomplete(path: string, name: string): PageliteError {
  return new PageliteError('invalid', `${name} is not a whole data directory: ${path} is missing`, { file: path });
}

function withTablespaces(path: string, name: string): PageliteError {
  const message = `${name} has a tablespace (${path}): tablespaces are not supported. Move what is in it to pg_default`;
  return new PageliteError('invalid', message, { file: path });
}
