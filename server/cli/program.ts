/** The command line as a whole: its commands, how errors look. One file a command; names and flags are neon_local's where it has them. */
import { Command, CommanderError } from 'commander';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import { packageVersion } from '../process/package-version.ts';
import { addAuthCommands } from './auth.ts';
import { addConsoleCommand } from './console.ts';
import { CliContext, type Terminal } from './context.ts';
import { addDevCommand } from './dev.ts';
import { addEndpointCommands } from './endpoint.ts';
import { addExportCommand } from './export.ts';
import { addImportCommand } from './import.ts';
import { addInitCommand } from './init.ts';
import { addLayerCommands } from './layer.ts';
import { addPageserverCommands } from './pageserver.ts';
import { addSafekeeperCommands } from './safekeeper.ts';
import { addScrubCommand } from './scrub.ts';
import { addStartCommand, addStopCommand } from './start-stop.ts';
import { addTenantCommands } from './tenant.ts';
import { addTimelineCommands } from './timeline.ts';

const examples = `
One process with everything, for development:
  $ pagelite dev

Storage and endpoints as processes of their own:
  $ pagelite init
  $ pagelite start
  $ pagelite tenant create --set-default
  $ pagelite endpoint create main
  $ pagelite endpoint start main
  $ psql -h 127.0.0.1 -p 55432 -U cloud_admin postgres
  $ pagelite timeline branch --branch-name experiment
  $ pagelite console
  $ pagelite stop

The repository is .pagelite in the current folder, or PAGELITE_REPO_DIR. Each command has --help with examples.`;

/** Runs one command line and returns its exit code. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  const program = buildProgram(new CliContext(terminal), terminal);
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    // Help, the version and usage errors are printed by commander.
    if (error instanceof CommanderError) return error.exitCode;
    terminal.err(describeError(error, terminal));
    return 1;
  }
}

function describeError(error: unknown, terminal: Terminal): string {
  if (isPageliteError(error)) return `error: ${error.message}`;
  const system = error as NodeJS.ErrnoException;
  if (typeof system.code === 'string' && system.syscall !== undefined) return `error: ${system.message}`;
  // A bug: where it is helps whoever reports it.
  const stack = error instanceof Error ? error.stack : undefined;
  return `internal error: ${terminal.env.PAGELITE_DEBUG ? stack : messageOf(error)} (PAGELITE_DEBUG=1 shows where)`;
}

function buildProgram(context: CliContext, terminal: Terminal): Command {
  const program = new Command('pagelite')
    .description("Serverless Postgres that runs anywhere JavaScript runs: Neon's storage architecture for PGlite.")
    .version(packageVersion, '-V, --version')
    .showHelpAfterError('(pagelite --help and pagelite COMMAND --help say more)')
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
    })
    .addHelpText('after', examples);
  addDevCommand(program, context);
  addInitCommand(program, context);
  addStartCommand(program, context);
  addStopCommand(program, context);
  addConsoleCommand(program, context);
  addTenantCommands(program, context);
  addTimelineCommands(program, context);
  addImportCommand(program, context);
  addExportCommand(program, context);
  addEndpointCommands(program, context);
  addPageserverCommands(program, context);
  addSafekeeperCommands(program, context);
  addAuthCommands(program, context);
  addLayerCommands(program, context);
  addScrubCommand(program, context);
  return program;
}
