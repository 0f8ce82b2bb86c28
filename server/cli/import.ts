/** `pagelite import`: a PGlite database becomes a branch. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId, TimelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { chooseTenant } from '../control-plane/branches.ts';
import { importBranch } from '../control-plane/import-branch.ts';
import { type CliContext, tenantArgument, timelineArgument } from './context.ts';
import { formatBytes, ProgressLine } from './progress.ts';

const help = `
Examples:
  $ pagelite import --branch-name shop ./my-pglite-data
  $ pagelite import --branch-name shop backup.tar.gz         what dumpDataDir() of a PGlite gives
  $ curl https://example.com/backup.tar.gz | pagelite import --branch-name shop -
  $ pagelite endpoint create shop --branch-name shop && pagelite endpoint start shop

The data directory is only read. One that was not shut down is copied, and PostgreSQL recovers the copy first.`;

interface ImportOptions {
  readonly branchName: string;
  readonly tenantId?: TenantId;
  readonly timelineId?: TimelineId;
  readonly json?: boolean;
}

export function addImportCommand(program: Command, context: CliContext): void {
  program
    .command('import')
    .description('make a branch of a PGlite data directory, or of its tarball')
    .argument('<path>', 'the folder, the tarball (.tar, .tar.gz, .tgz), or - for a tarball on standard input')
    .requiredOption('--branch-name <name>', 'name of the new branch')
    .option('--timeline-id <id>', 'id of the new timeline (default: a new one)', timelineArgument)
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--json', 'the result as JSON')
    .addHelpText('after', help)
    .action((path: string, options: ImportOptions) => runImport(path, options, context));
}

async function runImport(path: string, options: ImportOptions, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
  const line = new ProgressLine(context.progressOutput);
  const imported = await untilInterrupted((signal) =>
    importBranch(context.storage(repository), repository, {
      source: path === '-' ? process.stdin : path,
      tenantId,
      name: options.branchName,
      timelineId: options.timelineId,
      progress: line.tell,
      signal,
    }),
  ).finally(() => line.clear());
  const { id, lsn, bytes, layerBytes, layers, wasRecovered, warnings } = imported;
  if (options.json) {
    const { timelineId } = id;
    const branch = { branchName: options.branchName, tenantId, timelineId, startLsn: formatLsn(lsn) };
    context.sayJson({ ...branch, bytes, layerBytes, layers, wasRecovered, warnings });
    return;
  }
  for (const warning of warnings) context.warn(`warning: ${warning}`);
  if (wasRecovered) context.say('The data directory had not been shut down: PostgreSQL recovered a copy of it');
  context.say(
    `Imported ${formatBytes(bytes)} as branch '${options.branchName}': timeline '${id.timelineId}' at Lsn ${formatLsn(lsn)} for tenant: ${tenantId}`,
  );
}

/** Ctrl-C ends the work in order; a second one ends the process. */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interrupt = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    interrupt.abort(new PageliteError('cancelled', `interrupted by ${signal}: nothing is left of it`));
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  try {
    return await work(interrupt.signal);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
