/**
 * `pagelite dev` (`npm start`): a whole repository in one process, and a Postgres on its branch `main` (dev-server.ts).
 *
 * Invariants
 * - nothing is printed as ready before a client can connect
 * - Ctrl-C ends everything, and loses nothing
 */
import type { Command } from 'commander';
import { type CliContext, portArgument } from './context.ts';
import { allowOriginOption } from './start-stop.ts';

const help = `
Examples:
  $ pagelite dev
  $ pagelite dev --pg-port 5432
  $ PAGELITE_REPO_DIR=./data pagelite dev

While it runs, in another terminal:
  $ psql -h 127.0.0.1 -p 55432 -U cloud_admin postgres
  $ pagelite timeline branch --branch-name experiment
  $ pagelite endpoint start experiment --branch-name experiment

Data is in .pagelite of the current folder, or in PAGELITE_REPO_DIR. Its log is dev.log there.`;

/** Signals that are closer than this are one. */
const sameSignalMs = 500;

export function addDevCommand(program: Command, context: CliContext): void {
  program
    .command('dev')
    .description('serve a repository from one process, with Postgres on branch main')
    .option('--pg-port <port>', 'Postgres port (default: 55432, or the next free one)', portArgument)
    .addOption(allowOriginOption())
    .addHelpText('after', help)
    .action(async ({ pgPort, allowOrigin }: { pgPort?: number; allowOrigin: string[] }) => {
      const stopped = untilSignal(context);
      // Everything there is: other commands do without.
      const { DevServer } = await import('./dev-server.ts');
      const server = await DevServer.start(context.repositoryDir, pgPort ?? null, allowOrigin, context);
      const ended = await Promise.race([stopped, server.failed.catch((error: unknown) => error)]);
      await server.close();
      if (ended instanceof Error) throw ended;
      context.say('Stopped. Everything that was committed is there at the next start.');
    });
}

/**
 * Resolves at the first Ctrl-C or SIGTERM; a second one ends the process at once, which loses nothing that was committed. Under `npm start` one
 * Ctrl-C arrives twice, from the terminal and from npm.
 */
function untilSignal(context: CliContext): Promise<void> {
  return new Promise((resolve) => {
    let stoppingSinceMs: number | null = null;
    const onSignal = () => {
      if (stoppingSinceMs !== null) {
        if (performance.now() - stoppingSinceMs > sameSignalMs) process.exit(130);
        return;
      }
      stoppingSinceMs = performance.now();
      context.say('\nStopping ...');
      resolve();
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
  });
}
