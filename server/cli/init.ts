/** `pagelite init`: makes the repository's folder and settings; nothing is started. */
import type { Command } from 'commander';
import { localhost, Repository } from '../control-plane/repository.ts';
import { shown } from '../control-plane/storage-processes.ts';
import type { CliContext } from './context.ts';

const help = `
Examples:
  $ pagelite init
  $ PAGELITE_REPO_DIR=/srv/db pagelite init

Ports are Neon's (pageserver 64000 and 9898, safekeeper 5454 and 7676), or the next free ones.`;

export function addInitCommand(program: Command, context: CliContext): void {
  program
    .command('init')
    .description('make a repository in .pagelite of the current folder, or in PAGELITE_REPO_DIR')
    .addHelpText('after', help)
    .action(async () => {
      const repository = await Repository.init(context.repositoryDir);
      const { pageserver } = repository.readConfig();
      const where = `'${localhost}:${pageserver.pgPort}' in "${shown(repository.dir)}"`;
      context.say(`Initializing pageserver node ${pageserver.id} at ${where}`);
    });
}
