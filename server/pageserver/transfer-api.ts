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
import { z } from 'zod';
import { importLayersMax, importPartBytesMax } from '../../engine/limits.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { manifestFromJson, manifestVersion } from '../../engine/transfer/import-manifest.ts';
import type { ImportState, TimelineImports } from '../../engine/transfer/timeline-imports.ts';
import { checkedByHandler, json, type Route } from '../process/http-routes.ts';
import { idOf, idText, route } from '../process/path-parameters.ts';
import { lsnText } from './routes/schemas.ts';

/** A layer on the list: its name of at most 108 characters, two numbers, and what JSON needs. */
const listBytesMax = importLayersMax * 200 + 4096;

const manifest = z.object({
  version: z.literal(manifestVersion),
  origin: z.string().describe('Tenant and timeline where the history was written, with a slash between'),
  base_lsn: lsnText
    .nullable()
    .describe('Null: a new timeline. Otherwise: the layers above it go on one that ends there'),
  system_identifier: z.string().describe('A decimal number of 64 bits'),
  start_lsn: lsnText,
  ancestor_timeline_id: idText.nullable(),
  ancestor_lsn: lsnText.nullable(),
  disk_consistent_lsn: lsnText,
  prev_record_lsn: lsnText,
  compacted_lsn: lsnText,
  layers: z
    .array(z.object({ name: z.string(), size: z.int(), crc32c: z.int().describe('Of the whole file') }))
    .max(importLayersMax),
});

const importState = z
  .union([
    z.object({
      import_id: z.string(),
      missing: z.array(z.object({ name: z.string(), received: z.int().describe('Bytes that are here already') })),
    }),
    z.object({
      at_lsn: lsnText.nullable().describe('The timeline has this history up to here; null: it is not there'),
    }),
  ])
  .meta({ id: 'ImportState' });

const nothing = z.object({});

export function transferRoutes(imports: TimelineImports): Route[] {
  const path = '/v1/tenant/{tenant_id}/timeline/{timeline_id}/import';
  return [
    route({
      method: 'POST',
      path,
      operation: 'beginImport',
      summary: 'Begins an import of layers that were made elsewhere, or goes on with one',
      body: checkedByHandler(manifest),
      bodyBytesMax: listBytesMax,
      answer: json(importState, 'What is still to be sent, or where the timeline is'),
      errors: { 409: 'The timeline was written meanwhile, or is of another origin' },
      handle: async ({ params, body }) => stateToJson(await imports.begin(idOf(params), manifestFromJson(body))),
    }),
    route({
      method: 'PUT',
      path: `${path}/{import_id}/layer/{imported_layer}`,
      operation: 'putImportedLayer',
      summary: 'A part of a layer',
      description: 'Parts of a layer come in order; the last one ends it, and it is checked.',
      query: z.object({
        offset: z
          .string()
          .regex(/^\d{1,15}$/, 'expected a number of bytes')
          .describe('Where in the layer the part begins'),
      }),
      bytes: 'Bytes of the layer',
      bodyBytesMax: importPartBytesMax,
      answer: json(z.object({ received: z.int() }), 'Bytes of the layer that are here'),
      handle: async ({ params, query }, c) => {
        const bytes = new Uint8Array(await c.req.arrayBuffer());
        const { import_id: importId, imported_layer: name } = params;
        return { received: await imports.put(idOf(params), importId, name, Number(query.offset), bytes) };
      },
    }),
    route({
      method: 'POST',
      path: `${path}/{import_id}/commit`,
      operation: 'commitImport',
      summary: 'Ends an import whose layers are all here: the timeline has them',
      answer: json(nothing, 'The timeline is there'),
      errors: { 409: 'The timeline was written meanwhile' },
      handle: async ({ params }) => {
        await imports.commit(idOf(params), params.import_id);
        return {};
      },
    }),
    route({
      method: 'DELETE',
      path: `${path}/{import_id}`,
      operation: 'abortImport',
      summary: 'Gives an import up: what has arrived is removed',
      answer: json(nothing, 'It is gone'),
      handle: async ({ params }) => {
        await imports.abort(idOf(params), params.import_id);
        return {};
      },
    }),
  ];
}

function stateToJson(state: ImportState): z.input<typeof importState> {
  if (state.kind === 'at') return { at_lsn: state.lsn === null ? null : formatLsn(state.lsn) };
  return { import_id: state.importId, missing: state.missing.map(({ name, received }) => ({ name, received })) };
}
