/**
 * A name, and where the branch of it is: in the tab, on the server, or in both, when the caller has to say which.
 *
 * Called by pagelite.ts. The tab's repository is not opened for a page that never made one, nor when the caller says `server`.
 */
import { isPageliteError, PageliteError } from '../engine/errors.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../engine/model/ids.ts';
import type { ServerBranch } from '../engine/protocol/control-api.ts';
import type { BranchInfo } from './api.ts';
import type { ServerClient } from './net/server-client.ts';

export type Side = 'server' | 'local';

export interface NameSources {
  readonly server: ServerClient | null;
  /** Of the tab; empty without opening anything if it has none. */
  readonly localBranches: () => Promise<readonly BranchInfo[]>;
}

/** Which of the two `name` is in. Throws `notFound`, or `invalid` if it is in both. */
export async function sideOf(sources: NameSources, name: string, given: Side | undefined): Promise<Side> {
  if (given === 'server' && sources.server === null) throw noServer(name);
  if (given !== undefined) return given;
  if (sources.server === null) return 'local';
  const [onServer, local] = await Promise.all([isOnServer(sources.server, name), isLocal(sources, name)]);
  // What could not be looked at is told only where it would matter.
  if (onServer === true && local === true) {
    const text = `branch "${name}" is in this tab and on the server: say which with { place: 'local' } or { place: 'server' }`;
    throw new PageliteError('invalid', text, { branch: name });
  }
  if (local === true) return 'local';
  if (onServer === true) return 'server';
  if (onServer !== false) throw onServer;
  if (local !== false) throw local;
  throw new PageliteError('notFound', `there is no branch "${name}", neither in this tab nor on the server`, {
    branch: name,
  });
}

export function noServer(name: string): PageliteError {
  const text = `branch "${name}" cannot be looked up on a server: Pagelite.open was called without { server }`;
  return new PageliteError('invalid', text, { branch: name });
}

async function isOnServer(server: ServerClient, name: string): Promise<boolean | Error> {
  try {
    await server.branch(name);
    return true;
  } catch (error) {
    return isPageliteError(error, 'notFound') ? false : (error as Error);
  }
}

async function isLocal({ localBranches }: NameSources, name: string): Promise<boolean | Error> {
  try {
    return (await localBranches()).some((branch) => branch.name === name);
  } catch (error) {
    return error as Error;
  }
}

export function serverBranchInfo(branch: ServerBranch): BranchInfo {
  const { name, timelineId, ancestor, startLsn, lsn, lastRecordLsn, layerBytes, broken } = branch;
  return {
    name,
    place: 'server',
    timelineId,
    ancestor: ancestor && { name: ancestor.name, place: 'server', lsn: ancestor.lsn },
    startLsn,
    lsn: lsn ?? lastRecordLsn,
    layerBytes,
    pushed: null,
    cachedPages: null,
    broken,
  };
}

/** Ids come from outside: they are checked. */
export function serverTimeline(tenant: string, timeline: string): TenantTimelineId {
  return { tenantId: tenantId(tenant), timelineId: timelineId(timeline) };
}
