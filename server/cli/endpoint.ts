/** `pagelite endpoint create|start|stop|set-password|list`: Postgres endpoints on branches, each a process of its own. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { checkBeginning } from '../control-plane/branch-beginning.ts';
import { checkLsn } from '../control-plane/branch-point.ts';
import { branchNameDefault, chooseTenant, nameOfTimeline, resolveBranch } from '../control-plane/branches.ts';
import { branchExtent } from '../control-plane/branching.ts';
import { startCompute } from '../control-plane/compute-process.ts';
import {
  checkNewEndpointName,
  checkNoOtherWriter,
  createEndpoint,
  type Endpoint,
  endpointPidFile,
  endpointsOfTenant,
  findEndpoint,
  listEndpoints,
  removeEndpoint,
  statusOf,
  timelineOf,
} from '../control-plane/endpoints.ts';
import type { Repository } from '../control-plane/repository.ts';
import { setRolePassword } from '../control-plane/role-password.ts';
import { stopProcess } from '../control-plane/storage-processes.ts';
import type { StopMode } from '../process/daemon.ts';
import { type CliContext, lsnArgument, megabytesArgument, portArgument, tenantArgument } from './context.ts';
import {
  addListeningOptions,
  connectionString,
  type ListeningOptions,
  listeningFrom,
  updateListening,
} from './endpoint-listening.ts';
import { readPassword } from './secret-input.ts';
import { stopModeOption } from './start-stop.ts';
import { formatTable } from './table.ts';

const createHelp = `
Examples:
  $ pagelite endpoint create main
  $ pagelite endpoint create experiment --branch-name experiment --pg-port 5432
  $ pagelite endpoint create past --lsn 0/16F9A00        read-only, as main was at that LSN
  $ pagelite endpoint create open --host 0.0.0.0 --tls-cert server.crt --tls-key server.key --require-tls`;

const startHelp = `
Examples:
  $ pagelite endpoint start main
  $ pagelite endpoint start past --branch-name main --lsn 0/16F9A00     made first if there is no such endpoint
  $ pagelite endpoint start main --host 0.0.0.0                         from now on, with passwords

A branch has one writing endpoint at a time. --allow-multiple starts another one; the older is then fenced and ends.`;

const passwordHelp = `
Examples:
  $ pagelite endpoint set-password main                        asks for it
  $ pagelite endpoint set-password main --role app < password.txt
  $ PAGELITE_PASSWORD=... pagelite endpoint set-password main

PostgreSQL gets only the SCRAM secret that is made of it. CREATE ROLE ... PASSWORD and ALTER ROLE do the same from a session.`;

const stopHelp = `
Examples:
  $ pagelite endpoint stop main
  $ pagelite endpoint stop past --destroy        also removes it from the list; no data is in an endpoint`;

export function addEndpointCommands(program: Command, context: CliContext): void {
  const endpoint = program.command('endpoint').description('manage Postgres endpoints');
  const createCommand = endpoint
    .command('create')
    .description('make an endpoint on a branch')
    .argument('[name]', 'name of the endpoint (default: ep-BRANCH)')
    .option('--branch-name <name>', 'the branch', branchNameDefault)
    .option('--lsn <lsn>', 'read-only, at this LSN', lsnArgument)
    .option('--pg-port <port>', 'Postgres port (default: the next free one from 55432 on)', portArgument)
    .option('--http-port <port>', 'serve GET /status and GET /metrics on this port', portArgument)
    .option(
      '--max-replication-write-lag <mb>',
      'how far it may be ahead of the pageserver before writers wait, in MB; 0: no bound (default: 500)',
      megabytesArgument,
    )
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--allow-multiple', 'accepted as in neon_local; it matters at the start')
    .addHelpText('after', createHelp);
  addListeningOptions(createCommand).action((name: string | undefined, options: CreateOptions) =>
    context.changeRepository(async (repository) => {
      await create(repository, context, name ?? `ep-${options.branchName}`.replaceAll('/', '-'), options);
    }),
  );
  const startCommand = endpoint
    .command('start')
    .description('start an endpoint; with --branch-name or --lsn it is made first if it is not there')
    .argument('<name>', 'name of the endpoint')
    .option('--branch-name <name>', 'the branch, if the endpoint is to be made')
    .option('--lsn <lsn>', 'read-only at this LSN, if the endpoint is to be made', lsnArgument)
    .option('--pg-port <port>', 'Postgres port, if the endpoint is to be made', portArgument)
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--allow-multiple', 'start although another endpoint writes to the branch')
    .addHelpText('after', startHelp);
  addListeningOptions(startCommand).action((name: string, options: StartOptions) =>
    context.changeRepository((repository) => start(repository, name, options, context)),
  );
  endpoint
    .command('stop')
    .description('stop an endpoint')
    .argument('<name>', 'name of the endpoint')
    .addOption(stopModeOption())
    .option('--destroy', 'remove the endpoint, too')
    .option('--tenant-id <id>', 'the tenant that it must be of (default: any)', tenantArgument)
    .addHelpText('after', stopHelp)
    .action((name: string, options: { mode: StopMode; destroy?: boolean; tenantId?: TenantId }) =>
      context.changeRepository(async (repository) => {
        const found = findEndpoint(repository, name);
        checkOfTenant(found, options.tenantId);
        await stopProcess(`endpoint ${name}`, endpointPidFile(found.dir), options.mode, context.say);
        if (options.destroy) await removeEndpoint(found);
      }),
    );
  endpoint
    .command('set-password')
    .description('set the password of a role, as it is from now on on the whole branch')
    .argument('<name>', 'name of an endpoint on the branch, which runs')
    .option('--role <role>', 'the role', 'cloud_admin')
    .addHelpText('after', passwordHelp)
    .action(async (name: string, { role }: { role: string }) => {
      const found = findEndpoint(context.openRepository(), name);
      const password = await readPassword(`Password for role ${role}: `, context.env);
      await setRolePassword(found, role, password);
      context.say(`The password of role ${role} is set`);
    });
  endpoint
    .command('list')
    .description('list the endpoints')
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--json', 'as JSON')
    .addHelpText('after', '\nExamples:\n  $ pagelite endpoint list --json')
    .action((options: { tenantId?: TenantId; json?: boolean }) => list(options, context));
}

function checkOfTenant({ name, config }: Endpoint, tenantId: TenantId | undefined): void {
  if (tenantId === undefined || config.tenantId === tenantId) return;
  throw new PageliteError('notFound', `endpoint "${name}" is of tenant ${config.tenantId}, not of ${tenantId}`, {
    endpoint: name,
  });
}

interface CreateOptions extends ListeningOptions {
  readonly branchName: string;
  readonly lsn?: Lsn;
  readonly pgPort?: number;
  readonly httpPort?: number;
  readonly maxReplicationWriteLag?: number;
  readonly tenantId?: TenantId;
}

interface StartOptions extends Partial<CreateOptions> {
  readonly allowMultiple?: boolean;
}

async function create(
  repository: Repository,
  context: CliContext,
  name: string,
  options: CreateOptions,
): Promise<Endpoint> {
  checkNewEndpointName(repository, name);
  const config = repository.readConfig();
  const tenantId = chooseTenant(config, options.tenantId);
  const id = { tenantId, timelineId: resolveBranch(config, tenantId, options.branchName) };
  // A name is known here; an id, only to the pageserver.
  if (nameOfTimeline(config, id) === null) await context.storage(repository).getTimeline(id);
  if (options.lsn !== undefined)
    checkLsn(await branchExtent(context.storage(repository), config, id, options.branchName), options.lsn);
  return createEndpoint(repository, {
    name,
    id,
    branchName: options.branchName,
    lsn: options.lsn === undefined ? null : formatLsn(options.lsn),
    pgPort: options.pgPort ?? null,
    httpPort: options.httpPort ?? null,
    listening: listeningFrom(options, {}),
    maxReplicationWriteLag: options.maxReplicationWriteLag,
  });
}

async function start(repository: Repository, name: string, options: StartOptions, context: CliContext): Promise<void> {
  const isThere = listEndpoints(repository).some((other) => other.name === name);
  const mayCreate = options.branchName !== undefined || options.lsn !== undefined;
  const isNew = !isThere && mayCreate;
  if (isNew)
    await create(repository, context, name, { ...options, branchName: options.branchName ?? branchNameDefault });
  let endpoint = findEndpoint(repository, name);
  if (!isNew) checkSameSettings(repository, endpoint, options);
  if (statusOf(endpoint) === 'running') {
    throw new PageliteError('invalid', `endpoint "${name}" runs already, on port ${endpoint.config.pgPort}`);
  }
  if (!options.allowMultiple) checkNoOtherWriter(repository, endpoint);
  if (!isNew) endpoint = updateListening(repository, endpoint, options);
  await checkStorageRuns(repository, endpoint, context);
  const { timelineId } = timelineOf(endpoint);
  context.say(
    isNew || endpoint.config.pageserver === null
      ? `Starting new endpoint ${name} (PostgreSQL v18) on timeline ${timelineId} ...`
      : `Starting existing endpoint ${name} (PostgreSQL v18) on timeline ${timelineId} ...`,
  );
  const { pgPort } = await startCompute(repository, endpoint, context.say);
  context.say(`Starting postgres at '${connectionString(endpoint, pgPort)}'`);
  if (endpoint.config.auth !== 'trust') context.say(passwordHint(name));
}

export const passwordHint = (name: string): string =>
  `It asks for passwords. Set one with: pagelite endpoint set-password ${name}`;

/** A compute would wait for them; a user would rather know. */
async function checkStorageRuns(repository: Repository, endpoint: Endpoint, context: CliContext): Promise<void> {
  const storage = context.storage(repository);
  await storage.checkStatus();
  if (endpoint.config.lsn === null) await storage.getCommitLsn(timelineOf(endpoint));
  await checkBeginning(storage, repository.readConfig(), timelineOf(endpoint));
}

/** What an endpoint is was said when it was made. */
function checkSameSettings(repository: Repository, endpoint: Endpoint, options: StartOptions): void {
  const { config, name } = endpoint;
  const hint = `Make another endpoint, or this one anew: pagelite endpoint stop ${name} --destroy`;
  if (options.lsn !== undefined && formatLsn(options.lsn) !== config.lsn) {
    const is = config.lsn === null ? 'writes to the end of its branch' : `is at LSN ${config.lsn}`;
    throw new PageliteError('invalid', `endpoint "${name}" ${is}, not at ${formatLsn(options.lsn)}. ${hint}`);
  }
  if (options.branchName === undefined) return;
  const { tenantId, timelineId } = timelineOf(endpoint);
  if (resolveBranch(repository.readConfig(), tenantId, options.branchName) !== timelineId) {
    throw new PageliteError('invalid', `endpoint "${name}" is on branch ${config.branchName}. ${hint}`);
  }
}

async function list(options: { tenantId?: TenantId; json?: boolean }, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  const config = repository.readConfig();
  const tenantId = chooseTenant(config, options.tenantId);
  const endpoints = endpointsOfTenant(repository, tenantId);
  const ends = await lastLsns(repository, tenantId, context);
  const rows = endpoints.map((endpoint) => ({
    endpoint: endpoint.name,
    address: `${endpoint.config.host}:${endpoint.config.pgPort}`,
    timelineId: endpoint.config.timelineId,
    branchName: nameOfTimeline(config, timelineOf(endpoint)) ?? '?',
    lsn: endpoint.config.lsn ?? ends.get(endpoint.config.timelineId) ?? null,
    readOnly: endpoint.config.lsn !== null,
    status: statusOf(endpoint),
  }));
  if (options.json) {
    context.sayJson(rows);
    return;
  }
  const header = ['ENDPOINT', 'ADDRESS', 'TIMELINE', 'BRANCH NAME', 'LSN', 'STATUS'];
  const cells = rows.map((row) => [
    row.endpoint,
    row.address,
    row.timelineId,
    row.branchName,
    row.lsn ?? '---',
    row.readOnly ? `${row.status} (read-only)` : row.status,
  ]);
  for (const line of formatTable(header, cells)) context.say(line);
}

/** Ends of the tenant's timelines; empty while the pageserver is stopped, and the list says so instead of failing. */
async function lastLsns(repository: Repository, tenant: TenantId, context: CliContext): Promise<Map<string, string>> {
  try {
    const timelines = await context.storage(repository).listTimelines(tenant);
    return new Map(
      timelines.flatMap(({ timelineId, lastRecordLsn }) =>
        lastRecordLsn === null ? [] : [[timelineId, formatLsn(lastRecordLsn)] as const],
      ),
    );
  } catch (error) {
    if (!(error instanceof PageliteError) || error.kind !== 'unavailable') throw error;
    context.warn('the pageserver is not running: LSNs are not known');
    return new Map();
  }
}
