/**
 * What a database holds, in words that do not depend on where it runs: every row of every table of it, the system catalogs included, and what its
 * sequences say. Two databases with the same facts are the same to whoever asks by SQL.
 *
 * Left out: cloud_admin, which the first endpoint of an imported branch makes, and statistics of the running server.
 */

/** Runs one statement and gives its rows. */
export type Query = <Row extends object>(sql: string) => Promise<Row[]>;

/** By relation name: number of rows and a digest of them; of sequences their state; of roles, databases and indexes what they are. */
export type DatabaseFacts = Record<string, unknown>;

// cloud_admin is in it, and what it is granted.
const notCompared = new Set(['pg_catalog.pg_authid']);

export async function databaseFacts(query: Query): Promise<DatabaseFacts> {
  const facts: DatabaseFacts = {};
  const tables = await query<{ name: string; ident: string; kind: string }>(
    `select n.nspname || '.' || c.relname as name, c.oid::regclass::text as ident, c.relkind as kind
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'm', 'S', 't') and c.relpersistence <> 't' and n.nspname !~ '^pg_temp' order by 1`,
  );
  for (const { name, ident, kind } of tables) {
    if (notCompared.has(name)) continue;
    const columns = kind === 'S' ? 'last_value, log_cnt, is_called' : '*';
    const [row] = await query<object>(
      `select count(*)::int as rows, md5(string_agg(t::text, E'\\n' order by t::text)) as digest from (select ${columns} from ${ident}) t`,
    );
    facts[name] = row;
  }
  facts.roles = await query(
    `select oid::int, rolname, rolsuper, rolinherit, rolcanlogin, rolpassword, rolconnlimit from pg_authid where rolname <> 'cloud_admin' order by oid`,
  );
  facts.prepared = await query('select gid, owner, database from pg_prepared_xacts order by gid');
  facts.objects = await query(
    'select loid::int, sum(length(data))::int as bytes from pg_largeobject group by loid order by loid',
  );
  return facts;
}

/** Blocks of each relation: the same in files that are the same; a relation may be longer where it was extended ahead, which is not logged. */
export function relationSizes(query: Query): Promise<object[]> {
  return query(
    `select c.oid::regclass::text as name, pg_relation_size(c.oid)::int as bytes from pg_class c
     where c.relkind in ('r', 'i', 't', 'm') and c.relpersistence = 'p' order by c.oid::int`,
  );
}

/** What amcheck has to say of every B-tree and every table, and whether each index finds what its table has. Must be nothing. */
export async function corruptions(query: Query): Promise<string[]> {
  const found: string[] = [];
  await query('create extension if not exists amcheck');
  const indexes = await query<{ oid: number; name: string }>(
    `select i.indexrelid::int as oid, i.indexrelid::regclass::text as name from pg_index i join pg_class c on c.oid = i.indexrelid
     join pg_am a on a.oid = c.relam where a.amname = 'btree' and i.indisvalid and c.relpersistence <> 't' and c.relkind = 'i'`,
  );
  for (const { oid, name } of indexes) {
    await query(`select bt_index_parent_check(${oid}, true)`).catch((error) => found.push(`${name}: ${error.message}`));
  }
  const tables = await query<{ oid: number; name: string }>(
    `select oid::int, oid::regclass::text as name from pg_class where relkind in ('r', 't', 'm') and relpersistence <> 't'`,
  );
  for (const { oid, name } of tables) {
    const rows = await query<{ msg: string }>(`select msg from verify_heapam(${oid})`);
    found.push(...rows.map(({ msg }) => `${name}: ${msg}`));
  }
  return found;
}
