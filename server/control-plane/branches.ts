/**
 * Names of branches: which timeline of a tenant a name means. Names are the repository's (config.json), with a copy in the remote storage
 * (stored-names.ts); the pageserver knows timelines by id only.
 *
 * Wherever a branch name is expected, the 32 hex digits of a timeline id are one, too, as in neon_local.
 */
import { PageliteError } from '../../engine/errors.ts';
import {
  isIdText,
  type TenantId,
  type TenantTimelineId,
  type TimelineId,
  tenantId,
  timelineId,
} from '../../engine/model/ids.ts';
import type { RepositoryConfig } from './repository.ts';

export const branchNameDefault = 'main';

export const branchNameLengthMax = 128;
/** PostgreSQL-like names and git-like paths, nothing that a shell or a file system reads as something else. */
const nameShape = /^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$/;

export interface NamedTimeline extends TenantTimelineId {
  /** The branch name, or the id where the timeline has no name. */
  readonly name: string;
}

/** Whether a branch may have this name, as far as its form goes. */
export const isBranchName = (name: string): boolean => hasNameShape(name) && !isIdText(name);
const hasNameShape = (name: string): boolean => nameShape.test(name) && !name.includes('..');

/** Throws `invalid` if the name is malformed or another timeline of this tenant has it. */
export function checkNewBranchName(config: RepositoryConfig, tenant: TenantId, name: string): void {
  if (!hasNameShape(name)) {
    const shape = 'letters, digits, "_", "-", "." and "/", at most 128, beginning with a letter, a digit or "_"';
    throw new PageliteError('invalid', `"${name}" cannot be the name of a branch: ${shape}`, { branch: name });
  }
  if (isIdText(name)) {
    throw new PageliteError('invalid', `"${name}" cannot be the name of a branch: it is the form of a timeline id`);
  }
  const taken = config.branches.find((entry) => entry.name === name && entry.tenantId === tenant);
  if (taken) {
    const text = `branch "${name}" exists (timeline ${taken.timelineId}). Choose another name; pagelite timeline list shows all`;
    throw new PageliteError('invalid', text, { branch: name, timelineId: taken.timelineId });
  }
}

export function nameBranch(config: RepositoryConfig, name: string, id: TenantTimelineId): void {
  checkNewBranchName(config, id.tenantId, name);
  config.branches.push({ name, tenantId: id.tenantId, timelineId: id.timelineId });
}

/** Throws `notFound` with the names there are. */
export function resolveBranch(config: RepositoryConfig, tenant: TenantId, name: string): TimelineId {
  if (isIdText(name)) return timelineId(name);
  const entry = config.branches.find((candidate) => candidate.name === name && candidate.tenantId === tenant);
  if (entry) return timelineId(entry.timelineId);
  const known = branchesOf(config, tenant).map((branch) => branch.name);
  const hint =
    known.length > 0
      ? `There is: ${known.join(', ')}`
      : 'This tenant has no branches; pagelite tenant list shows all tenants';
  throw new PageliteError('notFound', `no branch "${name}" in tenant ${tenant}. ${hint}`, { branch: name });
}

/** All named timelines of a tenant, in the order of their names. */
export function branchesOf(config: RepositoryConfig, tenant: TenantId): NamedTimeline[] {
  return config.branches
    .filter((entry) => entry.tenantId === tenant)
    .map((entry) => ({ name: entry.name, tenantId: tenant, timelineId: timelineId(entry.timelineId) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The name of a timeline, or null. */
export function nameOfTimeline(config: RepositoryConfig, id: TenantTimelineId): string | null {
  const named = branchesOf(config, id.tenantId).find((branch) => branch.timelineId === id.timelineId);
  return named?.name ?? null;
}

/** Its name, or else its id: for messages and lists. */
export const labelOfTimeline = (config: RepositoryConfig, id: TenantTimelineId): string =>
  nameOfTimeline(config, id) ?? id.timelineId;

/** The tenant that a command is about: the one it names, or the default one. */
export function chooseTenant(config: RepositoryConfig, given: string | undefined): TenantId {
  const chosen = given ?? config.defaultTenantId;
  if (chosen !== null) return tenantId(chosen.toLowerCase());
  const hint = 'Use --tenant-id, or set one with: pagelite tenant create --set-default, or pagelite tenant set-default';
  throw new PageliteError('invalid', `no tenant is given and there is no default tenant. ${hint}`);
}
