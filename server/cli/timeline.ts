/** `pagelite timeline list|branch|create`: branches of a tenant. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { branchExtent } from '../control-plane/branch-extent.ts';
import { type BranchExtent, checkLsn, checkNotInFuture, lsnOfTimestamp } from '../control-plane/branch-point.ts';
import {
  branchNameDefault,
  checkNewBranchName,
  chooseTenant,
  nameBranch,
  nameOfTimeline,
  resolveBranch,
} from '../control-plane/branches.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { PageserverClient, TimelineInfo } from '../control-plane/storage-clients.ts';
import { nodeRandom } from '../process/node-host.ts';
import { type CliContext, lsnArgument, tenantArgument, timelineArgument, timestampArgument } from './context.ts';
import { drawTimelineTree } from './timeline-tree.ts';

const branchHelp = `
Examples:
  $ pagelite timeline branch --branch-name experiment
  $ pagelite timeline branch --branch-name fix --ancestor-branch-name experiment
  $ pagelite timeline branch --branch-name before-the-accident --ancestor-start-lsn 0/16F9A00
  $ pagelite timeline branch --branch-name yesterday --at "2026-01-31 12:00:00+00"

Making a branch copies nothing. SELECT pg_current_wal_lsn() tells an endpoint's LSN, SELECT now() its time.`;

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
  const timelines = await context.pageserver(repository).listTimelines(tenantId);
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
    layerBytes: timeline.physicalBytes,
    broken: timeline.broken,
  };
}

function branchTimeline(options: BranchOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    if (options.ancestorStartLsn !== undefined && options.at !== undefined) {
      throw new PageliteError('invalid', 'give --ancestor-start-lsn or --at, not both');
    }
    const config = repository.readConfig();
    const tenantId = chooseTenant(config, options.tenantId);
    checkNewBranchName(config, tenantId, options.branchName);
    const ancestor = { tenantId, timelineId: resolveBranch(config, tenantId, options.ancestorBranchName) };
    const pageserver = context.pageserver(repository);
    const extent = await branchExtent(config, ancestor, options.ancestorBranchName);
    const lsn = await branchPoint(extent, ancestor, options, pageserver);
    const id = { tenantId, timelineId: options.timelineId ?? newTimelineId(nodeRandom) };
    const created = await createNamed(repository, pageserver, options.branchName, id, {
      timelineId: ancestor.timelineId,
      lsn: formatLsn(lsn),
    });
    const at = formatLsn(created.ancestor?.lsn ?? lsn);
    context.say(
      `Created timeline '${id.timelineId}' at Lsn ${at} for tenant: ${tenantId}. Ancestor timeline: '${options.ancestorBranchName}'`,
    );
  });
}

async function branchPoint(
  extent: BranchExtent,
  ancestor: TenantTimelineId,
  { ancestorStartLsn, at }: BranchOptions,
  pageserver: PageserverClient,
): Promise<Lsn> {
  if (ancestorStartLsn !== undefined) {
    checkLsn(extent, ancestorStartLsn);
    return ancestorStartLsn;
  }
  if (at === undefined) return extent.endLsn;
  checkNotInFuture(at, Date.now());
  return lsnOfTimestamp(extent, await pageserver.findLsnByTimestamp(ancestor, at), at);
}

function createTimeline(options: NewTimelineOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const config = repository.readConfig();
    const tenantId = chooseTenant(config, options.tenantId);
    checkNewBranchName(config, tenantId, options.branchName);
    const id = { tenantId, timelineId: options.timelineId ?? newTimelineId(nodeRandom) };
    const created = await createNamed(repository, context.pageserver(repository), options.branchName, id, null);
    const at = created.lastRecordLsn === null ? '' : ` at Lsn ${formatLsn(created.lastRecordLsn)}`;
    context.say(`Created timeline '${id.timelineId}'${at} for tenant: ${tenantId}`);
  });
}

/** The timeline first, its name second: a crash between leaves a timeline without a name, which the list shows. */
async function createNamed(
  repository: Repository,
  pageserver: PageserverClient,
  name: string,
  id: TenantTimelineId,
  ancestor: { readonly timelineId: TimelineId; readonly lsn: string } | null,
): Promise<TimelineInfo> {
  const known = await pageserver.listTimelines(id.tenantId);
  if (known.some(({ timelineId }) => timelineId === id.timelineId)) {
    throw new PageliteError('invalid', `timeline ${id.timelineId} exists. Choose another --timeline-id`, { ...id });
  }
  const created = await pageserver.createTimeline(id, ancestor);
  await repository.update((config) => nameBranch(config, name, id));
  return created;
}
