/** One run of the editor's text: what came back, how long it took and where its pages came from. */
import type { BranchConnection, PageCounters } from '../api.ts';

export interface ResultSet {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
  readonly affected: number | null;
}

export interface QueryError {
  readonly message: string;
  readonly code: string | null;
  readonly detail: string | null;
  readonly hint: string | null;
  /** Offset in the editor's text, from 0; null if PostgreSQL gave none. */
  readonly offset: number | null;
}

export interface QueryRun {
  readonly sets: readonly ResultSet[];
  readonly error: QueryError | null;
  readonly tookMs: number;
  /** Of this run alone. */
  readonly pages: PageCounters;
}

/** `from` is where `text` begins in the editor. Never rejects: what goes wrong is part of the run. */
export async function runQuery(pg: BranchConnection, text: string, from: number): Promise<QueryRun> {
  const before = await pg.pageCounters();
  const start = performance.now();
  let sets: ResultSet[] = [];
  let error: QueryError | null = null;
  try {
    const results = await pg.exec(text, { rowMode: 'array' });
    sets = results.map(({ fields, rows, affectedRows }) => ({
      columns: fields.map(({ name }) => name),
      rows: rows as unknown as unknown[][],
      affected: affectedRows ?? null,
    }));
  } catch (cause) {
    error = queryError(cause, text, from);
  }
  const tookMs = performance.now() - start;
  const after = await pg.pageCounters().catch(() => before);
  return { sets, error, tookMs, pages: difference(before, after) };
}

function difference(before: PageCounters, after: PageCounters): PageCounters {
  return {
    fromCache: after.fromCache - before.fromCache,
    fromTab: after.fromTab - before.fromTab,
    fromServer: after.fromServer - before.fromServer,
    bytesFromServer: after.bytesFromServer - before.bytesFromServer,
  };
}

function queryError(cause: unknown, text: string, from: number): QueryError {
  const fields = (cause ?? {}) as Record<string, unknown>;
  const field = (name: string) =>
    typeof fields[name] === 'string' && fields[name] !== '' ? (fields[name] as string) : null;
  const position = Number(fields.position);
  return {
    message: cause instanceof Error ? cause.message : String(cause),
    code: field('code'),
    detail: field('detail'),
    hint: field('hint'),
    offset: Number.isInteger(position) && position > 0 ? from + utf16Offset(text, position - 1) : null,
  };
}

/** PostgreSQL counts characters; JavaScript and the editor count UTF-16 units. */
function utf16Offset(text: string, characters: number): number {
  let offset = 0;
  for (const character of text) {
    if (characters-- <= 0) break;
    offset += character.length;
  }
  return offset;
}

/** Tables and their columns, for completion. */
export async function completionSchema(pg: BranchConnection): Promise<Record<string, string[]>> {
  const { rows } = await pg.query<{ schema: string; name: string; columns: string[] }>(
    `select n.nspname as schema, c.relname as name, array_agg(a.attname::text order by a.attnum) as columns
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.relkind in ('r', 'p', 'v', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
      group by 1, 2 limit 500`,
  );
  return Object.fromEntries(
    rows.map(({ schema, name, columns }) => [schema === 'public' ? name : `${schema}.${name}`, columns]),
  );
}
