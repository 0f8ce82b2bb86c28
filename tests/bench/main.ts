/**
 * `npm run bench`: runs the benchmarks and prints one table. `--json` for machines, `--only NAME` for some, `--scale 0.1` for a quick look.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { branchesBenchmark } from './branches.ts';
import { coldScanBenchmark } from './cold-scan.ts';
import { decoderBenchmark } from './decoder.ts';
import { getPageBenchmark } from './getpage.ts';
import { type Benchmark, printRows, type Row } from './harness.ts';
import { inProcessBenchmark } from './in-process.ts';
import { ingestBenchmark } from './ingest.ts';
import { layerMapBenchmark } from './layer-map.ts';
import { redoBenchmark } from './redo.ts';
import { safekeepersBenchmark } from './safekeepers.ts';
import { scaleBenchmark } from './scale.ts';
import { walCommit } from './wal-commit.ts';

const benchmarks: readonly Benchmark[] = [
  inProcessBenchmark,
  coldScanBenchmark,
  branchesBenchmark,
  decoderBenchmark,
  redoBenchmark,
  ingestBenchmark,
  getPageBenchmark,
  layerMapBenchmark,
  walCommit,
  safekeepersBenchmark,
  scaleBenchmark,
];

const program = new Command('bench')
  .description('Measures Pagelite against what it stands beside, as ratios of medians in one run.')
  .option('--json', 'print the rows as JSON')
  .option('--only <names>', `of: ${benchmarks.map(({ name }) => name).join(', ')}`, (text) => text.split(','))
  .option('--rounds <n>', 'repetitions of each side', Number, 5)
  .option('--scale <x>', 'size of the data, 1 is full', Number, 1)
  .addHelpText(
    'after',
    `\nBenchmarks:\n${benchmarks.map(({ name, about }) => `  ${name.padEnd(12)} ${about}`).join('\n')}`,
  )
  .addHelpText(
    'after',
    '\nExamples:\n  npm run bench\n  npm run bench -- --only redo,ingest --scale 0.2\n  npm run bench -- --json > bench.json',
  )
  .parse();
const options = program.opts<{ json?: boolean; only?: string[]; rounds: number; scale: number }>();

const unknown = options.only?.find((name) => !benchmarks.some((one) => one.name === name));
if (unknown !== undefined) program.error(`unknown benchmark "${unknown}"; see --help`);

const rows: Row[] = [];
for (const benchmark of benchmarks) {
  if (options.only && !options.only.includes(benchmark.name)) continue;
  process.stderr.write(`${benchmark.name}: ${benchmark.about}\n`);
  const folder = mkdtempSync(join(tmpdir(), 'pagelite-bench-'));
  try {
    const say = (text: string) => process.stderr.write(`  ${text}\n`);
    rows.push(...(await benchmark.run({ folder, rounds: options.rounds, scale: options.scale, say })));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
printRows(rows, options.json ?? false);
process.exit(0);
