/**
 * Starting and stopping the pageserver and the safekeepers of a repository as processes of their own.
 *
 * Invariants
 * - safekeepers start first and stop last: the pageserver follows them, endpoints write to them
 * - a port that is taken is moved on and remembered in config.json, but only while nothing that runs knows the old one; never to a port that another part of
 *   the repository has, running or not
 * - the storage runs once: either as processes, or inside another program (the development server, the library), which holds the same pid files
 */
import { mkdir } from 'node:fs/promises';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { writeTokenFile } from '../auth/tokens.ts';
import { urlHost } from '../net/url.ts';
import { formatRemoteStorage } from '../object-store/remote-storage.ts';
import { type StopMode, startDaemon, stopDaemon } from '../process/daemon.ts';
import { runningPid } from '../process/pid-file.ts';
import { FreePorts } from '../process/ports.ts';
import type { BackupLocation } from '../safekeeper/backup-location.ts';
import { endpointPorts, listEndpoints, statusOf } from './endpoints.ts';
import { localhost, type NodeConfig, type Repository, type RepositoryConfig, storagePorts } from './repository.ts';

/** Tells the user how it goes on, line by line. */
export type Say = (text: string) => void;

/** Others may take a port between our look and the process's listening; each attempt looks again. */
const startAttempts = 5;

const entries = {
  pageserver: new URL('../pageserver/main.js', import.meta.url),
  safekeeper: new URL('../safekeeper/main.js', import.meta.url),
  console: new URL('../console/main.js', import.meta.url),
};

export async function startStorage(repository: Repository, say: Say): Promise<void> {
  checkNotEmbedded(repository);
  await startSafekeepers(repository, say);
  await startPageserver(repository, say);
}

/**
 * They start together: each waits for what the others say of it before it answers computes. One that does not start is told of, and does not keep the others from
 * being a quorum. They know each other's ports: where one is taken between our look and its listening, those that started stop again, and all move on.
 */
async function startSafekeepers(repository: Repository, say: Say): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const isKnown = areSafekeepersKnown(repository);
    if (!isKnown) {
      await repository.update((config) => movePorts(repository, config, config.safekeepers));
    }
    const { safekeepers } = repository.readConfig();
    const failures = new Map<number, unknown>();
    const start = ({ id }: NodeConfig) =>
      startSafekeeper(repository, id, say, 'stay').catch((error: unknown) => void failures.set(id, error));
    await Promise.all(safekeepers.map(start));
    const mayMoveOn = !isKnown && attempt < startAttempts;
    if (!mayMoveOn || ![...failures.values()].some(isPortTaken)) return judgeStart(safekeepers.length, failures, say);
    say('A port was taken meanwhile: all safekeepers move on');
    for (const { id } of safekeepers) if (!failures.has(id)) await stopSafekeeper(repository, id, 'fast', say);
  }
}

/** Throws if too few have started. */
function judgeStart(count: number, failures: ReadonlyMap<number, unknown>, say: Say): void {
  if (failures.size === 0) return;
  if (count === 1) for (const error of failures.values()) throw error;
  for (const [id, error] of failures) say(`safekeeper ${id} did not start: ${messageOf(error)}`);
  const startedCount = count - failures.size;
  const quorum = quorumOf(count);
  if (startedCount < quorum) {
    const text = `${startedCount} of ${count} safekeepers started, and commits need ${quorum}`;
    throw new PageliteError('unavailable', `${text}. What the others need is in the lines above`);
  }
  say(`${startedCount} of ${count} safekeepers are a quorum: going on with them`);
}

/** Somebody who runs knows their ports. */
function areSafekeepersKnown(repository: Repository): boolean {
  const { safekeepers } = repository.readConfig();
  return (
    hasRunningEndpoints(repository) ||
    runningPid(repository.pageserverPidFile) !== null ||
    safekeepers.some(({ id }) => hasProcess(repository, id))
  );
}

/** One whose folder is damaged has none; what is wrong is said when it is started. */
function hasProcess(repository: Repository, id: number): boolean {
  try {
    return runningPid(repository.safekeeperPidFile(id)) !== null;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return false;
    throw error;
  }
}

/** Gives each of the nodes its own ports or the next free ones that nothing else of the repository has. */
export async function movePorts(
  repository: Repository,
  config: RepositoryConfig,
  nodes: readonly NodeConfig[],
): Promise<void> {
  const moving = new Set(nodes.flatMap(({ pgPort, httpPort }) => [pgPort, httpPort]));
  const others = [...storagePorts(config), ...endpointPorts(repository)].filter((port) => !moving.has(port));
  const ports = new FreePorts(config.listenHost ?? localhost, others);
  for (const node of nodes) Object.assign(node, await ports.pair(node.pgPort, node.httpPort));
}

function peerArgs(repository: Repository, id: number): string[] {
  const peers = repository.readConfig().safekeepers.filter((node) => node.id !== id);
  if (peers.length === 0) return [];
  return ['--peers', peers.map((node) => `${node.id}=${urlHost(repository.connectHost)}:${node.pgPort}`).join(',')];
}

function backupArgs(backup: BackupLocation | null): string[] {
  if (backup === null) return [];
  return ['--remote-storage', formatRemoteStorage(backup.remoteStorage), '--cluster-id', backup.cluster];
}

export async function startPageserver(repository: Repository, say: Say): Promise<void> {
  checkNotEmbedded(repository);
  const running = runningPid(repository.pageserverPidFile);
  if (running !== null) {
    say(`pageserver is already running, pid: ${running}`);
    return;
  }
  const isKnown = hasRunningEndpoints(repository);
  const { pid } = await withFreePorts(
    repository,
    isKnown,
    'pageserver',
    (config) => config.pageserver,
    (node) => {
      say(
        `Starting pageserver node ${node.id} at '${repository.listenHost}:${node.pgPort}' in "${shown(repository.dir)}".`,
      );
      const safekeepers = repository
        .readConfig()
        .safekeepers.map(({ id, pgPort }) => `${id}=${urlHost(repository.connectHost)}:${pgPort}`);
      return startDaemon({
        name: 'pageserver',
        entry: entries.pageserver,
        args: [
          ...nodeArgs(repository, repository.pageserverDir, node),
          ...safekeeperTokenArgs(repository, repository.pageserverDir),
          '--safekeepers',
          safekeepers.join(','),
          ...storageArgs(repository),
        ],
        logFile: `${repository.pageserverDir}/pageserver.log`,
        onProgress: say,
      });
    },
  );
  say(`pageserver started, pid: ${pid}`);
}

/** `ports`: whether a port of its own that is taken may be moved on where nothing that runs knows it. */
export async function startSafekeeper(
  repository: Repository,
  id: number,
  say: Say,
  ports: 'move' | 'stay' = 'move',
): Promise<void> {
  checkNotEmbedded(repository);
  const running = runningPid(repository.safekeeperPidFile(id));
  if (running !== null) {
    say(`safekeeper ${id} is already running, pid: ${running}`);
    return;
  }
  const find = (config: RepositoryConfig) => safekeeperConfig(config, id);
  const backup = await repository.walBackup();
  const isKnown = ports === 'stay' || areSafekeepersKnown(repository);
  const { pid } = await withFreePorts(repository, isKnown, `safekeeper ${id}`, find, (node) => {
    say(
      `Starting safekeeper at '${repository.listenHost}:${node.pgPort}' in '${shown(repository.safekeeperDir(id))}'.`,
    );
    const dir = repository.safekeeperDir(id);
    return startDaemon({
      name: `safekeeper ${id}`,
      entry: entries.safekeeper,
      args: [
        ...nodeArgs(repository, dir, node),
        ...safekeeperTokenArgs(repository, dir),
        ...peerArgs(repository, id),
        ...backupArgs(backup),
      ],
      logFile: `${repository.safekeeperDir(id)}/safekeeper.log`,
      onProgress: say,
    });
  });
  say(`safekeeper ${id} started, pid: ${pid}`);
}

/** The console server, a process that holds no data. Returns its address. */
export async function startConsole(repository: Repository, allowOrigins: readonly string[], say: Say): Promise<string> {
  checkNotEmbedded(repository);
  const running = runningPid(repository.consolePidFile);
  if (running !== null) {
    say(`console is already running, pid: ${running}`);
    if (allowOrigins.length > 0) say('It takes --allow-origin only when it starts: pagelite stop, then start again');
    return consoleAddress(repository);
  }
  await mkdir(repository.consoleDir, { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const port = await moveConsolePort(repository);
    const origins = allowOrigins.flatMap((origin) => ['--allow-origin', origin]);
    try {
      const { pid } = await startDaemon({
        name: 'console',
        entry: entries.console,
        args: ['-D', repository.dir, '--listen', `${localhost}:${port}`, ...origins],
        logFile: `${repository.consoleDir}/console.log`,
        onProgress: say,
      });
      say(`console started, pid: ${pid}`);
      return consoleAddress(repository);
    } catch (error) {
      if (!isPortTaken(error) || attempt === startAttempts) throw error;
    }
  }
}

/** Its port, or the next free one, remembered. */
export function moveConsolePort(repository: Repository): Promise<number> {
  return repository.update(async (config) => {
    const { port } = config.console;
    const others = [...storagePorts(config), ...endpointPorts(repository)].filter((other) => other !== port);
    config.console.port = await new FreePorts(localhost, others).next(port);
    return config.console.port;
  });
}

export function consoleAddress(repository: Repository): string {
  return `http://${localhost}:${repository.readConfig().console.port}`;
}

/** Throws `notFound` with the ids there are. */
export function safekeeperConfig(config: RepositoryConfig, id: number): NodeConfig {
  const found = config.safekeepers.find((node) => node.id === id);
  if (found) return found;
  if (config.joiningSafekeeper?.id === id) return config.joiningSafekeeper;
  const ids = config.safekeepers.map((node) => node.id).join(', ');
  throw new PageliteError('notFound', `no safekeeper ${id}. There is: ${ids}`, { id });
}

export async function stopPageserver(repository: Repository, mode: StopMode, say: Say): Promise<void> {
  checkNotEmbedded(repository);
  await stopProcess('pageserver', repository.pageserverPidFile, mode, say);
}

export async function stopSafekeeper(repository: Repository, id: number, mode: StopMode, say: Say): Promise<void> {
  checkNotEmbedded(repository);
  await stopProcess(`safekeeper ${id}`, repository.safekeeperPidFile(id), mode, say);
}

export async function stopProcess(name: string, pidFile: string, mode: StopMode, say: Say): Promise<void> {
  const pid = runningPid(pidFile);
  if (pid !== null) say(`Stopping ${name} with pid ${pid} ${mode === 'fast' ? 'gracefully' : 'immediately'}..`);
  const wasRunning = await stopDaemon(name, pidFile, mode);
  say(wasRunning ? `${name} stopped` : `${name} is already stopped`);
}

/** Throws `invalid` while another program has the storage open. */
export function checkNotEmbedded(repository: Repository): void {
  const pid = runningPid(repository.embeddedPidFile);
  if (pid === null) return;
  const hint = 'End that first: pagelite dev with Ctrl-C, an application by closing its Pagelite';
  throw new PageliteError('invalid', `${repository.dir} is in use inside process ${pid}. ${hint}`, { pid });
}

function storageArgs(repository: Repository): string[] {
  const { remoteStorage, mayCreateStorage } = repository;
  if (remoteStorage === null) return [];
  const { diskBudgetBytes } = repository.readConfig().pageserver;
  const budget = diskBudgetBytes === undefined ? [] : ['--disk-budget', String(diskBudgetBytes)];
  const mayCreate = mayCreateStorage ? ['--new-remote-storage'] : [];
  return ['--remote-storage', formatRemoteStorage(remoteStorage), ...mayCreate, ...budget];
}

/** A server's own token for safekeepers, in a file: arguments and environments are for others to see. */
function safekeeperTokenArgs(repository: Repository, dir: string): string[] {
  const token = repository.signToken({ scope: 'safekeeperdata' });
  if (token === null) return [];
  const path = `${dir}/auth_token`;
  writeTokenFile(path, token);
  return ['--auth-token-path', path];
}

function nodeArgs(repository: Repository, dir: string, node: NodeConfig): string[] {
  const { publicKeyPath } = repository;
  const host = urlHost(repository.listenHost);
  return [
    '-D',
    dir,
    '--id',
    String(node.id),
    '--listen-pg',
    `${host}:${node.pgPort}`,
    '--listen-http',
    `${host}:${node.httpPort}`,
    ...(publicKeyPath === null ? [] : ['--auth-validation-public-key-path', publicKeyPath]),
  ];
}

function hasRunningEndpoints(repository: Repository): boolean {
  return listEndpoints(repository).some((endpoint) => statusOf(endpoint) === 'running');
}

/** Starts a node on its ports, or on the next free ones where `isKnown` allows; remembers them. */
async function withFreePorts<T>(
  repository: Repository,
  isKnown: boolean,
  name: string,
  find: (config: RepositoryConfig) => NodeConfig,
  start: (node: NodeConfig) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const node = await repository.update(async (config) => {
      const wanted = find(config);
      if (!isKnown) await movePorts(repository, config, [wanted]);
      return wanted;
    });
    try {
      return await start(node);
    } catch (error) {
      if (!isPortTaken(error)) throw error;
      if (isKnown) throw stuckPort(name, error);
      if (attempt === startAttempts) throw error;
    }
  }
}

export function isPortTaken(error: unknown): error is PageliteError {
  return isPageliteError(error, 'unavailable') && /the port is taken|EADDRINUSE/.test(error.message);
}

function stuckPort(name: string, error: PageliteError): PageliteError {
  const hint = `What runs now knows ${name} by that port: end the program that took it, or move on with: pagelite stop, then pagelite start`;
  return new PageliteError(error.kind, `${error.message}. ${hint}`, error.data, { cause: error });
}

/** As a user names it who is in the current folder. */
export function shown(path: string): string {
  const here = `${process.cwd()}/`;
  return path.startsWith(here) ? path.slice(here.length) : path;
}
