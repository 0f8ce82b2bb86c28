/**
 * A repository in a temporary folder with its real processes, driven by the real command line from the build, as a user drives it.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Client, QueryResult } from 'pg';
import type { RepositoryConfig } from '../../server/control-plane/repository.ts';
import { runningPid } from '../../server/process/pid-file.ts';
import { FreePorts } from '../../server/process/ports.ts';
import { keepTemplate, putTemplate } from './template-cache.ts';

const root = resolve(import.meta.dirname, '../..').replace(/\/dist$/, '');
export const cliEntry = join(root, 'dist/server/cli/main.js');
const cliProgram = join(root, 'dist/server/cli/program.js');
const { Client: PgClient } = createRequire(import.meta.url)('pg') as typeof import('pg');

export interface CommandResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A process of the repository; 'safekeeper' is the first one. */
export type RigProcess = 'pageserver' | 'safekeeper' | { readonly safekeeper: number } | { readonly endpoint: string };

export class RepositoryRig {
  /** The folder that the commands run in; the repository is its `.pagelite`. */
  readonly cwd: string;
  readonly #clients = new Set<Client>();

  constructor() {
    this.cwd = mkdtempSync(join(tmpdir(), 'pagelite-cli-'));
  }

  get dir(): string {
    return join(this.cwd, '.pagelite');
  }

  /** Where the pageserver's truth is. */
  get tenantsDir(): string {
    return join(this.dir, 'local_fs_remote_storage/pageserver/tenants');
  }

  /** Runs `pagelite ...args` and gives what it printed; does not care how it ended. */
  run(...args: string[]): Promise<CommandResult> {
    return runProgram(process.execPath, [cliEntry, ...args], this.cwd);
  }

  /** The same without a process for the command itself, for many commands of which none has to do with the process. */
  async runHere(...args: string[]): Promise<CommandResult> {
    const { runCli } = (await import(cliProgram)) as typeof import('../../server/cli/program.ts');
    let [out, err] = ['', ''];
    const code = await runCli(args, {
      out: (line) => {
        out += `${line}\n`;
      },
      err: (line) => {
        err += `${line}\n`;
      },
      env: { ...process.env, PAGELITE_REPO_DIR: this.dir },
    });
    return { code, out, err };
  }

  /** Runs `pagelite ...args`, which must succeed, and gives its standard output. */
  async ok(...args: string[]): Promise<string> {
    const { code, out, err } = await this.run(...args);
    if (code !== 0) throw new Error(`pagelite ${args.join(' ')} ended with ${code}: ${err}${out}\n${this.logs()}`);
    if (args[0] === 'init') await this.#takePortsOfItsOwn();
    return out;
  }

  /** Those of Neon are everybody's: a repository that is made beside this one takes the port of a process that a test has stopped, which then cannot return to it. */
  async #takePortsOfItsOwn(): Promise<void> {
    const file = join(this.dir, 'config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as RepositoryConfig;
    const first = 10_000 + (process.pid % 900) * 10;
    const ports = new FreePorts('127.0.0.1');
    for (const node of [config.pageserver, ...config.safekeepers]) Object.assign(node, await ports.pair(first, first));
    config.console.port = await ports.next(first);
    writeFileSync(file, JSON.stringify(config));
  }

  /** Runs `pagelite ...args`, which must be refused, and gives its standard error. */
  async refused(...args: string[]): Promise<string> {
    const { code, out, err } = await this.run(...args);
    if (code === 0) throw new Error(`pagelite ${args.join(' ')} was not refused: ${out}`);
    return err;
  }

  /** init, start, tenant create --set-default. */
  async start(...initArgs: string[]): Promise<void> {
    await this.ok('init', ...initArgs);
    this.putTemplate();
    await this.ok('start');
    this.keepTemplate();
    await this.ok('tenant', 'create', '--set-default');
  }

  /** Makes and starts an endpoint. */
  async endpoint(name: string, ...args: string[]): Promise<void> {
    await this.ok('endpoint', 'create', name, ...args);
    await this.ok('endpoint', 'start', name);
  }

  port(endpoint: string): number {
    return JSON.parse(readFileSync(join(this.dir, 'endpoints', endpoint, 'endpoint.json'), 'utf8')).pgPort;
  }

  /** A connection that is closed with the rig, if not before. */
  async connect(endpoint: string): Promise<Client> {
    const client = new PgClient({
      host: '127.0.0.1',
      port: this.port(endpoint),
      user: 'cloud_admin',
      database: 'postgres',
    });
    // A killed compute ends its connections; the query that is under way hears of it.
    client.on('error', () => {});
    await client.connect();
    this.#clients.add(client);
    return client;
  }

  /** One statement over a connection of its own; its rows. */
  async sql<Row extends object = Record<string, unknown>>(endpoint: string, text: string): Promise<Row[]> {
    const client = await this.connect(endpoint);
    try {
      const result = (await client.query(text)) as unknown as QueryResult<Row> | QueryResult<Row>[];
      return Array.isArray(result) ? result.at(-1)!.rows : result.rows;
    } finally {
      await client.end();
      this.#clients.delete(client);
    }
  }

  /** Runs psql on the endpoint with `input` as its script. */
  psql(endpoint: string, input: string, ...args: string[]): Promise<CommandResult> {
    const where = ['-h', '127.0.0.1', '-p', String(this.port(endpoint)), '-U', 'cloud_admin', '-X'];
    return runProgram('psql', [...where, ...args, 'postgres'], this.cwd, input);
  }

  pid(process: RigProcess): number {
    const pid = runningPid(this.pidFile(process));
    if (pid === null) throw new Error(`${JSON.stringify(process)} is not running`);
    return pid;
  }

  pidFile(process: RigProcess): string {
    if (process === 'pageserver') return join(this.dir, 'pageserver_1/pageserver.pid');
    if (process === 'safekeeper') return join(this.dir, 'safekeepers/sk1/safekeeper.pid');
    if ('safekeeper' in process) return join(this.dir, `safekeepers/sk${process.safekeeper}/safekeeper.pid`);
    return join(this.dir, 'endpoints', process.endpoint, 'compute.pid');
  }

  putTemplate(): void {
    putTemplate(this.dir);
  }

  keepTemplate(): void {
    keepTemplate(this.dir);
  }

  /** The ends of all logs, for a failure that needs explaining. */
  logs(): string {
    return readdirSync(this.dir, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.log'))
      .map((name) => `--- ${name}\n${readFileSync(join(this.dir, name), 'utf8').split('\n').slice(-15).join('\n')}`)
      .join('\n');
  }

  async close(): Promise<void> {
    await Promise.all([...this.#clients].map((client) => client.end().catch(() => {})));
    if (readdirSync(this.cwd).includes('.pagelite')) await this.run('stop', '--mode', 'immediate');
    rmSync(this.cwd, { recursive: true, force: true });
  }
}

/** Runs a program to its end. */
export async function runProgram(
  program: string,
  args: readonly string[],
  cwd: string,
  input = '',
): Promise<CommandResult> {
  const env = { ...process.env, PAGELITE_REPO_DIR: '', PGCONNECT_TIMEOUT: '30' };
  const child = spawn(program, args, { cwd, env, stdio: ['pipe', 'pipe', 'pipe'] });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  // A program that ends without reading its input is judged by its exit code.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const [code, signal] = await once(child, 'close');
  const text = (parts: Buffer[]) => Buffer.concat(parts).toString();
  return { code: code ?? 128, out: text(out), err: text(err) + (signal ? `killed by ${signal}\n` : '') };
}
