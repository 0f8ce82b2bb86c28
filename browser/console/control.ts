/** The parts of the server's control API that the page API does not have: endpoints and metrics. */
import type { MetricSample, ServerBranch } from '../../engine/protocol/control-api.ts';

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

export const serverBranches = (): Promise<ServerBranch[]> => get('/branches');
export const serverMetrics = (): Promise<MetricSample[]> => get('/metrics');
