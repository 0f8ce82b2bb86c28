/**
 * The timelines of a tenant by id, and what each of them is just now. Bookkeeping of tenant.ts, which opens, makes and removes them; nothing here takes time.
 *
 * Invariant: a timeline that reads from another, or is about to, is found here by `branchPoints` of that one, in every state but `broken`.
 */
import { must } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import type { TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { IndexPart, StoredIndex } from './index-part.ts';
import type { RunningTimeline } from './running-timeline.ts';

export type SettledSlot =
  | { readonly kind: 'running'; readonly running: RunningTimeline }
  | { readonly kind: 'broken'; readonly error: Error }
  /** It rests: nobody can read it until it is taken up again. */
  | { readonly kind: 'archived'; readonly index: StoredIndex; readonly leftovers: readonly string[] };

export type Slot =
  | SettledSlot
  /**
   * Being created, as a branch of another or not, or being deleted. `branchLsn`: where it branches off, once that is checked. `removal`: what it has in
   * the store is being removed. `rebuild`: it is begun anew.
   */
  | {
      readonly kind: 'busy';
      readonly ancestorId: TimelineId | null;
      readonly branchLsn?: Lsn;
      readonly removal?: Promise<void>;
      readonly rebuild?: Promise<void>;
    };

export interface BranchPoint {
  readonly lsn: Lsn;
  readonly timelineId: TimelineId;
}

export class TenantSlots {
  readonly #tenant: TenantId;
  readonly #slots = new Map<TimelineId, Slot>();

  constructor(tenant: TenantId) {
    this.#tenant = tenant;
  }

  get(timeline: TimelineId): Slot | undefined {
    return this.#slots.get(timeline);
  }

  set(timeline: TimelineId, slot: Slot): void {
    this.#slots.set(timeline, slot);
  }

  delete(timeline: TimelineId): void {
    this.#slots.delete(timeline);
  }

  all(): Slot[] {
    return [...this.#slots.values()];
  }

  /** Of those that are there, in order: not of those that are being made or removed. */
  ids(): TimelineId[] {
    return this.#idsOf(({ kind }) => kind !== 'busy').sort();
  }

  /** Those that could not be opened. */
  brokenIds(): TimelineId[] {
    return this.#idsOf(({ kind }) => kind === 'broken');
  }

  #idsOf(isMeant: (slot: Slot) => boolean): TimelineId[] {
    return [...this.#slots].filter(([, slot]) => isMeant(slot)).map(([id]) => id);
  }

  /** Throws `notFound`, and `unavailable` while it is being removed or begun anew. */
  settled(timeline: TimelineId): SettledSlot {
    const slot = this.#slots.get(timeline);
    if (slot !== undefined && slot.kind !== 'busy') return slot;
    const id = this.idOf(timeline);
    if (slot?.rebuild !== undefined) throw beingChanged(id, 'begun anew');
    if (slot?.removal !== undefined) throw beingChanged(id, 'removed from the store');
    throw this.#noTimeline(timeline);
  }

  #noTimeline(timeline: TimelineId): PageliteError {
    const id = this.idOf(timeline);
    return new PageliteError('notFound', `timeline ${timeline} of tenant ${this.#tenant} does not exist`, { ...id });
  }

  /** Throws `invalid` if the id is taken, and `unavailable` while what had it is being removed. */
  checkFree(timeline: TimelineId): void {
    const slot = this.#slots.get(timeline);
    if (slot === undefined) return;
    const id = this.idOf(timeline);
    if (slot.kind === 'busy' && slot.removal !== undefined) throw beingChanged(id, 'removed from the store');
    throw new PageliteError('invalid', `timeline ${timeline} exists`, { ...id });
  }

  /** Throws `unavailable` if it is not as it was any more: whoever is about to change it has waited for something. */
  checkSame(timeline: TimelineId, slot: SettledSlot): void {
    if (this.settled(timeline) !== slot) throw beingChanged(this.idOf(timeline), 'changed');
  }

  /**
   * For its readers. Throws `notFound`, also while it is being removed; `unavailable` while it is begun anew; `invalid` if it rests; the reason if it cannot be
   * opened: `corrupt`, and the file.
   */
  running(timeline: TimelineId): RunningTimeline {
    const found = this.#slots.get(timeline);
    if (found?.kind === 'busy' && found.removal !== undefined) throw this.#noTimeline(timeline);
    const slot = this.settled(timeline);
    if (slot.kind === 'broken') throw slot.error;
    if (slot.kind === 'archived') {
      const message = `timeline ${timeline} is archived. Take it up again first: pagelite timeline unarchive`;
      throw new PageliteError('invalid', message, { ...this.idOf(timeline) });
    }
    return slot.running;
  }

  /** While it is begun anew: resolves when that has ended, well or not. */
  rebuildOf(timeline: TimelineId): Promise<void> | undefined {
    const slot = this.#slots.get(timeline);
    return slot?.kind === 'busy' ? slot.rebuild : undefined;
  }

  /** Null if there is none that runs. */
  find(timeline: TimelineId): RunningTimeline | null {
    const slot = this.#slots.get(timeline);
    return slot?.kind === 'running' ? slot.running : null;
  }

  allRunning(): RunningTimeline[] {
    return this.all().flatMap((slot) => (slot.kind === 'running' ? [slot.running] : []));
  }

  /** The index of a timeline that is archived; null if it is not. */
  archived(timeline: TimelineId): IndexPart | null {
    const slot = this.#slots.get(timeline);
    return slot?.kind === 'archived' ? slot.index.part : null;
  }

  /** Throws `invalid` if one that branched from it does not rest. */
  checkBranchesRest(ancestor: TimelineId): void {
    for (const [id, slot] of this.#slots) {
      if (ancestorOf(slot) !== ancestor || slot.kind === 'archived') continue;
      const message = `timeline ${ancestor} cannot be archived: its branch ${id} is not`;
      throw new PageliteError('invalid', message, { ...this.idOf(ancestor) });
    }
  }

  /**
   * Throws `invalid` if a timeline must stay: others read from it, or may do so. Of several that cannot be opened each can be deleted, as far as is
   * known.
   */
  checkNotNeeded(timeline: TimelineId): void {
    const reason = this.#neededBy(timeline);
    if (reason === null) return;
    const message = `timeline ${timeline} cannot be deleted: ${reason}`;
    throw new PageliteError('invalid', message, { ...this.idOf(timeline) });
  }

  #neededBy(timeline: TimelineId): string | null {
    const isBroken = this.#slots.get(timeline)?.kind === 'broken';
    for (const [id, slot] of this.#slots) {
      if (id === timeline) continue;
      if (slot.kind === 'broken' && !isBroken) return `${id} cannot be opened, and may be a branch of it`;
      if (ancestorOf(slot) === timeline) return `${id} is a branch of it`;
    }
    return null;
  }

  /** Whether `from` is `ancestor`, or a branch of it, or of one of its branches. */
  descends(from: TimelineId | null, ancestor: TimelineId): boolean {
    for (let above = from; above !== null; above = ancestorOf(this.#slots.get(above))) {
      if (above === ancestor) return true;
    }
    return false;
  }

  /** Where others branch off. */
  branchPoints(ancestor: TimelineId): BranchPoint[] {
    const points: BranchPoint[] = [];
    for (const [timelineId, slot] of this.#slots) {
      if (slot.kind === 'running' && slot.running.timeline.ancestorId === ancestor) {
        points.push({ timelineId, lsn: must(slot.running.timeline.ancestor).lsn });
      } else if (slot.kind === 'archived' && slot.index.part.ancestor?.timelineId === ancestor) {
        points.push({ timelineId, lsn: slot.index.part.ancestor.lsn });
      } else if (slot.kind === 'busy' && slot.ancestorId === ancestor && slot.branchLsn !== undefined) {
        points.push({ timelineId, lsn: slot.branchLsn });
      }
    }
    return points;
  }

  idOf(timeline: TimelineId): TenantTimelineId {
    return { tenantId: this.#tenant, timelineId: timeline };
  }
}

export const beingChanged = (id: TenantTimelineId, how: string): PageliteError =>
  new PageliteError('unavailable', `timeline ${id.timelineId} is being ${how}: try again`, { ...id });

function ancestorOf(slot: Slot | undefined): TimelineId | null {
  if (slot === undefined) return null;
  if (slot.kind === 'running') return slot.running.timeline.ancestorId;
  if (slot.kind === 'archived') return slot.index.part.ancestor?.timelineId ?? null;
  return slot.kind === 'busy' ? slot.ancestorId : null;
}
