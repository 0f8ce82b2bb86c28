/** `pagelite scrub`: looks through the object storage for damage and garbage. The pageserver need not run. */
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import { type ScrubReport, scrub } from '../../engine/scrub/scrub.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { openTruth } from '../control-plane/open-truth.ts';
import type { Repository } from '../control-plane/repository.ts';
import { checkNotEmbedded } from '../control-plane/storage-processes.ts';
import { formatRemoteStorage } from '../object-store/remote-storage.ts';
import { runningPid } from '../process/pid-file.ts';
import { type CliContext, tenantArgument } from './context.ts';
import { formatBytes, ProgressLine } from './progress.ts';

const help = `
Examples:
  $ pagelite scrub
  $ pagelite scrub --quick --json
  $ pagelite stop && pagelite scrub --delete-garbage

Exit code 1 if something is missing or damaged. While a pageserver runs, what it has just written may be listed as garbage.`;

interface ScrubCommandOptions {
  readonly tenantId?: TenantId;
  readonly quick?: boolean;
  readonly deleteGarbage?: boolean;
  readonly json?: boolean;
}

export function addScrubCommand(program: Command, context: CliContext): void {
  program
    .command('scrub')
    .description('check that every index names objects that are there and whole, and list garbage')
    .option('--tenant-id <id>', 'one tenant (default: all that are in the store)', tenantArgument)
    .option('--quick', 'do not read layers: their presence and size only')
    .option('--delete-garbage', "delete the garbage of this pageserver's tenants; it must not run")
    .option('--json', 'as JSON')
    .addHelpText('after', help)
    .action((options: ScrubCommandOptions) => runScrub(options, context));
}

async function runScrub(options: ScrubCommandOptions, context: CliContext): Promise<void> {
  const repository = context.openRepository();
  if (options.deleteGarbage) checkStopped(repository);
  const { remoteStorage, pageserverDir } = repository;
  const store = await openTruth(repository);
  const line = new ProgressLine(context.progressOutput);
  const report = await scrub({
    store,
    tenant: options.tenantId ?? null,
    isDeep: options.quick !== true,
    isShared: remoteStorage === null,
    onProgress: ({ bytes }) => line.tell({ text: 'Looking through layers', done: bytes, total: 0, unit: 'bytes' }),
  }).finally(() => line.clear());
  const deleted = options.deleteGarbage ? await deleteGarbage(store, repository, report) : null;
  if (options.json) context.sayJson({ ...report, ...(deleted !== null && { deleted }) });
  else tell(context, report, deleted, remoteStorage === null ? pageserverDir : formatRemoteStorage(remoteStorage));
  if (report.problems.length > 0) {
    throw new PageliteError('corrupt', `${report.problems.length} objects are missing or damaged`);
  }
}

function tell(context: CliContext, report: ScrubReport, deleted: number | null, where: string): void {
  const { tenants, timelines, layers, layerBytes, problems, garbage } = report;
  context.say(`${where}: ${tenants} tenants, ${timelines} timelines, ${layers} layers, ${formatBytes(layerBytes)}`);
  for (const { key, problem } of problems) context.say(`DAMAGED ${key}: ${problem}`);
  for (const { key, size, isForeign } of garbage) {
    context.say(`garbage ${key} (${formatBytes(size)})${isForeign ? ': nothing of Pagelite has such a name' : ''}`);
  }
  const bytes = garbage.reduce((sum, { size }) => sum + size, 0);
  context.say(`${problems.length} missing or damaged; garbage: ${garbage.length} objects, ${formatBytes(bytes)}`);
  if (deleted !== null) context.say(`Deleted ${deleted} objects`);
}

/** What belongs to tenants of this pageserver, or to nobody: others' may be in the making. What is foreign is left to its owner. */
async function deleteGarbage(store: ObjectStore, repository: Repository, { garbage }: ScrubReport): Promise<number> {
  const { id } = repository.readConfig().pageserver;
  const own = garbage.filter(
    ({ ownerNodeId, isForeign }) => !isForeign && (ownerNodeId === null || ownerNodeId === id),
  );
  for (const { key } of own) await store.delete(key);
  return own.length;
}

function checkStopped(repository: Repository): void {
  checkNotEmbedded(repository);
  if (runningPid(repository.pageserverPidFile) === null) return;
  throw new PageliteError(
    'invalid',
    'the pageserver runs, and what it is writing looks like garbage. Stop it first: pagelite stop',
  );
}
