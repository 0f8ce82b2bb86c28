/**
 * The control plane's HTTP API for tabs (engine/protocol/control-api.ts): the handlers translate, control-plane/ decides.
 */
import { Hono } from 'hono';
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { parseTimestamp } from '../../engine/model/timestamp.ts';
import type {
  HistoryPoint,
  MetricSample,
  ServerBranch,
  ServerEndpoint,
  ServerStatus,
} from '../../engine/protocol/control-api.ts';
import { pagestreamVersion } from '../../engine/protocol/pagestream.ts';
import { proposerAcceptorVersion, walStreamVersion } from '../../engine/protocol/version.ts';
import type { Log } from '../../engine/services.ts';
import { deleteBranch, nameTimeline, renameBranch, resetBranch } from '../control-plane/branch-changes.ts';
import { historyOf, placeInHistory } from '../control-plane/branch-history.ts';
import { branchesOf, chooseTenant, nameOfTimeline, resolveBranch } from '../control-plane/branches.ts';
import { type BranchStart, branchFrom } from '../control-plane/branching.ts';
import { listEndpoints, statusOf, timelineOf } from '../control-plane/endpoints.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { TimelineInfo } from '../control-plane/storage-api.ts';
import type { HttpStorage } from '../control-plane/storage-clients.ts';
import { answerError, answerNotFound, readBody, readQuery } from '../process/http-errors.ts';
import { parseMetrics } from './parse-metrics.ts';

export interface ControlApiOptions {
  readonly repository: Repository;
  readonly storage: HttpStorage;
  readonly version: string;
  readonly log: Log;
}

const place = { lsn: z.string().optional(), at: z.string().optional() };
const newBranchBody = z.object({ name: z.string(), from: z.string(), ...place });
const resetBody = z.object({ ...place, preserveAs: z.string().optional() });
const nameBody = z.object({ timelineId: z.string() });
const renameBody = z.object({ name: z.string() });
const placeQuery = z.object(place);

export function controlApi(options: ControlApiOptions): Hono {
  const { repository, storage, version, log } = options;
  const api = new Hono().basePath('/api/v1');
  api.onError((error, c) => answerError(c, error, log));
  api.notFound(answerNotFound);
  const control = new ControlPlane(repository, storage);

  api.get('/status', (c) => c.json(control.status(version)));
  api.get('/branches', async (c) => c.json(await control.branches()));
  api.post('/branches', async (c) => {
    const { name, from, ...start } = await readBody(c, newBranchBody);
    await repository.exclusively(() => control.createBranch(name, from, startOf(start)));
    return c.json(await control.branch(name), 201);
  });
  api.get('/branches/:name', async (c) => c.json(await control.branch(c.req.param('name'))));
  api.put('/branches/:name', async (c) => {
    const name = c.req.param('name');
    const id = { tenantId: control.tenant, timelineId: timelineId((await readBody(c, nameBody)).timelineId) };
    await repository.exclusively(() => nameTimeline(storage, repository, id, name));
    return c.json(await control.branch(name));
  });
  api.post('/branches/:name/rename', async (c) => {
    const { name } = await readBody(c, renameBody);
    const { tenant } = control;
    await repository.exclusively(() => renameBranch(storage, repository, tenant, c.req.param('name'), name));
    return c.json(await control.branch(name));
  });
  api.delete('/branches/:name', async (c) => {
    const { tenant } = control;
    await repository.exclusively(() => deleteBranch(storage, repository, tenant, c.req.param('name')));
    return c.json({});
  });
  api.post('/branches/:name/reset', async (c) => {
    const name = c.req.param('name');
    const { preserveAs, ...start } = await readBody(c, resetBody);
    const { tenant } = control;
    await repository.exclusively(() =>
      resetBranch(storage, repository, tenant, name, { start: startOf(start), preserveAs: preserveAs ?? null }),
    );
    return c.json(await control.branch(name));
  });
  api.get('/branches/:name/history', async (c) => c.json(await historyOf(storage, control.idOf(c.req.param('name')))));
  api.get('/branches/:name/lsn', async (c) => {
    const name = c.req.param('name');
    const place = startOf(readQuery(c, placeQuery));
    if (place === 'end') throw new PageliteError('invalid', 'give lsn or at');
    const config = repository.readConfig();
    const { id, branch, lsn } = await placeInHistory(storage, config, control.idOf(name), name, place);
    const found: HistoryPoint = { lsn: formatLsn(lsn), branch, timelineId: id.timelineId };
    return c.json(found);
  });
  api.get('/branches/:name/layers', async (c) => c.json(await storage.listLayers(control.idOf(c.req.param('name')))));
  api.get('/metrics', async (c) => {
    const texts = await storage.metrics();
    return c.json(texts.flatMap(({ node, text }): MetricSample[] => parseMetrics(node, text)));
  });
  return api;
}

function startOf({ lsn, at }: { lsn?: string | undefined; at?: string | undefined }): BranchStart {
  if (lsn !== undefined && at !== undefined) throw new PageliteError('invalid', 'give lsn or at, not both');
  if (lsn !== undefined) return { lsn: parseLsn(lsn) };
  return at === undefined ? 'end' : { timestampMs: parseTimestamp(at) };
}

/** What the API says about branches. */
class ControlPlane {
  readonly #repository: Repository;
  readonly #storage: HttpStorage;

  constructor(repository: Repository, storage: HttpStorage) {
    this.#repository = repository;
    this.#storage = storage;
  }

  /** The default one: a page knows no others. */
  get tenant(): TenantId {
    return chooseTenant(this.#repository.readConfig(), undefined);
  }

  idOf(branch: string): TenantTimelineId {
    const { tenant } = this;
    return { tenantId: tenant, timelineId: resolveBranch(this.#repository.readConfig(), tenant, branch) };
  }

  status(version: string): ServerStatus {
    const { safekeepers, safekeepersGeneration } = this.#repository.readConfig();
    return {
      version,
      protocols: {
        pagestream: pagestreamVersion,
        proposerAcceptor: proposerAcceptorVersion,
        walStream: walStreamVersion,
      },
      tenantId: this.tenant,
      safekeepers: safekeepers.map(({ id }) => ({ id })),
      safekeepersGeneration,
    };
  }

  async branches(): Promise<ServerBranch[]> {
    const { tenant } = this;
    const named = branchesOf(this.#repository.readConfig(), tenant);
    const infos = new Map((await this.#storage.listTimelines(tenant)).map((info) => [info.timelineId, info]));
    const known = named.flatMap(({ name, timelineId }) => {
      const info = infos.get(timelineId);
      return info ? [this.#branch(name, info)] : [];
    });
    return Promise.all(known);
  }

  async branch(name: string): Promise<ServerBranch> {
    return this.#branch(name, await this.#storage.getTimeline(this.idOf(name)));
  }

  async #branch(name: string, info: TimelineInfo): Promise<ServerBranch> {
    const id = { tenantId: this.tenant, timelineId: info.timelineId };
    const committed = await this.#storage.getCommitLsn(id);
    const config = this.#repository.readConfig();
    const { ancestor, lastRecordLsn } = info;
    const end = lastRecordLsn === null ? null : (Math.max(lastRecordLsn, committed ?? 0) as Lsn);
    return {
      name,
      timelineId: info.timelineId,
      ancestor: ancestor && {
        name: nameOfTimeline(config, { ...id, timelineId: ancestor.timelineId }),
        timelineId: ancestor.timelineId,
        lsn: formatLsn(ancestor.lsn),
      },
      startLsn: format(info.startLsn),
      lsn: format(end),
      lastRecordLsn: format(lastRecordLsn),
      layerBytes: info.layerBytes,
      endpoints: this.#endpointsOf(id),
      broken: info.broken,
    };
  }

  /** A point before `from` began is its ancestors': the branch is made of the one that has it. */
  async createBranch(name: string, from: string, start: BranchStart): Promise<void> {
    const storage = this.#storage;
    const repository = this.#repository;
    const wanted = { tenantId: this.tenant, name };
    if (start === 'end') {
      await branchFrom(storage, repository, wanted, from, start);
      return;
    }
    const { id, lsn } = await placeInHistory(storage, repository.readConfig(), this.idOf(from), from, start);
    await branchFrom(storage, repository, wanted, id.timelineId, { lsn });
  }

  #endpointsOf({ timelineId }: TenantTimelineId): ServerEndpoint[] {
    return listEndpoints(this.#repository)
      .filter((endpoint) => timelineOf(endpoint).timelineId === timelineId)
      .map((endpoint) => ({
        name: endpoint.name,
        port: endpoint.config.pgPort,
        status: statusOf(endpoint),
        readOnlyLsn: endpoint.config.lsn,
      }));
  }
}

const format = (lsn: Lsn | null): string | null => (lsn === null ? null : formatLsn(lsn));
