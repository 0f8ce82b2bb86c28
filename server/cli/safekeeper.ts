/** `pagelite safekeeper start|stop|restart|status`. */
import type { Command } from 'commander';
import { formatLsn } from '../../engine/model/lsn.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { nameOfTimeline } from '../control-plane/branches.ts';
import { replaceSafekeeper } from '../control-plane/replace-safekeeper.ts';
import type { RepositoryConfig } from '../control-plane/repository.ts';
import { SafekeeperClients, type SafekeeperInfo } from '../control-plane/safekeeper-clients.ts';
import { safekeeperConfig, shown, startSafekeeper, stopSafekeeper } from '../control-plane/storage-processes.ts';
import type { StopMode } from '../process/daemon.ts';
import { type CliContext, nodeIdArgument } from './context.ts';
import { formatBytes } from './progress.ts';
import { stopModeOption } from './start-stop.ts';
import { formatTable } from './table.ts';

const help = `
Examples:
  $ pagelite safekeeper stop
  $ pagelite safekeeper restart 1 --mode immediate
  $ pagelite safekeeper status
  $ pagelite safekeeper status 2 --json

While no quorum of safekeepers is there, commits wait; they do not fail.`;

export function addSafekeeperCommands(program: Command, context: CliContext): void {
  const safekeeper = program.command('safekeeper').description('manage safekeepers').addHelpText('after', help);
  const id = ['[id]', 'which safekeeper', nodeIdArgument, 1] as const;
  safekeeper
    .command('start')
    .description('start a safekeeper')
    .argument(...id)
    .action((which: number) =>
      context.changeRepository((repository) => startSafekeeper(repository, which, context.say)),
    );
  safekeeper
    .command('stop')
    .description('stop a safekeeper')
    .argument(...id)
    .addOption(stopModeOption())
    .action((which: number, { mode }: { mode: StopMode }) =>
      context.changeRepository((repository) => stopSafekeeper(repository, which, mode, context.say)),
    );
  safekeeper
    .command('restart')
    .description('stop a safekeeper and start it again')
    .argument(...id)
    .addOption(stopModeOption())
    .action((which: number, { mode }: { mode: StopMode }) =>
      context.changeRepository(async (repository) => {
        await stopSafekeeper(repository, which, mode, context.say);
        await startSafekeeper(repository, which, context.say);
      }),
    );
  safekeeper
    .command('replace')
    .description('put a new safekeeper in the place of one that is lost')
    .argument('<id>', 'the one that is lost', nodeIdArgument)
    .addHelpText('after', replaceHelp)
    .action((which: number) =>
      context.changeRepository(async (repository) => {
        const { id } = await replaceSafekeeper(repository, which, context.say);
        context.say(
          `Safekeeper ${id} has taken the place of ${which}. What is in ${shown(repository.safekeeperDir(which))} is not needed any more`,
        );
      }),
    );
  safekeeper
    .command('status')
    .description('show which safekeepers run, and how far each has the WAL of every branch')
    .argument('[id]', 'only this one', nodeIdArgument)
    .option('--json', 'as JSON')
    .addHelpText('after', statusHelp)
    .action((which: number | undefined, options: { json?: boolean }) => showStatus(which ?? null, options, context));
}

const replaceHelp = `
Examples:
  $ pagelite safekeeper replace 2

More than half of the safekeepers must be there: the new one takes over all that was committed from them. Endpoints are started again meanwhile, their clients
connect anew. What of the old one may still run or come back is refused. Interrupted, the command goes on when it is given again.`;

const statusHelp = `
Examples:
  $ pagelite safekeeper status
  $ pagelite safekeeper status 2 --json

TERM grows with every compute that takes over. A branch is durable up to COMMIT LSN; FLUSH LSN is how far this safekeeper has it on disk, LAG what it
still lacks of what is committed.`;

async function showStatus(which: number | null, { json }: { json?: boolean }, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  const config = repository.readConfig();
  if (which !== null) safekeeperConfig(config, which);
  const all = await new SafekeeperClients(repository).status();
  const asked = all.filter(({ node }) => which === null || node.id === which);
  if (json) {
    context.sayJson(asked.map((info) => statusJson(info, config)));
    return;
  }
  const nodes = asked.map(({ node, pid }) =>
    [node.id, stateOf(pid), pid ?? '---', node.pgPort, node.httpPort].map(String),
  );
  for (const line of formatTable(['ID', 'STATE', 'PID', 'WAL PORT', 'HTTP PORT'], nodes)) context.say(line);
  const rows = asked.flatMap((info) => timelineRows(info, config));
  if (rows.length > 0) {
    context.say('');
    for (const line of formatTable(['BRANCH', 'SAFEKEEPER', 'TERM', 'FLUSH LSN', 'COMMIT LSN', 'LAG'], rows))
      context.say(line);
  }
  for (const { timelines } of asked) for (const { refused } of timelines) if (refused !== null) context.warn(refused);
  for (const { node, problem } of asked) if (problem !== null) context.warn(`safekeeper ${node.id}: ${problem}`);
  const answeringCount = all.filter(({ pid, problem }) => pid !== null && problem === null).length;
  const quorum = quorumOf(all.length);
  if (answeringCount < quorum) {
    context.warn(
      `Commits wait: ${answeringCount} of ${all.length} safekeepers answer, ${quorum} must. Start them with: pagelite start`,
    );
  }
}

const stateOf = (pid: number | null): string => (pid === null ? 'stopped' : 'running');

function timelineRows({ node, timelines }: SafekeeperInfo, config: RepositoryConfig): string[][] {
  return timelines.map(({ id, term, flushLsn, commitLsn, lagBytes }) => [
    nameOfTimeline(config, id) ?? id.timelineId,
    String(node.id),
    String(term),
    formatLsn(flushLsn),
    formatLsn(commitLsn),
    formatBytes(lagBytes),
  ]);
}

function statusJson({ node, pid, problem, timelines }: SafekeeperInfo, config: RepositoryConfig): object {
  return {
    id: node.id,
    state: stateOf(pid),
    pid,
    pg_port: node.pgPort,
    http_port: node.httpPort,
    ...(problem !== null && { problem }),
    timelines: timelines.map(({ id, term, lastLogTerm, startLsn, flushLsn, commitLsn, lagBytes, refused }) => ({
      tenant_id: id.tenantId,
      timeline_id: id.timelineId,
      branch_name: nameOfTimeline(config, id),
      term,
      last_log_term: lastLogTerm,
      start_lsn: formatLsn(startLsn),
      flush_lsn: formatLsn(flushLsn),
      commit_lsn: formatLsn(commitLsn),
      lag_bytes: lagBytes,
      ...(refused !== null && { refused }),
    })),
  };
}
