/**
 * A pageserver whose truth is in a bucket of a real S3 server, ended as by SIGKILL right before and right after the first step of each kind of all that writes
 * there, and at later ones that a seed chooses, its disk wiped, and started again.
 *
 * And one whose requests there are slow, fail now and then, or all fail for a while.
 *
 * Must hold: every page at every LSN that is retained is what it was, byte for byte, and that is what PostgreSQL wrote (compared under its own masks); what
 * was cut off succeeds when it is asked again; then a scrub that reads every block finds every object that an index names whole, and no object that
 * none names.
 */
import { existsSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import { messageOf } from '../../engine/errors.ts';
import { newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { scrub } from '../../engine/scrub/scrub.ts';
import { S3ObjectStore } from '../../server/object-store/s3.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { Ceph } from '../support/ceph.ts';
import { removeFaultPlan, writeFaultPlan } from '../support/fault-plan-file.ts';
import type { FaultPlan, ObjectKind, StoreOperation } from '../support/faulty-object-store.ts';
import {
  comparePagesAt,
  differingFrom,
  type RecordedHistory,
  readAllPages,
  recordHistory,
  threeMoments,
} from '../support/recorded-history.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { StorageProcesses } from '../support/storage-processes.ts';

let ceph: Ceph;
let previous: NodeJS.ProcessEnv;
let storage: StorageProcesses;
let bucket: S3ObjectStore;
/** Of the timelines of the test that runs. */
const branches = new Map<string, TenantTimelineId>();
let history: RecordedHistory;
/** By moment: what a pageserver that was never ended gives. */
let expected: Map<string, Uint8Array>[];

beforeAll(async () => {
  ceph = await Ceph.start();
  previous = { ...process.env };
  Object.assign(process.env, ceph.env);
  const name = await ceph.newBucket();
  bucket = await S3ObjectStore.open({ bucket: name, prefix: 'k/' });
  storage = await StorageProcesses.start({ remoteStorage: `s3://${name}/k`, isFaulty: true });
  const settings = {
    pitr_interval: '0s',
    gc_horizon: 0,
    gc_period: '0s',
    lsn_lease_length: '0s',
    compaction_period: '0s',
  };
  const set = await storage.call('PUT', '/v1/tenant/config', { tenant_id: storage.tenantId, ...settings });
  expect(set).toMatchObject({ status: 200 });
  const first = await storage.createTimeline();
  history = await recordHistory(storage.connect(first), threeMoments);
  await write(first, 2);
  const artefacts = await loadPGliteArtefacts();
  const template = await loadTenantTemplate({ dir: join(tmpdir(), 'pagelite-tests'), artefacts, log: silentLog });
  const mask = await PostgresRedo.create({ template, artefacts, log: silentLog });
  expected = [];
  for (const [i, { lsn }] of history.moments.entries()) {
    const service = storage.connect(first);
    const { compared, differing } = await comparePagesAt(service, history, i, mask);
    expect(differing, `moment ${i}`).toEqual([]);
    expect(compared).toBeGreaterThan(700);
    expected.push(await readAllPages(service, history, lsn));
  }
  await mask.close();
}, 300_000);

afterAll(async () => {
  await storage?.close();
  process.env = previous;
  await ceph?.stop();
});

/** What a test has made goes, branches first: the next one scrubs, and its pageserver starts, with what is its own. */
afterEach(async () => {
  const path = `/v1/tenant/${storage.tenantId}/timeline`;
  for (;;) {
    const { json } = await storage.get(path);
    const all = json as { timeline_id: string; ancestor_timeline_id: string | null }[];
    const ancestors = new Set(all.map(({ ancestor_timeline_id }) => ancestor_timeline_id));
    const ends = all.filter(({ timeline_id }) => !ancestors.has(timeline_id));
    if (ends.length === 0) break;
    for (const { timeline_id } of ends) await ask('DELETE', `${path}/${timeline_id}`);
  }
  branches.clear();
}, 60_000);

/** Whatever hangs says what it is. */
async function inTime<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not done in 60 s`)), 60_000);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Brings a timeline up to a moment. */
async function write(id: TenantTimelineId, moment: number): Promise<void> {
  await inTime('write WAL', storage.writeWal(id, history, must(history.moments[moment]).lsn));
  await inTime('catch up', caughtUp(id, moment));
}

async function caughtUp(id: TenantTimelineId, moment: number): Promise<void> {
  const { lsn } = must(history.moments[moment]);
  await storage.connect(id).listRels({ requestLsn: lsn, notModifiedSince: lsn }, 1663, history.db);
}

async function ask(method: string, path: string, body?: object): Promise<void> {
  const { status, json } = await inTime(`${method} ${path}`, storage.call(method, path, body));
  if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(json)}`);
}

const of = (id: TenantTimelineId, what: string) => `${storage.timelinePath(id)}/${what}`;
const flush = (id: TenantTimelineId) => ask('PUT', of(id, 'checkpoint'));
const newId = (): TenantTimelineId => ({ tenantId: storage.tenantId, timelineId: newTimelineId(nodeRandom) });
const create = (id: TenantTimelineId, from?: { readonly id: TenantTimelineId; readonly moment: number }) =>
  ask('POST', `/v1/tenant/${id.tenantId}/timeline`, {
    new_timeline_id: id.timelineId,
    ...(from && {
      ancestor_timeline_id: from.id.timelineId,
      ancestor_start_lsn: formatLsn(must(history.moments[from.moment]).lsn),
    }),
  });

async function expectPages(id: TenantTimelineId, moments: readonly number[], what: string): Promise<void> {
  for (const moment of moments) {
    const { lsn } = must(history.moments[moment]);
    const differing = await differingFrom(expected[moment]!, storage.connect(id), history, lsn);
    expect(differing, `${what}: moment ${moment}`).toEqual([]);
  }
}

async function expectWhole(what: string): Promise<void> {
  const report = async () => {
    const { problems, garbage } = await scrub({ store: bucket, tenant: null, isDeep: false });
    return { problems, garbage };
  };
  await expect.poll(report, { message: what, timeout: 60_000 }).toEqual({ problems: [], garbage: [] });
  const { problems } = await scrub({ store: bucket, tenant: null, isDeep: true });
  expect(problems, `${what}, every block`).toEqual([]);
}

/**
 * The pageserver ends at the step; afterwards it has no disk and no memory. False: it did not come to a step that is not the first of its kind, and
 * everything is done (`settled`).
 */
async function endAt(
  plan: Omit<FaultPlan & { kind: 'end' }, 'kind'>,
  act: () => Promise<unknown>,
  settled: () => Promise<unknown> = async () => {},
): Promise<boolean> {
  const file = (name: string) => join(storage.pageserverDir, name);
  rmSync(file('ended'), { force: true });
  writeFaultPlan(storage.pageserverDir, { kind: 'end', ...plan });
  let outcome = 'asked';
  const work = plan.nth === 1 ? act() : act().then(settled);
  const acted = work.then(
    () => {
      outcome = 'done';
    },
    (error) => {
      outcome = messageOf(error);
    },
  );
  const state = () => (existsSync(file('ended')) ? 'ended' : outcome);
  const ends = plan.nth === 1 ? /^ended$/ : /^(ended|done)$/;
  try {
    await expect.poll(state, { timeout: 60_000, message: plan.object }).toMatch(ends);
  } catch (error) {
    // What comes after this test has a pageserver that works.
    removeFaultPlan(storage.pageserverDir);
    await storage.stopPageserver('immediate');
    await storage.startPageserver();
    throw error;
  }
  removeFaultPlan(storage.pageserverDir);
  await acted;
  if (!existsSync(file('ended'))) return false;
  rmSync(file('tenants'), { recursive: true, force: true });
  await storage.startPageserver();
  return true;
}

interface Work {
  readonly name: string;
  readonly operations: readonly (readonly [StoreOperation, ObjectKind])[];
  /** What there is before; the timeline that is worked on. */
  prepare(): Promise<TenantTimelineId>;
  act(id: TenantTimelineId): Promise<void>;
  /** Pages at these moments must be there, whether it was done or not. */
  readonly moments: readonly number[];
  /** Branches of it that must be as they were. */
  readonly branchAt?: number;
}

/** What was flushed is in the bucket, too. */
async function uploaded(id: TenantTimelineId): Promise<void> {
  const waiting = async () => {
    const { json } = await storage.get(of(id, 'storage'));
    const { uploads } = json as { uploads: { layers: number; deletes: number } };
    return uploads.layers + uploads.deletes;
  };
  await expect.poll(waiting, { timeout: 60_000 }).toBe(0);
}

/** Nothing of it waits to be stored any more: it is done, the timeline is deleted, or the pageserver has ended. */
async function quiet(id: TenantTimelineId): Promise<void> {
  for (;;) {
    const answer = await storage.get(of(id, 'storage')).catch(() => null);
    if (answer?.status !== 200) return;
    const { uploads } = answer.json as { uploads: { layers: number; deletes: number } };
    if (uploads.layers + uploads.deletes === 0) return;
  }
}

async function prepared({
  flushes = 0,
  images = false,
  branchAt,
}: {
  flushes?: number;
  images?: boolean;
  branchAt?: number;
}) {
  const id = newId();
  await create(id);
  for (let moment = 0; moment < flushes; moment++) {
    await write(id, moment);
    await flush(id);
  }
  if (images) await ask('PUT', of(id, 'compact?force_image_layer_creation=true'));
  await uploaded(id);
  if (branchAt !== undefined) {
    const branch = newId();
    await create(branch, { id, moment: branchAt });
    branches.set(id.timelineId, branch);
  }
  return id;
}

const allOf = (...kinds: ObjectKind[]) => kinds.map((kind) => ['put', kind] as const);

const works: readonly Work[] = [
  {
    name: 'creation',
    operations: allOf('layer', 'index'),
    prepare: async () => newId(),
    act: (id) => create(id),
    moments: [],
  },
  {
    name: 'flush',
    operations: allOf('layer', 'index'),
    prepare: async () => {
      const id = await prepared({ flushes: 1 });
      await write(id, 1);
      return id;
    },
    act: flush,
    moments: [0, 1],
  },
  {
    name: 'compaction',
    operations: [...allOf('layer', 'index'), ['delete', 'layer']],
    prepare: () => prepared({ flushes: 3 }),
    act: (id) => ask('PUT', of(id, 'compact?force_l0_compaction=true')),
    moments: [0, 1, 2],
  },
  {
    name: 'image layers',
    operations: allOf('layer', 'index'),
    prepare: () => prepared({ flushes: 2 }),
    act: (id) => ask('PUT', of(id, 'compact?force_image_layer_creation=true')),
    moments: [0, 1],
  },
  {
    name: 'garbage collection',
    operations: [...allOf('index'), ['delete', 'layer']],
    prepare: async () => {
      const id = await prepared({ flushes: 1, images: true, branchAt: 0 });
      for (const moment of [1, 2]) {
        await write(id, moment);
        await flush(id);
      }
      await ask('PUT', of(id, 'compact?force_image_layer_creation=true'));
      await uploaded(id);
      return id;
    },
    act: (id) => ask('PUT', of(id, 'do_gc')),
    moments: [2],
    branchAt: 0,
  },
  {
    name: 'creation of a branch',
    operations: allOf('index'),
    prepare: async () => {
      const id = newId();
      branches.set(id.timelineId, await prepared({ flushes: 2 }));
      return id;
    },
    act: (id) => create(id, { id: must(branches.get(id.timelineId)), moment: 1 }),
    moments: [],
  },
  {
    name: 'detachment from the ancestor',
    operations: allOf('layer', 'index'),
    prepare: async () => {
      const id = newId();
      await create(id, { id: await prepared({ flushes: 2 }), moment: 1 });
      return id;
    },
    act: (id) => ask('PUT', of(id, 'detach_ancestor')),
    moments: [1],
  },
  {
    name: 'beginning anew',
    operations: [...allOf('layer', 'index'), ['delete', 'layer']],
    prepare: () => prepared({ flushes: 2, branchAt: 0 }),
    act: (id) => ask('PUT', of(id, 'rebuild'), {}),
    moments: [0, 1],
    branchAt: 0,
  },
  {
    name: 'archiving',
    operations: allOf('index'),
    prepare: () => prepared({ flushes: 1 }),
    act: async (id) => {
      await ask('PUT', of(id, 'archival_config'), { state: 'Archived' });
      await ask('PUT', of(id, 'archival_config'), { state: 'Unarchived' });
    },
    moments: [],
  },
  {
    name: 'deletion',
    operations: [
      ['delete', 'index'],
      ['delete', 'layer'],
    ],
    prepare: () => prepared({ flushes: 1 }),
    act: async (id) => {
      // Asked again, it may have been done.
      const { status } = await inTime('delete', storage.call('DELETE', storage.timelinePath(id)));
      expect([200, 404]).toContain(status);
    },
    moments: [],
  },
];

/** Ends a work at a step, and then does it. Returns whether it came to that step. */
async function endWork(
  { name, prepare, act, moments, branchAt }: Work,
  plan: Omit<FaultPlan & { kind: 'end' }, 'kind'>,
): Promise<boolean> {
  const { operation, object, when, nth } = plan;
  const what = `${name}, ${when} ${operation} ${object} ${nth}`;
  const id = await prepare();
  const isEnded = await endAt(
    plan,
    () => act(id),
    () => quiet(id),
  );
  const check = async (state: string, at = moments) => {
    await expectPages(id, at, `${what}, ${state}`);
    const branch = branches.get(id.timelineId);
    if (branchAt !== undefined && branch) await expectPages(branch, [branchAt], `${what}, branch, ${state}`);
  };
  if (isEnded) {
    await check('after the end');
    await act(id);
  }
  await check('after it was done', moments.slice(-1));
  await expectWhole(what);
  return isEnded;
}

for (const work of works) {
  describe(`ended during ${work.name}`, () => {
    for (const [operation, object] of work.operations) {
      for (const when of ['before', 'after'] as const) {
        it(`${when} the first ${operation} of ${object === 'index' ? 'an' : 'a'} ${object}`, async () => {
          expect(await endWork(work, { operation, object, when, nth: 1 })).toBe(true);
        }, 240_000);
      }
    }
  });
}

/** Another one in each run. */
const seed = Number(process.env.PAGELITE_SEED ?? nodeRandom.next() * 1e6) >>> 0;

describe(`ended at a later step, if it comes to that (PAGELITE_SEED=${seed})`, () => {
  const random = new SeededRandom(seed);
  for (const work of works) {
    const [operation, object] = random.pick(work.operations);
    const plan = { operation, object, when: random.pick(['before', 'after'] as const), nth: 2 + random.below(2) };
    it(`of ${work.name}: ${plan.when} ${operation} ${plan.nth} of ${object}`, async () => {
      const isEnded = await endWork(work, plan);
      // Archiving and unarchiving are an index each.
      if (work.name === 'archiving' && plan.nth === 2) expect(isEnded).toBe(true);
    }, 400_000);
  }
});

describe('ended during a start', () => {
  for (const [operation, object] of [
    ['put', 'claim'],
    ['delete', 'claim'],
  ] as const) {
    for (const when of ['before', 'after'] as const) {
      it(`${when} the first ${operation} of a ${object}`, async () => {
        const id = await prepared({ flushes: 2 });
        await storage.stopPageserver('fast');
        await endAt({ operation, object, when, nth: 1 }, () => storage.startPageserver());
        await expectPages(id, [0, 1], `start, ${when} ${operation} ${object}`);
        await expectWhole(`start, ${when} ${operation} ${object}`);
      }, 240_000);
    }
  }
});

describe('requests to the bucket', () => {
  const unreliable = (plan: { failing: number; delayMsMax: number }) =>
    writeFaultPlan(storage.pageserverDir, { kind: 'unreliable', ...plan });
  const reliable = () => removeFaultPlan(storage.pageserverDir);
  afterEach(reliable);

  /** Until the store answers. */
  async function insist<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const result = await work().then(
        (value) => ({ value }),
        (error: unknown) => ({ error }),
      );
      if ('value' in result) return result.value;
      expect(messageOf(result.error)).toMatch(/made to fail|being removed/);
    }
  }

  it('are slow and fail now and then: all work gets done, and right', async () => {
    unreliable({ failing: 0.03, delayMsMax: 40 });
    const id = newId();
    await insist(() => create(id));
    for (const moment of [0, 1, 2]) {
      await insist(() => write(id, moment));
      await insist(() => flush(id));
    }
    await insist(() => ask('PUT', of(id, 'compact?force_l0_compaction=true')));
    const branch = newId();
    await insist(() => create(branch, { id, moment: 1 }));
    await insist(() => ask('PUT', of(id, 'compact?force_image_layer_creation=true')));
    await insist(() => ask('PUT', of(id, 'do_gc')));
    await insist(() => ask('PUT', of(id, 'rebuild'), {}));
    await insist(() => ask('PUT', of(branch, 'detach_ancestor')));
    await storage.stopPageserver('immediate');
    rmSync(join(storage.pageserverDir, 'tenants'), { recursive: true, force: true });
    await insist(() => storage.startPageserver());
    await insist(() => expectPages(id, [2], 'slow and failing'));
    await insist(() => expectPages(branch, [1], 'slow and failing, branch'));
    reliable();
    await expectWhole('slow and failing');
  }, 240_000);

  it('all fail: what is on the disk is read, WAL is taken in and kept, and told is which object cannot be stored', async () => {
    const id = await prepared({ flushes: 2 });
    unreliable({ failing: 1, delayMsMax: 0 });
    await write(id, 2);
    await flush(id);
    await expectPages(id, [0, 1, 2], 'the store is away');
    const uploads = async () => {
      const { json } = await storage.get(of(id, 'storage'));
      return (json as { uploads: { layers: number; last_error: string | null } }).uploads;
    };
    const lastError = async () => (await uploads()).last_error;
    await expect.poll(lastError, { timeout: 60_000 }).toMatch(/object tenants\/.*made to fail/);
    expect((await uploads()).layers).toBeGreaterThan(0);
    // What is dropped before any index has named it is gone, too.
    await ask('PUT', of(id, 'compact?force_l0_compaction=true'));
    reliable();
    await expect.poll(uploads, { timeout: 150_000 }).toEqual({ layers: 0, bytes: 0, deletes: 0, last_error: null });
    await storage.stopPageserver('immediate');
    rmSync(join(storage.pageserverDir, 'tenants'), { recursive: true });
    await storage.startPageserver();
    await expectPages(id, [0, 1, 2], 'the store is back');
    await expectWhole('the store is back');
  }, 240_000);
});
