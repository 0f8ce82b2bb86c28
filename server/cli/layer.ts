/** `pagelite layer list|map|dump`: what a branch is stored as. */
import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId, TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { LayerSummary } from '../../engine/protocol/control-api.ts';
import { chooseTenant, resolveBranch } from '../control-plane/branches.ts';
import { type DumpedValue, dumpLayer, localLayer, type OpenLayer, storedLayer } from '../control-plane/layer-dump.ts';
import { StorageAdmin } from '../control-plane/storage-admin.ts';
import { type CliContext, tenantArgument } from './context.ts';
import { drawLayerMap, layerMapSvg } from './layer-drawing.ts';
import { formatBytes } from './progress.ts';
import { formatTable } from './table.ts';

interface BranchOptions {
  readonly branchName?: string;
  readonly tenantId?: TenantId;
  readonly json?: boolean;
}

export function addLayerCommands(program: Command, context: CliContext): void {
  const layer = program.command('layer').description('look at the layers that a branch is stored as');
  const command = (name: string, description: string, examples: string) =>
    layer
      .command(name)
      .description(description)
      .option('--branch-name <name>', 'the branch, or the id of its timeline', 'main')
      .option('--tenant-id <id>', 'the tenant (default: the default one)', tenantArgument)
      .addHelpText('after', `\nExamples:\n${examples}`);
  command('list', "list a branch's own layers", '  $ pagelite layer list --branch-name main')
    .option('--json', 'as JSON')
    .action((options: BranchOptions) => list(options, context));
  command(
    'map',
    'draw the layers: keys across, LSNs upwards',
    '  $ pagelite layer map\n  $ pagelite layer map --branch-name main --svg layers.svg',
  )
    .option('--svg <file>', 'as a picture')
    .option('--width <characters>', 'of the text (default: the terminal)', Number)
    .action((options: BranchOptions & { svg?: string; width?: number }) => map(options, context));
  command(
    'dump',
    'print what is in a layer file',
    '  $ pagelite layer dump 0000000067F0000000500004E21\n  $ pagelite layer dump --key 000000067F0000000500004E210000000A ...\n  $ pagelite layer dump ./some-layer-file --json',
  )
    .argument('<layer>', 'its name, a part of it that only one has, or a path')
    .option('--key <key>', 'values of this key only: 36 hex digits')
    .option('--json', 'a line of JSON for each value')
    .action((name: string, options: BranchOptions & { key?: string }) => dump(name, options, context));
}

function find(options: BranchOptions, context: CliContext) {
  const repository = context.openRepository();
  const config = repository.readConfig();
  const tenantId = chooseTenant(config, options.tenantId);
  const name = options.branchName ?? 'main';
  const id: TenantTimelineId = { tenantId, timelineId: resolveBranch(config, tenantId, name) };
  return { repository, id, name, storage: context.storage(repository) };
}

async function list(options: BranchOptions, context: CliContext): Promise<void> {
  const { id, storage } = find(options, context);
  const layers = await storage.listLayers(id);
  if (options.json) {
    context.sayJson(layers);
    return;
  }
  const rows = layers.files.map(({ kind, startLsn, endLsn, bytes, name }) => [
    kind,
    startLsn,
    kind === 'image' ? '' : endLsn,
    formatBytes(bytes),
    name,
  ]);
  for (const line of formatTable(['KIND', 'LSN', 'UP TO', 'SIZE', 'NAME'], rows)) context.say(line);
  const total = layers.files.reduce((sum, { bytes }) => sum + bytes, 0);
  context.say(`${layers.files.length} layer files, ${formatBytes(total)}; ${layers.inMemory.length} in memory`);
}

async function map(options: BranchOptions & { svg?: string; width?: number }, context: CliContext): Promise<void> {
  const { id, storage, name, repository } = find(options, context);
  const layers: LayerSummary = await storage.listLayers(id);
  if (options.svg !== undefined) {
    const { gc_cutoff_lsn: gcCutoffLsn } = await new StorageAdmin(repository).timelineStorage(id);
    writeFileSync(options.svg, layerMapSvg(layers, { branchName: name, gcCutoffLsn }));
    context.say(`Drew ${layers.files.length} layers in ${options.svg}`);
    return;
  }
  const width = options.width ?? process.stdout.columns ?? 100;
  if (!Number.isInteger(width) || width < 30)
    throw new PageliteError('invalid', `--width ${options.width}: at least 30`);
  for (const line of drawLayerMap(layers, width)) context.say(line);
}

async function dump(name: string, options: BranchOptions & { key?: string }, context: CliContext): Promise<void> {
  const isPath = name.includes('/');
  const layer: OpenLayer = isPath ? await localLayer(name) : await findStored(name, options, context);
  const key = options.key?.toUpperCase() ?? null;
  if (key !== null && !/^[0-9A-F]{36}$/.test(key)) throw new PageliteError('invalid', `--key ${key}: 36 hex digits`);
  const { desc, size } = layer;
  if (!options.json) {
    const upTo = desc.kind === 'image' ? '' : ` up to ${formatLsn(desc.lsnEnd as Lsn)}`;
    context.say(`${desc.kind} layer, Lsn ${formatLsn(desc.lsnStart)}${upTo}, ${formatBytes(size)}`);
  }
  let damaged = 0;
  for await (const part of dumpLayer(layer, key)) {
    if (part.kind === 'damaged') {
      damaged++;
      context.warn(part.problem);
    } else if (part.kind === 'block' && !options.json)
      context.say(`block ${part.index}: ${part.entries} values, ${formatBytes(part.bytes)}`);
    else if (part.kind === 'value') context.say(options.json ? JSON.stringify(part.value) : valueLine(part.value));
  }
  if (damaged > 0) throw new PageliteError('corrupt', `${damaged} blocks are damaged`);
}

async function findStored(text: string, options: BranchOptions, context: CliContext): Promise<OpenLayer> {
  const { id, storage } = find(options, context);
  const { files } = await storage.listLayers(id);
  const found = files.filter(({ name }) => name.includes(text));
  const [only] = found;
  if (found.length === 1) return storedLayer(storage, id, only!.name, only!.bytes);
  const what = found.length === 0 ? 'no layer has' : `${found.length} layers have`;
  const names = (found.length === 0 ? files : found).map(({ name }) => `\n  ${name}`).join('');
  throw new PageliteError('notFound', `${what} "${text}" in its name. There is:${names}`);
}

const valueLine = ({ key, lsn, kind, bytes, about }: DumpedValue): string =>
  `  ${key} ${lsn.padEnd(12)} ${kind.padEnd(16)} ${String(bytes).padStart(6)} bytes${about === null ? '' : `  ${about}`}`;
