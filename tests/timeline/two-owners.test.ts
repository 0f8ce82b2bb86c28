/**
 * Two pageservers that have one tenant attached: the one that was replaced without noticing harms nothing.
 *
 * Must hold: whatever the stale one goes on to do (ingest, flush, compaction, garbage collection, deletion), in whatever order with what the newer one
 * does, the newer one reads everything that the model has, every object that its index names is whole, and the stale one ends `fenced`. The seed is in
 * every message.
 */
import { describe, expect, it } from 'vitest';
import { isPageliteError } from '../../engine/errors.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import type { RunningTimeline } from '../../engine/timeline/running-timeline.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { allKeys, isReadable, modelValue, rels, TimelineRig } from '../support/timeline-rig.ts';

/** The stale owner goes on with WAL that the newer one never hears of. */
async function goOn(stale: RunningTimeline, random: SeededRandom): Promise<void> {
  const { timeline } = stale;
  const what = random.next();
  if (what < 0.4) {
    const lsn = (timeline.lastRecordLsn + 1000) as Lsn;
    const image = new Uint8Array(8192);
    random.fill(image.subarray(0, 50));
    for (const prefix of rels) timeline.putImage(prefix, random.below(10), lsn, image);
    timeline.advance(lsn, timeline.lastRecordLsn);
    await stale.afterBatch();
  } else if (what < 0.6) await stale.flush({ isUploaded: true });
  else if (what < 0.8) await stale.compact(random.pick(['merge', 'images'] as const));
  else await stale.collectGarbage(timeline.lastRecordLsn, () => []);
}

describe('a stale owner', () => {
  for (let seed = 1; seed <= 25; seed++) {
    it(`seed ${seed}`, async () => {
      const random = new SeededRandom(seed);
      const store = new MemoryObjectStore();
      const rig = new TimelineRig(random, store);
      await rig.createTenant();
      const model = await rig.create();
      for (let i = 0; i < 1 + random.below(4); i++) {
        await rig.ingest(model, 40);
        await rig.flush(model);
        if (random.chance(0.5)) await rig.compact(model, 'merge');
      }
      // It has claimed the tenant, so that a newer claim fences it.
      await rig.restart(store);
      const stale = rig.running.get(model.id.timelineId)!;
      await rig.restart(store);
      expect(rig.running.get(model.id.timelineId)).not.toBe(stale);
      let told: unknown = null;
      for (let i = 0; i < 20; i++) {
        if (told === null && random.chance(0.6)) {
          await goOn(stale, random).catch((error: unknown) => {
            told = error;
          });
        } else if (random.chance(0.4)) await rig.ingest(model, 20);
        else if (random.chance(0.5)) await rig.flush(model);
        else await rig.compact(model, random.pick(['none', 'merge', 'images'] as const));
      }
      await stale.flush({ isUploaded: true }).catch((error: unknown) => {
        told ??= error;
      });
      await stale.uploads.close();
      const { timeline } = rig.running.get(model.id.timelineId)!;
      for (const key of allKeys) {
        const lsn = model.lastRecordLsn;
        if (!isReadable(model, key, lsn)) continue;
        const [value, expected] = [await rig.read(model, key, lsn), modelValue(model, key, lsn)];
        const same = value === null || expected === null ? value === expected : Buffer.compare(value, expected) === 0;
        expect(same, `seed ${seed}: ${key.prefix} ${key.block}`).toBe(true);
      }
      expect(timeline.stopped, `seed ${seed}`).toBeNull();
      if (told !== null) {
        const reason = stale.timeline.stopped ?? told;
        expect(isPageliteError(reason, 'fenced') || isPageliteError(told, 'fenced'), `seed ${seed}: ${told}`).toBe(
          true,
        );
      }
      await rig.flush(model);
      await rig.running.get(model.id.timelineId)!.settled();
      const { problems } = await scrub({ store, tenant: null, isDeep: true });
      expect(problems, `seed ${seed}`).toEqual([]);
      await rig.close();
    });
  }
});

it('is fenced by the first thing that it stores', async () => {
  const random = new SeededRandom(3);
  const store = new MemoryObjectStore();
  const rig = new TimelineRig(random, store);
  const model = await rig.create();
  await rig.ingest(model, 20);
  await rig.restart(store);
  const stale = rig.running.get(model.id.timelineId)!;
  await rig.restart(store);
  const lsn = (stale.timeline.lastRecordLsn + 8) as Lsn;
  stale.timeline.putImage(rels[0]!, 0, lsn, new Uint8Array(8192));
  stale.timeline.advance(lsn, stale.timeline.lastRecordLsn);
  await expect(stale.flush({ isUploaded: true })).rejects.toMatchObject({ kind: 'fenced' });
  await rig.close();
});
