/**
 * What differs between two branches: tables and their columns, indexes, constraints, views, functions, and how many rows each table has.
 *
 * Both sides are described by the same queries, as text that PostgreSQL itself writes; the comparison is by name.
 */
import type { BranchConnection } from '../api.ts';

export interface SchemaObject {
  /** Such as `table public.accounts`. */
  readonly name: string;
  readonly lines: readonly string[];
  /** Of a table. */
  readonly rows: number | null;
}

export interface ObjectDiff {
  readonly name: string;
  readonly change: 'added' | 'removed' | 'changed';
  readonly removed: readonly string[];
  readonly added: readonly string[];
  readonly rowsBefore: number | null;
  readonly rowsAfter: number | null;
}

const ownSchemas = `n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg_toast%' and n.nspname not like 'pg_temp%'`;

/** Name of the object, a line of its description, and where the line goes. */
const schemaQuery = `
select 'table ' || format('%I.%I', n.nspname, c.relname) as name,
       format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then ' not null' else '' end,
              coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')) as line, a.attnum as nr
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relkind in ('r', 'p') and ${ownSchemas}
union all
select 'table ' || format('%I.%I', n.nspname, c.relname), format('constraint %I %s', k.conname, pg_get_constraintdef(k.oid)), 10000
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where k.contype <> 'n' and ${ownSchemas}
union all
select 'index ' || format('%I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid), 0
  from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
 where ${ownSchemas}
union all
select 'view ' || format('%I.%I', n.nspname, c.relname), pg_get_viewdef(c.oid, true), 0
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('v', 'm') and ${ownSchemas}
union all
select 'function ' || p.oid::regprocedure::text, pg_get_functiondef(p.oid), 0
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where p.prokind in ('f', 'p') and ${ownSchemas}
   and not exists (select 1 from pg_depend e where e.objid = p.oid and e.deptype = 'e')
order by 1, 3, 2`;

const tablesQuery = `
select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and ${ownSchemas} order by 1`;

/** `onTable` hears of each table that is counted. */
export async function describeBranch(
  pg: BranchConnection,
  onTable: (done: number, total: number) => void,
): Promise<Map<string, SchemaObject>> {
  const lines = new Map<string, string[]>();
  const { rows } = await pg.query<{ name: string; line: string }>(schemaQuery);
  for (const { name, line } of rows) lines.set(name, [...(lines.get(name) ?? []), line]);
  const counts = new Map<string, number>();
  const tables = (await pg.query<{ name: string }>(tablesQuery)).rows;
  for (const [i, { name }] of tables.entries()) {
    onTable(i, tables.length);
    const counted = await pg.query<{ count: number }>(`select count(*)::float8 as count from ${name}`);
    counts.set(`table ${name}`, counted.rows[0]!.count);
    // A table without columns has no lines.
    if (!lines.has(`table ${name}`)) lines.set(`table ${name}`, []);
  }
  return new Map([...lines].map(([name, text]) => [name, { name, lines: text, rows: counts.get(name) ?? null }]));
}

export function diffObjects(
  before: ReadonlyMap<string, SchemaObject>,
  after: ReadonlyMap<string, SchemaObject>,
): ObjectDiff[] {
  const names = [...new Set([...before.keys(), ...after.keys()])].sort();
  return names.flatMap((name): ObjectDiff[] => {
    const [old, now] = [before.get(name), after.get(name)];
    const oldLines = splitLines(old);
    const newLines = splitLines(now);
    const removed = oldLines.filter((line) => !newLines.includes(line));
    const added = newLines.filter((line) => !oldLines.includes(line));
    const [rowsBefore, rowsAfter] = [old?.rows ?? null, now?.rows ?? null];
    if (old && now && removed.length === 0 && added.length === 0 && rowsBefore === rowsAfter) return [];
    const change = !old ? 'added' : !now ? 'removed' : 'changed';
    return [{ name, change, removed, added, rowsBefore, rowsAfter }];
  });
}

const splitLines = (object: SchemaObject | undefined): string[] =>
  object?.lines.flatMap((line) => line.split('\n')) ?? [];
