/**
 * A walk through the pageserver's HTTP API, on the real process.
 *
 * Must hold: what Neon's API answers, with its status codes and fields; what was created is there, again and again with the same parameters;
 * every wrong call gets a clear `msg`, the right code, and changes nothing.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type HttpAnswer, StorageProcesses } from '../support/storage-processes.ts';

let storage: StorageProcesses;
beforeAll(async () => {
  storage = await StorageProcesses.start();
});
afterAll(() => storage?.close());

const a = 'a'.repeat(32);
const b = 'b'.repeat(32);
const c = 'c'.repeat(32);
const nobody = '0'.repeat(32);
const lsn = expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/);

function expectError({ status, json }: HttpAnswer, expectedStatus: number, message: RegExp): void {
  expect({ status, json }).toMatchObject({ status: expectedStatus, json: { msg: expect.stringMatching(message) } });
}

describe("the pageserver's HTTP API", () => {
  it('says who it is', async () => {
    expect(await storage.get('/v1/status')).toEqual({ status: 200, json: { id: 1 } });
  });

  it('creates, lists and describes tenants', async () => {
    expect(await storage.post('/v1/tenant', { new_tenant_id: a })).toEqual({ status: 201, json: a });
    expect(await storage.post('/v1/tenant', { new_tenant_id: a })).toEqual({ status: 201, json: a });
    const generated = await storage.post('/v1/tenant', {});
    expect(generated).toEqual({ status: 201, json: expect.stringMatching(/^[0-9a-f]{32}$/) });
    const { json } = await storage.get('/v1/tenant');
    expect((json as { id: string }[]).map(({ id }) => id).sort()).toEqual([a, storage.tenantId, generated.json].sort());
    expect(await storage.get(`/v1/tenant/${a}`)).toMatchObject({
      status: 200,
      json: { id: a, state: { slug: 'Active' }, timelines: [] },
    });
  });

  it('creates timelines and branches, and lists them with their ancestors', async () => {
    const timelines = `/v1/tenant/${a}/timeline`;
    const main = await storage.post(timelines, { new_timeline_id: a, pg_version: 18 });
    expect(main).toMatchObject({
      status: 201,
      json: {
        tenant_id: a,
        timeline_id: a,
        ancestor_timeline_id: null,
        ancestor_lsn: null,
        last_record_lsn: lsn,
        state: 'Active',
        pg_version: 18,
      },
    });
    const start = (main.json as { last_record_lsn: string }).last_record_lsn;
    const branch = await storage.post(timelines, {
      new_timeline_id: b,
      ancestor_timeline_id: a,
      ancestor_start_lsn: start,
    });
    expect(branch).toMatchObject({ status: 201, json: { ancestor_timeline_id: a, ancestor_lsn: start } });
    expect((await storage.post(timelines, { ancestor_timeline_id: b })).status).toBe(201);
    // Its logical size is counted meanwhile.
    const unsized = ({
      current_logical_size: _,
      current_logical_size_is_accurate: __,
      ...info
    }: Record<string, unknown>) => info;
    const made = unsized(branch.json as Record<string, unknown>);
    // Asked again, as by one who did not hear the answer.
    const again = await storage.post(timelines, { new_timeline_id: b, ancestor_timeline_id: a });
    expect(again).toMatchObject({ status: 201, json: made });
    expectError(await storage.post(timelines, { new_timeline_id: b }), 409, /another ancestor/);
    expect(await storage.get(`${timelines}/${b}`)).toMatchObject({ status: 200, json: made });
    const { json } = await storage.get(timelines);
    expect((json as object[]).length).toBe(3);
    expect((json as Record<string, unknown>[]).map(unsized)).toContainEqual(made);
  });

  it('writes out, lists layers and finds an LSN by time', async () => {
    const path = `/v1/tenant/${a}/timeline/${a}`;
    expect((await storage.call('PUT', `${path}/checkpoint`)).status).toBe(200);
    expect(await storage.get(`${path}/layer`)).toMatchObject({
      status: 200,
      json: {
        in_memory_layers: [{ kind: 'Open', lsn_start: lsn }],
        historic_layers: [{ kind: 'Image', lsn_start: lsn, remote: false }],
      },
    });
    const query = new URLSearchParams({ timestamp: '2026-01-31T12:00:00+01:00' });
    const found = await storage.get(`${path}/get_lsn_by_timestamp?${query}`);
    expect(found).toMatchObject({ status: 200, json: { lsn, kind: expect.stringMatching(/^(nodata|past|future)$/) } });
  });

  it('deletes a timeline, but not one with branches', async () => {
    const timelines = `/v1/tenant/${a}/timeline`;
    expect((await storage.post(timelines, { new_timeline_id: c, ancestor_timeline_id: a })).status).toBe(201);
    expectError(await storage.call('DELETE', `${timelines}/${a}`), 412, /has branches/);
    expect(await storage.call('DELETE', `${timelines}/${c}`)).toEqual({ status: 200, json: {} });
    expectError(await storage.get(`${timelines}/${c}`), 404, new RegExp(c));
    expectError(await storage.call('DELETE', `${timelines}/${c}`), 404, new RegExp(c));
  });

  it('has metrics for Prometheus', async () => {
    const { status, json } = await storage.get('/metrics');
    expect(status).toBe(200);
    expect(json).toMatch(/^pageserver_connections \d+$/m);
    expect(json).toMatch(/^process_resident_memory_bytes \d+$/m);
  });

  const timelines = `/v1/tenant/${a}/timeline`;
  it.each<[string, string, object | string | undefined, number, RegExp]>([
    ['GET', '/v1/nothing', undefined, 404, /no GET \/v1\/nothing/],
    ['PATCH', '/v1/tenant', undefined, 404, /no PATCH/],
    ['GET', `/v1/tenant/${nobody}`, undefined, 404, new RegExp(`tenant ${nobody} does not exist`)],
    ['GET', '/v1/tenant/xyz', undefined, 400, /malformed tenant id "xyz"/],
    ['GET', `${timelines}/${nobody}`, undefined, 404, new RegExp(nobody)],
    ['GET', `${timelines}/xyz`, undefined, 400, /malformed timeline id "xyz"/],
    ['POST', '/v1/tenant', '{"new_tenant_id":', 400, /not JSON/],
    ['POST', '/v1/tenant', { new_tenant_id: 'x' }, 400, /new_tenant_id: expected 32 hex digits/],
    ['POST', '/v1/tenant', { tenant: a }, 400, /tenant/],
    ['POST', '/v1/tenant', '[1]', 400, /malformed request body/],
    ['POST', '/v1/tenant', 'x'.repeat(100_000), 413, /too large/],
    ['POST', `/v1/tenant/${nobody}/timeline`, {}, 404, new RegExp(nobody)],
    ['POST', timelines, { ancestor_timeline_id: nobody }, 404, new RegExp(nobody)],
    ['POST', timelines, { ancestor_start_lsn: '0/1' }, 400, /ancestor_start_lsn: needs an ancestor_timeline_id/],
    [
      'POST',
      timelines,
      { ancestor_timeline_id: a, ancestor_start_lsn: 'xyz' },
      400,
      /ancestor_start_lsn: expected an LSN/,
    ],
    ['POST', timelines, { ancestor_timeline_id: a, ancestor_start_lsn: '0/10' }, 400, /0\/10/],
    ['POST', timelines, { ancestor_timeline_id: a, ancestor_start_lsn: 'F/0' }, 400, /F\/0/],
    ['POST', timelines, { pg_version: 17 }, 400, /pg_version: only 18/],
    ['GET', `${timelines}/${a}/get_lsn_by_timestamp`, undefined, 400, /timestamp: expected RFC 3339/],
    [
      'GET',
      `${timelines}/${a}/get_lsn_by_timestamp?timestamp=yesterday`,
      undefined,
      400,
      /timestamp: expected RFC 3339/,
    ],
    ['PUT', `${timelines}/${nobody}/checkpoint`, undefined, 404, new RegExp(nobody)],
  ])('wrong call %#: %s %s', async (method, path, body, status, message) => {
    const before = await storage.get(timelines);
    expectError(await storage.call(method, path, body), status, message);
    expect(await storage.get(timelines)).toEqual(before);
  });
});
