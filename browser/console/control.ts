/** The parts of the server's control API that the page API does not have: endpoints, history, metrics. */
import type { BranchHistory, HistoryPoint, MetricSample, ServerBranch } from '../../engine/protocol/control-api.ts';

export class ControlError extends Error {}

async function get<T>(path: string): Promise<T> {
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, { signal: AbortSignal.timeout(20_000) });
  } catch (cause) {
    throw new ControlError('the server does not answer', { cause });
  }
  const json = (await response.json().catch(() => null)) as { msg?: string } | null;
  if (response.ok && json !== null) return json as T;
  throw new ControlError(json?.msg ?? `the server answered ${response.status}`);
}

const branchPath = (name: string): string => `/branches/${encodeURIComponent(name)}`;

export const serverBranches = (): Promise<ServerBranch[]> => get('/branches');
export const serverBranch = (name: string): Promise<ServerBranch> => get(branchPath(name));
export const branchHistory = (name: string): Promise<BranchHistory> => get(`${branchPath(name)}/history`);
export const serverMetrics = (): Promise<MetricSample[]> => get('/metrics');
/** The last LSN with everything that was committed until then, and the branch that has it: before it began, a branch's history is its ancestors'. */
export const pointAt = (name: string, at: Date): Promise<HistoryPoint> =>
  get(`${branchPath(name)}/lsn?at=${encodeURIComponent(at.toISOString())}`);
