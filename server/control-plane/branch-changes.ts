/**
 * Deleting, resetting, renaming a branch, and naming a timeline that was pushed: the same for the command line and the console.
 *
 * Invariants
 * - what others need stays: a branch with branches of its own or with a running endpoint is refused
 * - a deletion that was cut off is finished by the next one: layers go first, then WAL, the name last
 * - a reset makes the new timeline first and exchanges the names in one write: a crash between leaves the branch as it was
 * - a reset loses nothing: the old head is a branch under another name, with what branched from it (docs/decisions/2026-11-23-reset-exchanges-names.md)
 * - a timeline has one name
 */
import { must } from '../../engine/assert.ts';
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { nodeRandom } from '../process/node-host.ts';
import { placeInHistory } from './branch-history.ts';
import {
  branchesOf,
  branchNameLengthMax,
  checkNewBranchName,
  labelOfTimeline,
  nameBranch,
  nameOfTimeline,
  resolveBranch,
} from './branches.ts';
import type { BranchStart } from './branching.ts';
import { type Endpoint, endpointsOfTenant, removeEndpoint, statusOf, writeEndpoint } from './endpoints.ts';
import type { Repository, RepositoryConfig } from './repository.ts';
import type { StorageApi, TimelineInfo } from './storage-api.ts';
import { changeNames } from './stored-names.ts';

/** Also removes the branch's stopped endpoints, which hold nothing. Throws `invalid` for a branch that others need. */
export async function deleteBranch(
  storage: StorageApi,
  repository: Repository,
  tenant: TenantId,
  name: string,
): Promise<TenantTimelineId> {
  const config = repository.readConfig();
  const id = { tenantId: tenant, timelineId: resolveBranch(config, tenant, name) };
  const timelines = await storage.listTimelines(tenant);
  // A name whose timeline has gone is what a deletion that was cut off left.
  if (!timelines.some(isTimeline(id)) && nameOfTimeline(config, id) === null) {
    throw new PageliteError('notFound', `no timeline ${id.timelineId} in tenant ${tenant}`, { ...id });
  }
  checkNoChildren(config, timelines, id, name, 'deleted');
  const endpoints = endpointsOn(repository, id);
  checkStopped(endpoints, name);
  await storage.deleteTimeline(id);
  for (const endpoint of endpoints) await removeEndpoint(endpoint);
  await changeNames(storage, repository, tenant, (changed) => {
    changed.branches = changed.branches.filter((branch) => branch.tenantId !== tenant || !isTimeline(id)(branch));
  });
  return id;
}

export interface ResetOptions {
  /** 'end': of the parent. A point of the branch's history, which before it began is its ancestors'. */
  readonly start: BranchStart;
  /** The name of the old head; null: `<name>_old_<time>`. */
  readonly preserveAs: string | null;
}

/**
 * The branch begins anew where `start` says; the old head stays as another branch, and keeps what branched from it. Endpoints follow the name, but for
 * read-only ones, whose LSN is the old head's. Throws `invalid` while an endpoint writes, and for a branch without a parent that is given no point.
 */
export async function resetBranch(
  storage: StorageApi,
  repository: Repository,
  tenant: TenantId,
  name: string,
  { start, preserveAs }: ResetOptions,
): Promise<{ readonly id: TenantTimelineId; readonly preservedAs: string }> {
  const config = repository.readConfig();
  const old = namedTimeline(config, tenant, name);
  const preservedAs = preserveAs ?? freeName(config, tenant, name);
  checkNewBranchName(config, tenant, preservedAs);
  const writers = endpointsOn(repository, old).filter((endpoint) => endpoint.config.lsn === null);
  checkStopped(writers, name);
  const source = await sourceOf(storage, config, old, name, start);
  const id = { tenantId: tenant, timelineId: newTimelineId(nodeRandom) };
  await storage.createTimeline(id, source);
  await changeNames(storage, repository, tenant, (changed) => {
    entryOf(changed, tenant, name).name = preservedAs;
    nameBranch(changed, name, id);
  });
  for (const endpoint of endpointsOn(repository, old)) {
    const moved = endpoint.config.lsn === null ? { timelineId: id.timelineId } : { branchName: preservedAs };
    writeEndpoint({ ...endpoint, config: { ...endpoint.config, ...moved } });
  }
  return { id, preservedAs };
}

async function sourceOf(
  storage: StorageApi,
  config: RepositoryConfig,
  branch: TenantTimelineId,
  name: string,
  start: BranchStart,
): Promise<{ timelineId: TimelineId; lsn: Lsn | null }> {
  if (start !== 'end') {
    const { id, lsn } = await placeInHistory(storage, config, branch, name, start);
    return { timelineId: id.timelineId, lsn };
  }
  const { ancestor } = await storage.getTimeline(branch);
  if (ancestor) return { timelineId: ancestor.timelineId, lsn: null };
  const text = `branch "${name}" has no parent to be reset to. Give a point of its own history: an LSN or a time`;
  throw new PageliteError('invalid', text, { branch: name });
}

/** Endpoints follow. Throws `invalid` for a name that is taken or malformed. */
export async function renameBranch(
  storage: StorageApi,
  repository: Repository,
  tenant: TenantId,
  name: string,
  to: string,
): Promise<void> {
  const id = namedTimeline(repository.readConfig(), tenant, name);
  await changeNames(storage, repository, tenant, (config) => {
    checkNewBranchName(config, tenant, to);
    entryOf(config, tenant, name).name = to;
  });
  for (const endpoint of endpointsOn(repository, id)) {
    writeEndpoint({ ...endpoint, config: { ...endpoint.config, branchName: to } });
  }
}

/** Of one that has none. Again: succeeds. Throws `invalid` if it has another name or the name another timeline, `notFound`. */
export async function nameTimeline(
  storage: StorageApi,
  repository: Repository,
  id: TenantTimelineId,
  name: string,
): Promise<void> {
  await storage.getTimeline(id);
  await changeNames(storage, repository, id.tenantId, (config) => {
    const known = nameOfTimeline(config, id);
    if (known === name) return;
    if (known === null) nameBranch(config, name, id);
    else
      throw new PageliteError('invalid', `timeline ${id.timelineId} is branch "${known}" already`, { branch: known });
  });
}

/** Throws `notFound`; `invalid` for an id, which is no name. */
function namedTimeline(config: RepositoryConfig, tenant: TenantId, name: string): TenantTimelineId {
  const timelineId = resolveBranch(config, tenant, name);
  if (branchesOf(config, tenant).some((branch) => branch.name === name)) return { tenantId: tenant, timelineId };
  throw new PageliteError('invalid', `"${name}" is not the name of a branch`, { branch: name });
}

function entryOf(config: RepositoryConfig, tenant: TenantId, name: string): RepositoryConfig['branches'][number] {
  return must(config.branches.find((branch) => branch.name === name && branch.tenantId === tenant));
}

/** Throws `invalid` if others branched from it: then it cannot be `done`. */
function checkNoChildren(
  config: RepositoryConfig,
  timelines: readonly TimelineInfo[],
  id: TenantTimelineId,
  branch: string,
  done: string,
): void {
  const children = timelines.filter(({ ancestor }) => ancestor?.timelineId === id.timelineId);
  if (children.length === 0) return;
  const names = children.map(({ timelineId }) => labelOfTimeline(config, { ...id, timelineId }));
  const text = `branch "${branch}" cannot be ${done}: ${names.join(', ')} branched from it. Delete what branched from it first`;
  throw new PageliteError('invalid', text, { branch });
}

const isTimeline =
  (id: TenantTimelineId) =>
  ({ timelineId }: { readonly timelineId: string }): boolean =>
    timelineId === id.timelineId;

function endpointsOn(repository: Repository, id: TenantTimelineId): Endpoint[] {
  return endpointsOfTenant(repository, id.tenantId).filter(({ config }) => isTimeline(id)(config));
}

function checkStopped(endpoints: readonly Endpoint[], branch: string): void {
  const running = endpoints.filter((endpoint) => statusOf(endpoint) === 'running').map((endpoint) => endpoint.name);
  if (running.length === 0) return;
  const hint = `Stop it first: pagelite endpoint stop ${running[0]}`;
  const text = `endpoint ${running.map((endpoint) => `"${endpoint}"`).join(', ')} runs on branch "${branch}". ${hint}`;
  throw new PageliteError('invalid', text, { branch, endpoint: running[0]! });
}

/** `<name>_old_<time>`, as in Neon, as long as a name may be; a second one of the same second gets a number. */
function freeName(config: RepositoryConfig, tenant: TenantId, name: string): string {
  const taken = new Set(branchesOf(config, tenant).map((branch) => branch.name));
  for (let i = 1; ; i++) {
    const end = `_old_${timeText(Date.now())}${i === 1 ? '' : `_${i}`}`;
    const free = name.slice(0, branchNameLengthMax - end.length) + end;
    if (!taken.has(free)) return free;
  }
}

/** Such as `20260131T120000Z`. */
const timeText = (ms: number): string => new Date(ms).toISOString().replace(/[-:]|\.\d+/g, '');
