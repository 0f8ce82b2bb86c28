/**
 * Puts a new safekeeper in the place of one that is lost (`pagelite safekeeper replace`).
 *
 * In this order, and again from the beginning after a crash, which finds what was done done:
 * 1. the new one gets an id and ports, remembered in config.json as joining, and starts
 * 2. for each timeline, the members that are left learn the configuration of the next generation: more than half of the old members have to. From then on
 *    nobody who knows only the old one can commit
 * 3. the new one takes over the most advanced of their logs (SafekeeperUpkeep.pull): what was committed is in it
 * 4. config.json names the new configuration; what runs is started again with it
 *
 * Invariant: the one that is lost never counts again. A process of it that still runs is refused, and one that comes back finds no quorum.
 * Source: Neon's safekeeper/src/pull_timeline.rs and docs/rfcs/035-safekeeper-dynamic-membership-change.md.
 */
import { mkdir } from 'node:fs/promises';
import { z } from 'zod';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { stopDaemon } from '../process/daemon.ts';
import { runningPid } from '../process/pid-file.ts';
import { startCompute } from './compute-process.ts';
import { endpointPidFile, freePorts, listEndpoints, statusOf } from './endpoints.ts';
import { type HttpApi, longRequestTimeoutMs } from './http-api.ts';
import { type NodeConfig, portDefaults, type Repository, type RepositoryConfig } from './repository.ts';
import { askEach, messagesOf, safekeeperApi, timelinesSchema } from './safekeeper-clients.ts';
import {
  checkNotEmbedded,
  type Say,
  safekeeperConfig,
  startPageserver,
  startSafekeeper,
  stopPageserver,
  stopSafekeeper,
} from './storage-processes.ts';

/** One of those that are left. */
interface Other {
  readonly id: number;
  readonly api: HttpApi;
}

type Joining = NonNullable<RepositoryConfig['joiningSafekeeper']>;

const answerTimeoutMs = 10_000;

/** Returns the new safekeeper. Throws `invalid` if the old one runs, `unavailable` if too few of the others answer. */
export async function replaceSafekeeper(repository: Repository, lostId: number, say: Say): Promise<NodeConfig> {
  checkNotEmbedded(repository);
  const config = repository.readConfig();
  checkReplaceable(repository, config, lostId);
  const joining = await prepare(repository, lostId);
  const left = config.safekeepers.filter(({ id }) => id !== lostId);
  const members = [...left, joining].map(({ id }) => ({ id })).sort((a, b) => a.id - b.id);
  const mconf = { generation: config.safekeepersGeneration + 1, members };
  for (const { id } of left)
    await startSafekeeper(repository, id, say).catch((error: unknown) => say(messageOf(error)));
  await startSafekeeper(repository, joining.id, say);

  const answerMin = quorumOf(config.safekeepers.length);
  const others = left.map((node) => ({ id: node.id, api: safekeeperApi(repository, node) }));
  const newOne = safekeeperApi(repository, joining);
  const timelines = await listTimelines(others, answerMin);
  for (const [i, id] of timelines.entries()) {
    const from = await configure(others, id, mconf, answerMin);
    await newOne.call(
      z.unknown(),
      'POST',
      '/v1/pull_timeline',
      { tenant_id: id.tenantId, timeline_id: id.timelineId, mconf, from },
      longRequestTimeoutMs,
    );
    say(`${i + 1} of ${timelines.length} timelines taken over`);
  }

  await repository.update((now) => {
    now.safekeepers = now.safekeepers.map((node) => (node.id === lostId ? asNode(joining) : node));
    now.safekeepersGeneration = mconf.generation;
    delete now.joiningSafekeeper;
  });
  await startAgain(repository, joining.endpoints, say);
  return asNode(joining);
}

const asNode = ({ id, pgPort, httpPort }: NodeConfig): NodeConfig => ({ id, pgPort, httpPort });

function checkReplaceable(repository: Repository, config: RepositoryConfig, lostId: number): void {
  const { safekeepers, joiningSafekeeper: joining } = config;
  safekeeperConfig(config, lostId);
  if (safekeepers.length < 3) {
    const text = `of ${safekeepers.length} safekeepers none can be lost: there is no quorum without it that knows what was committed`;
    throw new PageliteError('invalid', `${text}. What its WAL in the remote storage holds: pagelite timeline recover`);
  }
  if (joining !== undefined && joining.replaces !== lostId) {
    const hint = `Finish that first: pagelite safekeeper replace ${joining.replaces}`;
    throw new PageliteError(
      'invalid',
      `safekeeper ${joining.id} is about to take the place of ${joining.replaces}. ${hint}`,
    );
  }
  const pid = runningPid(repository.safekeeperPidFile(lostId));
  if (pid === null) return;
  const hint = `If it is to go: pagelite safekeeper stop ${lostId}`;
  throw new PageliteError('invalid', `safekeeper ${lostId} is running, pid ${pid}: it is not lost. ${hint}`);
}

function prepare(repository: Repository, lostId: number): Promise<Joining> {
  return repository.update(async (config) => {
    if (config.joiningSafekeeper === undefined) {
      const known = config.safekeepers;
      const ports = freePorts(repository, repository.listenHost);
      const given = await ports.pair(portDefaults.safekeeper, portDefaults.safekeeperHttp);
      const id = Math.max(...known.map((node) => node.id), config.lastSafekeeperId ?? 0) + 1;
      config.lastSafekeeperId = id;
      // Those that only read need no safekeepers.
      const running = listEndpoints(repository).filter((one) => one.config.lsn === null && statusOf(one) === 'running');
      const endpoints = running.map(({ name }) => name);
      config.joiningSafekeeper = { id, ...given, replaces: lostId, endpoints };
    }
    await mkdir(repository.safekeeperDir(config.joiningSafekeeper.id), { recursive: true });
    return config.joiningSafekeeper;
  });
}

/** Of all that answer, which so many must. */
async function listTimelines(others: readonly Other[], answerMin: number): Promise<TenantTimelineId[]> {
  const lists = await askAll(others, answerMin, ({ api }) =>
    api.call(timelinesSchema, 'GET', '/v1/tenant/timeline', undefined, answerTimeoutMs),
  );
  const all = new Map(lists.flat().map((id) => [`${id.tenantId}/${id.timelineId}`, id]));
  return [...all.values()];
}

/** Those that know it now. */
function configure(others: readonly Other[], id: TenantTimelineId, mconf: object, answerMin: number) {
  const path = `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/membership`;
  return askAll(others, answerMin, async (other) => {
    await other.api.call(z.unknown(), 'PUT', path, { mconf }, answerTimeoutMs).catch((error: unknown) => {
      // It has nothing that it could commit with the old members: its first proposer tells it.
      if (!isPageliteError(error, 'notFound')) throw error;
    });
    return other.id;
  });
}

async function askAll<T>(
  others: readonly Other[],
  answerMin: number,
  ask: (other: Other) => Promise<T>,
): Promise<readonly T[]> {
  const { answers, errors } = await askEach(others, ask);
  if (answers.length >= answerMin) return answers;
  const text = `${answers.length} of the other safekeepers answer, ${answerMin} must`;
  throw new PageliteError('unavailable', `${text}: ${messagesOf(errors)}. Start them, and run this again`);
}

/** Everything that runs and knows the old members. */
async function startAgain(repository: Repository, endpoints: readonly string[], say: Say): Promise<void> {
  for (const { id } of repository.readConfig().safekeepers) {
    await stopSafekeeper(repository, id, 'fast', say);
    await startSafekeeper(repository, id, say);
  }
  if (runningPid(repository.pageserverPidFile) !== null) {
    await stopPageserver(repository, 'fast', say);
    await startPageserver(repository, say);
  }
  for (const endpoint of listEndpoints(repository)) {
    if (!endpoints.includes(endpoint.name)) continue;
    say(`Starting endpoint ${endpoint.name} again`);
    await stopDaemon(endpoint.name, endpointPidFile(endpoint.dir));
    await startCompute(repository, endpoint, say);
  }
}
