/** Safekeepers of the benchmarks: processes of their own on loopback, with real files. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NodeId } from '../../engine/model/ids.ts';
import type { WalService } from '../../engine/services.ts';
import { findFreePort } from '../../server/process/ports.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';

export const host = '127.0.0.1';
/** Peers know each other's ports before they start: the first free ones from here on. */
const firstPort = 25_454;

export class SafekeeperProcess {
  readonly dir: string;
  readonly service: WalService & { readonly nodeId: NodeId };
  readonly port: number;
  readonly #id: number;
  #child: ChildProcess | null = null;

  constructor(dir: string, id: number, port: number) {
    this.dir = dir;
    this.#id = id;
    this.port = port;
    this.service = connectSafekeeper({ id: id as NodeId, host, port });
    mkdirSync(dir, { recursive: true });
  }

  get address(): string {
    return `${this.#id}=${host}:${this.port}`;
  }

  async start(addresses: readonly string[]): Promise<void> {
    const entry = fileURLToPath(new URL('../../server/safekeeper/main.js', import.meta.url));
    const peers = addresses.filter((address) => address !== this.address);
    const args = ['-D', this.dir, '--id', `${this.#id}`, '--listen-http', `${host}:0`];
    args.push('--listen-pg', `${host}:${this.port}`, ...(peers.length > 0 ? ['--peers', peers.join()] : []));
    const log = openSync(`${this.dir}.log`, 'a');
    this.#child = spawn(process.execPath, [entry, ...args], { stdio: ['ignore', log, log, 'ipc'] });
    await once(this.#child, 'message');
  }

  /** CPU time that the process has used, as Linux counts it (proc(5), stat), milliseconds; 0 elsewhere. */
  get cpuMs(): number {
    if (process.platform !== 'linux' || this.#child === null) return 0;
    const fields = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
}

export class Cluster {
  readonly nodes: readonly SafekeeperProcess[];

  private constructor(nodes: readonly SafekeeperProcess[]) {
    this.nodes = nodes;
  }

  static async start(dir: string, count: number): Promise<Cluster> {
    const nodes: SafekeeperProcess[] = [];
    for (let id = 1; id <= count; id++) {
      const port = await findFreePort((nodes.at(-1)?.port ?? firstPort - 1) + 1);
      nodes.push(new SafekeeperProcess(join(dir, `${id}`), id, port));
    }
    const cluster = new Cluster(nodes);
    await Promise.all(nodes.map((node) => node.start(cluster.addresses)));
    return cluster;
  }

  get services(): readonly WalService[] {
    return this.nodes.map(({ service }) => service);
  }

  get addresses(): readonly string[] {
    return this.nodes.map(({ address }) => address);
  }

  /** Of all of them and of this process. */
  cpuMs(): number {
    const { user, system } = process.cpuUsage();
    return this.nodes.reduce((sum, node) => sum + node.cpuMs, (user + system) / 1000);
  }

  kill(): void {
    for (const node of this.nodes) void node.kill();
  }
}
