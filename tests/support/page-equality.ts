/**
 * Whether two pages are the same to PostgreSQL: both under its own rm_mask, which hides what WAL need not carry (hint bits, free space, the LSN).
 *
 * Only what PostgreSQL itself does not log may differ beyond that; each such case stands in `explanations`, by name.
 */
import type { PGlite } from '@electric-sql/pglite';
import { pageSize } from '../../engine/limits.ts';
import { type ForkNumber, vmFork } from '../../engine/model/rel.ts';
import { rmgr } from '../../engine/wal/wal-record.ts';

const maskOf: Record<string, number> = {
  heap: rmgr.heap,
  btree: rmgr.btree,
  hash: rmgr.hash,
  gin: rmgr.gin,
  gist: rmgr.gist,
  spgist: rmgr.spgist,
  brin: rmgr.brin,
  sequence: rmgr.sequence,
};

/** What masks: Postgres's redo. */
export interface PageMask {
  maskPage(page: Uint8Array, rmid: number, block: number): Uint8Array;
}

export interface PageOf {
  /** An access method of tables or indexes, or `sequence`. */
  readonly method: string;
  readonly fork: ForkNumber;
  readonly block: number;
  /** In a database made by CREATE DATABASE ... STRATEGY wal_log. */
  readonly copiedByWal: boolean;
}

interface Explanation {
  readonly name: string;
  /** Both masked; `at` is the first byte that differs. */
  holds(page: PageOf, at: number, rebuilt: Uint8Array, written: Uint8Array): boolean;
}

const pageHeaderBytes = 24;

const explanations: readonly Explanation[] = [
  {
    // last_value and log_cnt of the one tuple, at the page's end.
    name: 'sequences log 32 values ahead',
    holds: ({ method, fork, block }, at) => method === 'sequence' && fork === 0 && block === 0 && at >= pageSize - 64,
  },
  {
    // SpGistUpdateMetaPage marks it dirty without WAL.
    name: 'the SP-GiST metapage caches the last used pages',
    holds: ({ method, fork, block }, at) => method === 'spgist' && fork === 0 && block === 0 && at >= pageHeaderBytes,
  },
  {
    // RelationCopyStorageUsingBuffer, page_std: its bits lie in what is taken for the hole. A bit that is lost is only a page that is not known
    // to be all-visible.
    name: 'CREATE DATABASE ... STRATEGY wal_log logs a visibility map as a standard page',
    holds: ({ fork, copiedByWal }, _at, rebuilt) =>
      copiedByWal && fork === vmFork && isZero(rebuilt.subarray(pageHeaderBytes)),
  },
];

export type Comparison =
  | { readonly kind: 'equal' }
  | { readonly kind: 'explained'; readonly name: string }
  /** `at`: the first byte that differs. */
  | { readonly kind: 'different'; readonly at: number };

export function comparePages(page: PageOf, rebuilt: Uint8Array, written: Uint8Array, mask: PageMask): Comparison {
  const a = masked(page, rebuilt, mask);
  const b = masked(page, written, mask);
  const at = a.findIndex((byte, i) => byte !== b[i]);
  if (at < 0) return { kind: 'equal' };
  const explanation = explanations.find(({ holds }) => holds(page, at, a, b));
  return explanation ? { kind: 'explained', name: explanation.name } : { kind: 'different', at };
}

/** A page that was never initialised has no mask, and a visibility map has only its LSN to hide. */
function masked({ method, fork, block }: PageOf, page: Uint8Array, mask: PageMask): Uint8Array {
  if (isZero(page)) return page;
  if (fork === vmFork) return page.slice().fill(0, 0, 8);
  return mask.maskPage(page, maskOf[method]!, block);
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** relfilenode -> access method or `sequence`, of the database that is asked and of shared catalogs. */
export async function accessMethods(pg: PGlite): Promise<Map<number, string>> {
  const { rows } = await pg.query<{ file: number; method: string }>(
    `select pg_relation_filenode(c.oid)::int8::float8 as file,
            case when c.relkind = 'S' then 'sequence' else a.amname end as method
     from pg_class c left join pg_am a on a.oid = c.relam where pg_relation_filenode(c.oid) is not null`,
  );
  return new Map(rows.map(({ file, method }) => [file, method]));
}

/** Oids of databases by name. */
export async function databaseOids(pg: PGlite): Promise<Map<string, number>> {
  const { rows } = await pg.query<{ name: string; oid: number }>(
    'select datname as name, oid::int8::float8 as oid from pg_database order by 1',
  );
  return new Map(rows.map(({ name, oid }) => [name, oid]));
}
