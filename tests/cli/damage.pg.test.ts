/**
 * A repository of which stored objects are damaged, as its user meets it.
 *
 * Must hold: a statement whose reads fail says in its DETAIL over the wire which object of which timeline is at fault; the compute's log names it, the
 * pageserver's log too, once; statements that need none of it go on.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { LayerFile } from '../../engine/layers/layer-file.ts';
import { formatLayerFile, parseLayerFile, parseLayerName } from '../../engine/layers/layer-name.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { relPrefix } from '../../engine/model/key.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { RepositoryRig } from '../support/repository-rig.ts';

const rig = new RepositoryRig();
let tenants: string;
let tenant: string;
let timeline: string;

beforeAll(async () => {
  await rig.start();
  await rig.endpoint('main');
  await rig.sql('main', 'create table t as select g, md5(g::text) as v from generate_series(1, 20000) g');
  await rig.ok('timeline', 'compact', '--branch-name', 'main', '--force');
  tenants = rig.tenantsDir;
  tenant = readdirSync(tenants)[0]!;
  timeline = readdirSync(join(tenants, tenant, 'timelines'))[0]!;
}, 120_000);
afterAll(() => rig.close());

/** Flips a bit in each block of the timeline's image layers that is a page of such a relation. */
async function damage(rel: Pick<RelTag, 'spc' | 'db' | 'rel'>): Promise<void> {
  const prefixes = ([0, 1, 2] as const).map((fork) => relPrefix({ ...rel, fork }));
  let count = 0;
  for (const name of readdirSync(tenants, { recursive: true, encoding: 'utf8' })) {
    if (!name.includes(timeline) || !name.includes('__')) continue;
    const path = join(tenants, name);
    const bytes = new Uint8Array(readFileSync(path));
    const { name: layer, generation } = must(parseLayerFile(name.slice(name.lastIndexOf('/') + 1)));
    const store = new MemoryObjectStore();
    await store.put(formatLayerFile(layer, generation), bytes);
    const desc = must(parseLayerName(layer));
    const file = new LayerFile(ids(), desc, '', bytes.length, store, new BlockCache(1e6), { generation });
    const { blockCount, offsets } = await file.open();
    for (let i = 0; i < blockCount; i++) {
      const held = await Promise.resolve(file.holdBlocks(i, i)).catch(() => null);
      const block = held?.blocks[0];
      if (block?.entryCount !== 1 || !prefixes.includes(block.firstPrefix)) continue;
      bytes[offsets[i]! + 100]! ^= 1;
      count++;
    }
    writeFileSync(path, bytes);
  }
  expect(count).toBeGreaterThan(0);
}

const ids = () => ({ tenantId: tenantId(tenant), timelineId: timelineId(timeline) });
const computeLog = () => readFileSync(join(rig.dir, 'endpoints/main/compute.log'), 'utf8');
const pageserverLog = () => readFileSync(join(rig.dir, 'pageserver_1/pageserver.log'), 'utf8');

/** Starts anew, with empty caches. */
async function restart(): Promise<void> {
  await rig.ok('endpoint', 'stop', 'main');
  await rig.ok('pageserver', 'stop');
  await rig.ok('pageserver', 'start');
  await rig.ok('endpoint', 'start', 'main');
}

it('a statement over a damaged layer names it; the logs do, the pageserver once; others go on', async () => {
  const [t] = await rig.sql<{ rel: number }>('main', "select pg_relation_filenode('t')::int as rel");
  await damage({ spc: 1663, db: 5, rel: t!.rel });
  await restart();
  const client = await rig.connect('main');
  for (let i = 0; i < 3; i++) {
    const error = await client.query('select sum(length(v)) from t').catch((e: unknown) => e);
    expect(error).toMatchObject({ code: '58030', detail: expect.stringMatching(/layer file tenants\/.* is damaged/) });
    expect((error as { detail: string }).detail).toContain(timeline);
  }
  const told = await rig.psql('main', 'select count(v) from t');
  expect(told.err).toMatch(/ERROR:.*I\/O error\nDETAIL: .*layer file tenants\/.*__/);
  expect(await rig.sql('main', 'select 1 as one')).toEqual([{ one: 1 }]);
  expect(computeLog()).toMatch(/"file":"tenants\/[^"]*__.*"msg":"storage failed"/);
  const lines = pageserverLog()
    .split('\n')
    .filter((line) => line.includes('a read found damage'));
  const files = lines.map((line) => (JSON.parse(line) as { file: string }).file);
  expect(files.length).toBeGreaterThan(0);
  expect(new Set(files).size).toBe(files.length);
}, 120_000);
