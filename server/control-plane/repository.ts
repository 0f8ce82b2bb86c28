/**
 * A repository on disk: the folder `.pagelite`, laid out as neon_local lays out `.neon`, and its settings in `config.json`.
 *
 *   config.json                     what is in this file's `RepositoryConfig`: ports, the default tenant, names of branches
 *   cli.pid                         held by the command that changes the repository now
 *   local_fs_remote_storage/        tenants, layers: the pageserver's truth, unless that is in a bucket or elsewhere
 *   pageserver_1/                   what the pageserver keeps of a bucket; pageserver.log, pageserver.pid
 *   safekeepers/sk1/                WAL; safekeeper.log, safekeeper.pid
 *   console/                        console.log, console.pid
 *   endpoints/<name>/               endpoint.json, compute.log, compute.pid, auth_token
 *   auth_private_key.pem            signs tokens, if the repository has access control; auth_public_key.pem: what servers check them with
 *
 * Invariants
 * - `config.json` is replaced whole and synced: a reader sees an old one or the new one
 * - it is changed only under `cli.pid`, on what was read under it (`Repository.update`), so two commands at once lose nothing
 * - what it holds is names and ports; branches, their ancestors and LSNs are the pageserver's to know
 */
import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { checkListenHost } from '../auth/listen-policy.ts';
import { generateKeyFiles, readPrivateKey, signToken, type TokenRequest, type TokenSource } from '../auth/tokens.ts';
import {
  formatRemoteStorage,
  openRemoteStorage,
  parseRemoteStorage,
  type RemoteStorage,
} from '../object-store/remote-storage.ts';
import { claimPidFile, type PidFile, runningPid } from '../process/pid-file.ts';
import { FreePorts } from '../process/ports.ts';
import type { BackupLocation } from '../safekeeper/backup-location.ts';

const hex32 = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hex digits');
const port = z.int().min(1).max(65535);
const nodePorts = { id: z.int().positive(), pgPort: port, httpPort: port };
const configSchema = z.strictObject({
  version: z.literal(1, 'this version of Pagelite reads version 1'),
  pageserver: z.strictObject({
    ...nodePorts,
    /** Where its truth is: s3://bucket/prefix, file:///path, or a path in the repository. Absent in old ones: beside its log, in pageserver_1. */
    remoteStorage: z.string().optional(),
    /** Bytes of `pageserver_1` for what is kept of a bucket. */
    diskBudgetBytes: z.int().min(0).optional(),
  }),
  safekeepers: z.array(z.strictObject(nodePorts)).min(1),
  /** Of the configuration that the safekeepers are: grows when one is replaced (engine/model/configuration.ts). */
  safekeepersGeneration: z.int().positive().default(1),
  /** A safekeeper that is about to take another one's place. */
  joiningSafekeeper: z
    .strictObject({
      ...nodePorts,
      replaces: z.int().positive(),
      /** Endpoints that ran, and are to run again. */
      endpoints: z.array(z.string()),
    })
    .optional(),
  /** The highest id that was ever given: those of safekeepers that were replaced are not given again. */
  lastSafekeeperId: z.int().positive().optional(),
  /** What the safekeepers' WAL in the remote storage is filed under, 16 hex digits. Given to old repositories when they are first asked for it. */
  clusterId: z
    .string()
    .regex(/^[0-9a-f]{16}$/, 'expected 16 hex digits')
    .optional(),
  /** False: WAL is not sent to the remote storage. */
  walBackup: z.boolean().optional(),
  /** Absent in repositories from before there was one. */
  console: z.strictObject({ port }).default({ port: 9899 }),
  /** Keys of the repository, relative to its folder. Absent: everybody on this machine is trusted. */
  auth: z.strictObject({ privateKeyPath: z.string(), publicKeyPath: z.string() }).optional(),
  /** Where pageserver and safekeepers listen. Absent: 127.0.0.1. */
  listenHost: z.string().optional(),
  defaultTenantId: hex32.nullable(),
  branches: z.array(z.strictObject({ name: z.string(), tenantId: hex32, timelineId: hex32 })),
});

export type RepositoryConfig = z.infer<typeof configSchema>;
export type NodeConfig = RepositoryConfig['safekeepers'][number];

export const portsOfNode = ({ pgPort, httpPort }: Pick<NodeConfig, 'pgPort' | 'httpPort'>): number[] => [
  pgPort,
  httpPort,
];

/** The ports of pageserver, safekeepers and console, whether they run or not. */
export function storagePorts({ pageserver, safekeepers, joiningSafekeeper, console }: RepositoryConfig): number[] {
  const nodes = [pageserver, ...safekeepers, ...(joiningSafekeeper ? [joiningSafekeeper] : [])];
  return [...nodes.flatMap(portsOfNode), console.port];
}

export interface InitOptions {
  /** Default: a folder of the repository. */
  readonly remoteStorage?: RemoteStorage;
  /** Default: 1. Of pageservers that have a remote storage in common, each has its own. */
  readonly pageserverId?: number;
  /** Bytes of the pageserver's own disk that what it keeps of a bucket may take. */
  readonly diskBudgetBytes?: number;
  /** Default: 1. A commit waits for more than half of them. */
  readonly safekeeperCount?: number;
  /** Default: true. Whether safekeepers send their WAL to the remote storage. */
  readonly walBackup?: boolean;
  /** Makes keys: servers then want tokens. */
  readonly auth?: boolean;
  /** Default: 127.0.0.1. Another address than a loopback one needs `auth`. */
  readonly listenHost?: string;
}

/** As in neon_local. */
const localRemoteStorage = 'local_fs_remote_storage/pageserver';

export const localhost = '127.0.0.1';
/** A token for one request: time for it to arrive. */
const ownTokenMs = 10 * 60_000;
/** Neon's ports, and the console's beside its pageserver's. */
export const portDefaults = {
  pageserver: 64000,
  pageserverHttp: 9898,
  safekeeper: 5454,
  safekeeperHttp: 7676,
  console: 9899,
};
/** How long a command waits for another one that changes the same repository: the first start of a pageserver runs initdb. */
const lockTimeoutMs = 120_000;

/** `PAGELITE_REPO_DIR`, or `.pagelite` in the current folder. */
export function repositoryDir(env: NodeJS.ProcessEnv = process.env): string {
  return resolve(env.PAGELITE_REPO_DIR || '.pagelite');
}

export class Repository {
  readonly dir: string;

  private constructor(dir: string) {
    this.dir = dir;
  }

  /** Throws `notFound` if there is none. */
  static open(dir: string): Repository {
    const repository = new Repository(dir);
    repository.readConfig();
    return repository;
  }

  /** Makes the folder and its settings. Throws `invalid` if there is a repository. */
  static async init(dir: string, options: InitOptions = {}): Promise<Repository> {
    if (await exists(join(dir, 'config.json'))) {
      const hint = 'Use it as it is, or remove the folder to start over.';
      throw new PageliteError('invalid', `${dir} is a repository already. ${hint}`, { dir });
    }
    const { auth = false, listenHost } = options;
    if (listenHost !== undefined) checkListenHost('storage', listenHost, auth, 'Add --auth');
    await mkdir(dir, { recursive: true });
    const repository = new Repository(dir);
    const ports = new FreePorts(listenHost ?? localhost);
    const config: RepositoryConfig = {
      version: 1,
      pageserver: {
        id: options.pageserverId ?? 1,
        ...(await ports.pair(portDefaults.pageserver, portDefaults.pageserverHttp)),
        remoteStorage: options.remoteStorage ? formatRemoteStorage(options.remoteStorage) : localRemoteStorage,
        ...(options.diskBudgetBytes !== undefined && { diskBudgetBytes: options.diskBudgetBytes }),
      },
      safekeepers: [],
      safekeepersGeneration: 1,
      clusterId: newClusterId(),
      ...(options.walBackup === false && { walBackup: false }),
      console: { port: await ports.next(portDefaults.console) },
      ...(auth && { auth: { privateKeyPath: 'auth_private_key.pem', publicKeyPath: 'auth_public_key.pem' } }),
      ...(listenHost !== undefined && { listenHost }),
      defaultTenantId: null,
      branches: [],
    };
    for (let id = 1; id <= (options.safekeeperCount ?? 1); id++) {
      config.safekeepers.push({ id, ...(await ports.pair(portDefaults.safekeeper, portDefaults.safekeeperHttp)) });
    }
    await mkdir(join(repository.pageserverDir, 'tenants'), { recursive: true });
    await mkdir(repository.endpointsDir, { recursive: true });
    const own = { kind: 'folder', path: join(dir, localRemoteStorage) } as const;
    if (options.remoteStorage === undefined) await openRemoteStorage(own, { mayCreate: true });
    for (const { id } of config.safekeepers) await mkdir(repository.safekeeperDir(id), { recursive: true });
    const { auth: keys } = config;
    if (keys) generateKeyFiles(resolve(dir, keys.privateKeyPath), resolve(dir, keys.publicKeyPath));
    writeFileWhole(repository.configFile, `${JSON.stringify(config, null, 2)}\n`);
    return repository;
  }

  /** The repository in this folder, made if there is none. */
  static async openOrInit(dir: string): Promise<Repository> {
    return (await exists(join(dir, 'config.json'))) ? Repository.open(dir) : Repository.init(dir);
  }

  get configFile(): string {
    return join(this.dir, 'config.json');
  }
  get pageserverDir(): string {
    return join(this.dir, 'pageserver_1');
  }
  /** Where the pageserver's truth is; null: in `pageserverDir`. */
  get remoteStorage(): RemoteStorage | null {
    const text = this.readConfig().pageserver.remoteStorage;
    if (text === undefined) return null;
    if (!text.includes('://')) return { kind: 'folder', path: resolve(this.dir, text) };
    return parseRemoteStorage(text);
  }
  /** Where the truth is may be empty, and nothing is lost: a folder of the repository, in which no tenant has come to be. `pagelite init` makes all others. */
  get mayCreateStorage(): boolean {
    const { branches, defaultTenantId, pageserver } = this.readConfig();
    return branches.length === 0 && defaultTenantId === null && pageserver.remoteStorage?.includes('://') === false;
  }
  /** Where safekeepers send their WAL; null: nowhere. */
  async walBackup(): Promise<BackupLocation | null> {
    const { remoteStorage } = this;
    if (remoteStorage === null || this.readConfig().walBackup === false) return null;
    const cluster = await this.update((config) => {
      config.clusterId ??= newClusterId();
      return config.clusterId;
    });
    return { remoteStorage, cluster };
  }

  get endpointsDir(): string {
    return join(this.dir, 'endpoints');
  }
  safekeeperDir(id: number): string {
    return join(this.dir, 'safekeepers', `sk${id}`);
  }
  endpointDir(name: string): string {
    return join(this.endpointsDir, name);
  }
  get consoleDir(): string {
    return join(this.dir, 'console');
  }
  /** Absent while the development server serves the console. */
  get consolePidFile(): string {
    return join(this.consoleDir, 'console.pid');
  }
  get pageserverPidFile(): string {
    return join(this.pageserverDir, 'pageserver.pid');
  }
  /** Where servers listen. */
  get listenHost(): string {
    return this.readConfig().listenHost ?? localhost;
  }
  /** Where they are reached from this machine. */
  get connectHost(): string {
    const { listenHost } = this;
    return listenHost === '0.0.0.0' ? localhost : listenHost === '::' ? '::1' : listenHost;
  }
  get hasAuth(): boolean {
    return this.readConfig().auth !== undefined;
  }
  /** What servers check tokens with; null: everybody on this machine is trusted. */
  get publicKeyPath(): string | null {
    const { auth } = this.readConfig();
    return auth ? resolve(this.dir, auth.publicKeyPath) : null;
  }
  /** Null without access control: nothing wants a token. */
  signToken(request: TokenRequest): string | null {
    const { auth } = this.readConfig();
    return auth ? signToken(readPrivateKey(resolve(this.dir, auth.privateKeyPath)), request) : null;
  }
  /** Tokens of a command or of the console server, each for one connection or request, for everything that such a server has. */
  tokensFor(server: 'pageserver' | 'safekeeper'): TokenSource {
    const scope = server === 'pageserver' ? 'pageserverapi' : 'safekeeperdata';
    return () => this.signToken({ scope, expiresAtMs: Date.now() + ownTokenMs });
  }
  safekeeperPidFile(id: number): string {
    return join(this.safekeeperDir(id), 'safekeeper.pid');
  }
  /** Held while the storage runs inside another program: the development server, or an application that uses the library. */
  get embeddedPidFile(): string {
    return join(this.dir, 'embedded.pid');
  }

  readConfig(): RepositoryConfig {
    let text: string;
    try {
      text = readFileSync(this.configFile, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      const hint = 'Make one with: pagelite init (or set PAGELITE_REPO_DIR to where it is)';
      throw new PageliteError('notFound', `there is no repository in ${this.dir}. ${hint}`, { dir: this.dir });
    }
    return parseConfig(text, this.configFile);
  }

  /** Changes the settings on disk. `change` works on what is there now; what it throws leaves them as they were. */
  async update<T>(change: (config: RepositoryConfig) => T | Promise<T>): Promise<T> {
    const config = this.readConfig();
    const before = JSON.stringify(config);
    const result = await change(config);
    if (JSON.stringify(config) !== before) {
      writeFileWhole(this.configFile, `${JSON.stringify(configSchema.parse(config), null, 2)}\n`);
    }
    return result;
  }

  /** Runs `work` as the only command that changes this repository; waits for one that does so now. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    const lock = await this.#claim(join(this.dir, 'cli.pid'));
    try {
      return await work();
    } finally {
      lock.release();
    }
  }

  async #claim(path: string): Promise<PidFile> {
    for (let waitedMs = 0; ; waitedMs += 25) {
      try {
        return claimPidFile(path);
      } catch (error) {
        if (!isPageliteError(error, 'invalid')) throw error;
        if (waitedMs >= lockTimeoutMs) {
          const pid = runningPid(path);
          throw new PageliteError(
            'unavailable',
            `another command (pid ${pid}) has been changing ${this.dir} for long`,
            {
              file: path,
            },
          );
        }
        await sleep(25);
      }
    }
  }
}

function parseConfig(text: string, file: string): RepositoryConfig {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new PageliteError('corrupt', `${file} is not JSON: ${(cause as Error).message}`, { file }, { cause });
  }
  const parsed = configSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ');
  throw new PageliteError('corrupt', `${file} does not hold settings of a repository: ${problems}`, { file });
}

const newClusterId = (): string => randomBytes(8).toString('hex');

/** The file under `path` is the old one or this one, whole and on disk. */
export function writeFileWhole(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  syncPath(temporary);
  renameSync(temporary, path);
  syncPath(dirname(path));
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false;
      throw error;
    },
  );
}
