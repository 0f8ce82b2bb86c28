/**
 * PGlite's contrib extensions, for an endpoint: a client that speaks the wire protocol cannot hand PGlite its files, so all are there for CREATE
 * EXTENSION, and a database that was made by the library with some of them works on an endpoint, too. Their files are 1.5 MB together; what they
 * cost at a start was measured at 0.1 to 0.2 s.
 */
import type { Extensions } from '@electric-sql/pglite';

const names = [
  'amcheck',
  'auto_explain',
  'bloom',
  'btree_gin',
  'btree_gist',
  'citext',
  'cube',
  'dict_int',
  'dict_xsyn',
  'earthdistance',
  'file_fdw',
  'fuzzystrmatch',
  'hstore',
  'intarray',
  'isn',
  'lo',
  'ltree',
  'moddatetime',
  'pageinspect',
  'pg_buffercache',
  'pg_freespacemap',
  'pg_stat_statements',
  'pg_surgery',
  'pg_trgm',
  'pg_visibility',
  'pg_walinspect',
  'pgcrypto',
  'seg',
  'tablefunc',
  'tcn',
  'tsm_system_rows',
  'tsm_system_time',
  'unaccent',
  'uuid_ossp',
] as const;

export async function contribExtensions(): Promise<Extensions> {
  const modules = await Promise.all(names.map((name) => import(`@electric-sql/pglite/contrib/${name}`)));
  return Object.assign({}, ...modules) as Extensions;
}
