/**
 * Push and pull of branches by name: the tab's repository on one side, a server on the other. Called by the storage worker.
 *
 * Invariant: a branch has one push or pull at a time in this tab.
 */
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, parseLsn } from '../../engine/model/lsn.ts';
import type { Clock, Log, Random } from '../../engine/services.ts';
import { copyTimeline } from '../../engine/transfer/copy-timeline.ts';
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';
import type { BranchInfo } from '../api.ts';
import type { LocalRepository } from '../local/local-repository.ts';
import type { ServerClient } from '../net/server-client.ts';
import { pushBranch } from './push.ts';
import { HttpPushServer } from './push-server.ts';

export interface BranchTransfersOptions {
  /** Null: the page has none. */
  readonly server: ServerClient | null;
  readonly repository: () => Promise<LocalRepository>;
  readonly host: { readonly clock: Clock; readonly random: Random; readonly log: Log };
}

export interface TransferOptions {
  /** Name on the other side; the branch's own if absent. */
  readonly as: string | undefined;
  readonly progress: (progress: TransferProgress) => void;
  readonly signal: AbortSignal;
}

export class BranchTransfers {
  readonly #options: BranchTransfersOptions;
  readonly #running = new Set<string>();

  constructor(options: BranchTransfersOptions) {
    this.#options = options;
  }

  /** The branch of the tab, with where it is on the server. */
  push(branch: string, { as = branch, progress, signal }: TransferOptions): Promise<BranchInfo> {
    return this.#alone(`push of "${branch}"`, async () => {
      const server = this.#needServer(branch);
      const repository = await this.#options.repository();
      const id = repository.timelineOf(branch);
      const status = await server.status();
      const pushServer = new HttpPushServer(tenantId(status.tenantId), {
        server: server.url,
        fetch: (url, init) => fetch(url, init),
      });
      const { clock, random } = this.#options.host;
      const { pageserver, store } = repository;
      const { lsn } = await pushBranch({
        pageserver,
        store,
        id,
        server: pushServer,
        as,
        clock,
        random,
        progress,
        signal,
      });
      await repository.setPushed(branch, { name: as, lsn: formatLsn(lsn) });
      return repository.branch(branch);
    });
  }

  /** The new branch of the tab. */
  pull(branch: string, { as = branch, progress, signal }: TransferOptions): Promise<BranchInfo> {
    return this.#alone(`pull of "${branch}"`, async () => {
      const server = this.#needServer(branch);
      const repository = await this.#options.repository();
      await refuseTaken(repository, as);
      const [there, status] = await Promise.all([server.branch(branch), server.status()]);
      const id = { tenantId: tenantId(status.tenantId), timelineId: timelineId(there.timelineId) };
      await this.#needTenant(repository, id.tenantId);
      const from = server.openPages(id, this.#options.host);
      let copy: { id: TenantTimelineId };
      try {
        copy = await copyTimeline({
          from,
          name: branch,
          lsn: there.lsn === null ? null : parseLsn(there.lsn),
          pageserver: repository.pageserver,
          store: repository.store,
          tenantId: id.tenantId,
          clock: this.#options.host.clock,
          random: this.#options.host.random,
          progress,
          signal,
        });
      } finally {
        from.close();
      }
      return repository.nameTimeline(as, copy.id, null, null);
    });
  }

  async #needTenant({ pageserver }: LocalRepository, tenant: TenantId): Promise<void> {
    if (!(await pageserver.listTenants()).includes(tenant)) await pageserver.createTenant(tenant);
  }

  #needServer(branch: string): ServerClient {
    const { server } = this.#options;
    if (server !== null) return server;
    const text = `branch "${branch}" cannot be pushed or pulled: Pagelite.open was called without { server }`;
    throw new PageliteError('invalid', text, { branch });
  }

  async #alone<T>(what: string, work: () => Promise<T>): Promise<T> {
    if (this.#running.has(what)) throw new PageliteError('invalid', `a ${what} is under way in this tab: wait for it`);
    this.#running.add(what);
    try {
      return await work();
    } finally {
      this.#running.delete(what);
    }
  }
}

/** Before much is read in vain. */
async function refuseTaken(repository: LocalRepository, name: string): Promise<void> {
  try {
    await repository.branch(name);
  } catch (error) {
    if (isPageliteError(error, 'notFound')) return;
    throw error;
  }
  throw new PageliteError('invalid', `branch "${name}" exists in this tab: pull it under another name, with { as }`, {
    branch: name,
  });
}
