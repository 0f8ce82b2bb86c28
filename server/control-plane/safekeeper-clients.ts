/**
 * The safekeepers of a repository as the command line asks them: over HTTP while they run, on their disks where something of one that is stopped has
 * to go.
 *
 * Invariants
 * - what all of them have committed is known when more than half of them answer: the others cannot have committed more
 * - one that is stopped holds up nobody; one that runs and does not answer is named
 */
import { z } from 'zod';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { quorumOf } from '../../engine/model/quorum.ts';
import { runningPid } from '../process/pid-file.ts';
import { DiskSafekeeperStorage } from '../safekeeper/disk-segments.ts';
import { HttpApi } from './http-api.ts';
import type { NodeConfig, Repository } from './repository.ts';

/** A safekeeper answers from memory: one that is hung is not waited for. */
const answerTimeoutMs = 5_000;

const lsnText = z.string().transform((text) => parseLsn(text));
export const timelinesSchema = z.array(
  z.object({ tenant_id: z.string(), timeline_id: z.string() }).transform(({ tenant_id, timeline_id }) => ({
    tenantId: tenantId(tenant_id),
    timelineId: timelineId(timeline_id),
  })),
);
const timelineSchema = z
  .object({
    acceptor_state: z.object({ term: z.number(), epoch: z.number() }),
    timeline_start_lsn: lsnText,
    flush_lsn: lsnText,
    commit_lsn: lsnText,
    refused: z.string().nullable().default(null),
  })
  .transform(({ acceptor_state, timeline_start_lsn, flush_lsn, commit_lsn, refused }) => ({
    term: acceptor_state.term,
    lastLogTerm: acceptor_state.epoch,
    startLsn: timeline_start_lsn,
    flushLsn: flush_lsn,
    commitLsn: commit_lsn,
    /** Why computes get no answer; null if they do. */
    refused,
  }));

/** A timeline as one safekeeper has it. */
export interface WalTimelineInfo extends z.infer<typeof timelineSchema> {
  readonly id: TenantTimelineId;
  /** Committed bytes that are not on its disk. */
  readonly lagBytes: number;
}

export interface SafekeeperInfo {
  readonly node: NodeConfig;
  /** Null if it is stopped. */
  readonly pid: number | null;
  /** Why its timelines are not known though it runs. */
  readonly problem: string | null;
  readonly timelines: readonly WalTimelineInfo[];
}

export class SafekeeperClients {
  readonly #clients: readonly SafekeeperClient[];

  constructor(repository: Repository) {
    this.#clients = repository.readConfig().safekeepers.map((node) => new SafekeeperClient(repository, node));
  }

  get apis(): readonly HttpApi[] {
    return this.#clients.map(({ api }) => api);
  }

  /** Up to where a quorum has acknowledged; null if no compute has written yet. Rejects `unavailable` unless a quorum answers. */
  async getCommitLsn(id: TenantTimelineId): Promise<Lsn | null> {
    const answers = await this.#askQuorum((client) => client.getTimeline(id));
    const known = answers.flatMap((timeline) => (timeline === null ? [] : [timeline.commitLsn]));
    return known.length === 0 ? null : (Math.max(...known) as Lsn);
  }

  /** Removes its WAL everywhere. */
  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.deleteTimeline(id)));
  }

  /** Removes all WAL of a tenant. */
  async deleteWal(tenant: TenantId): Promise<void> {
    await Promise.all(
      this.#clients.map(async (client) => {
        for (const id of await client.listTimelines()) if (id.tenantId === tenant) await client.deleteTimeline(id);
      }),
    );
  }

  /** What each has, compared with the one that has committed most. */
  async status(): Promise<SafekeeperInfo[]> {
    const all = await Promise.all(this.#clients.map((client) => client.status()));
    const committed = new Map<string, number>();
    for (const { timelines } of all) {
      for (const { id, commitLsn } of timelines) {
        committed.set(id.timelineId, Math.max(committed.get(id.timelineId) ?? 0, commitLsn));
      }
    }
    const withLag = (timeline: WalTimelineInfo): WalTimelineInfo => ({
      ...timeline,
      lagBytes: Math.max(0, committed.get(timeline.id.timelineId)! - timeline.flushLsn),
    });
    return all.map((info) => ({ ...info, timelines: info.timelines.map(withLag) }));
  }

  /** Resolves as soon as no answer is missing or, once a quorum has answered, those that hang have had their time. */
  async #askQuorum<T>(ask: (client: SafekeeperClient) => Promise<T>): Promise<readonly T[]> {
    const { answers, errors } = await askEach(this.#clients, ask);
    const quorum = quorumOf(this.#clients.length);
    if (answers.length >= quorum) return answers;
    if (this.#clients.length === 1) throw errors[0];
    throw new PageliteError(
      'unavailable',
      `${answers.length} of ${this.#clients.length} safekeepers answer, ${quorum} must: ${messagesOf(errors)}`,
    );
  }
}

/** Asks all at once; what they answer, and why others do not. */
export async function askEach<T, A>(
  all: readonly T[],
  ask: (one: T) => Promise<A>,
): Promise<{ readonly answers: readonly A[]; readonly errors: readonly unknown[] }> {
  const results = await Promise.allSettled(all.map(ask));
  return {
    answers: results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])),
    errors: results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : [])),
  };
}

export const messagesOf = (errors: readonly unknown[]): string => errors.map(messageOf).join('; ');

/** Its HTTP API. */
export function safekeeperApi(repository: Repository, node: NodeConfig): HttpApi {
  const address = { host: repository.connectHost, port: node.httpPort };
  const pidFile = repository.safekeeperPidFile(node.id);
  return new HttpApi(`safekeeper ${node.id}`, address, pidFile, repository.tokensFor('safekeeper'));
}

class SafekeeperClient {
  readonly api: HttpApi;
  readonly #node: NodeConfig;
  readonly #pidFile: string;
  readonly #dir: string;

  constructor(repository: Repository, node: NodeConfig) {
    this.#node = node;
    this.#pidFile = repository.safekeeperPidFile(node.id);
    this.#dir = repository.safekeeperDir(node.id);
    this.api = safekeeperApi(repository, node);
  }

  async status(): Promise<SafekeeperInfo> {
    const pid = runningPid(this.#pidFile);
    const info = { node: this.#node, pid, problem: null, timelines: [] };
    if (pid === null) return info;
    try {
      const ids = await this.listTimelines();
      const timelines = await Promise.all(
        ids.map(async (id) => {
          const timeline = await this.getTimeline(id);
          return timeline === null ? [] : [{ ...timeline, id, lagBytes: 0 }];
        }),
      );
      return { ...info, timelines: timelines.flat() };
    } catch (error) {
      return { ...info, problem: messageOf(error) };
    }
  }

  listTimelines(): Promise<readonly TenantTimelineId[]> {
    if (this.#isStopped) return this.#disk.listTimelines();
    return this.api.call(timelinesSchema, 'GET', '/v1/tenant/timeline', undefined, answerTimeoutMs);
  }

  async deleteTimeline(id: TenantTimelineId): Promise<void> {
    if (this.#isStopped) await this.#disk.removeTimeline(id);
    else await this.api.call(z.unknown(), 'DELETE', pathOf(id));
  }

  /** Null if no compute has written to the timeline yet. */
  async getTimeline(id: TenantTimelineId): Promise<z.infer<typeof timelineSchema> | null> {
    try {
      return await this.api.call(timelineSchema, 'GET', pathOf(id), undefined, answerTimeoutMs);
    } catch (error) {
      if (isPageliteError(error, 'notFound')) return null;
      throw error;
    }
  }

  /** Nobody starts it meanwhile: commands that change the repository wait for each other. */
  get #isStopped(): boolean {
    return runningPid(this.#pidFile) === null;
  }

  get #disk(): DiskSafekeeperStorage {
    return new DiskSafekeeperStorage(this.#dir);
  }
}

const pathOf = ({ tenantId: tenant, timelineId: timeline }: TenantTimelineId): string =>
  `/v1/tenant/${tenant}/timeline/${timeline}`;
