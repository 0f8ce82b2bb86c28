/**
 * The pageserver's HTTP API is what its description says.
 *
 * Must hold: the description is OpenAPI 3.1; it has every route that the server answers, and no other; answers of a running pageserver, right and
 * wrong ones, have a status that is described and a body that fits its schema, with no field that the schema does not name. Every
 * operation is called.
 */
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import { crc32c } from '../../engine/crc32c.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { manifestToJson, originOf } from '../../engine/transfer/import-manifest.ts';
import { MemoryPageserver, timelinePath } from '../support/memory-pageserver.ts';

interface Described {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
  readonly requestBody?: object;
  readonly responses: Readonly<Record<string, { $ref?: string; content?: Record<string, { schema: object }> }>>;
}

interface Description {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Described>>>>;
  readonly components: { readonly schemas: object; readonly responses: Record<string, Described['responses'][string]> };
}

let rig: MemoryPageserver;
let description: Description;
const called = new Set<string>();

beforeAll(async () => {
  rig = await MemoryPageserver.open();
  description = (await (await rig.call('GET', '/v1/openapi.json')).json()) as Description;
});
afterAll(() => rig?.close());

const operations = () =>
  Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  );

/** Schemas that refuse what they do not name. */
function strict(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(strict);
  if (typeof json !== 'object' || json === null) return json;
  const copy = Object.fromEntries(Object.entries(json).map(([name, value]) => [name, strict(value)]));
  const isObject = copy.type === 'object' && copy.properties !== undefined && copy.additionalProperties === undefined;
  return isObject ? { ...copy, additionalProperties: false } : copy;
}

function checkBody(schema: object, body: unknown, what: string): void {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
  const root = { ...(strict(schema) as object), components: strict(description.components) };
  const validate = ajv.compile(root);
  expect({ what, body, fits: validate(body), errors: validate.errors ?? null }).toMatchObject({ fits: true });
}

/** Calls, and checks that what comes back is described. */
async function call(method: string, path: string, init: RequestInit = {}): Promise<{ status: number; body: unknown }> {
  const response = await rig.call(method, path, init);
  const { pathname } = new URL(path, 'http://pageserver');
  const found = must(
    operations().find(
      (one) => one.method === method && new RegExp(`^${one.path.replace(/\{\w+\}/g, '[^/]+')}$`).test(pathname),
    ),
    `${method} ${path} is not described`,
  );
  called.add(found.operation.operationId);
  const { status } = response;
  const answer = found.operation.responses[status];
  expect({ method, path, status, described: answer !== undefined }).toMatchObject({ described: true });
  const { content } = answer!.$ref ? description.components.responses[must(answer!.$ref.split('/').at(-1))]! : answer!;
  const type = must(response.headers.get('content-type')).split(';')[0]!;
  expect(Object.keys(content!)).toContain(type);
  if (type !== 'application/json') return { status, body: new Uint8Array(await response.arrayBuffer()) };
  const body: unknown = await response.json();
  checkBody(content![type]!.schema, body, `${method} ${path} ${status}`);
  return { status, body };
}

const withJson = (body: unknown): RequestInit => ({ body: JSON.stringify(body) });

describe('the description', () => {
  it('is OpenAPI 3.1', async () => {
    const validator = new Validator();
    expect(await validator.validate(description as unknown as Record<string, unknown>)).toEqual({ valid: true });
    expect(validator.version).toBe('3.1');
  });

  it('has every route that the server answers, and no other', () => {
    const answered = rig.api.routes
      .filter(({ method }) => method !== 'ALL')
      .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, '{$1}')}`);
    const described = operations().map(({ method, path }) => `${method} ${path}`);
    expect([...new Set(answered)].sort()).toEqual(described.sort());
  });

  it('names every parameter of a path, and says what each operation is for', () => {
    for (const { path, operation } of operations()) {
      const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const described = (operation.parameters ?? [])
        .filter((parameter) => parameter.in === 'path')
        .map(({ name }) => name);
      expect(described).toEqual(names);
      expect(operation.summary.length).toBeGreaterThan(5);
    }
  });
});

describe('answers fit it', () => {
  const tenant = 'a'.repeat(32);
  const id = { tenantId: tenant, timelineId: 'b'.repeat(32) } as TenantTimelineId;
  const branch = 'c'.repeat(32);
  const timelines = `/v1/tenant/${tenant}/timeline`;
  const timeline = timelinePath(id);
  const nobody = '0'.repeat(32);

  it('about the process', async () => {
    for (const path of ['/v1/status', '/v1/openapi.json', '/metrics'])
      expect((await call('GET', path)).status).toBe(200);
    expect((await call('GET', '/v1/status', { headers: { 'x-pagelite-pid': '1' } })).status).toBe(421);
  });

  it('about tenants', async () => {
    expect(await call('POST', '/v1/tenant', withJson({ new_tenant_id: tenant }))).toEqual({
      status: 201,
      body: tenant,
    });
    expect((await call('POST', '/v1/tenant')).status).toBe(201);
    expect((await call('POST', '/v1/tenant', withJson({ id: tenant }))).status).toBe(400);
    expect((await call('POST', '/v1/tenant', { body: 'x'.repeat(70_000) })).status).toBe(413);
    expect((await call('GET', '/v1/tenant')).body).toHaveLength(2);
    expect((await call('GET', `/v1/tenant/${tenant}`)).body).toMatchObject({ current_physical_size: 0, timelines: [] });
    expect((await call('GET', `/v1/tenant/${nobody}`)).status).toBe(404);
    expect((await call('GET', '/v1/tenant/xyz')).status).toBe(400);
  });

  it('about timelines', async () => {
    const created = await call('POST', timelines, withJson({ new_timeline_id: id.timelineId }));
    expect(created.status).toBe(201);
    const { last_record_lsn: lsn } = created.body as { last_record_lsn: string };
    const point = { new_timeline_id: branch, ancestor_timeline_id: id.timelineId, ancestor_start_lsn: lsn };
    expect((await call('POST', timelines, withJson(point))).status).toBe(201);
    expect((await call('POST', timelines, withJson({ new_timeline_id: branch }))).status).toBe(409);
    expect((await call('POST', timelines, withJson({ ancestor_start_lsn: lsn }))).status).toBe(400);
    expect((await call('GET', timelines)).body).toHaveLength(2);
    /** On a busy machine its size is counted after the first answer. */
    const counted = async (path: string) => {
      const size = async () => (await call('GET', path)).body as Record<string, unknown>;
      await expect.poll(size).toMatchObject({ current_logical_size_is_accurate: true });
      return size();
    };
    const body = await counted(timeline);
    const { current_logical_size: logical, current_physical_size: physical } = body as Record<string, number>;
    expect(body).toMatchObject({ state: 'Active' });
    expect(logical! % 8192).toBe(0);
    expect(logical!).toBeGreaterThan(10_000_000);
    expect((await call('GET', `/v1/tenant/${tenant}`)).body).toMatchObject({ current_physical_size: physical });
    // A branch has all of the pages and none of the files.
    const ofBranch = await counted(`${timelines}/${branch}`);
    expect(ofBranch).toMatchObject({ current_logical_size: logical, current_physical_size: 0 });
    expect((await call('GET', `${timelines}/${nobody}`)).status).toBe(404);
    expect((await call('PUT', `${timeline}/checkpoint?force_image_layer_creation=true`)).status).toBe(200);
    expect((await call('PUT', `${timeline}/checkpoint?force_image_layer_creation=maybe`)).status).toBe(400);
    expect((await call('DELETE', timeline)).status).toBe(412);
    expect((await call('DELETE', `${timelines}/${branch}`)).status).toBe(200);
    expect((await call('DELETE', `${timelines}/${branch}`)).status).toBe(404);
  });

  it('about its history', async () => {
    expect((await call('GET', `${timeline}/get_lsn_by_timestamp?timestamp=2026-01-31T12:00:00Z`)).status).toBe(200);
    expect((await call('GET', `${timeline}/get_lsn_by_timestamp?timestamp=noon`)).status).toBe(400);
    const { last_record_lsn: lsn } = (await call('GET', timeline)).body as { last_record_lsn: string };
    expect((await call('GET', `${timeline}/get_timestamp_of_lsn?lsn=${lsn}`)).status).toBe(200);
    expect((await call('GET', `${timeline}/get_timestamp_of_lsn?lsn=F/0`)).status).toBe(400);
    expect((await call('GET', `${timeline}/commit_history?count_max=5`)).status).toBe(200);
    expect((await call('GET', `${timeline}/commit_history?count_max=0`)).status).toBe(400);
  });

  it('about its layers, and a layer is what is stored, whole and in ranges', async () => {
    const { body } = await call('GET', `${timeline}/layer`);
    const { historic_layers: files } = body as {
      historic_layers: { layer_file_name: string; layer_file_size: number }[];
    };
    const { layer_file_name: name, layer_file_size: size } = files[0]!;
    const whole = (await call('GET', `${timeline}/layer/${name}/content`)).body as Uint8Array;
    const stored = must(await rig.pageserver.readLayer(id, name, { start: 0, end: size }));
    expect(Buffer.compare(whole, stored)).toBe(0);
    const part = async (range: string) => call('GET', `${timeline}/layer/${name}/content`, { headers: { range } });
    expect(await part('bytes=100-199')).toEqual({ status: 206, body: new Uint8Array(stored.slice(100, 200)) });
    expect(await part(`bytes=${size - 7}-`)).toEqual({ status: 206, body: new Uint8Array(stored.slice(size - 7)) });
    expect(await part('bytes=-7')).toEqual({ status: 206, body: new Uint8Array(stored.slice(size - 7)) });
    expect((await part(`bytes=${size}-`)).status).toBe(416);
    expect((await part('bytes=-0')).status).toBe(416);
    // Not one range of bytes: the whole file, as RFC 9110 has it.
    for (const range of ['bytes=9-3', 'bytes=0-1,5-6', 'lines=1-2', 'bytes=-', ''])
      expect((await part(range)).status).toBe(200);
    const other = name.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'));
    expect((await call('GET', `${timeline}/layer/${other}/content`)).status).toBe(404);
    expect((await call('GET', `${timeline}/layer/index_part.json/content`)).status).toBe(400);
    expect((await call('GET', `${timeline}/layer/..%2F..%2Ftenant.json/content`)).status).toBe(400);
  });

  it('about imports', async () => {
    const part = await rig.pageserver.exportTimeline(id);
    const layers = await Promise.all(
      part.layers.map(async ({ name, size }) => {
        const bytes = must(await rig.pageserver.readLayer(id, name, { start: 0, end: size }));
        return { name, size, crc32c: crc32c(bytes), isComplete: false };
      }),
    );
    const path = `${timelines}/${'d'.repeat(32)}/import`;
    const list = withJson(manifestToJson({ ...part, origin: originOf(id), base: null, layers }));
    const begun = await call('POST', path, list);
    expect(begun.status).toBe(200);
    const { import_id: importId } = begun.body as { import_id: string };
    const put = (offset: string) => `${path}/${importId}/layer/${layers[0]!.name}?offset=${offset}`;
    expect((await call('PUT', put('0'), { body: new Uint8Array(100) })).status).toBe(200);
    expect((await call('PUT', put('x'), { body: new Uint8Array(100) })).status).toBe(400);
    expect((await call('POST', `${path}/${importId}/commit`)).status).toBe(400);
    expect((await call('DELETE', `${path}/${importId}`)).status).toBe(200);
    expect((await call('POST', path)).status).toBe(400);
    expect((await call('POST', path, withJson({ version: 7 }))).status).toBe(400);
  });

  it('about how a timeline is stored', async () => {
    const { last_record_lsn: lsn } = (await call('GET', timeline)).body as { last_record_lsn: string };
    expect(
      (await call('POST', timelines, withJson({ new_timeline_id: branch, ancestor_timeline_id: id.timelineId })))
        .status,
    ).toBe(201);
    expect((await call('PUT', `${timeline}/compact?force_image_layer_creation=true`)).status).toBe(200);
    expect((await call('PUT', `${timeline}/compact?force_l0_compaction=1`)).status).toBe(400);
    expect((await call('POST', `${timeline}/lsn_lease`, withJson({ lsn }))).status).toBe(200);
    expect((await call('POST', `${timeline}/lsn_lease`, withJson({ lsn: '0/1' }))).status).toBe(400);
    const { body } = await call('GET', `${timeline}/storage`);
    expect(body).toMatchObject({
      gc_cutoff_lsn: lsn,
      retained: [
        { lsn, reason: 'branch', timeline_id: branch },
        { lsn, reason: 'lease' },
      ],
      uploads: { layers: 0, last_error: null },
    });
    expect((await call('PUT', `${timeline}/do_gc`)).body).toMatchObject({ layers_removed: 0, skipped: null });
    const rest = (state: string, of = timeline) => call('PUT', `${of}/archival_config`, withJson({ state }));
    expect((await rest('Archived')).status).toBe(400);
    expect((await rest('Archived', `${timelines}/${branch}`)).status).toBe(200);
    expect((await call('GET', `${timelines}/${branch}`)).body).toMatchObject({ is_archived: true, ancestor_lsn: lsn });
    expect((await call('GET', `${timelines}/${branch}/layer`)).status).toBe(400);
    expect((await rest('Unarchived', `${timelines}/${branch}`)).status).toBe(200);
    const rebuild = (of: string, body: object) => call('PUT', `${timelines}/${of}/rebuild`, withJson(body));
    const begins = { ancestor_timeline_id: id.timelineId, ancestor_start_lsn: lsn };
    expect((await rebuild(branch, begins)).body).toMatchObject({ timeline_id: branch, ancestor_lsn: lsn });
    expect((await rebuild(branch, { ancestor_timeline_id: id.timelineId })).status).toBe(400);
    expect((await rebuild(branch, { ...begins, ancestor_timeline_id: branch })).status).toBe(400);
    expect((await rebuild('0'.repeat(32), begins)).status).toBe(404);
    expect((await call('PUT', `${timelines}/${branch}/detach_ancestor`)).body).toEqual({ reparented_timelines: [] });
    expect((await call('GET', `${timelines}/${branch}`)).body).toMatchObject({ ancestor_timeline_id: null });
    expect((await call('DELETE', `${timelines}/${branch}`)).status).toBe(200);
  });

  it('about settings, and where a tenant is', async () => {
    const set = (settings: object, method = 'PUT') =>
      call(method, '/v1/tenant/config', withJson({ tenant_id: tenant, ...settings }));
    expect((await set({ pitr_interval: '7days', gc_horizon: 1000 })).status).toBe(200);
    expect((await set({ pitr_interval: null, compaction_threshold: 5 }, 'PATCH')).status).toBe(200);
    expect((await set({ pitr_interval: 'soon' })).status).toBe(400);
    expect((await set({ colour: 1 }, 'PATCH')).status).toBe(400);
    expect((await call('GET', `/v1/tenant/${tenant}/config`)).body).toMatchObject({
      tenant_specific_overrides: { gc_horizon: 1000, compaction_threshold: 5 },
      effective_config: { gc_horizon: 1000, pitr_interval: '7days' },
    });
    const named = { cluster_id: '0123456789abcdef', names: { [id.timelineId]: 'main' } };
    expect((await call('PUT', `/v1/tenant/${tenant}/branch_names`, withJson(named))).status).toBe(200);
    expect(
      (await call('PUT', `/v1/tenant/${tenant}/branch_names`, withJson({ ...named, names: { main: '1' } }))).status,
    ).toBe(400);
    expect((await call('PUT', `/v1/tenant/${nobody}/branch_names`, withJson(named))).status).toBe(404);
    expect((await move('Detached')).status).toBe(200);
    expect((await call('GET', timeline)).status).toBe(404);
    expect((await move('Elsewhere')).status).toBe(400);
    expect((await move('AttachedSingle')).status).toBe(200);
    expect((await call('GET', `/v1/tenant/${tenant}/config`)).body).toMatchObject({
      effective_config: { gc_horizon: 1000 },
    });
    expect((await call('GET', `/v1/tenant/${tenant}/branch_names`)).body).toEqual(named);
    expect((await call('GET', timeline)).status).toBe(200);
    expect((await call('DELETE', `/v1/tenant/${nobody}`)).status).toBe(404);
  });

  it('about the end of a tenant', async () => {
    expect((await call('DELETE', `/v1/tenant/${tenant}`)).status).toBe(200);
    expect((await call('GET', timeline)).status).toBe(404);
    expect((await move('AttachedSingle')).status).toBe(404);
  });

  const move = (mode: string) => call('PUT', `/v1/tenant/${tenant}/location_config`, withJson({ mode }));

  it('and every operation was called', () => {
    expect([...called].sort()).toEqual(
      operations()
        .map(({ operation }) => operation.operationId)
        .sort(),
    );
  });
});
