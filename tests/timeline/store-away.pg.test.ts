/**
 * A store that is away in the middle of what is asked of a pageserver: whoever asked hears that it failed, nothing half-made is left once the store is back,
 * and what it may need is kept until then.
 *
 * Must hold: a timeline whose creation failed is not there, not even after a restart, and until it is gone for certain its ancestor stays; a
 * deletion that failed goes on by itself.
 */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { nodeRandom } from '../../server/process/node-host.ts';
import { type Faults, FaultyObjectStore, type StoreOperation } from '../support/faulty-object-store.ts';
import { MemoryPageserver } from '../support/memory-pageserver.ts';

class Switch implements Faults {
  /** From then on everything fails. */
  offAfter: ((operation: StoreOperation, key: string) => boolean) | null = null;
  isOff = false;

  async before(_operation: StoreOperation, key: string): Promise<void> {
    if (this.isOff) throw away(key);
  }

  async after(operation: StoreOperation, key: string): Promise<void> {
    if (this.offAfter?.(operation, key)) this.isOff = true;
    if (this.isOff) throw away(key);
  }

  on(): void {
    this.offAfter = null;
    this.isOff = false;
  }
}

const away = (key: string) => new PageliteError('unavailable', `object ${key}: the network is down`, { file: key });
const putOf = (id: TenantTimelineId, file: string) => (operation: StoreOperation, key: string) =>
  operation === 'put' && key.includes(id.timelineId) && key.includes(file);

const memory = () => new MemoryObjectStore();
let stored = memory();
let faults = new Switch();
let rig: MemoryPageserver;
let main: TenantTimelineId;

beforeEach(async () => {
  stored = memory();
  faults = new Switch();
  rig = await MemoryPageserver.open({ store: new FaultyObjectStore(stored, faults) });
  main = await rig.createTimeline();
});
afterEach(() => rig.close());

const newId = (): TenantTimelineId => ({ tenantId: main.tenantId, timelineId: newTimelineId(nodeRandom) });
const branchOf = (ancestor: TenantTimelineId) => ({ timelineId: ancestor.timelineId, lsn: null });

async function reopened(): Promise<readonly string[]> {
  await rig.close();
  rig = await MemoryPageserver.open({ store: stored });
  return rig.pageserver.listTimelines(main.tenantId);
}

it('the answer to the creation of a branch is lost: it is removed, and needs its ancestor until then', async () => {
  const { pageserver } = rig;
  const branch = newId();
  faults.offAfter = putOf(branch, 'index_part');
  await expect(pageserver.createTimeline(branch, branchOf(main))).rejects.toMatchObject({ kind: 'unavailable' });
  expect(await pageserver.listTimelines(main.tenantId)).toEqual([main.timelineId]);
  await expect(pageserver.createTimeline(branch, branchOf(main))).rejects.toThrow(/being removed/);
  await expect(pageserver.deleteTimeline(main)).rejects.toThrow(/is a branch of it/);
  faults.on();
  await expect
    .poll(() => pageserver.createTimeline(branch, branchOf(main)).then(() => 'created', String))
    .toBe('created');
  await pageserver.deleteTimeline(branch);
  expect(await reopened()).toEqual([main.timelineId]);
});

it('the creation of a timeline of its own is cut off: nothing of it is left', async () => {
  const { pageserver } = rig;
  const cut = newId();
  faults.offAfter = putOf(cut, '__');
  await expect(pageserver.createTimeline(cut, null)).rejects.toMatchObject({ kind: 'unavailable' });
  faults.on();
  const left = async () => (await stored.list('')).filter(({ key }) => key.includes(cut.timelineId));
  await expect.poll(left).toEqual([]);
  await pageserver.createTimeline(cut, null);
  expect(await reopened()).toEqual([main.timelineId, cut.timelineId].sort());
});

it('a deletion goes on when the store is back', async () => {
  const { pageserver } = rig;
  const doomed = newId();
  await pageserver.createTimeline(doomed, null);
  faults.offAfter = (operation, key) => operation === 'delete' && key.includes('index_part');
  await expect(pageserver.deleteTimeline(doomed)).rejects.toMatchObject({ kind: 'unavailable' });
  await expect(pageserver.openPages(doomed)).rejects.toMatchObject({ kind: 'notFound' });
  await expect(pageserver.deleteTimeline(doomed)).rejects.toThrow(/being removed/);
  faults.on();
  const left = async () => (await stored.list('')).filter(({ key }) => key.includes(doomed.timelineId));
  await expect.poll(left).toEqual([]);
  expect(await reopened()).toEqual([main.timelineId]);
  const { problems, garbage } = await scrub({ store: stored, tenant: null, isDeep: true });
  expect({ problems, garbage }).toEqual({ problems: [], garbage: [] });
});
