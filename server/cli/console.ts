/** `pagelite console`: where the console is, and a browser on it. */
import { spawn } from 'node:child_process';
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import { consoleAddress } from '../control-plane/storage-processes.ts';
import { runningPid } from '../process/pid-file.ts';
import type { CliContext } from './context.ts';

const help = `
Examples:
  $ pagelite console
  $ pagelite console --no-open
  $ pagelite console --json`;

/** What opens an address on this system. */
const openers: Partial<Record<NodeJS.Platform, readonly [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['cmd', '/c', 'start', ''],
};

export function addConsoleCommand(program: Command, context: CliContext): void {
  program
    .command('console')
    .description('open the console in a browser')
    .option('--no-open', 'only print its address')
    .option('--json', 'the address as JSON; opens nothing')
    .addHelpText('after', help)
    .action(async ({ open, json }: { open: boolean; json?: boolean }) => {
      const repository = context.openRepository();
      const url = consoleAddress(repository);
      const pid = runningPid(repository.consolePidFile) ?? runningPid(repository.embeddedPidFile);
      if (pid === null) {
        throw new PageliteError('unavailable', 'the console is not running. Start it with: pagelite start', { url });
      }
      if (json) context.sayJson({ url, pid });
      else context.say(url);
      if (open && !json) await openBrowser(url, context);
    });
}

/** A machine without a browser, or without anything to start one, is told only that. */
function openBrowser(url: string, context: CliContext): Promise<void> {
  const [command, ...args] = openers[process.platform] ?? ['xdg-open'];
  return new Promise((resolve) => {
    const child = spawn(command, [...args, url], { detached: true, stdio: 'ignore' });
    child.once('error', (error) => {
      context.warn(`no browser could be opened (${error.message}): open the address above`);
      resolve();
    });
    child.once('spawn', () => {
      child.unref();
      resolve();
    });
  });
}
