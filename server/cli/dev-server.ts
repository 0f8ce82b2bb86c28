/**
 * What `pagelite dev` runs: the storage of a repository, behind the ports of its processes, and the compute of its branch `main`, all in this process.
 *
 * The storage is the library's (library/embedded-storage.ts), in this thread: so every other command works on it from another terminal, and endpoints of other
 * branches can be started beside it.
 *
 * Invariants
 * - when `start` resolves, a client can connect
 * - `close` ends the endpoints that were started beside it, too: they would have no storage
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Log } from '../../engine/services.ts';
import { accessOf } from '../auth/access.ts';
import { endpointDoors } from '../compute/admission.ts';
import { ComputeNode } from '../compute/compute-node.ts';
import { serveConsole } from '../console/console-server.ts';
import { branchNameDefault, resolveBranch } from '../control-plane/branches.ts';
import {
  createEndpoint,
  type Endpoint,
  endpointPidFile,
  findEndpoint,
  listEndpoints,
  nextPort,
  statusOf,
  writeEndpoint,
} from '../control-plane/endpoints.ts';
import { localhost, Repository } from '../control-plane/repository.ts';
import { consoleAddress, isPortTaken, moveConsolePort, movePorts, shown } from '../control-plane/storage-processes.ts';
import { exchangeNames } from '../control-plane/stored-names.ts';
import { defaultTenant } from '../library/default-tenant.ts';
import { EmbeddedStorage } from '../library/embedded-storage.ts';
import { servePageserver } from '../pageserver/serve.ts';
import { stopDaemon } from '../process/daemon.ts';
import { createLog } from '../process/log.ts';
import { nodeRandom } from '../process/node-host.ts';
import { packageVersion } from '../process/package-version.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';
import { claimPidFile } from '../process/pid-file.ts';
import { serveSafekeeper } from '../safekeeper/safekeeper-server.ts';
import type { CliContext } from './context.ts';
import { passwordHint } from './endpoint.ts';

const startAttempts = 5;

interface Part {
  readonly name: string;
  close(): Promise<unknown>;
}

export class DevServer {
  readonly #repository: Repository;
  readonly #context: CliContext;
  readonly #log: Log;
  /** What runs, in the order in which it was started. */
  readonly #parts: Part[] = [];
  /** Rejects when the compute is fenced by another one. */
  failed: Promise<never> = new Promise(() => {});

  private constructor(repository: Repository, context: CliContext) {
    this.#repository = repository;
    this.#context = context;
    const destination = pino.destination({ dest: join(repository.dir, 'dev.log'), sync: true });
    this.#log = createLog('dev', { destination });
    this.#parts.push({ name: 'log', close: async () => destination.end() });
  }

  static async start(
    dir: string,
    pgPort: number | null,
    allowOrigins: readonly string[],
    context: CliContext,
  ): Promise<DevServer> {
    const repository = await Repository.openOrInit(dir);
    const server = new DevServer(repository, context);
    try {
      await server.#start(pgPort, allowOrigins);
      return server;
    } catch (error) {
      await server.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    if (this.#has('storage')) await this.#stopEndpointsBeside();
    for (const part of this.#parts.reverse()) await this.#attempt(part.name, part.close());
    this.#parts.length = 0;
  }

  /** Ours is one of the parts; the others have nothing to serve without us. */
  async #stopEndpointsBeside(): Promise<void> {
    for (const endpoint of listEndpoints(this.#repository)) {
      if (this.#has(`endpoint ${endpoint.name}`) || statusOf(endpoint) !== 'running') continue;
      this.#context.say(`Stopping endpoint ${endpoint.name}, which was started beside this`);
      await this.#attempt(endpoint.name, stopDaemon(endpoint.name, endpointPidFile(endpoint.dir)));
    }
  }

  #has(part: string): boolean {
    return this.#parts.some(({ name }) => name === part);
  }

  async #attempt(name: string, closing: Promise<unknown>): Promise<void> {
    await closing.catch((error: unknown) => this.#context.warn(`${name} was not closed in order: ${messageOf(error)}`));
  }

  async #start(pgPort: number | null, allowOrigins: readonly string[]): Promise<void> {
    const { say } = this.#context;
    say(`Opening ${shown(this.#repository.dir)} ...`);
    const storage = await EmbeddedStorage.open({
      repository: this.#repository,
      artefacts: await loadPGliteArtefacts(),
      log: this.#log,
      progress: say,
    });
    this.#parts.push({ name: 'storage', close: () => storage.close() });
    await this.#repository.exclusively(async () => {
      await this.#servePorts(storage);
      await exchangeNames(storage, this.#repository, this.#context.warn);
    });
    const tenantId = await defaultTenant(this.#repository, storage);
    const timelineId = resolveBranch(this.#repository.readConfig(), tenantId, branchNameDefault);
    const port = await this.#startCompute(storage, { tenantId, timelineId }, pgPort);
    const consoleAt = await this.#startConsole(allowOrigins);
    say('');
    say(`Postgres 18 is ready, on branch ${branchNameDefault}:`);
    say('');
    say(`  postgresql://cloud_admin@${localhost}:${port}/postgres`);
    say('');
    say(`  psql -h ${localhost} -p ${port} -U cloud_admin postgres`);
    say('');
    if (findEndpoint(this.#repository, branchNameDefault).config.auth !== 'trust')
      say(`  ${passwordHint(branchNameDefault)}`);
    say(`The console is at ${consoleAt}`);
    say('');
    say(
      `Data is in ${shown(this.#repository.dir)}. pagelite --help, in another terminal, shows how to branch. Ctrl-C stops.`,
    );
  }

  /** The ports of `pagelite start`, moved on where they are taken and remembered for the other commands. */
  async #servePorts({ pageserver, safekeepers, redoCounters }: EmbeddedStorage): Promise<void> {
    const log = this.#log;
    await this.#onFreePorts(async () => {
      const config = await this.#repository.update(async (config) => {
        await movePorts(this.#repository, [config.pageserver, ...config.safekeepers]);
        return config;
      });
      const addresses = ({ pgPort, httpPort }: { pgPort: number; httpPort: number }) => ({
        listen: { host: this.#repository.listenHost, port: pgPort },
        http: { host: this.#repository.listenHost, port: httpPort },
      });
      const served: Part[] = [];
      const pages = await servePageserver({
        pageserver,
        redoCounters,
        nodeId: nodeId(config.pageserver.id),
        random: nodeRandom,
        log,
        access: accessOf('pageserver', this.#repository.publicKeyPath, log),
        ...addresses(config.pageserver),
      });
      served.push({ name: 'pageserver', close: () => pages.close() });
      try {
        for (const [i, { safekeeper, storage, upkeep }] of safekeepers.entries()) {
          const node = config.safekeepers[i]!;
          const wal = await serveSafekeeper(safekeeper, storage, {
            log,
            upkeep,
            access: accessOf('safekeeper', this.#repository.publicKeyPath, log),
            ...addresses(node),
          });
          served.unshift({ name: `safekeeper ${node.id}`, close: () => wal.close() });
        }
      } catch (error) {
        for (const { close } of served) await close();
        throw error;
      }
      this.#parts.push(...served);
    });
  }

  async #startCompute(storage: EmbeddedStorage, id: TenantTimelineId, wanted: number | null): Promise<number> {
    const repository = this.#repository;
    const endpoint = await repository.exclusively(() => mainEndpoint(repository, id));
    await mkdir(endpoint.dir, { recursive: true });
    const pidFile = claimPidFile(endpointPidFile(endpoint.dir));
    const artefacts = await loadPGliteArtefacts();
    const pages = await storage.pageserver.openPages(id);
    let port = wanted ?? endpoint.config.pgPort;
    return this.#onFreePorts(async () => {
      const log = createLog('compute', {
        destination: pino.destination({ dest: join(endpoint.dir, 'compute.log'), sync: true }),
      });
      try {
        const node = await ComputeNode.start({
          pages,
          wal: storage.wal,
          safekeepersGeneration: repository.readConfig().safekeepersGeneration,
          mode: 'primary',
          doors: endpointDoors(endpoint.dir, endpoint.config, port, log),
          port,
          artefacts,
          log,
          serverLogPath: join(endpoint.dir, 'compute.log'),
        });
        this.failed = node.failed;
        this.#parts.push({
          name: `endpoint ${endpoint.name}`,
          close: async () => {
            await node.close();
            pidFile.release();
          },
        });
        writeEndpoint({ ...endpoint, config: { ...endpoint.config, pgPort: port, pgPortFixed: wanted !== null } });
        return port;
      } catch (error) {
        if (isPortTaken(error) && wanted === null) port = await nextPort(repository, endpoint);
        else pidFile.release();
        throw error;
      }
    }, wanted === null);
  }

  /** Beside the processes' APIs, which it speaks to over their ports. */
  #startConsole(allowOrigins: readonly string[]): Promise<string> {
    const repository = this.#repository;
    return this.#onFreePorts(async () => {
      const port = await repository.exclusively(() => moveConsolePort(repository));
      const server = await serveConsole({
        repository,
        listen: { host: localhost, port },
        allowOrigins,
        version: packageVersion,
        log: this.#log,
      });
      this.#parts.push({ name: 'console', close: () => server.close() });
      return consoleAddress(repository);
    });
  }

  /** Others may take a port between our look and our listening. */
  async #onFreePorts<T>(work: () => Promise<T>, mayMove = true): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (!isPortTaken(error)) throw error;
        if (!mayMove)
          throw new PageliteError(error.kind, `${error.message}. Choose another --pg-port, or leave it out`);
        if (attempt === startAttempts) throw error;
      }
    }
  }
}

/** `main`, as `endpoint create main` makes it. Throws `invalid` if another endpoint has the name. */
async function mainEndpoint(repository: Repository, id: TenantTimelineId): Promise<Endpoint> {
  const isThere = listEndpoints(repository).some(({ name }) => name === branchNameDefault);
  if (!isThere) {
    const wanted = { name: branchNameDefault, id, branchName: branchNameDefault };
    return createEndpoint(repository, { ...wanted, lsn: null, pgPort: null, httpPort: null });
  }
  const endpoint = findEndpoint(repository, branchNameDefault);
  const { timelineId, lsn } = endpoint.config;
  if (timelineId === id.timelineId && lsn === null) return endpoint;
  const hint = `Remove it with: pagelite endpoint stop ${branchNameDefault} --destroy`;
  throw new PageliteError('invalid', `endpoint "${branchNameDefault}" is not on the end of branch main. ${hint}`);
}
