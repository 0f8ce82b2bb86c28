/** A repository of a benchmark: real processes in a folder of its own, driven by the command line. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Client } from 'pg';
import { must } from '../../engine/assert.ts';
import { type TenantId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { runningPid } from '../../server/process/pid-file.ts';

const { Client: PgClient } = createRequire(import.meta.url)('pg') as typeof import('pg');
const cli = fileURLToPath(new URL('../../server/cli/main.js', import.meta.url));

interface Config {
  readonly pageserver: { pgPort: number; httpPort: number };
  readonly defaultTenantId: string;
  readonly branches: { name: string; timelineId: string }[];
}

export class Place {
  readonly folder: string;
  readonly config: Config;

  constructor(folder: string, ...initArgs: string[]) {
    this.folder = folder;
    mkdirSync(folder, { recursive: true });
    this.run('init', ...initArgs);
    this.run('start');
    this.run('tenant', 'create', '--set-default');
    this.config = JSON.parse(readFileSync(join(folder, '.pagelite/config.json'), 'utf8')) as Config;
  }

  run(...args: string[]): string {
    const { PAGELITE_REPO_DIR: _, ...env } = process.env;
    return execFileSync(process.execPath, [cli, ...args], {
      cwd: this.folder,
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
      encoding: 'utf8',
      maxBuffer: 1e9,
    });
  }

  get tenant(): TenantId {
    return tenantId(this.config.defaultTenantId);
  }

  get main(): TimelineId {
    return timelineId(this.config.branches[0]!.timelineId);
  }

  async http<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await fetch(`http://127.0.0.1:${this.config.pageserver.httpPort}${path}`, {
      method,
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${text}`);
    return (path === '/metrics' ? text : JSON.parse(text)) as T;
  }

  pages(timeline: TimelineId): RemotePageService {
    return new RemotePageService({
      id: { tenantId: this.tenant, timelineId: timeline },
      connect: () => connectWebSocket(`ws://127.0.0.1:${this.config.pageserver.pgPort}/pagestream`),
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
  }

  async endpoint(name: string): Promise<Client> {
    this.run('endpoint', 'create', name);
    this.run('endpoint', 'start', name);
    const { pgPort } = JSON.parse(
      readFileSync(join(this.folder, '.pagelite/endpoints', name, 'endpoint.json'), 'utf8'),
    );
    const client = new PgClient({ host: '127.0.0.1', port: pgPort, user: 'cloud_admin', database: 'postgres' });
    await client.connect();
    return client;
  }

  /** Resident memory of the pageserver, bytes. */
  memory(): number {
    const pid = runningPid(join(this.folder, '.pagelite/pageserver_1/pageserver.pid'));
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)![1]) * 1024;
  }

  /** CPU time that the pageserver has used. */
  async cpuMs(): Promise<number> {
    const text = await this.http<string>('GET', '/metrics');
    return 1000 * Number(must(/^process_cpu_seconds_total ([\d.e+-]+)$/m.exec(text))[1]);
  }

  stop(): void {
    this.run('stop');
  }
}
