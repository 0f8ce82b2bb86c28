/** `pagelite tenant create|list|set-default|attach|detach|delete|config`. A new tenant gets a first timeline, the branch `main`. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import { newTenantId, type TenantId, type TimelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { chooseTenant, labelOfTimeline } from '../control-plane/branches.ts';
import { createTenant } from '../control-plane/branching.ts';
import type { Repository } from '../control-plane/repository.ts';
import { attachTenant, deleteTenant, detachTenant, StorageAdmin } from '../control-plane/storage-admin.ts';
import { listStoredTenants } from '../control-plane/stored-tenants.ts';
import { nodeRandom } from '../process/node-host.ts';
import { type CliContext, tenantArgument, timelineArgument } from './context.ts';
import { ProgressLine } from './progress.ts';
import { formatTable } from './table.ts';

const createHelp = `
Examples:
  $ pagelite tenant create --set-default
  $ pagelite tenant create --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c`;

const listHelp = `
Examples:
  $ pagelite tenant list --json
  $ pagelite tenant list --remote-storage     what can be attached here`;

const attachHelp = `

A branch is here as far as it was sent to the remote storage, as layers or as WAL. Its commits of the last seconds may be only at the safekeepers of the
repository that has the tenant: where that still runs, "pagelite tenant detach" there first loses nothing.`;

export function addTenantCommands(program: Command, context: CliContext): void {
  const tenant = program.command('tenant').description('manage tenants');
  tenant
    .command('create')
    .description('make a tenant with a first branch, main')
    .option('--tenant-id <id>', 'its id, 32 hex digits (default: a new one)', tenantArgument)
    .option('--timeline-id <id>', 'id of its first timeline (default: a new one)', timelineArgument)
    .option('--set-default', 'use this tenant in commands that name none')
    .addHelpText('after', createHelp)
    .action((options: CreateOptions) => create(options, context));
  tenant
    .command('list')
    .description('list the tenants')
    .option('--remote-storage', 'those in the remote storage, wherever they are attached; no server has to run')
    .option('--json', 'as JSON')
    .addHelpText('after', listHelp)
    .action(({ json = false, remoteStorage }: { json?: boolean; remoteStorage?: boolean }) =>
      remoteStorage ? listStored(json, context) : listTenants(json, context),
    );
  tenant
    .command('set-default')
    .description('use a tenant in commands that name none')
    .argument('[tenant-id]', 'its id', tenantArgument)
    .option('--tenant-id <id>', 'its id', tenantArgument)
    .addHelpText('after', '\nExamples:\n  $ pagelite tenant set-default 9ef87a5bf0d92544f6fafeeb3239695c')
    .action((positional: TenantId | undefined, options: { tenantId?: TenantId }) =>
      setDefaultTenant(options.tenantId ?? positional, context),
    );
  addPlacementCommands(tenant, context);
}

function addPlacementCommands(tenant: Command, context: CliContext): void {
  const placed = (name: string, description: string, example: string) =>
    tenant
      .command(name)
      .description(description)
      .requiredOption('--tenant-id <id>', 'its id', tenantArgument)
      .addHelpText(
        'after',
        `\nExamples:\n  $ pagelite tenant ${name} --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c${example}`,
      );
  placed(
    'attach',
    'serve a tenant that is in the remote storage here; whoever has it is fenced off',
    attachHelp,
  ).action(({ tenantId }: { tenantId: TenantId }) =>
    context.changeRepository(async (repository) => {
      const line = new ProgressLine(context.progressOutput);
      const options = { onProgress: line.tell, warn: context.warn };
      const { takenFromNodeId, taken } = await attachTenant(repository, tenantId, options);
      line.clear();
      if (repository.readConfig().defaultTenantId === null) await setDefault(repository, tenantId, context);
      context.say(`Attached tenant ${tenantId}`);
      for (const { timelineId, startLsn, endLsn } of taken) {
        const name = labelOfTimeline(repository.readConfig(), { tenantId, timelineId });
        const range = `from Lsn ${formatLsn(startLsn)} to ${formatLsn(endLsn)}`;
        context.say(`Branch '${name}': took over its WAL ${range}`);
      }
      if (takenFromNodeId !== null) {
        const lost = `Its branches are here as far as pageserver ${takenFromNodeId} and its safekeepers have sent them to the remote storage: the newest commits may be only there`;
        context.warn(`the tenant was not detached before. ${lost}`);
      }
    }),
  );
  placed('detach', 'give a tenant up; any pageserver with the same remote storage may attach it', '').action(
    ({ tenantId }: { tenantId: TenantId }) =>
      context.changeRepository(async (repository) => {
        await detachTenant(repository, tenantId);
        context.say(`Detached tenant ${tenantId}`);
      }),
  );
  placed('delete', 'delete a tenant with all of its branches', ' --yes')
    .option('--yes', 'do it')
    .action(({ tenantId, yes }: { tenantId: TenantId; yes?: boolean }) =>
      context.changeRepository(async (repository) => {
        if (!yes) throw new PageliteError('invalid', `this deletes all branches of tenant ${tenantId}. Add --yes`);
        await deleteTenant(repository, tenantId);
        context.say(`Deleted tenant ${tenantId}`);
      }),
    );
  tenant
    .command('config')
    .description('show or change settings of a tenant: history kept, compaction')
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('-c, --set <name:value...>', 'settings, as neon_local has them; an empty value: the default')
    .option('--json', 'as JSON')
    .addHelpText('after', configHelp)
    .action((options: ConfigOptions) => configure(options, context));
}

const configHelp = `
Examples:
  $ pagelite tenant config
  $ pagelite tenant config -c pitr_interval:1day -c gc_horizon:0
  $ pagelite tenant config -c pitr_interval:`;

interface ConfigOptions {
  readonly tenantId?: TenantId;
  readonly set?: readonly string[];
  readonly json?: boolean;
}

function configure(options: ConfigOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    const admin = new StorageAdmin(repository);
    if (options.set !== undefined)
      await admin.changeSettings(tenantId, Object.fromEntries(options.set.map(parseSetting)));
    const { tenant_specific_overrides: set, effective_config: all } = await admin.tenantSettings(tenantId);
    if (options.json) context.sayJson({ tenantId, set, effective: all });
    else
      for (const [name, value] of Object.entries(all))
        context.say(`${name} = ${value}${name in set ? '' : ' (default)'}`);
  });
}

function parseSetting(text: string): [name: string, value: string | null] {
  const at = text.search(/[:=]/);
  if (at < 1) throw new PageliteError('invalid', `-c "${text}" is not NAME:VALUE`);
  return [text.slice(0, at), text.slice(at + 1) || null];
}

interface CreateOptions {
  readonly tenantId?: TenantId;
  readonly timelineId?: TimelineId;
  readonly setDefault?: boolean;
}

function create(options: CreateOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const tenantId = options.tenantId ?? newTenantId(nodeRandom);
    const { id, lsn } = await createTenant(context.storage(repository), repository, tenantId, options.timelineId);
    context.say(`tenant ${tenantId} successfully created on the pageserver`);
    const at = lsn === null ? '' : ` at Lsn ${formatLsn(lsn)}`;
    context.say(`Created an initial timeline '${id.timelineId}'${at} for tenant: ${tenantId}`);
    if (options.setDefault) await setDefault(repository, tenantId, context);
  });
}

async function setDefault(repository: Repository, id: TenantId, context: CliContext): Promise<void> {
  await repository.update((config) => {
    config.defaultTenantId = id;
  });
  context.say(`Setting tenant ${id} as a default one`);
}

async function listTenants(json: boolean, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  const { defaultTenantId } = repository.readConfig();
  const tenants = await context.storage(repository).listTenants();
  if (json)
    context.sayJson(tenants.map((id) => ({ tenantId: id, state: 'Active', isDefault: id === defaultTenantId })));
  else for (const id of tenants) context.say(`${id} Active${id === defaultTenantId ? ' (default)' : ''}`);
}

async function listStored(json: boolean, context: CliContext): Promise<void> {
  const tenants = await listStoredTenants(context.openRepository());
  if (json) return context.sayJson(tenants);
  const rows = tenants.map(({ tenantId, nodeId, isHere, branches }) => [
    tenantId,
    nodeId === null ? 'nobody' : `pageserver ${nodeId}${isHere ? ' (this one)' : ''}`,
    branches === null ? '?' : branches.join(', '),
  ]);
  for (const line of formatTable(['TENANT', 'ATTACHED TO', 'BRANCHES'], rows)) context.say(line);
}

async function setDefaultTenant(id: TenantId | undefined, context: CliContext): Promise<void> {
  if (id === undefined) throw new PageliteError('invalid', 'which tenant? pagelite tenant list shows all');
  await context.changeRepository(async (repository) => {
    checkTenant(id, await context.storage(repository).listTenants());
    await setDefault(repository, id, context);
  });
}

function checkTenant(id: TenantId, known: readonly TenantId[]): void {
  if (known.includes(id)) return;
  const hint = known.length > 0 ? `There is: ${known.join(', ')}` : 'Make one with: pagelite tenant create';
  throw new PageliteError('notFound', `no tenant ${id}. ${hint}`, { tenantId: id });
}
