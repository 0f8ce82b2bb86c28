/** The command line as a whole: its commands, how errors look. One file a command; names and flags are neon_local's where it has them. */
import { Command, CommanderError } from 'commander';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import { packageVersion } from '../process/package-version.ts';
import { CliContext, type Terminal } from './context.ts';

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

type AddCommands = (program: Command, context: CliContext) => void;

/** By the word that a command line begins with, in the order of the help. Each is loaded only where it is used: loading is most of a short command's time. */
const commands: Readonly<Record<string, () => Promise<AddCommands>>> = {
  dev: async () => (await import('./dev.ts')).addDevCommand,
  init: async () => (await import('./init.ts')).addInitCommand,
  start: async () => (await import('./start-stop.ts')).addStartCommand,
  stop: async () => (await import('./start-stop.ts')).addStopCommand,
  console: async () => (await import('./console.ts')).addConsoleCommand,
  tenant: async () => (await import('./tenant.ts')).addTenantCommands,
  timeline: async () => (await import('./timeline.ts')).addTimelineCommands,
  import: async () => (await import('./import.ts')).addImportCommand,
  export: async () => (await import('./export.ts')).addExportCommand,
  endpoint: async () => (await import('./endpoint.ts')).addEndpointCommands,
  pageserver: async () => (await import('./pageserver.ts')).addPageserverCommands,
  safekeeper: async () => (await import('./safekeeper.ts')).addSafekeeperCommands,
  auth: async () => (await import('./auth.ts')).addAuthCommands,
  layer: async () => (await import('./layer.ts')).addLayerCommands,
  scrub: async () => (await import('./scrub.ts')).addScrubCommand,
};

/** Runs one command line and returns its exit code. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  const program = buildProgram(terminal);
  const context = new CliContext(terminal);
  for (const load of commandsOf(args)) (await load())(program, context);
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

function commandsOf([first = '']: readonly string[]): (() => Promise<AddCommands>)[] {
  if (first === '--version' || first === '-V') return [];
  // Anything else is help, or a mistake, for which all have to be known.
  return Object.hasOwn(commands, first) ? [commands[first]!] : Object.values(commands);
}

function describeError(error: unknown, terminal: Terminal): string {
  if (isPageliteError(error)) return `error: ${error.message}`;
  const system = error as NodeJS.ErrnoException;
  if (typeof system.code === 'string' && system.syscall !== undefined) return `error: ${system.message}`;
  // A bug: where it is helps whoever reports it.
  const stack = error instanceof Error ? error.stack : undefined;
  return `internal error: ${terminal.env.PAGELITE_DEBUG ? stack : messageOf(error)} (PAGELITE_DEBUG=1 shows where)`;
}

function buildProgram(terminal: Terminal): Command {
  return new Command('pagelite')
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
}
