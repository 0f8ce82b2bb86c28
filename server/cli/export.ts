/** `pagelite export`: a branch becomes a database of plain PGlite. */
import { existsSync, statSync } from 'node:fs';
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { chooseTenant } from '../control-plane/branches.ts';
import type { BranchStart } from '../control-plane/branching.ts';
import { type ExportBranchOptions, exportBranch } from '../control-plane/export-branch.ts';
import { writeFileAtOnce } from '../export/write-tarball.ts';
import { silentLog } from '../process/node-host.ts';
import { type CliContext, lsnArgument, tenantArgument, timestampArgument } from './context.ts';
import { untilInterrupted } from './import.ts';
import { formatBytes, ProgressLine } from './progress.ts';

const help = `
Examples:
  $ pagelite export --branch-name main
  $ pagelite export --branch-name main --at "2026-01-31 12:00:00+00" -o before.tar
  $ pagelite export --branch-name main -o - | ssh backup 'cat > main.tar.gz'

In a program: PGlite.create({ loadDataDir: new Blob([readFileSync('main.tar.gz')], { type: 'application/x-gzip' }) })`;

interface ExportOptions {
  readonly branchName: string;
  readonly lsn?: Lsn;
  /** Milliseconds. */
  readonly at?: number;
  readonly output?: string;
  readonly tenantId?: TenantId;
  readonly json?: boolean;
}

export function addExportCommand(program: Command, context: CliContext): void {
  program
    .command('export')
    .description('write a branch as a tarball that plain PGlite opens')
    .requiredOption('--branch-name <name>', 'the branch')
    .option('--lsn <lsn>', 'a point of its history (default: the end)', lsnArgument)
    .option('--at <timestamp>', 'the same by time: all that was committed until then', timestampArgument)
    .option(
      '-o, --output <file>',
      'FILE.tar.gz, FILE.tgz, FILE.tar (not compressed), or - for standard output, gzipped',
    )
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--json', 'the result as JSON')
    .addHelpText('after', help)
    .action((options: ExportOptions) => runExport(options, context));
}

async function runExport(options: ExportOptions, context: CliContext): Promise<void> {
  const { branchName, lsn: givenLsn, at, json } = options;
  if (givenLsn !== undefined && at !== undefined) throw new PageliteError('invalid', 'give --lsn or --at, not both');
  const place: BranchStart =
    givenLsn !== undefined ? { lsn: givenLsn } : at !== undefined ? { timestampMs: at } : 'end';
  const output = options.output ?? `${branchName.replaceAll('/', '-')}.tar.gz`;
  checkOutput(output);
  const repository = context.openRepository();
  const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
  const storage = context.storage(repository);
  await storage.checkStatus();
  const line = new ProgressLine(context.progressOutput);
  const exported = await untilInterrupted((signal) => {
    const write = (to: ExportBranchOptions['output']) =>
      exportBranch(storage, repository, {
        tenantId,
        branch: branchName,
        place,
        output: to,
        isCompressed: !output.endsWith('.tar'),
        progress: line.tell,
        log: silentLog,
        signal,
      });
    return output === '-' ? write(process.stdout) : writeFileAtOnce(output, write);
  }).finally(() => line.clear());
  const { id, lsn, bytes, archiveBytes, unloggedRelations } = exported;
  // Standard output is the archive's.
  const say = output === '-' ? context.warn : context.say;
  if (json) {
    const { timelineId } = id;
    const result = {
      branchName,
      tenantId,
      timelineId,
      lsn: formatLsn(lsn),
      output,
      bytes,
      archiveBytes,
      unloggedRelations,
    };
    say(JSON.stringify(result, null, 2));
    return;
  }
  if (unloggedRelations > 0) context.warn(`warning: ${unloggedRelations} unlogged relations are empty in it`);
  say(
    `Exported branch '${branchName}' at Lsn ${formatLsn(lsn)} to ${output}: ${formatBytes(bytes)}, packed ${formatBytes(archiveBytes)}`,
  );
}

/** Before anything is read. */
function checkOutput(output: string): void {
  if (output === '-' && process.stdout.isTTY) {
    throw new PageliteError('invalid', 'standard output is a terminal: pass it on, or name a file with --output');
  }
  if (output !== '-' && !/\.(tar|tar\.gz|tgz)$/.test(output)) {
    throw new PageliteError('invalid', `"${output}" does not say what it is to be: end it in .tar.gz, .tgz or .tar`);
  }
  if (output !== '-' && existsSync(output) && !statSync(output).isFile()) {
    throw new PageliteError('invalid', `${output} is there and is no file`);
  }
}
