/**
 * Starting an endpoint's compute process (server/compute/main.ts): tells it where the storage is now, and on which port to listen.
 */
import { PageliteError } from '../../engine/errors.ts';
import { tenantId } from '../../engine/model/ids.ts';
import { removeTokenFile, writeTokenFile } from '../auth/tokens.ts';
import { startDaemon } from '../process/daemon.ts';
import { type Endpoint, endpointLogFile, endpointTokenFile, nextPort, writeEndpoint } from './endpoints.ts';
import type { Repository } from './repository.ts';
import { isPortTaken, type Say } from './storage-processes.ts';

const entry = new URL('../compute/main.js', import.meta.url);
/** Others may take a port between our look and the compute's listening. */
const startAttempts = 5;

/** Resolves when the endpoint accepts connections. A port that the user did not choose is moved on if it is taken. */
export async function startCompute(
  repository: Repository,
  endpoint: Endpoint,
  say: Say,
): Promise<{ readonly pid: number; readonly pgPort: number }> {
  const { pageserver, safekeepers, safekeepersGeneration } = repository.readConfig();
  let config = {
    ...endpoint.config,
    pageserver: { host: repository.connectHost, port: pageserver.pgPort },
    safekeepers: safekeepers.map(({ id, pgPort }) => ({ id, host: repository.connectHost, port: pgPort })),
    safekeepersGeneration,
  };
  giveToken(repository, endpoint);
  for (let attempt = 1; ; attempt++) {
    writeEndpoint({ ...endpoint, config });
    try {
      const { pid } = await startDaemon({
        name: `endpoint ${endpoint.name}`,
        entry,
        args: [endpoint.dir],
        logFile: endpointLogFile(endpoint.dir),
        onProgress: say,
      });
      return { pid, pgPort: config.pgPort };
    } catch (error) {
      if (!isPortTaken(error)) throw error;
      if (config.pgPortFixed || attempt === startAttempts) throw withHint(endpoint.name, error);
      const pgPort = await nextPort(repository, endpoint);
      say(`port ${config.pgPort} is taken: moving on to ${pgPort}`);
      config = { ...config, pgPort };
    }
  }
}

/** What a compute may use: its tenant's timelines, and nothing else. */
function giveToken(repository: Repository, { dir, config }: Endpoint): void {
  const token = repository.signToken({ scope: 'tenant', tenantId: tenantId(config.tenantId) });
  if (token === null) removeTokenFile(endpointTokenFile(dir));
  else writeTokenFile(endpointTokenFile(dir), token);
}

function withHint(name: string, error: PageliteError): PageliteError {
  const hint = `End the program that has it, or choose another one: pagelite endpoint stop ${name} --destroy, then create it with another --pg-port`;
  return new PageliteError(error.kind, `${error.message}. ${hint}`, error.data, { cause: error });
}
