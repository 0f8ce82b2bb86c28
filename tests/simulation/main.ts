/** `npm run sim`: many runs of simulate.ts, in several threads. Ends with 1 if anything did not hold. */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { Command, InvalidArgumentError } from 'commander';
import { type Outcome, simulate } from './simulate.ts';

interface Options {
  readonly seeds: number;
  readonly from: number;
  readonly threads: number;
  readonly first?: boolean;
  readonly trace?: boolean;
  readonly json?: boolean;
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('expected a whole number');
  return Number(text);
}

if (isMainThread) await main();
else parentPort!.on('message', async (seed: number) => parentPort!.postMessage(await simulate(seed)));

async function main(): Promise<void> {
  const options = new Command('sim')
    .description('Safekeepers, proposers and readers under every fault at once, in simulated time.')
    .option('--seeds <n>', 'how many runs', wholeNumber, 200)
    .option('--from <seed>', 'the first seed', wholeNumber, 1)
    .option('--threads <n>', 'at the same time', wholeNumber, availableParallelism())
    .option('--first', 'end with the first seed that does not hold')
    .option('--trace', 'write down what happens, of one seed')
    .option('--json', 'print the outcomes as JSON, a line each')
    .addHelpText('after', '\nExamples:\n  npm run sim -- --seeds 2000\n  npm run sim -- --from 4711 --seeds 1 --trace')
    .parse()
    .opts<Options>();
  const outcomes: Outcome[] = options.trace ? [await simulate(options.from, true)] : await runAll(options);
  const broken = outcomes.filter(({ violations }) => violations.length > 0);
  for (const { seed, violations } of broken) process.stderr.write(`seed ${seed}:\n  ${violations.join('\n  ')}\n`);
  if (!options.json) process.stdout.write(`${summary(outcomes)}\n`);
  const last = options.from + outcomes.length - 1;
  if (broken.length === 0) process.stderr.write(`seeds ${options.from} to ${last}: all of it held\n`);
  else process.exitCode = 1;
}

async function runAll(options: Options): Promise<Outcome[]> {
  const { seeds, from, threads, first = false, json = false } = options;
  const outcomes: Outcome[] = [];
  let next = from;
  let isOver = false;
  const startedAt = Date.now();
  const runThread = () =>
    new Promise<void>((resolve, reject) => {
      const worker = new Worker(fileURLToPath(import.meta.url));
      let seed = from;
      const give = () => {
        if (isOver || next >= from + seeds) void worker.terminate().then(() => resolve());
        else {
          seed = next++;
          worker.postMessage(seed);
        }
      };
      worker.on('message', (outcome: Outcome) => {
        outcomes.push(outcome);
        if (json) process.stdout.write(`${JSON.stringify(outcome)}\n`);
        if (outcomes.length % 100 === 0) {
          process.stderr.write(
            `${outcomes.length} of ${seeds} seeds, ${Math.round((Date.now() - startedAt) / 1000)} s\n`,
          );
        }
        if (first && outcome.violations.length > 0) isOver = true;
        give();
      });
      worker.on('error', (error) => reject(new Error(`seed ${seed}:\n  ${error.stack}`, { cause: error })));
      give();
    });
  await Promise.all(Array.from({ length: Math.max(1, threads) }, runThread));
  return outcomes.sort((a, b) => a.seed - b.seed);
}

function summary(outcomes: readonly Outcome[]): string {
  const sum = (of: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0);
  return [
    `${outcomes.length} runs with ${[1, 3, 5].map((n) => outcomes.filter(({ safekeepers }) => safekeepers === n).length).join(', ')} of 1, 3, 5 safekeepers`,
    `${sum(({ elections }) => elections)} elections, ${sum(({ fences }) => fences)} fences, ${sum(({ committed }) => committed)} commits acknowledged`,
    `${sum(({ tornWrites }) => tornWrites)} torn writes, ${sum(({ diskFailures }) => diskFailures)} failures of a disk, ${sum(({ staleRestores }) => staleRestores)} old disks (heard of from peers at ${sum(({ noticedOldDisks }) => noticedOldDisks)} starts), ${sum(({ replacements }) => replacements)} safekeepers replaced, ${sum(({ recoveries }) => recoveries)} recoveries from a peer`,
  ].join('\n');
}
