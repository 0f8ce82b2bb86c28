/**
 * The pageserver's HTTP API for timelines that are made elsewhere (engine/transfer/timeline-imports.ts), a part of http-api.ts:
 *
 *   POST   /v1/tenant/:t/timeline/:tl/import                          the list of layers (import-manifest.ts)
 *                                                                     -> {import_id, missing: [{name, received}]} or {at_lsn}
 *   PUT    /v1/tenant/:t/timeline/:tl/import/:import/layer/:name      ?offset=bytes; the bytes -> {received}
 *   POST   /v1/tenant/:t/timeline/:tl/import/:import/commit           -> {}: the timeline is there
 *   DELETE /v1/tenant/:t/timeline/:tl/import/:import                  -> {}: what has arrived is removed
 *
 * All of them can be repeated. The handlers only translate.
 */
import type { Context } from 'hono';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { importLayersMax, importPartBytesMax } from '../../engine/limits.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { manifestFromJson } from '../../engine/transfer/import-manifest.ts';
import type { ImportState, TimelineImports } from '../../engine/transfer/timeline-imports.ts';
import { readQuery } from '../process/http-errors.ts';

/** A layer on the list: its name of at most 108 characters, two numbers, and what JSON needs. */
const listBytesMax = importLayersMax * 200 + 4096;
const offsetQuery = z.object({ offset: z.string().regex(/^\d{1,15}$/, 'expected a number of bytes') });

const tooLarge = (c: Context) => c.json({ msg: 'the request body is too large', kind: 'invalid' }, 413);

export function transferHttpApi(imports: TimelineImports): Hono {
  const api = new Hono();
  const path = '/v1/tenant/:tenant/timeline/:timeline/import';
  const idOf = (c: Context): TenantTimelineId => ({
    tenantId: tenantId(c.req.param('tenant') ?? ''),
    timelineId: timelineId(c.req.param('timeline') ?? ''),
  });
  const importOf = (c: Context): string => c.req.param('import') ?? '';

  api.post(path, bodyLimit({ maxSize: listBytesMax, onError: tooLarge }), async (c) => {
    const id = idOf(c);
    const state = await imports.begin(id, manifestFromJson(await jsonOf(c)));
    return c.json(stateToJson(state));
  });
  api.put(`${path}/:import/layer/:name`, bodyLimit({ maxSize: importPartBytesMax, onError: tooLarge }), async (c) => {
    const { offset } = readQuery(c, offsetQuery);
    const bytes = new Uint8Array(await c.req.arrayBuffer());
    const received = await imports.put(idOf(c), importOf(c), c.req.param('name'), Number(offset), bytes);
    return c.json({ received });
  });
  api.post(`${path}/:import/commit`, async (c) => {
    await imports.commit(idOf(c), importOf(c));
    return c.json({});
  });
  api.delete(`${path}/:import`, async (c) => {
    await imports.abort(idOf(c), importOf(c));
    return c.json({});
  });
  return api;
}

async function jsonOf(c: Context): Promise<unknown> {
  try {
    return await c.req.json();
  } catch (cause) {
    throw new PageliteError('invalid', 'the request body is not JSON', {}, { cause });
  }
}

function stateToJson(state: ImportState): object {
  if (state.kind === 'at') return { at_lsn: state.lsn === null ? null : formatLsn(state.lsn) };
  return { import_id: state.importId, missing: state.missing };
}
