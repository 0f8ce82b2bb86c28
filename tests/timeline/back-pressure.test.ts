/**
 * Ingest does not run away from compaction, and nothing waits for a compaction that cannot go on.
 *
 * Must hold: with merging held up, no more layers are flushed than l0_flush_stall_threshold says, and ingest goes on once some are merged; from
 * l0_flush_delay_threshold on a flush takes twice as long; whoever asks for a flush gets it (compaction itself asks, of ancestors); where merging fails, is
 * off, or can do nothing, nobody waits. Timelines that share a compaction have their turns.
 */
import { expect, it } from 'vitest';
import type { CompactionTask } from '../../engine/compaction/compaction-parts.ts';
import { runJob, SerialCompaction } from '../../engine/compaction/run-job.ts';
import { PageliteError } from '../../engine/errors.ts';
import type { Clock } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { TestClock } from '../support/test-clock.ts';
import { allKeys, isReadable, type ModelTimeline, modelValue, TimelineRig } from '../support/timeline-rig.ts';

const thresholds = { compaction_threshold: 2, l0_flush_delay_threshold: 3, l0_flush_stall_threshold: 5 };

async function rigOf(clock: Clock = new TestClock()): Promise<{ rig: TimelineRig; model: ModelTimeline }> {
  const rig = new TimelineRig(new SeededRandom(11), new MemoryObjectStore(), clock);
  // Every batch fills a layer.
  rig.config = { ...rig.config, ...thresholds, checkpoint_distance: 1 };
  return { rig, model: await rig.create() };
}

/** Turns, until nothing moves any more. */
async function settle(): Promise<void> {
  for (let i = 0; i < 300; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Jobs wait until it is opened. */
function gate() {
  let open: () => void = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const host = {
    run: async (task: CompactionTask) => {
      await opened;
      await runJob(task);
    },
    close: async () => {},
  };
  return { host, open: () => open() };
}

async function ingestMany(rig: TimelineRig, model: ModelTimeline, batches: number): Promise<void> {
  for (let i = 0; i < batches; i++) await rig.ingest(model, 20);
}

const flushedLayers = (rig: TimelineRig, model: ModelTimeline): number =>
  rig.running.get(model.id.timelineId)!.compaction.flushedLayers;

it('with merging held up ingest waits, and goes on afterwards', async () => {
  const { rig, model } = await rigOf();
  const { host, open } = gate();
  rig.compactWith(host);
  let isDone = false;
  const ingest = ingestMany(rig, model, 30).then(() => {
    isDone = true;
  });
  await settle();
  expect(isDone).toBe(false);
  expect(flushedLayers(rig, model)).toBe(thresholds.l0_flush_stall_threshold);
  open();
  await ingest;
  const running = rig.running.get(model.id.timelineId)!;
  await running.flush();
  await running.compaction.idle();
  expect(flushedLayers(rig, model)).toBeLessThan(thresholds.l0_flush_stall_threshold);
  for (const key of allKeys) {
    if (!isReadable(model, key, model.lastRecordLsn)) continue;
    expect(await rig.read(model, key, model.lastRecordLsn)).toEqual(modelValue(model, key, model.lastRecordLsn));
  }
  await rig.close();
});

it('whoever asks for a flush gets it', async () => {
  const { rig, model } = await rigOf();
  const { host, open } = gate();
  rig.compactWith(host);
  const ingest = ingestMany(rig, model, 30);
  await settle();
  const { timeline } = rig.running.get(model.id.timelineId)!;
  const lsn = timeline.lastRecordLsn;
  await rig.flush(model);
  expect(timeline.diskConsistentLsn).toBeGreaterThanOrEqual(lsn);
  open();
  await ingest;
  await rig.close();
});

it('nobody waits for a timeline that is closed', async () => {
  const { rig, model } = await rigOf();
  const { host, open } = gate();
  rig.compactWith(host);
  const ingest = ingestMany(rig, model, 30);
  await settle();
  const closing = rig.close();
  open();
  await expect(ingest).rejects.toMatchObject({ kind: 'closed' });
  await closing;
});

const cannot: Record<string, (rig: TimelineRig) => void> = {
  'fails for now': (rig) =>
    rig.compactWith({
      run: () => Promise.reject(new PageliteError('unavailable', 'no worker')),
      close: async () => {},
    }),
  'fails for good': (rig) =>
    rig.compactWith({
      run: () => Promise.reject(new PageliteError('corrupt', 'something else')),
      close: async () => {},
    }),
  'is off': (rig) => {
    rig.config = { ...rig.config, compaction_period: 0 };
    // Would be waited for.
    rig.compactWith({ run: () => new Promise(() => {}), close: async () => {} });
  },
};
for (const [how, arrange] of Object.entries(cannot)) {
  it(`ingest goes on where merging ${how}`, async () => {
    const { rig, model } = await rigOf();
    arrange(rig);
    await ingestMany(rig, model, 30);
    expect(flushedLayers(rig, model)).toBeGreaterThan(thresholds.l0_flush_stall_threshold);
    await rig.close();
  });
}

it('before that a flush takes twice as long', async () => {
  let nowMs = 0;
  const pauses: { ms: number; layers: number }[] = [];
  const clock: Clock = {
    now: () => {
      nowMs += 10;
      return nowMs;
    },
    sleep: async (ms) => {
      pauses.push({ ms, layers: flushedLayers(rig, model) });
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
  const { rig, model } = await rigOf(clock);
  const { host, open } = gate();
  rig.compactWith(host);
  const ingest = ingestMany(rig, model, 30);
  await settle();
  expect(pauses.map(({ layers }) => layers)).toEqual([3, 4, 5]);
  for (const { ms } of pauses) expect(ms).toBeGreaterThanOrEqual(10);
  open();
  await ingest;
  await rig.close();
});

it('timelines take turns: the one with the most layers, then the one that has waited longest', async () => {
  const order: string[] = [];
  const release: (() => void)[] = [];
  const serial = new SerialCompaction({
    run: (task) => {
      order.push(task.id.timelineId);
      return new Promise<void>((resolve) => release.push(resolve));
    },
    close: async () => {},
  });
  const task = (name: string, urgency: number) =>
    ({
      id: { tenantId: 't', timelineId: name },
      urgency: () => urgency,
      signal: new AbortController().signal,
    }) as unknown as CompactionTask;
  const jobs = [task('first', 0), task('images', 0), task('few', 3), task('many', 20), task('more', 10)];
  const done = Promise.all(jobs.map((job) => serial.run(job)));
  for (let i = 0; i < jobs.length; i++) {
    await settle();
    expect(order.length).toBe(i + 1);
    release[i]!();
  }
  await done;
  expect(order).toEqual(['first', 'many', 'images', 'more', 'few']);
});
