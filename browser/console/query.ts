/**
 * One run of the editor's text: what came back, how long it took and where its pages came from.
 *
 * Values are shown as PostgreSQL writes them: a JavaScript Date would lose microseconds, and a number its digits.
 */
import type { BranchConnection, PageCounters } from '../api.ts';

export interface Column {
  readonly name: string;
  readonly isNumber: boolean;
}

/** PostgreSQL's text of each value; null is NULL. */
export type Row = readonly (string | null)[];

export interface ResultSet {
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  /** Such as `INSERT`; empty if PostgreSQL gave none. */
  readonly command: string;
  /** Rows that it tells of. */
  readonly count: number | null;
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
  const before = await pg.pageCounters().catch(() => noPages);
  const start = performance.now();
  let sets: ResultSet[] = [];
  let error: QueryError | null = null;
  const copy = copyFromStdin(text);
  if (copy !== null) return { sets, error: { ...noInput, offset: from + copy }, tookMs: 0, pages: noPages };
  try {
    const results = await pg.exec(text, { rowMode: 'array', parsers: textParsers(pg) });
    sets = results.map(({ fields, rows, command = '', rowCount = null }) => ({
      columns: fields.map(({ name, dataTypeID }) => ({ name, isNumber: numberTypes.has(dataTypeID) })),
      rows: rows as unknown as Row[],
      command,
      count: rowCount,
    }));
  } catch (cause) {
    error = queryError(cause, text, from);
  }
  const tookMs = performance.now() - start;
  const after = await pg.pageCounters().catch(() => before);
  return { sets, error, tookMs, pages: difference(before, after) };
}

/** Where a COPY FROM STDIN begins, as a pasted dump has them; null if there is none. PGlite would wait for its input for ever. */
export function copyFromStdin(text: string): number | null {
  const found = /(?:^|;)\s*(copy\s[^;]*?\bfrom\s+stdin\b)/i.exec(text);
  return found && found.index + found[0].length - found[1]!.length;
}

const noInput: Omit<QueryError, 'offset'> = {
  message: 'COPY FROM STDIN reads what a client sends, and here is none',
  code: null,
  detail: null,
  hint: 'Use INSERT here, or psql on an endpoint of the branch.',
};

const noPages: PageCounters = { fromCache: 0, fromTab: 0, fromServer: 0, bytesFromServer: 0 };

/** int8, int2, int4, oid, float4, float8, money, numeric. */
const numberTypes: ReadonlySet<number> = new Set([20, 21, 23, 26, 700, 701, 790, 1700]);

/** Leave every value the text that it came as, in place of PGlite's parsers. */
const textParsers = (pg: BranchConnection): Record<number, (text: string) => string> =>
  Object.fromEntries(Object.keys(pg.parsers).map((type) => [type, (text: string) => text]));

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
