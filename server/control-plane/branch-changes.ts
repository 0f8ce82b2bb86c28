/**
 * Deleting a branch, resetting it, and what a time slider shows of it: the same for the command line and the console.
 *
 * Invariants
 * - what others need stays: a branch with branches of its own or with a running endpoint is refused
 * - a reset makes the new timeline first and exchanges the names in one write: a crash between leaves the branch as it was
 * - a reset loses nothing: the old head is a branch under another name
 */
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { BranchHistory } from '../../engine/protocol/control-api.ts';
import { nodeRandom } from '../process/node-host.ts';
import { branchesOf, checkNewBranchName, nameBranch, nameOfTimeline, resolveBranch } from './branches.ts';
import { type BranchStart, branchExtent, pointOnBranch } from './branching.ts';
import { type Endpoint, listEndpoints, removeEndpoint, statusOf, timelineOf, writeEndpoint } from './endpoints.ts';
import type { Repository, RepositoryConfig } from './repository.ts';
import type { HttpStorage } from './storage-clients.ts';

/** Times on a slider: more than a screen shows apart would only cost the pageserver. */
const historyPoints = 40;

/** Also removes the branch's stopped endpoints, which hold nothing. Throws `invalid` for a branch that others need. */
export async function deleteBranch(
  storage: HttpStorage,
  repository: Repository,
  tenant: TenantId,
  name: string,
): Promise<TenantTimelineId> {
  const config = repository.readConfig();
  const id = { tenantId: tenant, timelineId: resolveBranch(config, tenant, name) };
  const children = (await storage.listTimelines(tenant)).filter(
    ({ ancestor }) => ancestor?.timelineId === id.timelineId,
  );
  if (children.length > 0) {
    const names = children.map(({ timelineId }) => nameOfTimeline(config, { ...id, timelineId }) ?? timelineId);
    const text = `branch "${name}" cannot be deleted: ${names.join(', ')} branched from it. Delete what branched from it first`;
    throw new PageliteError('invalid', text, { branch: name });
  }
  const endpoints = stoppedEndpointsOf(repository, id, name);
  await storage.deleteTimeline(id);
  for (const endpoint of endpoints) await removeEndpoint(endpoint);
  await repository.update((config) => {
    config.branches = config.branches.filter(({ timelineId }) => timelineId !== id.timelineId);
  });
  return id;
}

export interface ResetOptions {
  /** 'end': of the parent. A point of the branch's own history, or of its parent's before the branch began. */
  readonly start: BranchStart;
  /** The name of the old head; null: `<name>_old_<time>`. */
  readonly preserveAs: string | null;
}

/**
 * The branch begins anew where `start` says; the old head stays as another branch, and keeps what branched from it. Stopped endpoints follow the name.
 * Throws `invalid` while an endpoint runs, and for a branch without a parent that is given no point.
 */
export async function resetBranch(
  storage: HttpStorage,
  repository: Repository,
  tenant: TenantId,
  name: string,
  { start, preserveAs }: ResetOptions,
): Promise<{ readonly id: TenantTimelineId; readonly preservedAs: string }> {
  const config = repository.readConfig();
  const old = { tenantId: tenant, timelineId: resolveBranch(config, tenant, name) };
  if (!branchesOf(config, tenant).some((branch) => branch.name === name)) {
    throw new PageliteError('invalid', `"${name}" is not the name of a branch`, { branch: name });
  }
  const preservedAs = preserveAs ?? freeName(config, tenant, `${name}_old_${timeText(Date.now())}`);
  checkNewBranchName(config, tenant, preservedAs);
  const endpoints = stoppedEndpointsOf(repository, old, name);
  const source = await sourceOf(storage, config, old, name, start);
  const id = { tenantId: tenant, timelineId: newTimelineId(nodeRandom) };
  await storage.createTimeline(id, source);
  await repository.update((changed) => {
    const entry = changed.branches.find((branch) => branch.name === name && branch.tenantId === tenant);
    if (!entry) throw new PageliteError('notFound', `branch "${name}" has gone meanwhile`, { branch: name });
    entry.name = preservedAs;
    nameBranch(changed, name, id);
  });
  for (const endpoint of endpoints) {
    writeEndpoint({ ...endpoint, config: { ...endpoint.config, timelineId: id.timelineId } });
  }
  return { id, preservedAs };
}

async function sourceOf(
  storage: HttpStorage,
  config: RepositoryConfig,
  branch: TenantTimelineId,
  name: string,
  start: BranchStart,
): Promise<{ timelineId: TimelineId; lsn: Lsn | null }> {
  const { ancestor, startLsn } = await storage.getTimeline(branch);
  if (start === 'end') {
    if (ancestor) return { timelineId: ancestor.timelineId, lsn: null };
    const text = `branch "${name}" has no parent to be reset to. Give a point of its own history: an LSN or a time`;
    throw new PageliteError('invalid', text, { branch: name });
  }
  const isOlder = 'lsn' in start && startLsn !== null && start.lsn < startLsn;
  try {
    if (!isOlder || !ancestor)
      return { timelineId: branch.timelineId, lsn: await pointOnBranch(storage, config, branch, name, start) };
  } catch (error) {
    // A time before the branch began is its parent's to know.
    if (!ancestor || 'lsn' in start) throw error;
  }
  const parent = { ...branch, timelineId: ancestor.timelineId };
  const parentName = nameOfTimeline(config, parent) ?? parent.timelineId;
  return { timelineId: parent.timelineId, lsn: await pointOnBranch(storage, config, parent, parentName, start) };
}

/** The branch from where it began; what is older is its ancestor's. */
export async function historyOf(
  storage: HttpStorage,
  config: RepositoryConfig,
  id: TenantTimelineId,
  name: string,
): Promise<BranchHistory> {
  const { startLsn } = await branchExtent(storage, config, id, name);
  const { lastRecordLsn } = await storage.getTimeline(id);
  const endLsn = Math.max(startLsn, lastRecordLsn ?? startLsn) as Lsn;
  const at = async (lsn: Lsn) => ({ lsn: formatLsn(lsn), at: await storage.timestampOfLsn(id, lsn) });
  const between = pointsBetween(startLsn, endLsn);
  const points = await Promise.all([startLsn, ...between, endLsn].map(at));
  const commits = points
    .slice(1)
    .flatMap(({ lsn, at }, i) => (at !== null && at !== points[i]!.at ? [{ lsn, at }] : []));
  return { start: points[0]!, end: points.at(-1)!, commits };
}

/** Spread over (start, end), where records may end: at multiples of eight. */
function pointsBetween(start: Lsn, end: Lsn): Lsn[] {
  const count = Math.min(historyPoints, Math.floor((end - start) / 8) - 1);
  const points = Array.from({ length: Math.max(0, count) }, (_, i) => {
    const lsn = start + ((end - start) * (i + 1)) / (count + 1);
    return (Math.floor(lsn / 8) * 8) as Lsn;
  });
  return [...new Set(points)].filter((lsn) => lsn > start && lsn < end);
}

function stoppedEndpointsOf(repository: Repository, id: TenantTimelineId, branch: string): Endpoint[] {
  const endpoints = listEndpoints(repository).filter((endpoint) => {
    const { tenantId, timelineId } = timelineOf(endpoint);
    return tenantId === id.tenantId && timelineId === id.timelineId;
  });
  const running = endpoints.filter((endpoint) => statusOf(endpoint) === 'running').map((endpoint) => endpoint.name);
  if (running.length === 0) return endpoints;
  const hint = `Stop it first: pagelite endpoint stop ${running[0]}`;
  const text = `endpoint ${running.map((endpoint) => `"${endpoint}"`).join(', ')} runs on branch "${branch}". ${hint}`;
  throw new PageliteError('invalid', text, { branch, endpoint: running[0]! });
}

function freeName(config: RepositoryConfig, tenant: TenantId, wanted: string): string {
  const taken = new Set(branchesOf(config, tenant).map(({ name }) => name));
  for (let i = 1; ; i++) {
    const name = i === 1 ? wanted : `${wanted}_${i}`;
    if (!taken.has(name)) return name;
  }
}

/** Such as `20260131T120000Z`. */
const timeText = (ms: number): string => new Date(ms).toISOString().replace(/[-:]|\.\d+/g, '');
