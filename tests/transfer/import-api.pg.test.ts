/**
 * The pageserver's import API, on the real process, in the hands of somebody who lies, hurries or leaves.
 *
 * Must hold: whatever is wrong is refused with a clear `msg` before it is stored or counts; there is no timeline until all of it is there and makes a
 * database; other timelines go on; a repeated call succeeds again. The layers are those of a timeline with real WAL.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { crc32c } from '../../engine/crc32c.ts';
import { writeIds } from '../../engine/layers/layer-format.ts';
import { formatLayerName, parseLayerName } from '../../engine/layers/layer-name.ts';
import { importPartBytesMax } from '../../engine/limits.ts';
import { newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import { decodeIndexPart } from '../../engine/timeline/index-part.ts';
import { type ImportManifest, manifestToJson } from '../../engine/transfer/import-manifest.ts';
import { nodeRandom } from '../../server/process/node-host.ts';
import { type HttpAnswer, StorageProcesses } from '../support/storage-processes.ts';
import { newestIndexFile, storedLayerFile } from '../support/stored-files.ts';
import { TabRig } from '../support/tab-rig.ts';

interface Layer {
  readonly name: string;
  readonly bytes: Uint8Array;
}

type Json = Record<string, unknown> & { layers: { name: string; size: number; crc32c: number }[] };

let storage: StorageProcesses;
/** A timeline of the server that goes on, and whose files are what is imported. */
let source: TenantTimelineId;
let files: Layer[];
let index: Omit<ImportManifest, 'origin' | 'base' | 'layers'>;
let id: TenantTimelineId;

beforeAll(async () => {
  storage = await StorageProcesses.start();
  const tab = await TabRig.start(storage);
  source = await storage.createTimeline();
  await tab.exec(
    'server',
    source.timelineId,
    'create table t as select i, md5(i::text) from generate_series(1, 5000) i',
  );
  await tab.close();
  await storage.call('PUT', `${storage.timelinePath(source)}/checkpoint`);
  const dir = storage.timelineDir(source);
  const part = decodeIndexPart(readFileSync(newestIndexFile(dir)), 'index');
  index = part;
  files = part.layers.map(({ name }) => {
    return { name, bytes: new Uint8Array(readFileSync(storedLayerFile(dir, name))) };
  });
});
afterAll(() => storage?.close());

beforeEach(() => {
  id = { tenantId: storage.tenantId, timelineId: newTimelineId(nodeRandom) };
});

/** The layers as they are for the timeline that they go to. */
function layersFor(target: TenantTimelineId): Layer[] {
  return files.map(({ name, bytes }) => {
    const copy = bytes.slice();
    writeIds(copy, 16, target);
    new DataView(copy.buffer).setUint32(124, crc32c(copy, 0, 124), true);
    return { name, bytes: copy };
  });
}

function listOf(layers: readonly Layer[], change: (json: Json) => void = () => {}): Json {
  const listed = layers.map(({ name, bytes }) => ({
    name,
    size: bytes.length,
    crc32c: crc32c(bytes),
    isComplete: false,
  }));
  const origin = `${id.tenantId}/${id.timelineId}`;
  const json = manifestToJson({ ...index, origin, base: null, layers: listed }) as Json;
  change(json);
  return json;
}

const path = () => `${storage.timelinePath(id)}/import`;
const begin = (json: object) => storage.post(path(), json);

async function importId(layers: readonly Layer[]): Promise<string> {
  const { status, json } = await begin(listOf(layers));
  expect(status).toBe(200);
  return (json as { import_id: string }).import_id;
}

async function put(importId: string, name: string, bytes: Uint8Array, offset = 0): Promise<HttpAnswer> {
  const url = `http://127.0.0.1:${storage.httpPort}${path()}/${importId}/layer/${name}?offset=${offset}`;
  const response = await fetch(url, { method: 'PUT', body: bytes as Uint8Array<ArrayBuffer> });
  return { status: response.status, json: await response.json() };
}

/** The answer to a part that is announced with this length; it comes before the bytes would. */
function putLength(importId: string, name: string, length: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const call = request({ ...layerRequest(importId, name), headers: { 'content-length': length }, agent: false });
    call.on('response', ({ statusCode }) => {
      resolve(statusCode!);
      call.destroy();
    });
    call.on('error', reject);
    call.flushHeaders();
  });
}

const layerRequest = (importId: string, name: string) => ({
  host: '127.0.0.1',
  port: storage.httpPort,
  method: 'PUT',
  path: `${path()}/${importId}/layer/${name}?offset=0`,
});

const commit = (importId: string) => storage.post(`${path()}/${importId}/commit`, {});

async function putAll(importId: string, layers: readonly Layer[]): Promise<void> {
  for (const layer of layers) expect(await putWhole(importId, layer)).toMatchObject({ status: 200 });
}

/** In parts as large as is possible; the answer to the last, or the first that is not 200. */
async function putWhole(importId: string, { name, bytes }: Layer): Promise<HttpAnswer> {
  for (let at = 0; ; at += importPartBytesMax) {
    const answer = await put(importId, name, bytes.subarray(at, at + importPartBytesMax), at);
    if (answer.status !== 200 || at + importPartBytesMax >= bytes.length) return answer;
  }
}

function expectError({ status, json }: HttpAnswer, expected: number, message: RegExp): void {
  expect({ status, json }).toMatchObject({ status: expected, json: { msg: expect.stringMatching(message) } });
}

/** Nothing half there, and the others go on. */
async function expectNothing(): Promise<void> {
  expect((await storage.get(storage.timelinePath(id))).status).toBe(404);
  expect(await storage.get(storage.timelinePath(source))).toMatchObject({ status: 200, json: { state: 'Active' } });
}

const folder = (): string[] => {
  try {
    return readdirSync(storage.timelineDir(id));
  } catch {
    return [];
  }
};

describe('an import', () => {
  it('makes the timeline, and each of its calls can be repeated', async () => {
    const layers = layersFor(id);
    const last = layers.at(-1)!;
    const first = await importId(layers);
    const half = last.bytes.length >> 1;
    expect(await put(first, last.name, last.bytes.subarray(0, half))).toMatchObject({
      json: { received: half },
    });
    // Begun again: what has arrived is known.
    const { json } = await begin(listOf(layers));
    const second = (json as { import_id: string; missing: object[] }).import_id;
    expect((json as { missing: object[] }).missing.at(-1)).toEqual({ name: last.name, received: half });
    expectError(await put(first, last.name, last.bytes.subarray(half), half), 409, /another import/);
    await expectNothing();
    const rest = last.bytes.subarray(half);
    expect(await put(second, last.name, rest, half)).toMatchObject({ status: 200 });
    expect(await put(second, last.name, rest, half)).toMatchObject({
      json: { received: last.bytes.length },
    });
    expectError(await commit(second), 400, /have not arrived/);
    await putAll(second, layers.slice(0, -1));
    await storage.stopPageserver('immediate');
    await storage.startPageserver();
    expect(await commit(second)).toEqual({ status: 200, json: {} });
    expect(await commit(second)).toEqual({ status: 200, json: {} });
    expect(folder().filter((name) => name.includes('.part'))).toEqual([]);
    expect(await begin(listOf(layers))).toMatchObject({ json: { at_lsn: expect.stringMatching(/^0\//) } });
    const there = await storage.connect(id).getStatus();
    expect(there.lastRecordLsn).toBe(index.diskConsistentLsn);
    await storage.connect(id).getBasebackup(null);
  });

  it('can be given up', async () => {
    const layers = layersFor(id);
    const open = await importId(layers);
    await putAll(open, layers.slice(0, 1));
    expect(await storage.call('DELETE', `${path()}/${open}`)).toEqual({ status: 200, json: {} });
    expect(folder()).toEqual([]);
    expectError(await commit(open), 404, /begin again/);
  });

  it('of a branch goes on only where its ancestor can be branched', async () => {
    const branch = (change: (json: Json) => void) =>
      begin(
        listOf([], (json) => {
          json.ancestor_timeline_id = source.timelineId;
          json.start_lsn = json.ancestor_lsn = json.compacted_lsn = json.disk_consistent_lsn;
          change(json);
        }),
      );
    expectError(
      await branch((json) => {
        json.ancestor_timeline_id = '0'.repeat(32);
      }),
      404,
      /ancestor, timeline 0+ .* does not exist/,
    );
    for (const [change, message] of [
      [
        { start_lsn: '7/10', ancestor_lsn: '7/10', compacted_lsn: '7/10', disk_consistent_lsn: '7/10' },
        /WAL .* ends at/,
      ],
      [{ system_identifier: '42' }, /system 42/],
    ] as const) {
      const { json } = await branch((list) => Object.assign(list, change));
      expectError(await commit((json as { import_id: string }).import_id), 400, message);
      await expectNothing();
    }
  });
});

describe('a list', () => {
  it.each<[string, (json: Json) => void, RegExp]>([
    ['of another version', (json) => (json.version = 3), /version 3/],
    ['without an origin', (json) => (json.origin = ''), /origin/],
    ['with a layer twice', (json) => json.layers.push(json.layers[0]!), /twice|overlap/],
    ['with a name that is none', (json) => (json.layers[0]!.name = '../../index_part.json'), /not the name of a layer/],
    ['with a size that cannot be', (json) => (json.layers[0]!.size = 1e12), /at most/],
    ['with a size of no number', (json) => (json.layers[0]!.size = -1), /at most/],
    ['with a checksum that is none', (json) => (json.layers[0]!.crc32c = 1.5), /no checksum/],
    ['with a layer after its end', (json) => (json.disk_consistent_lsn = json.start_lsn), /outside|behind its end/],
    ['that starts later than its layers', (json) => (json.start_lsn = json.disk_consistent_lsn), /outside|compacted/],
    ['that ends before it starts', (json) => (json.disk_consistent_lsn = '0/10'), /before it starts/],
    ['with an LSN inside a record', (json) => (json.disk_consistent_lsn = '0/FFFFFF1'), /not the end of a record/],
    ['with an image above what is compacted', (json) => imageAtEnd(json), /above compacted_lsn/],
    ['without a start', (json) => (json.layers = json.layers.slice(1)), /no image layer at its start/],
    ['that goes on from nowhere', (json) => (json.base_lsn = '9/0'), /base_lsn is outside/],
    ['that is none', (json) => (json.layers = 'all' as never), /no list/],
  ])('%s is refused', async (_what, change, message) => {
    expectError(await begin(listOf(layersFor(id), change)), 400, message);
    expect(folder()).toEqual([]);
    await expectNothing();
  });

  it('that is no JSON, or for a tenant that is not there, is refused', async () => {
    expectError(await storage.call('POST', path(), '{'), 400, /not JSON/);
    const nobody = { tenantId: '0'.repeat(32), timelineId: id.timelineId } as TenantTimelineId;
    expectError(await storage.post(`${storage.timelinePath(nobody)}/import`, listOf(layersFor(id))), 404, /tenant/);
  });

  it('for a timeline that is there and came from elsewhere is refused', async () => {
    const list = listOf(layersFor(source));
    expectError(await storage.post(`${storage.timelinePath(source)}/import`, list), 400, /another name/);
    await expectNothing();
  });
});

describe('a layer', () => {
  it.each<[string, (layer: Layer) => Uint8Array, (json: Json, bytes: Uint8Array) => void, RegExp]>([
    [
      'with another checksum than was announced',
      ({ bytes }) => flipped(bytes, 5000),
      () => {},
      /checksum that was announced/,
    ],
    ['with a damaged block', ({ bytes }) => flipped(bytes, 5000), announce, /wrong checksum/],
    ['with a damaged index', ({ bytes }) => flipped(bytes, bytes.length - 100), announce, /wrong checksum/],
    [
      'of another timeline',
      ({ name }) => files.find((file) => file.name === name)!.bytes,
      announce,
      /another timeline/,
    ],
    ['that holds something else', ({ bytes }) => withLsn(bytes), announce, /it holds/],
    ['that is no layer', ({ bytes }) => new Uint8Array(bytes.length), announce, /not a layer file/],
  ])('%s is refused, and can be sent again', async (_what, spoil, change, message) => {
    const layers = layersFor(id);
    const last = layers.at(-1)!;
    const bytes = spoil(last);
    const { json } = await begin(listOf(layers, (list) => change(list, bytes)));
    const open = (json as { import_id: string }).import_id;
    expectError(await put(open, last.name, bytes), 400, message);
    const half = bytes.length >> 1;
    await put(open, last.name, bytes.subarray(0, half));
    expectError(await put(open, last.name, bytes.subarray(half), half), 400, message);
    expectError(await commit(open), 400, /have not arrived/);
    expect(folder()).toEqual(['import.json']);
    await expectNothing();
    const again = await importId(layers);
    await putAll(again, layers);
    expect((await commit(again)).status).toBe(200);
  });

  it('out of order, too long, empty or not on the list is refused', async () => {
    const layers = layersFor(id);
    const open = await importId(layers);
    const { name, bytes } = layers.at(-1)!;
    expectError(await put(open, name, bytes.subarray(100), 100), 400, /0 are here/);
    expectError(await put(open, name, new Uint8Array(bytes.length + 1)), 400, /bytes 0 to/);
    expectError(await put(open, name, new Uint8Array(0)), 400, /a part of 0 bytes/);
    expect(await putLength(open, name, importPartBytesMax + 1)).toBe(413);
    expectError(await put(open, 'nothing', bytes), 400, /not on the list/);
    expectError(await put('0'.repeat(32), name, bytes), 409, /another import/);
    await expectNothing();
  });

  it('whose sender leaves in the middle of it is not there', async () => {
    const layers = layersFor(id);
    const open = await importId(layers);
    const { name, bytes } = layers[0]!;
    await new Promise<void>((resolve) => {
      const call = request({ ...layerRequest(open, name), headers: { 'content-length': bytes.length }, agent: false });
      call.on('error', () => resolve());
      call.write(bytes.subarray(0, 1000), () => call.destroy(new Error('gone')));
    });
    expect(await begin(listOf(layers))).toMatchObject({
      json: { missing: layers.map((layer) => ({ name: layer.name, received: 0 })) },
    });
  });
});

describe('layers that are each in order', () => {
  it('and together no database are refused', async () => {
    const layers = layersFor(id);
    const { json } = await begin(
      listOf(layers, (list) => {
        list.system_identifier = '42';
      }),
    );
    const open = (json as { import_id: string }).import_id;
    await putAll(open, layers);
    expectError(await commit(open), 400, /pg_control is of system/);
    await expectNothing();
  });

  it('are refused where the safekeepers hold WAL of an earlier timeline', async () => {
    // A safekeeper keeps WAL when the pageserver deletes a timeline.
    const tab = await TabRig.start(storage);
    const doomed = await storage.createTimeline();
    await tab.exec('server', doomed.timelineId, 'create table t (i int)');
    await tab.close();
    await storage.call('DELETE', storage.timelinePath(doomed));
    id = doomed;
    expectError(await begin(listOf(layersFor(id))), 409, /safekeepers hold WAL.*another name/);
    await expectNothing();
  });
});

describe('two imports at once', () => {
  it('into one timeline: the later one goes on, and the timeline is whole', async () => {
    const layers = layersFor(id);
    const both = await Promise.all([importId(layers), importId(layers)]);
    const results = await Promise.all(
      both.map(async (open) => {
        for (const layer of layers) await putWhole(open, layer);
        return (await commit(open)).status;
      }),
    );
    expect(results.sort()).toEqual([200, 409]);
    await storage.connect(id).getBasebackup(null);
  });
});

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice();
  copy[at]! ^= 0x10;
  return copy;
}

/** Another start LSN in its header, with the right checksum over it. */
function withLsn(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  copy[88]! ^= 0x08;
  new DataView(copy.buffer).setUint32(124, crc32c(copy, 0, 124), true);
  return copy;
}

/** The image layer of the start, as if it were of the end. */
function imageAtEnd(json: Json): void {
  const start = json.layers.find(({ name }) => parseLayerName(name)!.kind === 'image')!;
  const lsnStart = parseLsn(json.disk_consistent_lsn as string);
  json.compacted_lsn = json.start_lsn;
  json.layers.push({ ...start, name: formatLayerName({ ...parseLayerName(start.name)!, lsnStart }) });
}

/** The list says what is going to be sent. */
function announce(json: Json, bytes: Uint8Array): void {
  const last = json.layers.at(-1)!;
  last.size = bytes.length;
  last.crc32c = crc32c(bytes);
}
