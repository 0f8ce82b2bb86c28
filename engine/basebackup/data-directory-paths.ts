/**
 * What a file of a PostgreSQL data directory is, by its path, as far as a timeline keeps it: for who makes a timeline of a directory
 * (import-template.ts, import/plan.ts), and who makes a directory of a timeline (export/).
 *
 *   base/5/16384_fsm.1           relation fork, its second gigabyte      base/5/t3_16390        temporary: of a session that is gone
 *   global/pg_filenode.map       relation map                            pg_xact/0000           SLRU segment
 *   pg_twophase/00000000000002E1 prepared transaction                    anything else          not kept
 */
import { slruFolders } from '../ingest/slru.ts';
import type { DatabaseEntry } from '../ingest/small-directories.ts';
import { blockNumberMax, relSegmentBlocks } from '../limits.ts';
import { type SlruKind, slruKind } from '../model/key.ts';
import { defaultTablespace, type ForkNumber, globalTablespace, type RelTag } from '../model/rel.ts';

export type DataFileMeaning =
  | { readonly kind: 'relation'; readonly rel: RelTag; readonly segment: number }
  | { readonly kind: 'temporary' }
  | { readonly kind: 'relationMap'; readonly database: DatabaseEntry }
  | { readonly kind: 'databaseVersion'; readonly database: DatabaseEntry }
  | { readonly kind: 'slru'; readonly slru: SlruKind; readonly segment: number }
  | { readonly kind: 'prepared'; readonly xid: number }
  | { readonly kind: 'configuration' }
  | { readonly kind: 'control' }
  | { readonly kind: 'origins' };

export const controlPath = 'global/pg_control';
export const originsPath = 'pg_logical/replorigin_checkpoint';
const configurationFiles = new Set(['postgresql.conf', 'postgresql.auto.conf', 'pg_hba.conf', 'pg_ident.conf']);

const databaseFile = /^(?:base\/([1-9]\d{0,9})|global)\/([^/]+)$/;
const relationFile = /^(t\d+_)?([1-9]\d{0,9})(_fsm|_vm|_init)?(?:\.([1-9]\d{0,4}))?$/;
const forkSuffixes = ['', '_fsm', '_vm', '_init'];
const slruFile = /^(pg_xact|pg_multixact\/(?:members|offsets))\/([0-9A-F]{4,6})$/;
const preparedFile = /^pg_twophase\/([0-9A-F]{16})$/;
const oidMax = 0xffffffff;
const segmentMax = Math.floor(blockNumberMax / relSegmentBlocks);

const slruOfFolder = new Map(Object.values(slruKind).map((kind) => [slruFolders[kind], kind]));

/** Null: a timeline does not keep it. */
export function meaningOfPath(path: string): DataFileMeaning | null {
  if (path === controlPath) return { kind: 'control' };
  if (path === originsPath) return { kind: 'origins' };
  if (configurationFiles.has(path)) return { kind: 'configuration' };
  const inDatabase = databaseFile.exec(path);
  if (inDatabase !== null) return meaningInDatabase(inDatabase[1], inDatabase[2]!);
  const slru = slruFile.exec(path);
  if (slru !== null) {
    return { kind: 'slru', slru: slruOfFolder.get(slru[1]!)!, segment: Number.parseInt(slru[2]!, 16) };
  }
  const prepared = preparedFile.exec(path);
  if (prepared === null) return null;
  const xid = Number.parseInt(prepared[1]!, 16);
  return Number.isSafeInteger(xid) ? { kind: 'prepared', xid } : null;
}

function meaningInDatabase(db: string | undefined, name: string): DataFileMeaning | null {
  const database = databaseOf(db === undefined ? 0 : Number(db));
  if (database.db > oidMax) return null;
  if (name === 'pg_filenode.map') return { kind: 'relationMap', database };
  if (name === 'PG_VERSION') return { kind: 'databaseVersion', database };
  const match = relationFile.exec(name);
  if (match === null) return null;
  const rel = Number(match[2]);
  const segment = Number(match[4] ?? 0);
  if (rel > oidMax || segment > segmentMax) return null;
  if (match[1] !== undefined) return { kind: 'temporary' };
  const fork = forkSuffixes.indexOf(match[3] ?? '') as ForkNumber;
  return { kind: 'relation', rel: { ...database, rel, fork }, segment };
}

/** 0: the relations that all databases share. */
export function databaseOf(db: number): DatabaseEntry {
  return { spc: db === 0 ? globalTablespace : defaultTablespace, db };
}

export const databaseFolder = (db: number): string => (db === 0 ? 'global' : `base/${db}`);

export function relationPath({ db, rel, fork }: RelTag, segment: number): string {
  return `${databaseFolder(db)}/${rel}${forkSuffixes[fork]}${segment === 0 ? '' : `.${segment}`}`;
}
