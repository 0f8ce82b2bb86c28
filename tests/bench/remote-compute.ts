/**
 * A repository with its real processes, and computes in this thread on its branches, as an endpoint process runs one.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { RpcClient } from '../../server/library/worker-rpc.ts';
import type { PGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { type Compute, openCompute } from '../../smgr-plugin/compute.ts';
import type { IoMethods } from './remote-io-worker.ts';

export interface RemotePlace {
  readonly tenant: string;
  readonly timeline: string;
  readonly pageserverPort: number;
  readonly safekeeperPort: number;
}

interface Config {
  readonly pageserver: { pgPort: number; httpPort: number };
  readonly safekeepers: { pgPort: number }[];
  readonly console: { port: number };
  readonly defaultTenantId: string;
  readonly branches: { name: string; timelineId: string }[];
}

const cli = fileURLToPath(new URL('../../server/cli/main.js', import.meta.url));

export class RemoteRepository {
  readonly #folder: string;
  readonly #config: Config;
  /** One thread for the I/O of all computes, as the library has one. */
  readonly #io = new RpcClient<IoMethods, never>(
    new Worker(new URL('./remote-io-worker.js', import.meta.url)),
    () => {},
  );

  private constructor(folder: string) {
    this.#folder = folder;
    this.#run('init');
    this.#run('start');
    this.#run('tenant', 'create', '--set-default');
    this.#config = JSON.parse(readFileSync(join(folder, '.pagelite/config.json'), 'utf8')) as Config;
  }

  /** Starts pageserver and safekeeper processes on free ports, with one tenant. */
  static start(folder: string): RemoteRepository {
    mkdirSync(folder, { recursive: true });
    return new RemoteRepository(folder);
  }

  #run(...args: string[]): void {
    const { PAGELITE_REPO_DIR: _, ...env } = process.env;
    execFileSync(process.execPath, [cli, ...args], { cwd: this.#folder, env, stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /** What a tab calls its server. */
  get consoleUrl(): string {
    return `http://127.0.0.1:${this.#config.console.port}`;
  }

  get main(): string {
    return this.#config.branches.find((branch) => branch.name === 'main')!.timelineId;
  }

  /** On a connection of its own: this thread blocks for seconds at a time, and would find one that is kept closed. */
  #http(method: string, path: string, body?: object): Promise<unknown> {
    const { httpPort: port } = this.#config.pageserver;
    const url = `/v1/tenant/${this.#config.defaultTenantId}/timeline${path}`;
    const headers = { 'content-type': 'application/json' };
    return new Promise((resolve, reject) => {
      const call = request({ host: '127.0.0.1', port, path: url, method, headers, agent: false }, async (response) => {
        const answer = await text(response);
        if (response.statusCode! < 300) resolve(JSON.parse(answer));
        else reject(new Error(`${method} ${url}: ${response.statusCode} ${answer}`));
      });
      call.on('error', reject);
      call.end(body && JSON.stringify(body));
    });
  }

  async createBranch(from: string): Promise<string> {
    const info = (await this.#http('POST', '', { ancestor_timeline_id: from })) as { timeline_id: string };
    return info.timeline_id;
  }

  /** Writes the timeline's open layer out and makes its images, as an idle pageserver does by itself in time. */
  async flush(timeline: string): Promise<void> {
    await this.#http('PUT', `/${timeline}/checkpoint?force_image_layer_creation=true`);
  }

  /** A compute for writing on a timeline, and how to close it. */
  async open(
    timeline: string,
    artefacts: PGliteArtefacts,
    pageCacheBytes: number,
  ): Promise<{ pg: Compute; close(): Promise<void> }> {
    const place: RemotePlace = {
      tenant: this.#config.defaultTenantId,
      timeline,
      pageserverPort: this.#config.pageserver.pgPort,
      safekeeperPort: this.#config.safekeepers[0]!.pgPort,
    };
    const opening = this.#io.call('start', place);
    const pg = await openCompute(
      { readOnly: false, start: opening.then(({ start }) => start) },
      { artefacts, pageCacheBytes },
    );
    const close = async () => {
      await pg.close();
      await this.#io.call('close', (await opening).host);
    };
    return { pg, close };
  }

  stop(): void {
    void this.#io.terminate();
    this.#run('stop', '--mode', 'immediate');
  }
}
