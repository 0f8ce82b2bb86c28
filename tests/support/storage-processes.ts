/**
 * A safekeeper and a pageserver as real processes from the build, in a temporary folder, without the command line: what tests of the
 * pageserver process start, kill and ask. WAL gets in through a proposer, as a compute's does.
 */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { templateVersion } from '../../engine/basebackup/tenant-template.ts';
import { walMessageBytesMax } from '../../engine/limits.ts';
import {
  type NodeId,
  newTenantId,
  newTimelineId,
  type TenantId,
  type TenantTimelineId,
} from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { TenantTemplate } from '../../engine/services.ts';
import { connectWebSocket } from '../../server/net/ws-channel.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { startDaemon, stopDaemon } from '../../server/process/daemon.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { findFreePort } from '../../server/process/ports.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { distUrl } from './dist.ts';

const root = resolve(import.meta.dirname, '../..').replace(/\/dist$/, '');
const cacheDir = join(root, 'node_modules/.cache/pagelite-tests');
const localhost = '127.0.0.1';

export interface HttpAnswer {
  readonly status: number;
  readonly json: unknown;
}

/** A timeline's WAL from its start on, as a PGlite wrote it. */
export interface RecordedWal {
  readonly startLsn: Lsn;
  readonly bytes: Uint8Array;
  readonly systemIdentifier: bigint;
}

export interface StorageOptions {
  /** `s3://bucket/prefix`; without it the truth is in the pageserver's folder. */
  readonly remoteStorage?: string;
  /** The pageserver is faulty-pageserver.ts, with the plan in its folder. */
  readonly isFaulty?: boolean;
}

export class StorageProcesses {
  readonly dir: string;
  readonly #options: StorageOptions;
  readonly template: TenantTemplate;
  readonly tenantId: TenantId = newTenantId(nodeRandom);
  #safekeeperPort = 0;
  #port = 0;
  #httpPort = 0;
  readonly #remotes = new Set<RemotePageService>();

  private constructor(dir: string, template: TenantTemplate, options: StorageOptions) {
    this.dir = dir;
    this.#options = options;
    this.template = template;
  }

  /** Both processes, and one tenant. */
  static async start(options: StorageOptions = {}): Promise<StorageProcesses> {
    const dir = mkdtempSync(join(tmpdir(), 'pagelite-storage-'));
    const artefacts = await loadPGliteArtefacts();
    const template = await loadTenantTemplate({ dir: cacheDir, artefacts, log: silentLog });
    const rig = new StorageProcesses(dir, template, options);
    try {
      await rig.#start(artefacts.version);
      return rig;
    } catch (error) {
      await rig.close();
      throw error;
    }
  }

  async #start(pgliteVersion: string): Promise<void> {
    mkdirSync(this.pageserverDir);
    mkdirSync(join(this.dir, 'sk1'));
    const cached = join(cacheDir, `template-${pgliteVersion}-${templateVersion}.bin`);
    copyFileSync(cached, join(this.pageserverDir, basename(cached)));
    // Far from the ports of people, and of tests that run beside this one.
    const first = 20_000 + (process.pid % 2_000) * 10;
    this.#port = await findFreePort(first);
    this.#httpPort = await findFreePort(this.#port + 1);
    await this.#startSafekeeper();
    await this.startPageserver();
    await this.post('/v1/tenant', { new_tenant_id: this.tenantId });
  }

  get pageserverDir(): string {
    return join(this.dir, 'pageserver_1');
  }

  get port(): number {
    return this.#port;
  }

  get httpPort(): number {
    return this.#httpPort;
  }

  get safekeeperPort(): number {
    return this.#safekeeperPort;
  }

  async #startSafekeeper(): Promise<void> {
    const dir = join(this.dir, 'sk1');
    const args = ['-D', dir, '--listen-pg', `${localhost}:0`, '--listen-http', `${localhost}:0`];
    const entry = distUrl('server/safekeeper/main.js');
    const { info } = await startDaemon({ name: 'safekeeper', entry, args, logFile: join(dir, 'safekeeper.log') });
    this.#safekeeperPort = Number(info.listen);
  }

  /** On the same ports each time. Returns the pid. */
  async startPageserver(): Promise<number> {
    const dir = this.pageserverDir;
    const ports = ['--listen-pg', `${localhost}:${this.#port}`, '--listen-http', `${localhost}:${this.#httpPort}`];
    const { remoteStorage, isFaulty = false } = this.#options;
    const remote = remoteStorage === undefined ? [] : ['--remote-storage', remoteStorage, '--new-remote-storage'];
    const args = ['-D', dir, ...ports, '--safekeepers', `1=${localhost}:${this.#safekeeperPort}`, ...remote];
    const entry = distUrl(isFaulty ? 'tests/support/faulty-pageserver.js' : 'server/pageserver/main.js');
    const { pid } = await startDaemon({ name: 'pageserver', entry, args, logFile: join(dir, 'pageserver.log') });
    return pid;
  }

  stopPageserver(mode: 'fast' | 'immediate'): Promise<boolean> {
    return stopDaemon('pageserver', join(this.pageserverDir, 'pageserver.pid'), mode);
  }

  async call(method: string, path: string, body?: object | string): Promise<HttpAnswer> {
    const text = typeof body === 'object' ? JSON.stringify(body) : body;
    const init = text === undefined ? { method } : { method, body: text };
    const response = await fetch(`http://${localhost}:${this.#httpPort}${path}`, init);
    const answer = await response.text();
    const isJson = response.headers.get('content-type')?.includes('application/json');
    return { status: response.status, json: isJson ? JSON.parse(answer) : answer };
  }

  get(path: string): Promise<HttpAnswer> {
    return this.call('GET', path);
  }

  post(path: string, body: object): Promise<HttpAnswer> {
    return this.call('POST', path, body);
  }

  /** A new timeline of the tenant, from the template. */
  async createTimeline(): Promise<TenantTimelineId> {
    const id = { tenantId: this.tenantId, timelineId: newTimelineId(nodeRandom) };
    const { status, json } = await this.post(`/v1/tenant/${id.tenantId}/timeline`, { new_timeline_id: id.timelineId });
    if (status !== 201) throw new Error(`timeline not created: ${JSON.stringify(json)}`);
    return id;
  }

  timelinePath(id: TenantTimelineId): string {
    return `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}`;
  }

  /** The folder of a timeline's files. */
  timelineDir(id: TenantTimelineId): string {
    return join(this.pageserverDir, 'tenants', id.tenantId, 'timelines', id.timelineId);
  }

  connect(id: TenantTimelineId): RemotePageService {
    const remote = new RemotePageService({
      id,
      connect: () => connectWebSocket(`ws://${localhost}:${this.#port}/pagestream`),
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    this.#remotes.add(remote);
    return remote;
  }

  /** Brings the timeline's WAL up to `endLsn`, committed, by a proposer of a new term. */
  async writeWal(id: TenantTimelineId, wal: RecordedWal, endLsn: Lsn): Promise<void> {
    const driver = await ProposerDriver.elect({
      id,
      services: [connectSafekeeper({ id: 1 as NodeId, host: localhost, port: this.#safekeeperPort })],
      startLsnIfEmpty: wal.startLsn,
      systemIdentifier: wal.systemIdentifier,
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    try {
      for (let at: number = driver.startLsn; at < endLsn; ) {
        const end = Math.min(endLsn, at + walMessageBytesMax);
        driver.append(at as Lsn, wal.bytes.slice(at - wal.startLsn, end - wal.startLsn));
        at = end;
      }
      await driver.waitCommit(endLsn);
    } finally {
      driver.close();
    }
  }

  async close(): Promise<void> {
    for (const remote of this.#remotes) remote.close();
    await this.stopPageserver('immediate');
    await stopDaemon('safekeeper', join(this.dir, 'sk1/safekeeper.pid'), 'immediate');
    rmSync(this.dir, { recursive: true });
  }
}
