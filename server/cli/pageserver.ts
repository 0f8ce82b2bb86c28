/** `pagelite pageserver start|stop|restart|status`. */
import type { Command } from 'commander';
import { startPageserver, stopPageserver } from '../control-plane/storage-processes.ts';
import type { StopMode } from '../process/daemon.ts';
import type { CliContext } from './context.ts';
import { stopModeOption } from './start-stop.ts';

const help = `
Examples:
  $ pagelite pageserver status
  $ pagelite pageserver restart --mode immediate

Endpoints that run wait for it and go on.`;

export function addPageserverCommands(program: Command, context: CliContext): void {
  const pageserver = program.command('pageserver').description('manage the pageserver').addHelpText('after', help);
  pageserver
    .command('start')
    .description('start the pageserver')
    .action(() => context.changeRepository((repository) => startPageserver(repository, context.say)));
  pageserver
    .command('stop')
    .description('stop the pageserver')
    .addOption(stopModeOption())
    .action(({ mode }: { mode: StopMode }) =>
      context.changeRepository((repository) => stopPageserver(repository, mode, context.say)),
    );
  pageserver
    .command('restart')
    .description('stop the pageserver and start it again')
    .addOption(stopModeOption())
    .action(({ mode }: { mode: StopMode }) =>
      context.changeRepository(async (repository) => {
        await stopPageserver(repository, mode, context.say);
        await startPageserver(repository, context.say);
      }),
    );
  pageserver
    .command('status')
    .description('ask the pageserver whether it serves')
    .action(async () => {
      await context.storage(context.openRepository()).checkStatus();
      context.say('Page server is up and running');
    });
}
