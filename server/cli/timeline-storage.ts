/** `pagelite timeline info|compact|gc|archive|unarchive|detach-ancestor|recover`: how branches are stored. */
import type { Command } from 'commander';
import type { TenantId, TenantTimelineId, TimelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { checkNewBranchName, chooseTenant, nameOfTimeline, resolveBranch } from '../control-plane/branches.ts';
import type { Repository } from '../control-plane/repository.ts';
import {
  checkNoEndpoints,
  describeBlocked,
  StorageAdmin,
  type TimelineStorageInfo,
} from '../control-plane/storage-admin.ts';
import type { TimelineInfo } from '../control-plane/storage-api.ts';
import { type CliContext, tenantArgument, timelineArgument } from './context.ts';
import { formatBytes, ProgressLine } from './progress.ts';

interface BranchOptions {
  readonly branchName: string;
  readonly tenantId?: TenantId;
  readonly json?: boolean;
}

export function addTimelineStorageCommands(timeline: Command, context: CliContext): void {
  const command = (name: string, description: string, example = '') =>
    timeline
      .command(name)
      .description(description)
      .requiredOption('--branch-name <name>', 'the branch, or the id of its timeline')
      .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
      .addHelpText('after', `\nExamples:\n  $ pagelite timeline ${name} --branch-name main${example}`);
  command('info', 'show how a branch is stored: sizes, what of its history is kept and why')
    .option('--json', 'as JSON')
    .action((options: BranchOptions) => info(options, context));
  command('compact', 'merge layer files now', '\n  $ pagelite timeline compact --branch-name main --force')
    .option('--force', 'write the pages of every key range with changes anew')
    .action((options: BranchOptions & { force?: boolean }) =>
      withBranch(options, context, async ({ admin, id }) => {
        const line = new ProgressLine(context.progressOutput);
        try {
          await admin.compact(id, options.force === true, ({ kind, bytes_written: done }) =>
            line.tell({ text: jobText[kind] ?? kind, done, total: 0, unit: 'bytes' }),
          );
        } finally {
          line.clear();
        }
        context.say(`Compacted branch '${options.branchName}'`);
      }),
    );
  command('gc', 'remove now what is no longer to be kept')
    .option('--json', 'as JSON')
    .action((options: BranchOptions) =>
      withBranch(options, context, async ({ admin, id }) => {
        const result = await admin.collectGarbage(id);
        const { layers_removed: layers, bytes_removed: bytes, cutoff_lsn: cutoff, skipped } = result;
        if (options.json) context.sayJson({ layersRemoved: layers, bytesRemoved: bytes, cutoffLsn: cutoff, skipped });
        else if (skipped !== null) context.say(`Nothing was removed: ${skipped}`);
        else context.say(`Removed ${layers} layers, ${formatBytes(bytes)}. History begins at Lsn ${cutoff}`);
      }),
    );
  command('archive', 'lay a branch to rest: it stays stored, and cannot be used').action((options: BranchOptions) =>
    withBranch(options, context, async ({ admin, id, repository }) => {
      checkNoEndpoints(repository, id.tenantId, id.timelineId);
      await admin.setArchived(id, true);
      context.say(`Archived branch '${options.branchName}'`);
    }),
  );
  command('unarchive', 'take a branch up again').action((options: BranchOptions) =>
    withBranch(options, context, async ({ admin, id }) => {
      await admin.setArchived(id, false);
      context.say(`Unarchived branch '${options.branchName}'`);
    }),
  );
  command('detach-ancestor', 'make a branch independent of the one that it was made from').action(
    (options: BranchOptions) =>
      withBranch(options, context, async ({ admin, id }) => {
        await admin.detachAncestor(id);
        context.say(`Branch '${options.branchName}' has no ancestor any more`);
      }),
  );
  command(
    'recover',
    'make a branch again from its WAL in the remote storage alone',
    `\n  $ pagelite timeline recover --branch-name main --timeline-id 1f0d…\n  $ pagelite timeline recover --branch-name dev --ancestor-branch-name main${recoverHelp}`,
  )
    .option('--timeline-id <id>', 'the timeline, if the name is not known any more', timelineArgument)
    .option('--ancestor-branch-name <name>', 'what it branched from, if the pageserver does not know it any more')
    .option('--json', 'as JSON')
    .action((options: RecoverOptions) => recover(options, context));
}

const recoverHelp = `

For when layers are lost or damaged beyond repair, or safekeepers have lost their disks. The layers that there are go, and are made again by
reading all WAL of the branch; safekeepers that have no WAL of it get its end. Branches of it stay: what they read of it fails while its layers
are removed, and waits after that until its WAL has been read. What was committed and had not been sent yet is lost with the disks that had
it. A branch that was imported cannot be made again from WAL.`;

interface RecoverOptions extends BranchOptions {
  readonly timelineId?: TimelineId;
  readonly ancestorBranchName?: string;
}

function recover(options: RecoverOptions, context: CliContext): Promise<void> {
  return context.changeRepository(async (repository) => {
    const config = repository.readConfig();
    const tenantId = chooseTenant(config, options.tenantId);
    const { branchName: name, ancestorBranchName } = options;
    const id = { tenantId, timelineId: options.timelineId ?? resolveBranch(config, tenantId, name) };
    if (options.timelineId !== undefined && nameOfTimeline(config, id) !== name)
      checkNewBranchName(config, tenantId, name);
    const ancestor = ancestorBranchName === undefined ? null : resolveBranch(config, tenantId, ancestorBranchName);
    const line = new ProgressLine(context.progressOutput);
    try {
      const storage = context.storage(repository);
      const { recoverTimeline } = await import('../control-plane/recover-timeline.ts');
      const result = await recoverTimeline(storage, repository, { id, name, ancestor, onProgress: line.tell });
      line.clear();
      const { startLsn, endLsn, hadLsn } = result;
      if (options.json) {
        context.sayJson({
          timelineId: id.timelineId,
          startLsn: formatLsn(startLsn),
          endLsn: formatLsn(endLsn),
          lostUpToLsn: hadLsn && formatLsn(hadLsn),
        });
        return;
      }
      context.say(
        `Made branch '${name}' again from its WAL: timeline '${id.timelineId}' up to Lsn ${formatLsn(endLsn)}`,
      );
      if (hadLsn !== null) context.say(`What was written after that, up to Lsn ${formatLsn(hadLsn)}, is lost`);
    } finally {
      line.clear();
    }
  });
}

const jobText: Readonly<Record<string, string>> = {
  l0_compaction: 'merging layers',
  image_layer_creation: 'writing pages anew',
};

interface Branch {
  readonly repository: Repository;
  readonly admin: StorageAdmin;
  readonly id: TenantTimelineId;
}

function withBranch(options: BranchOptions, context: CliContext, work: (branch: Branch) => Promise<void>) {
  return context.changeRepository((repository) => work(branchOf(options, repository)));
}

function branchOf({ branchName, tenantId: tenant }: BranchOptions, repository: Repository): Branch {
  const config = repository.readConfig();
  const tenantId = chooseTenant(config, tenant);
  const id = { tenantId, timelineId: resolveBranch(config, tenantId, branchName) };
  return { repository, admin: new StorageAdmin(repository), id };
}

async function info(options: BranchOptions, context: CliContext): Promise<void> {
  const { repository, admin, id } = branchOf(options, context.openRepository());
  const timeline = await context.storage(repository).getTimeline(id);
  if (timeline.isArchived) {
    if (options.json) context.sayJson({ ...summary(timeline), archived: true });
    else
      context.say(
        `Branch '${options.branchName}' is archived: ${formatBytes(timeline.layerBytes ?? 0)} in layer files`,
      );
    return;
  }
  const storage = await admin.timelineStorage(id);
  const nameOf = (timelineId: string) =>
    nameOfTimeline(repository.readConfig(), { ...id, timelineId: timelineId as TenantTimelineId['timelineId'] }) ??
    timelineId;
  if (options.json) context.sayJson({ ...summary(timeline), archived: false, ...storageJson(storage, nameOf) });
  else for (const line of describe(timeline, storage, nameOf)) context.say(line);
}

function summary({ timelineId, ancestor, lastRecordLsn, logicalBytes, layerBytes }: TimelineInfo) {
  return {
    timelineId,
    ancestorTimelineId: ancestor?.timelineId ?? null,
    ancestorLsn: ancestor ? formatLsn(ancestor.lsn) : null,
    lastRecordLsn: lastRecordLsn === null ? null : formatLsn(lastRecordLsn),
    logicalBytes,
    layerBytes,
  };
}

function storageJson(info: TimelineStorageInfo, nameOf: (timelineId: string) => string) {
  return {
    gcCutoffLsn: info.gc_cutoff_lsn,
    spaceCutoffLsn: info.space_cutoff_lsn,
    timeCutoffLsn: info.time_cutoff_lsn,
    retained: info.retained.map(({ lsn, reason, timeline_id: timeline, valid_until: until }) => ({
      lsn,
      reason,
      ...(timeline !== undefined && { branchName: nameOf(timeline), timelineId: timeline }),
      ...(until !== undefined && { validUntil: until }),
    })),
    uploads: { layers: info.uploads.layers, bytes: info.uploads.bytes, lastError: info.uploads.last_error },
    compaction: {
      running: info.compaction.running,
      job: info.compaction.job && { kind: info.compaction.job.kind, bytesWritten: info.compaction.job.bytes_written },
      l0Layers: info.compaction.l0_layers,
      lastError: info.compaction.last_error,
      blocked: info.compaction.blocked.map(({ kind, what, error, retry_at: retryAt }) => ({
        kind,
        what,
        error,
        retryAt,
      })),
    },
  };
}

function describe(timeline: TimelineInfo, info: TimelineStorageInfo, nameOf: (timelineId: string) => string): string[] {
  const { logicalBytes, layerBytes, lastRecordLsn } = timeline;
  const { uploads, compaction } = info;
  const logical = logicalBytes === null ? 'not counted yet' : formatBytes(logicalBytes);
  const lines = [
    `Data: ${logical}; layer files: ${formatBytes(layerBytes ?? 0)}`,
    `History is kept from Lsn ${info.gc_cutoff_lsn} to ${lastRecordLsn === null ? '---' : formatLsn(lastRecordLsn)}:`,
    `  gc_horizon reaches back to ${info.space_cutoff_lsn}`,
    `  pitr_interval reaches back to ${info.time_cutoff_lsn ?? '(not set)'}`,
  ];
  for (const { lsn, reason, timeline_id: branch, valid_until: until } of info.retained) {
    const why =
      reason === 'branch'
        ? `branch '${nameOf(branch!)}' begins there`
        : reason === 'lease'
          ? `leased until ${until}`
          : 'being read';
    lines.push(`  Lsn ${lsn} is kept: ${why}`);
  }
  if (uploads.layers > 0)
    lines.push(`On its way to the remote storage: ${uploads.layers} layers, ${formatBytes(uploads.bytes)}`);
  if (uploads.last_error !== null) lines.push(`The remote storage: ${uploads.last_error}`);
  if (compaction.job !== null) {
    const { kind, bytes_written: written } = compaction.job;
    lines.push(`Compaction is under way: ${jobText[kind] ?? kind}, ${formatBytes(written)}`);
  } else if (compaction.running) lines.push('Compaction is under way');
  if (compaction.l0_layers > 0) lines.push(`To be merged: ${compaction.l0_layers} layers`);
  const { blocked, last_error: error } = compaction;
  for (const part of blocked) lines.push(`Damaged: ${describeBlocked(part)}; tried again at ${part.retry_at}`);
  if (error !== null && !blocked.some((part) => part.error === error)) lines.push(`Compaction: ${error}`);
  return lines;
}
