/**
 * What `scrub` finds: it names every object that is missing, cut short or damaged, lists what nobody needs, and nothing else.
 *
 * Attacked with one change to one object of a store that is whole, for every object and kind of change. The seed is in every message.
 */
import { describe, expect, it } from 'vitest';
import { scrub } from '../../engine/scrub/scrub.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { TimelineRig } from '../support/timeline-rig.ts';

async function wholeStore(seed: number): Promise<MemoryObjectStore> {
  const random = new SeededRandom(seed);
  const store = new MemoryObjectStore();
  const rig = new TimelineRig(random, store);
  await rig.createTenant();
  const main = await rig.create();
  await rig.restart(store);
  await rig.ingest(main, 120);
  await rig.flush(main);
  await rig.compact(main, 'images');
  const branch = await rig.branch(main, main.lastRecordLsn);
  await rig.ingest(branch, 60);
  await rig.flush(branch);
  for (const running of rig.running.values()) await running.settled();
  await rig.close();
  return store;
}

async function copyOf(store: MemoryObjectStore): Promise<MemoryObjectStore> {
  const copy = new MemoryObjectStore();
  for (const { key } of await store.list('')) await copy.put(key, (await store.get(key))!.bytes);
  return copy;
}

const scrubAll = (store: MemoryObjectStore) => scrub({ store, tenant: null, isDeep: true });

describe('a store', () => {
  it('that is whole has no problems and no garbage', async () => {
    const report = await scrubAll(await wholeStore(1));
    expect(report).toMatchObject({ tenants: 1, timelines: 2, problems: [], garbage: [] });
    expect(report.layers).toBeGreaterThan(3);
  });

  it('with one object missing, cut or flipped: that one is named', async () => {
    const seed = 2;
    const random = new SeededRandom(seed);
    const whole = await wholeStore(seed);
    for (const { key, size } of await whole.list('')) {
      const { bytes } = (await whole.get(key))!;
      const changes = {
        missing: null,
        cut: bytes.slice(0, random.below(size)),
        flipped: bytes.map((byte, i) => (i === Math.floor(size / 2) ? byte ^ (1 << random.below(8)) : byte)),
      };
      for (const [what, changed] of Object.entries(changes)) {
        const store = await copyOf(whole);
        if (changed === null) await store.delete(key);
        else await store.put(key, changed);
        const { problems, garbage } = await scrubAll(store);
        const told = [...problems, ...garbage].map((one) => one.key);
        // Without its claim a tenant is nobody's; without its index a timeline does not exist, and its layers are garbage.
        const isSilent = what === 'missing' && key.includes('/generation-');
        const isTimelineGone = what === 'missing' && key.includes('index_part.json');
        if (isTimelineGone) expect(garbage.length, `seed ${seed}: ${what} ${key}`).toBeGreaterThan(0);
        else if (!isSilent) expect(told, `seed ${seed}: ${what} ${key}`).toContain(key);
      }
    }
  });

  it('with objects that nothing names: they are listed with their sizes', async () => {
    const store = await wholeStore(3);
    const layer = (await store.list('')).find(({ key }) => key.includes('__'))!;
    const folder = layer.key.slice(0, layer.key.lastIndexOf('/') + 1);
    const stray = `${layer.key.slice(0, -1)}${layer.key.endsWith('0') ? '1' : '0'}`;
    await store.put(stray, new Uint8Array(17));
    await store.put(`${folder.replace(/[0-9a-f]{32}\/$/, `${'d'.repeat(32)}/`)}leftover`, new Uint8Array(5));
    const { problems, garbage } = await scrubAll(store);
    expect(problems).toEqual([]);
    expect(garbage.map(({ size }) => size).sort()).toEqual([17, 5]);
  });
});
