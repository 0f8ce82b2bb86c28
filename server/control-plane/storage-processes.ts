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
import type { BackupLocation } from '../safekeeper/backup-location.ts';
import { freePorts, listEndpoints, statusOf } from './endpoints.ts';
import { localhost, type NodeConfig, portsOfNode, type Repository, type RepositoryConfig } from './repository.ts';

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
 * being a quorum.
 */
async function startSafekeepers(repository: Repository, say: Say): Promise<void> {
  const failures = await startSafekeeperNodes(repository, ({ safekeepers }) => safekeepers, say);
  judgeStart(repository.readConfig().safekeepers.length, failures, say);
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
export async function movePorts(repository: Repository, nodes: readonly NodeConfig[]): Promise<void> {
  const ports = freePorts(repository, repository.listenHost, nodes.flatMap(portsOfNode));
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
  const failures = await startNodes({
    repository,
    isKnown: hasRunningEndpoints(repository),
    find: (config) => [config.pageserver],
    nameOf: () => 'pageserver',
    start: (node) => launchPageserver(repository, node, say),
    stop: () => stopPageserver(repository, 'fast', say),
    say,
  });
  for (const error of failures.values()) throw error;
}

async function launchPageserver(repository: Repository, node: NodeConfig, say: Say): Promise<void> {
  say(
    `Starting pageserver node ${node.id} at '${repository.listenHost}:${node.pgPort}' in "${shown(repository.dir)}".`,
  );
  const safekeepers = repository
    .readConfig()
    .safekeepers.map(({ id, pgPort }) => `${id}=${urlHost(repository.connectHost)}:${pgPort}`);
  const { pid } = await startDaemon({
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
  say(`pageserver started, pid: ${pid}`);
}

export async function startSafekeeper(repository: Repository, id: number, say: Say): Promise<void> {
  const failures = await startSafekeeperNodes(repository, (config) => [safekeeperConfig(config, id)], say);
  for (const error of failures.values()) throw error;
}

async function startSafekeeperNodes(
  repository: Repository,
  find: NodeStart['find'],
  say: Say,
): Promise<ReadonlyMap<number, unknown>> {
  checkNotEmbedded(repository);
  return startNodes({
    repository,
    isKnown: areSafekeepersKnown(repository),
    find,
    nameOf: (id) => `safekeeper ${id}`,
    start: (node) => launchSafekeeper(repository, node, say),
    stop: (id) => stopSafekeeper(repository, id, 'fast', say),
    say,
  });
}

async function launchSafekeeper(repository: Repository, node: NodeConfig, say: Say): Promise<void> {
  const { id } = node;
  const running = runningPid(repository.safekeeperPidFile(id));
  if (running !== null) {
    say(`safekeeper ${id} is already running, pid: ${running}`);
    return;
  }
  const backup = await repository.walBackup();
  const dir = repository.safekeeperDir(id);
  say(`Starting safekeeper at '${repository.listenHost}:${node.pgPort}' in '${shown(dir)}'.`);
  const { pid } = await startDaemon({
    name: `safekeeper ${id}`,
    entry: entries.safekeeper,
    args: [
      ...nodeArgs(repository, dir, node),
      ...safekeeperTokenArgs(repository, dir),
      ...peerArgs(repository, id),
      ...backupArgs(backup),
    ],
    logFile: `${dir}/safekeeper.log`,
    onProgress: say,
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
    config.console.port = await freePorts(repository, localhost, [port]).next(port);
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

interface NodeStart {
  readonly repository: Repository;
  /** Somebody who runs knows the ports: they stay as they are. */
  readonly isKnown: boolean;
  /** What is to start: parts of the settings. */
  readonly find: (config: RepositoryConfig) => readonly NodeConfig[];
  readonly nameOf: (id: number) => string;
  readonly start: (node: NodeConfig) => Promise<void>;
  readonly stop: (id: number) => Promise<void>;
  readonly say: Say;
}

/**
 * Starts nodes together, on their ports or on the next free ones, which are remembered; returns why those that did not start did not. They know each other's
 * ports: where one is taken between our look and its listening, those that started stop again, and all move on.
 */
async function startNodes(options: NodeStart): Promise<ReadonlyMap<number, unknown>> {
  const { repository, isKnown, find, nameOf, start, stop, say } = options;
  for (let attempt = 1; ; attempt++) {
    const nodes = await repository.update(async (config) => {
      const wanted = find(config);
      if (!isKnown) await movePorts(repository, wanted);
      return wanted;
    });
    const failures = new Map<number, unknown>();
    const tryStart = async (node: NodeConfig) => {
      try {
        await start(node);
      } catch (error) {
        failures.set(node.id, isKnown && isPortTaken(error) ? stuckPort(nameOf(node.id), error) : error);
      }
    };
    await Promise.all(nodes.map(tryStart));
    if (isKnown || attempt === startAttempts || ![...failures.values()].some(isPortTaken)) return failures;
    if (nodes.length > 1) say('A port was taken meanwhile: all safekeepers move on');
    for (const { id } of nodes) if (!failures.has(id)) await stop(id);
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
