/** `pagelite timeline list|branch|create|reset|rename|delete` (and timeline-storage.ts): branches of a tenant. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId, TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { deleteBranch, renameBranch, resetBranch } from '../control-plane/branch-changes.ts';
import { branchNameDefault, chooseTenant, nameOfTimeline } from '../control-plane/branches.ts';
import { type BranchStart, branchFrom, createBranch } from '../control-plane/branching.ts';
import type { TimelineInfo } from '../control-plane/storage-api.ts';
import { type CliContext, lsnArgument, tenantArgument, timelineArgument, timestampArgument } from './context.ts';
import { addTimelineStorageCommands } from './timeline-storage.ts';
import { drawTimelineTree } from './timeline-tree.ts';

const branchHelp = `
Examples:
  $ pagelite timeline branch --branch-name experiment
  $ pagelite timeline branch --branch-name fix --ancestor-branch-name experiment
  $ pagelite timeline branch --branch-name before-the-accident --ancestor-start-lsn 0/16F9A00
  $ pagelite timeline branch --branch-name yesterday --at "2026-01-31 12:00:00+00"

Making a branch copies nothing. SELECT pg_current_wal_flush_lsn() tells an endpoint's LSN, SELECT now() its time.`;

export function addTimelineCommands(program: Command, context: CliContext): void {
  const timeline = program.command('timeline').description('manage branches');
  timeline
    .command('list')
    .description("draw the tree of a tenant's branches")
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .option('--json', 'as JSON')
    .addHelpText('after', '\nExamples:\n  $ pagelite timeline list\n  $ pagelite timeline list --json')
    .action((options: { tenantId?: TenantId; json?: boolean }) => listTimelines(options, context));
  timeline
    .command('branch')
    .description('make a branch of a branch')
    .requiredOption('--branch-name <name>', 'name of the new branch')
    .option('--ancestor-branch-name <name>', 'branch to start from', branchNameDefault)
    .option('--ancestor-start-lsn <lsn>', 'LSN to start from (default: the end)', lsnArgument)
    .option('--at <timestamp>', 'time to start from: all that was committed until then', timestampArgument)
    .option('--timeline-id <id>', 'id of the new timeline (default: a new one)', timelineArgument)
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .addHelpText('after', branchHelp)
    .action((options: BranchOptions) => branchTimeline(options, context));
  timeline
    .command('create')
    .description('make an empty branch')
    .requiredOption('--branch-name <name>', 'name of the new branch')
    .option('--timeline-id <id>', 'id of the new timeline (default: a new one)', timelineArgument)
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .addHelpText('after', '\nExamples:\n  $ pagelite timeline create --branch-name empty')
    .action((options: NewTimelineOptions) => createTimeline(options, context));
  timeline
    .command('reset')
    .description("begin a branch anew at its parent's end; the old head stays under another name")
    .requiredOption('--branch-name <name>', 'the branch')
    .option('--lsn <lsn>', "a point of its history, or of its parent's before it began", lsnArgument)
    .option('--at <timestamp>', 'the same by time: all that was committed until then', timestampArgument)
    .option('--preserve-under-name <name>', 'name of the old head (default: NAME_old_TIME)')
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .addHelpText('after', resetHelp)
    .action((options: ResetOptions) => resetTimeline(options, context));
  timeline
    .command('rename')
    .description('give a branch another name; its endpoints follow')
    .requiredOption('--branch-name <name>', 'the branch')
    .requiredOption('--new-name <name>', 'its name from now on')
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .addHelpText('after', '\nExamples:\n  $ pagelite timeline rename --branch-name experiment --new-name feature')
    .action((options: NewTimelineOptions & { newName: string }) => renameTimeline(options, context));
  timeline
    .command('delete')
    .description('delete a branch that nothing branches from')
    .requiredOption('--branch-name <name>', 'the branch, or the id of its timeline')
    .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
    .addHelpText('after', '\nExamples:\n  $ pagelite timeline delete --branch-name experiment')
    .action((options: NewTimelineOptions) => deleteTimeline(options, context));
  addTimelineStorageCommands(timeline, context);
}

const resetHelp = `
Examples:
  $ pagelite timeline reset --branch-name experiment
  $ pagelite timeline reset --branch-name main --at "2026-01-31 12:00:00+00"
  $ pagelite timeline reset --branch-name main --lsn 0/16F9A00 --preserve-under-name main_before

Stop the branch's endpoints first; they follow the name.`;

interface ResetOptions extends NewTimelineOptions {
  readonly lsn?: Lsn;
  /** Milliseconds. */
  readonly at?: number;
  readonly preserveUnderName?: string;
}

function resetTimeline(options: ResetOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const { branchName: name, lsn, at, preserveUnderName: preserveAs = null } = options;
    if (lsn !== undefined && at !== undefined) throw new PageliteError('invalid', 'give --lsn or --at, not both');
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    const start: BranchStart = lsn !== undefined ? { lsn } : at !== undefined ? { timestampMs: at } : 'end';
    const storage = context.storage(repository);
    const { id, preservedAs } = await resetBranch(storage, repository, tenantId, name, { start, preserveAs });
    context.say(
      `Reset branch '${name}': it is timeline '${id.timelineId}' now. The old head is branch '${preservedAs}'`,
    );
  });
}

function renameTimeline(options: NewTimelineOptions & { newName: string }, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const { branchName: name, newName } = options;
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    await renameBranch(context.storage(repository), repository, tenantId, name, newName);
    context.say(`Renamed branch '${name}' to '${newName}'`);
  });
}

function deleteTimeline(options: NewTimelineOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const { branchName: name } = options;
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    const { timelineId } = await deleteBranch(context.storage(repository), repository, tenantId, name);
    context.say(`Deleted branch '${name}', timeline '${timelineId}'`);
  });
}

interface NewTimelineOptions {
  readonly branchName: string;
  readonly timelineId?: TimelineId;
  readonly tenantId?: TenantId;
}

interface BranchOptions extends NewTimelineOptions {
  readonly ancestorBranchName: string;
  readonly ancestorStartLsn?: Lsn;
  /** Milliseconds. */
  readonly at?: number;
}

async function listTimelines(options: { tenantId?: TenantId; json?: boolean }, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  const config = repository.readConfig();
  const tenantId = chooseTenant(config, options.tenantId);
  const timelines = await context.storage(repository).listTimelines(tenantId);
  const named = timelines.map((info) => ({
    ...info,
    name: nameOfTimeline(config, { tenantId, timelineId: info.timelineId }),
  }));
  if (options.json) context.sayJson(named.map(timelineJson));
  else for (const line of drawTimelineTree(named)) context.say(line);
}

function timelineJson(timeline: TimelineInfo & { readonly name: string | null }) {
  const text = (lsn: Lsn | null | undefined) => (lsn === null || lsn === undefined ? null : formatLsn(lsn));
  return {
    branchName: timeline.name,
    timelineId: timeline.timelineId,
    ancestorTimelineId: timeline.ancestor?.timelineId ?? null,
    ancestorLsn: text(timeline.ancestor?.lsn),
    startLsn: text(timeline.startLsn),
    lastRecordLsn: text(timeline.lastRecordLsn),
    logicalBytes: timeline.logicalBytes,
    layerBytes: timeline.layerBytes,
    archived: timeline.isArchived,
    broken: timeline.broken,
  };
}

function branchTimeline(options: BranchOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const { branchName: name, ancestorBranchName: ancestor, timelineId } = options;
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    const storage = context.storage(repository);
    const start = startOf(options);
    const { id, lsn } = await branchFrom(storage, repository, { tenantId, name, timelineId }, ancestor, start);
    const at = lsn === null ? '' : ` at Lsn ${formatLsn(lsn)}`;
    context.say(`Created timeline '${id.timelineId}'${at} for tenant: ${tenantId}. Ancestor timeline: '${ancestor}'`);
  });
}

function startOf({ ancestorStartLsn, at }: BranchOptions): BranchStart {
  if (ancestorStartLsn !== undefined && at !== undefined) {
    throw new PageliteError('invalid', 'give --ancestor-start-lsn or --at, not both');
  }
  if (ancestorStartLsn !== undefined) return { lsn: ancestorStartLsn };
  return at === undefined ? 'end' : { timestampMs: at };
}

function createTimeline(options: NewTimelineOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const { branchName: name, timelineId } = options;
    const tenantId = chooseTenant(repository.readConfig(), options.tenantId);
    const { id, lsn } = await createBranch(context.storage(repository), repository, { tenantId, name, timelineId });
    const at = lsn === null ? '' : ` at Lsn ${formatLsn(lsn)}`;
    context.say(`Created timeline '${id.timelineId}'${at} for tenant: ${tenantId}`);
  });
}
