/**
 * The control plane's HTTP API for tabs (engine/protocol/control-api.ts): the handlers translate, control-plane/ decides.
 */
import { Hono } from 'hono';
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import type { MetricSample, ServerBranch, ServerEndpoint, ServerStatus } from '../../engine/protocol/control-api.ts';
import { pagestreamVersion } from '../../engine/protocol/pagestream.ts';
import { proposerAcceptorVersion, walStreamVersion } from '../../engine/protocol/version.ts';
import type { Log } from '../../engine/services.ts';
import { deleteBranch, historyOf, resetBranch } from '../control-plane/branch-changes.ts';
import { branchesOf, chooseTenant, nameBranch, nameOfTimeline, resolveBranch } from '../control-plane/branches.ts';
import { type BranchStart, branchFrom, pointOnBranch } from '../control-plane/branching.ts';
import { listEndpoints, statusOf, timelineOf } from '../control-plane/endpoints.ts';
import type { Repository } from '../control-plane/repository.ts';
import type { TimelineInfo } from '../control-plane/storage-api.ts';
import type { HttpStorage } from '../control-plane/storage-clients.ts';
import { parseTimestamp } from '../control-plane/timestamp.ts';
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
const timeQuery = z.object({ at: z.string() });

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
    await repository.exclusively(() =>
      branchFrom(storage, repository, { tenantId: control.tenant, name }, from, startOf(start)),
    );
    return c.json(await control.branch(name), 201);
  });
  api.get('/branches/:name', async (c) => c.json(await control.branch(c.req.param('name'))));
  api.put('/branches/:name', async (c) => {
    const name = c.req.param('name');
    const id = { tenantId: control.tenant, timelineId: timelineId((await readBody(c, nameBody)).timelineId) };
    await storage.getTimeline(id);
    await repository.exclusively(() =>
      repository.update((config) => {
        // The same again: a caller that did not hear the first answer.
        const known = branchesOf(config, id.tenantId).find((branch) => branch.name === name);
        if (known?.timelineId !== id.timelineId) nameBranch(config, name, id);
      }),
    );
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
  api.get('/branches/:name/history', async (c) =>
    c.json(await historyOf(storage, repository.readConfig(), control.idOf(c.req.param('name')), c.req.param('name'))),
  );
  api.get('/branches/:name/lsn', async (c) => {
    const name = c.req.param('name');
    const timestampMs = parseTimestamp(readQuery(c, timeQuery).at);
    const id = control.idOf(name);
    const lsn = await pointOnBranch(storage, repository.readConfig(), id, name, { timestampMs });
    return c.json({ lsn: formatLsn(lsn) });
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
    return {
      version,
      protocols: {
        pagestream: pagestreamVersion,
        proposerAcceptor: proposerAcceptorVersion,
        walStream: walStreamVersion,
      },
      tenantId: this.tenant,
      safekeepers: this.#repository.readConfig().safekeepers.map(({ id }) => ({ id })),
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
