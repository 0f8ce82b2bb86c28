/** `pagelite safekeeper start|stop|restart`. */
import type { Command } from 'commander';
import { startSafekeeper, stopSafekeeper } from '../control-plane/storage-processes.ts';
import type { StopMode } from '../process/daemon.ts';
import { type CliContext, nodeIdArgument } from './context.ts';
import { stopModeOption } from './start-stop.ts';

const help = `
Examples:
  $ pagelite safekeeper stop
  $ pagelite safekeeper restart 1 --mode immediate

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
}
