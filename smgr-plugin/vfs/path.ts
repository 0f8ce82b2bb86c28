/**
 * R1. What a file of the data directory is, by its name.
 *
 *   base/5/16384        main fork, blocks 0 to 131071        base/5/16384_fsm.1   free space map, blocks from 131072 on
 *   global/1262         a relation of all databases          base/5/t3_16390      temporary, of backend 3
 *   pg_wal/000000010000000000000001                          anything else        a local file
 *
 * Leading zeros, a `.0` or numbers out of range name no relation (PostgreSQL never writes them).
 */
import { relSegmentBlocks } from '../../engine/limits.ts';
import { defaultTablespace, type ForkNumber, globalTablespace } from '../../engine/model/rel.ts';

export interface RelationFileName {
  /** Backend number of a temporary relation, else null. */
  readonly backend: number | null;
  readonly rel: number;
  readonly fork: ForkNumber;
  /** Which 1 GB file of the fork. */
  readonly segment: number;
}

const relationName = /^(?:t(0|[1-9]\d{0,9})_)?([1-9]\d{0,9})(_fsm|_vm|_init)?(?:\.([1-9]\d{0,4}))?$/;
const forkSuffix = ['', '_fsm', '_vm', '_init'] as const;
const oidMax = 0xffffffff;
const segmentMax = Math.floor(0xfffffffe / relSegmentBlocks);

/** Null if the name is no relation's. */
export function parseRelationFileName(name: string): RelationFileName | null {
  const match = relationName.exec(name);
  if (!match) return null;
  const backend = match[1] === undefined ? null : Number(match[1]);
  const rel = Number(match[2]);
  const segment = match[4] === undefined ? 0 : Number(match[4]);
  if (rel > oidMax || segment > segmentMax || (backend !== null && backend > 0x7fffffff)) return null;
  return { backend, rel, fork: forkSuffix.indexOf((match[3] ?? '') as '') as ForkNumber, segment };
}

export function formatRelationFileName(file: RelationFileName): string {
  const temporary = file.backend === null ? '' : `t${file.backend}_`;
  return `${temporary}${file.rel}${forkSuffix[file.fork]}${file.segment === 0 ? '' : `.${file.segment}`}`;
}

export interface DatabaseFolder {
  readonly spc: number;
  /** 0: `global`. */
  readonly db: number;
}

/** The database whose relations lie in this folder (`global`, `base/5`); null for any other. */
export function parseDatabaseFolder(path: string): DatabaseFolder | null {
  if (path === 'global') return { spc: globalTablespace, db: 0 };
  const match = /^base\/([1-9]\d{0,9})$/.exec(path);
  if (!match || Number(match[1]) > oidMax) return null;
  return { spc: defaultTablespace, db: Number(match[1]) };
}
