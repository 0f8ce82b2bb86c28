/**
 * Timelines for the contract of PageService: with their values in memory, in layer files, and on a branch of a timeline that has them, here or behind
 * another PageService. They begin with the template, for the basebackup; the contract's relation is put by hand.
 */

import { inThisThread } from '../../engine/compaction/run-job.ts';
import { TimelineCounters } from '../../engine/counters.ts';
import { directoryPatch } from '../../engine/ingest/rel-directory.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { SafekeeperSurvey } from '../../engine/ingest/safekeeper-survey.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { newTimelineId, type TenantTimelineId, tenantId } from '../../engine/model/ids.ts';
import { relDirectoryKey, relPrefix, sizeBlock } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import type { ObjectStore, PageService, TenantTemplate } from '../../engine/services.ts';
import { bootstrap } from '../../engine/timeline/bootstrap.ts';
import { branchIndex } from '../../engine/timeline/branch.ts';
import type { Ancestor } from '../../engine/timeline/gather.ts';
import { type IndexPart, StoredIndex } from '../../engine/timeline/index-part.ts';
import { defaultPageserverLimits } from '../../engine/timeline/pageserver.ts';
import { RunningTimeline, type SharedParts } from '../../engine/timeline/running-timeline.ts';
import { TenantAttachment } from '../../engine/timeline/tenant-claims.ts';
import { tenantConfigDefaults } from '../../engine/timeline/tenant-config.ts';
import type { PageServiceFixture } from '../contracts/page-service.ts';
import { hostClock, hostRandom, silentLog } from './any-host.ts';
import { ModelRedo } from './model-redo.ts';
import { samplePage } from './page-service-fixture.ts';

export type TimelineKind = 'memory' | 'files' | 'branch' | 'remote';

export interface TimelineFixtureOptions {
  readonly kind: TimelineKind;
  readonly template: TenantTemplate;
  readonly store: ObjectStore;
  readonly yieldTurn: () => Promise<void>;
  /** Puts something before the service, or before a remote ancestor. */
  readonly wrap?: (service: PageService) => PageService;
}

const rel: RelTag = { spc: 1663, db: 5, rel: 90_000, fork: 0 };
const prefix = relPrefix(rel);
const tenant = tenantId('11'.repeat(16));
const sizes = { earlier: 3, later: 20 };

function sharedParts({ store, yieldTurn }: TimelineFixtureOptions): SharedParts {
  return {
    store,
    staging: null,
    attachment: new TenantAttachment(store, tenant, 0),
    wal: [],
    redo: new ModelRedo(),
    clock: hostClock,
    random: hostRandom,
    log: silentLog,
    config: () => tenantConfigDefaults,
    limits: defaultPageserverLimits,
    blocks: new BlockCache(1e7),
    versions: new ClockCache(1e6),
    yieldTurn,
    compaction: inThisThread,
    deletedCounters: new TimelineCounters(),
    survey: new SafekeeperSurvey(),
  };
}

async function start(
  shared: SharedParts,
  ancestor: Ancestor | null,
  part: (id: TenantTimelineId) => Promise<IndexPart>,
): Promise<RunningTimeline> {
  const id = { tenantId: tenant, timelineId: newTimelineId(hostRandom) };
  const index = await StoredIndex.create(shared.store, id, 0, await part(id));
  return new RunningTimeline(id, index, ancestor, [], shared);
}

function put({ timeline }: RunningTimeline, lsn: Lsn, size: number): void {
  timeline.putImage(prefix, sizeBlock, lsn, encodeSize(size));
  for (let block = 0; block < size; block++) {
    // Block 1 does not change: its older version is the one to be seen at both LSNs.
    if (block !== 1 || size === sizes.earlier) timeline.putImage(prefix, block, lsn, samplePage(rel, block, lsn));
  }
}

export async function timelineFixture(options: TimelineFixtureOptions): Promise<PageServiceFixture> {
  const { kind, template, wrap = (service) => service } = options;
  const shared = sharedParts(options);
  const main = await start(shared, null, (id) => bootstrap(shared.store, id, 0, template, shared.yieldTurn));
  const earlier = (template.lsn + 1024) as Lsn;
  const later = (template.lsn + 4096) as Lsn;
  const { timeline } = main;
  const directory = relDirectoryKey(rel.spc, rel.db);
  timeline.putPatch(directory.prefix, directory.block, earlier, directoryPatch(true, rel.rel, rel.fork));
  put(main, earlier, sizes.earlier);
  timeline.advance(earlier, template.lsn);
  let used = main;
  if (kind === 'branch' || kind === 'remote') {
    const ancestor: Ancestor =
      kind === 'branch'
        ? { kind: 'local', lsn: earlier, open: () => timeline }
        : { kind: 'remote', lsn: earlier, service: wrap(main.pages) };
    used = await start(shared, ancestor, async (id) =>
      branchIndex({ ...sourceOf(main), timelineId: id.timelineId }, earlier),
    );
  }
  put(used, later, sizes.later);
  used.timeline.advance(later, earlier);
  if (kind === 'files') await main.flush();
  return {
    service: kind === 'remote' ? used.pages : wrap(used.pages),
    rel,
    earlier,
    later,
    sizes,
    expectedPage: (lsn, block) => samplePage(rel, block, lsn === earlier || block === 1 ? earlier : later),
    advance: async () => used.timeline.advance((later + 64) as Lsn, later),
    close: async () => {
      await used.close();
      await main.close();
    },
  };
}

const sourceOf = ({ timeline }: RunningTimeline) => ({
  systemIdentifier: timeline.systemIdentifier,
  startLsn: timeline.startLsn,
  lastRecordLsn: timeline.lastRecordLsn,
  gcCutoffLsn: timeline.gcCutoffLsn,
  prevRecordLsn: timeline.prevRecordLsn,
});
