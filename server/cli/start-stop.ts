/** `pagelite start` and `pagelite stop`: the storage of a repository; stop also stops its endpoints. */
import { type Command, Option } from 'commander';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { endpointPidFile, listEndpoints, statusOf } from '../control-plane/endpoints.ts';
import type { Repository } from '../control-plane/repository.ts';
import {
  checkNotEmbedded,
  startConsole,
  startStorage,
  stopPageserver,
  stopProcess,
  stopSafekeeper,
} from '../control-plane/storage-processes.ts';
import { exchangeNames } from '../control-plane/stored-names.ts';
import type { StopMode } from '../process/daemon.ts';
import { type CliContext, originArgument } from './context.ts';

const startHelp = `
Examples:
  $ pagelite start
  $ pagelite start --allow-origin https://example.com     whose pages may use the console server, too

Endpoints are not started with it: pagelite endpoint start NAME.`;

const stopHelp = `
Examples:
  $ pagelite stop
  $ pagelite stop --mode immediate     kills everything; what was committed is there at the next start`;

export function stopModeOption(): Option {
  return new Option('-m, --mode <mode>', 'fast: finish in order; immediate: kill, and recover at the next start')
    .choices(['fast', 'immediate'])
    .default('fast');
}

/** Repeatable. */
export function allowOriginOption(): Option {
  return new Option(
    '--allow-origin <origin>',
    'an origin whose pages may use the console server, besides loopback ones',
  )
    .argParser((text: string, others: string[]) => [...others, originArgument(text)])
    .default([], 'none');
}

export function addStartCommand(program: Command, context: CliContext): void {
  program
    .command('start')
    .description('start the safekeepers, the pageserver and the console')
    .addOption(allowOriginOption())
    .addHelpText('after', startHelp)
    .action(({ allowOrigin }: { allowOrigin: string[] }) =>
      context.changeRepository(async (repository) => {
        await startStorage(repository, context.say);
        await exchangeNames(context.storage(repository), repository, context.warn);
        const address = await startConsole(repository, allowOrigin, context.say);
        context.say(`The console is at ${address}`);
      }),
    );
}

export function addStopCommand(program: Command, context: CliContext): void {
  program
    .command('stop')
    .description('stop all endpoints, the console, the pageserver and the safekeepers')
    .addOption(stopModeOption())
    .addHelpText('after', stopHelp)
    .action(({ mode }: { mode: StopMode }) =>
      context.changeRepository((repository) => stopAll(repository, mode, context)),
    );
}

/** One that does not stop keeps none of the others running. */
async function stopAll(repository: Repository, mode: StopMode, context: CliContext): Promise<void> {
  checkNotEmbedded(repository);
  const failures: string[] = [];
  const attempt = (work: Promise<void>) => work.catch((error: unknown) => failures.push(messageOf(error)));
  for (const endpoint of listEndpoints(repository)) {
    if (statusOf(endpoint) === 'stopped') continue;
    await attempt(stopProcess(`endpoint ${endpoint.name}`, endpointPidFile(endpoint.dir), mode, context.say));
  }
  await attempt(stopProcess('console', repository.consolePidFile, mode, context.say));
  await attempt(stopPageserver(repository, mode, context.say));
  for (const { id } of repository.readConfig().safekeepers) {
    await attempt(stopSafekeeper(repository, id, mode, context.say));
  }
  if (failures.length > 0) throw new PageliteError('unavailable', failures.join('\n'));
}
