/**
 * What every benchmark shares: interleaved repetitions, medians, and one row of the table.
 *
 * Machines are noisy, so nothing here is an absolute promise: a row is a *ratio* of two things measured side by side, alternating, in one
 * run. A row says what it should reach; `npm run bench` prints whether it did and never fails because of it.
 */
import { cpus } from 'node:os';

export interface Row {
  /** What is measured, and against what. */
  readonly what: string;
  readonly against: string;
  /** The two medians with their unit, as text. */
  readonly measured: string;
  readonly baseline: string;
  readonly ratio: number;
  /** `<=` or `>=` a bound that the ratio is meant to keep; absent: it is there to be known. */
  readonly target?: { readonly op: '<=' | '>='; readonly bound: number };
  /** Anything else worth knowing: spread, sizes. */
  readonly note?: string;
}

export interface Benchmark {
  readonly name: string;
  /** One line for `--help`. */
  readonly about: string;
  run(context: BenchContext): Promise<Row[]>;
}

export interface BenchContext {
  /** A fresh folder that is removed afterwards. */
  readonly folder: string;
  /** Repetitions of each side. */
  readonly rounds: number;
  /** 1 for the sizes of the issue, smaller for a quick look. */
  readonly scale: number;
  /** Progress, to stderr. */
  say(text: string): void;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Runs the sides in turn, `rounds` times, and returns the figures of each side in order. */
export async function interleave(rounds: number, sides: readonly (() => Promise<number>)[]): Promise<number[][]> {
  const figures: number[][] = sides.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (let side = 0; side < sides.length; side++) figures[side]!.push(await sides[side]!());
  }
  return figures;
}

/** Milliseconds that `work` took. */
export async function timed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Null if nothing was asked. */
function reached({ target, ratio }: Row): boolean | null {
  if (target === undefined) return null;
  return target.op === '<=' ? ratio <= target.bound : ratio >= target.bound;
}

export const microseconds = (ms: number): string => `${Math.round(ms * 1000)} us`;

export const spread = (values: readonly number[]): string =>
  `${Math.min(...values).toPrecision(3)}..${Math.max(...values).toPrecision(3)}`;

/** To the standard output: a table, or JSON for machines. */
export function printRows(rows: readonly Row[], json: boolean): void {
  const machine = { node: process.version, cpu: cpus()[0]?.model, cores: cpus().length };
  const marked = { machine, rows: rows.map((row) => ({ ...row, reached: reached(row) })) };
  process.stdout.write(`${json ? JSON.stringify(marked, null, 2) : printTable(rows)}\n`);
}

function printTable(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.what,
    row.measured,
    row.against,
    row.baseline,
    `${row.ratio.toFixed(2)}x`,
    row.target ? `${row.target.op} ${row.target.bound}x` : '',
    { true: 'yes', false: 'NO', null: '' }[`${reached(row)}`],
    row.note ?? '',
  ]);
  const table = [['what', 'measured', 'against', 'measured', 'ratio', 'target', 'reached', 'note'], ...cells];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  return table
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
