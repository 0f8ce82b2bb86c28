/** `npm run faults`: the bank of tests/faults/bank.ts with as many faults as wanted. Ends with 1 if anything did not hold. */
import { Command } from 'commander';
import { RepositoryRig } from '../support/repository-rig.ts';
import { runBank } from './bank.ts';

const program = new Command('faults')
  .description('A bank on real processes while they are killed, stopped, restarted and fenced.')
  .option('--faults <n>', 'how many', Number, 100)
  .option('--seed <n>', 'draws the faults', Number, Math.floor(Math.random() * 2 ** 31))
  .option('--safekeepers <n>', 'how many', Number, 3)
  .option('--json', 'print the report as JSON')
  .addHelpText('after', '\nExamples:\n  npm run faults\n  npm run faults -- --faults 500 --seed 7 --safekeepers 5')
  .parse();
const options = program.opts<{ faults: number; seed: number; safekeepers: number; json?: boolean }>();

const rig = new RepositoryRig();
try {
  process.stderr.write(`--seed ${options.seed}\n`);
  await rig.start('--num-safekeepers', String(options.safekeepers));
  await rig.endpoint('main');
  const report = await runBank({
    rig,
    safekeeperCount: options.safekeepers,
    seed: options.seed,
    faultCount: options.faults,
    say: (text) => process.stderr.write(`${text}\n`),
  });
  if (options.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else {
    const { acknowledged, unknown, reads, faults, violations } = report;
    for (const [what, count] of Object.entries(faults)) process.stdout.write(`${String(count).padStart(5)} ${what}\n`);
    process.stdout.write(`${acknowledged} transfers acknowledged, ${unknown} without an answer, ${reads} reads\n`);
    process.stdout.write(violations.length === 0 ? 'all of it held\n' : `VIOLATIONS\n${violations.join('\n')}\n`);
  }
  if (report.violations.length > 0) process.exitCode = 1;
} finally {
  await rig.close();
}
