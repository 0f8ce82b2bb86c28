/**
 * Makes a timeline here that has all pages of a timeline elsewhere as of one LSN: a branch taken offline. It has no ancestor; its own WAL goes on
 * at that LSN.
 *
 * Pages are read through the PageService seam, in large requests, several under way at a time, and written as image layers of
 * `copyLayerBytesMax`. After each, `copy.json` beside them says how far it is; the next attempt at the same timeline goes on there, at the
 * same LSN. The index is stored last: until then there is no timeline.
 *
 * Invariants:
 * - `copy.json` names the layers that are complete, and they hold everything before `next`
 * - keys are written in ascending order, so that the layers have disjoint ranges
 */
import { systemIdentifierOf } from '../basebackup/control-data.ts';
import { PageliteError } from '../errors.ts';
import { ImageLayerWriter } from '../layers/image-layer.ts';
import { copyLayerBytesMax, copyRequestsMax, keysPerRequestMax, pageSize, pagesPerRequestMax } from '../limits.ts';
import { newTimelineId, type TenantId, type TenantTimelineId } from '../model/ids.ts';
import { controlFileKey, type Key, relPrefix } from '../model/key.ts';
import { alignLsn, formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, ObjectStore, PageService, Random } from '../services.ts';
import { newIndexPart, timelineFolder } from '../timeline/index-part.ts';
import type { Pageserver } from '../timeline/pageserver.ts';
import { recordEnd } from '../wal/wal-page.ts';
import { type CopyRecord, findCopy, removeCopyRecord, storeCopyRecord } from './copy-record.ts';
import type { TransferProgress } from './push-timeline.ts';
import { type ContentStep, timelineContents } from './timeline-contents.ts';
import { storeTransferRecord } from './transfer-record.ts';

export interface CopyTimelineOptions {
  readonly from: PageService;
  /** Name of the branch there; kept for who asks where the copy comes from. */
  readonly name: string | null;
  /** Null: as far as it has ingested. A copy that was begun keeps the LSN that it was begun at. */
  readonly lsn: Lsn | null;
  /** Where it comes to. */
  readonly pageserver: Pageserver;
  readonly store: ObjectStore;
  readonly tenantId: TenantId;
  readonly clock: Clock;
  readonly random: Random;
  readonly progress?: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

export interface TimelineCopy {
  readonly id: TenantTimelineId;
  readonly lsn: Lsn;
}

/** Rejects as the PageService and the store do (`unavailable`, no room), and `cancelled`; called again it goes on. */
export async function copyTimeline(options: CopyTimelineOptions): Promise<TimelineCopy> {
  const record = await findOrBegin(options);
  const { id, lsn, prevRecordLsn, systemIdentifier, source } = record;
  const { layers } = await new Copy(options, record).run();
  const pulledFrom = { id: source.id, lsn, name: source.name };
  await storeTransferRecord(options.store, id, { pulledFrom, pushedTo: null });
  // Nothing of the timeline is older, so each layer is all there is of its range.
  const entries = layers.map((layer) => ({ ...layer, generation: 0, isComplete: true }));
  const part = newIndexPart({ systemIdentifier, lsn, prevRecordLsn, layers: entries });
  await options.pageserver.adoptTimeline(id, part);
  await removeCopyRecord(options.store, id);
  return { id, lsn };
}

async function findOrBegin(options: CopyTimelineOptions): Promise<CopyRecord> {
  const { from, name, store, pageserver, tenantId, clock, random, signal } = options;
  const timelines = await pageserver.listTimelines(tenantId);
  const begun = await findCopy(store, tenantId, from.id, clock.now());
  if (begun !== null && !timelines.includes(begun.id.timelineId)) return begun;
  if (begun !== null) await removeCopyRecord(store, begun.id);
  const status = await from.getStatus(signal);
  const lsn = options.lsn === null ? status.lastRecordLsn : recordEnd(alignLsn(options.lsn));
  const [control] = await from.getImages({ requestLsn: lsn, notModifiedSince: lsn }, [controlFileKey], signal);
  if (control == null)
    throw new PageliteError('corrupt', `timeline ${from.id.timelineId} has no pg_control`, { ...from.id });
  const record: CopyRecord = {
    id: { tenantId, timelineId: newTimelineId(random) },
    source: { id: from.id, name },
    lsn,
    prevRecordLsn: lsn === status.lastRecordLsn ? status.prevRecordLsn : invalidLsn,
    systemIdentifier: systemIdentifierOf(control),
    layers: [],
    next: { step: 0, block: 0 },
    touchedAt: clock.now(),
  };
  await storeCopyRecord(store, record);
  return record;
}

/** One request: some values, or some pages of a relation. */
interface Piece {
  readonly step: number;
  /** Of its step: the first key or block. */
  readonly first: number;
  readonly keys: readonly Key[];
  readonly values: Promise<(Uint8Array | null)[]>;
}

class Copy {
  readonly #options: CopyTimelineOptions;
  #record: CopyRecord;
  #writer: ImageLayerWriter;
  #done = 0;
  #total = 0;

  constructor(options: CopyTimelineOptions, record: CopyRecord) {
    this.#options = options;
    this.#record = record;
    this.#writer = this.#newWriter();
  }

  async run(): Promise<CopyRecord> {
    const { from, signal } = this.#options;
    const steps = await timelineContents(from, this.#record.lsn, signal);
    this.#total = steps.reduce((sum, step) => sum + bytesOf(step), 0);
    this.#done = this.#doneBefore(steps);
    this.#tell();
    const underWay: Piece[] = [];
    const requests = this.#requests(steps);
    for (;;) {
      while (underWay.length < copyRequestsMax) {
        const { value, done } = requests.next();
        if (done) break;
        underWay.push(value);
      }
      const piece = underWay.shift();
      if (piece === undefined) break;
      await this.#take(piece);
    }
    await this.#closeLayer({ step: steps.length, block: 0 });
    return this.#record;
  }

  *#requests(steps: readonly ContentStep[]): Generator<Piece, undefined> {
    const { from, signal } = this.#options;
    const { lsn, next } = this.#record;
    const at = { requestLsn: lsn, notModifiedSince: lsn };
    for (let step = next.step; step < steps.length; step++) {
      const content = steps[step]!;
      const count = content.kind === 'pages' ? content.size : content.keys.length;
      const most = content.kind === 'pages' ? pagesPerRequestMax : keysPerRequestMax;
      for (let first = step === next.step ? next.block : 0; first < count; first += most) {
        const length = Math.min(most, count - first);
        let keys: readonly Key[];
        let values: Promise<(Uint8Array | null)[]>;
        if (content.kind === 'pages') {
          const prefix = relPrefix(content.rel);
          keys = Array.from({ length }, (_, i): Key => ({ prefix, block: first + i }));
          values = from.getPages(at, content.rel, first, length, signal).then(splitPages);
        } else {
          keys = content.keys.slice(first, first + length);
          values = from.getImages(at, keys, signal);
        }
        // Whoever takes the piece hears of a failure; an earlier piece may fail first.
        values.catch(() => {});
        yield { step, first, keys, values };
      }
    }
    return undefined;
  }

  async #take({ step, first, keys, values }: Piece): Promise<void> {
    this.#options.signal?.throwIfAborted();
    for (const [i, value] of (await values).entries()) {
      const { prefix, block } = keys[i]!;
      if (value !== null && value.length > 0) this.#writer.add(prefix, block, value);
    }
    this.#done += keys.length * pageSize;
    this.#tell();
    if (this.#writer.length >= copyLayerBytesMax) await this.#closeLayer({ step, block: first + keys.length });
  }

  async #closeLayer(next: CopyRecord['next']): Promise<void> {
    const { store, clock } = this.#options;
    const { id, layers } = this.#record;
    const written = this.#writer.finish();
    if (written === null) return;
    await store.put(timelineFolder(id) + written.name, written.bytes);
    const layer = { name: written.name, size: written.bytes.length };
    this.#record = { ...this.#record, layers: [...layers, layer], next, touchedAt: clock.now() };
    await storeCopyRecord(store, this.#record);
    this.#writer = this.#newWriter();
  }

  #newWriter(): ImageLayerWriter {
    const { id, lsn } = this.#record;
    return new ImageLayerWriter(id, lsn, copyLayerBytesMax + pagesPerRequestMax * pageSize * 2);
  }

  #doneBefore(steps: readonly ContentStep[]): number {
    const { step, block } = this.#record.next;
    return steps.slice(0, step).reduce((sum, one) => sum + bytesOf(one), 0) + block * pageSize;
  }

  #tell(): void {
    const { progress } = this.#options;
    const text = `Reading pages as of ${formatLsn(this.#record.lsn)}`;
    progress?.({ text, done: this.#done, total: this.#total, unit: 'bytes' });
  }
}

/** Every value counts as a page: nearly all are. */
const bytesOf = (step: ContentStep): number => (step.kind === 'pages' ? step.size : step.keys.length) * pageSize;

/** Pages of zeros are not kept: a block that a relation has and no layer is one. */
function splitPages(pages: Uint8Array): (Uint8Array | null)[] {
  return Array.from({ length: pages.length / pageSize }, (_, i) => {
    const page = pages.subarray(i * pageSize, (i + 1) * pageSize);
    return page.some((byte) => byte !== 0) ? page : null;
  });
}
