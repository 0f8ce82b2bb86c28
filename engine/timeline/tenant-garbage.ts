/** What the timelines of a tenant have to keep, and the removal of the rest: when it is asked for, and by the clock. */
import { messageOf } from '../errors.ts';
import type { TimelineId } from '../model/ids.ts';
import { formatLsn } from '../model/lsn.ts';
import type { GcResult } from './garbage-collection.ts';
import { skipped } from './garbage-collection.ts';
import { findRetention, type Retention } from './retention.ts';
import type { SharedParts } from './running-timeline.ts';
import type { TenantSlots } from './tenant-slots.ts';

export class TenantGarbage {
  readonly #slots: TenantSlots;
  readonly #shared: SharedParts;
  #closed = false;
  #collectedAtMs: number;
  #collecting: Promise<void> | null = null;

  constructor(slots: TenantSlots, shared: SharedParts) {
    this.#slots = slots;
    this.#shared = shared;
    this.#collectedAtMs = shared.clock.now();
  }

  /** Collects all timelines, one after another, in the background, if that is due. */
  collectIfDue(): void {
    const { clock, config } = this.#shared;
    const { gc_period } = config();
    if (gc_period === 0 || this.#collecting !== null || clock.now() - this.#collectedAtMs < gc_period) return;
    this.#collectedAtMs = clock.now();
    this.#collecting = this.#collectAll().finally(() => {
      this.#collecting = null;
    });
  }

  async #collectAll(): Promise<void> {
    const { log } = this.#shared;
    for (const timeline of this.#slots.ids()) {
      if (this.#closed) return;
      if (this.#slots.find(timeline) === null) continue;
      try {
        this.#tell(timeline, await this.collect(timeline));
      } catch (error) {
        // One that is damaged, or is being closed, keeps what it has; the others do not wait for it.
        if (!this.#closed) {
          log.error('garbage collection failed', { ...this.#slots.idOf(timeline), error: messageOf(error) });
        }
      }
    }
  }

  #tell(timeline: TimelineId, { cutoffLsn, layersRemoved, bytesRemoved, skipped: reason }: GcResult): void {
    const { log } = this.#shared;
    const id = this.#slots.idOf(timeline);
    if (reason !== null) log.debug('garbage collection skipped', { ...id, reason });
    if (cutoffLsn === null || layersRemoved === 0) return;
    log.info('collected garbage', { ...id, cutoffLsn: formatLsn(cutoffLsn), layersRemoved, bytesRemoved });
  }

  /** What of a timeline's history must stay, and why. Throws as TenantSlots.running. */
  async retention(timeline: TimelineId): Promise<Retention> {
    const running = this.#slots.running(timeline);
    const { clock, config } = this.#shared;
    const nowMs = clock.now();
    return findRetention({
      timeline: running.timeline,
      pages: running.pages,
      config: config(),
      nowMs,
      branchPoints: this.#slots.branchPoints(timeline),
      leases: running.leases.active(nowMs),
      storedLsn: running.uploads.storedPart.diskConsistentLsn,
    });
  }

  /** Removes what a timeline no longer has to keep. Nothing is removed while a timeline cannot be opened, which may be a branch of this one. */
  async collect(timeline: TimelineId): Promise<GcResult> {
    const [broken] = this.#slots.brokenIds();
    if (broken !== undefined) return skipped(`timeline ${broken} cannot be opened, and may be a branch of it`);
    const { cutoffLsn } = await this.retention(timeline);
    const running = this.#slots.running(timeline);
    return running.collectGarbage(cutoffLsn, () => this.#slots.branchPoints(timeline).map(({ lsn }) => lsn));
  }

  /** What fails from now on is not told. Resolves when nothing is under way. */
  close(): Promise<void> {
    this.#closed = true;
    return this.#collecting ?? Promise.resolve();
  }
}
