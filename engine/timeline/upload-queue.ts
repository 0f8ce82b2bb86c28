/**
 * W9. What a timeline has in the object store, brought up to date in one order: layers first, the index that names them second, deletes of what it no
 * longer names last.
 *
 * Called by whatever makes or drops layers (flush, compaction, garbage collection, imports). `part` is the index as this process has it; the store
 * follows. Several changes that come while the store is busy are stored as one. Where layers are staged on a local disk (LayerStaging), changes count
 * here before they are in the store; otherwise the caller waits for `change`. Leases are stored between, with the index as the store has it.
 *
 * Invariants:
 * - an index in the store names only objects that are in the store
 * - an object is deleted only after an index without it is stored, nobody newer has attached the tenant, and the reads that may use it have ended
 * - a store that is away is tried again until it is back; whoever is `fenced` stops for good
 */
import { isPageliteError, messageOf } from '../errors.ts';
import type { WrittenLayer } from '../layers/layer-writer.ts';
import { reconnectPauseMaxMs, reconnectPauseMinMs } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Clock, LayerStaging, Log, ObjectStore } from '../services.ts';
import { type IndexPart, type LayerEntry, layerKey, type StoredIndex, type StoredLease } from './index-part.ts';
import type { TenantAttachment } from './tenant-claims.ts';

export interface UploadQueueParts {
  readonly index: StoredIndex;
  readonly store: ObjectStore;
  readonly staging: LayerStaging | null;
  readonly attachment: TenantAttachment;
  readonly clock: Clock;
  readonly log: Log;
  /** Aborted when the timeline is closed: attempts end. */
  readonly signal: AbortSignal;
  /** Resolves when every read that may have found a layer dropped by now has ended. */
  readersGone(): Promise<void>;
  /** The store has an index of ours now, and nobody newer has attached the tenant. */
  onStored(): void;
  /** Nothing more can be stored: `fenced`, or worse. */
  onFailure(error: Error): void;
}

export interface UploadStatus {
  /** Layers that are not in the store yet. */
  readonly waitingLayers: number;
  readonly waitingBytes: number;
  readonly deleting: number;
  /** Why the last attempt failed; null if it did not. */
  readonly lastError: string | null;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** A layer that was added, and that no stored index has named yet. */
interface AddedLayer {
  readonly entry: LayerEntry;
  readonly size: number;
  isUploaded: boolean;
  /** The index of this process has named it. */
  isNamed: boolean;
}

/** Layers that are uploaded at the same time. */
const uploadsAtOnce = 3;

export class UploadQueue {
  readonly id: TenantTimelineId;
  readonly #parts: UploadQueueParts;
  #part: IndexPart;
  /** By key. */
  readonly #added = new Map<string, AddedLayer>();
  #waiters: Waiter[] = [];
  #running: Promise<void> | null = null;
  /** The puts of the index, one after another. */
  #puts: Promise<void> = Promise.resolve();
  #deletions: Promise<void> = Promise.resolve();
  #deleting = 0;
  /** Keys that are going to be removed, and the one that is being removed. */
  readonly #leftovers = new Set<string>();
  #removing: string | null = null;
  #failure: Error | null = null;
  #lastError: string | null = null;

  constructor(parts: UploadQueueParts) {
    this.#parts = parts;
    this.id = parts.index.id;
    this.#part = parts.index.part;
  }

  /** The index as this process has it. */
  get part(): IndexPart {
    return this.#part;
  }

  /** The index as the store has it: what remains of the timeline if this host is lost. */
  get storedPart(): IndexPart {
    return this.#parts.index.part;
  }

  /** Layers are readable before they are in the store: nobody needs to wait for it. */
  get isStaged(): boolean {
    return this.#parts.staging !== null;
  }

  get generation(): number {
    return this.#parts.index.generation;
  }

  get status(): UploadStatus {
    let waitingLayers = 0;
    let waitingBytes = 0;
    for (const { size, isUploaded } of this.#added.values()) {
      if (isUploaded) continue;
      waitingLayers++;
      waitingBytes += size;
    }
    return { waitingLayers, waitingBytes, deleting: this.#deleting, lastError: this.#lastError };
  }

  /** Makes a new layer readable, unless the queue has failed; it counts once a change of the index names it. */
  async addLayer({ name, bytes }: WrittenLayer, isComplete = false): Promise<LayerEntry> {
    this.checkWorks();
    const entry: LayerEntry = { name, size: bytes.length, generation: this.generation, isComplete };
    const key = layerKey(this.id, entry);
    const { staging, store } = this.#parts;
    // A crash may have left a layer of this name: from now on it is this one.
    this.#leftovers.delete(key);
    if (this.#removing === key) await this.#deletions;
    this.#added.set(key, { entry, size: bytes.length, isUploaded: staging === null, isNamed: false });
    try {
      await this.#retry(() => (staging === null ? store.put(key, bytes) : staging.stage(key, bytes)));
    } catch (error) {
      this.#added.delete(key);
      throw error;
    }
    return entry;
  }

  /** `part` is what `change` makes of it, at once. Resolves when the store has it. Rejects when the queue has failed or is closed. */
  change(change: (part: IndexPart) => IndexPart): Promise<void> {
    const done = new Promise<void>((resolve, reject) => {
      if (this.#failure !== null) reject(this.#failure);
      else this.#waiters.push({ resolve, reject });
    });
    // Not everybody waits; the queue tells of a failure by itself.
    done.catch(() => {});
    if (this.#failure !== null) return done;
    this.#setPart(change(this.#part));
    this.#kick();
    return done;
  }

  /** As `change`, but a store that is away rejects it (`unavailable`), and then nothing has changed. */
  async tryChange(change: (part: IndexPart) => IndexPart): Promise<void> {
    while (this.#running !== null) await this.#running;
    if (this.#failure !== null) throw this.#failure;
    const { index, attachment } = this.#parts;
    const before = index.part;
    const attempt = async () => {
      const next = change(this.#part);
      await this.#uploadLayers(next);
      await this.#putIndex(() => next);
      // Others may have made changes meanwhile, which are stored after this one.
      this.#setPart(change(this.#part));
      await attachment.check();
    };
    const done = attempt();
    this.#occupied(
      done.then(
        () => this.#stored(before),
        () => {},
      ),
    );
    await done;
  }

  /**
   * Stores leases, at once: layers that wait for their upload do not hold it up. Resolves when the store has them and nobody newer has attached the
   * tenant. Throws `unavailable`, and then the store may have them or not.
   */
  async storeLeases(leases: readonly StoredLease[]): Promise<void> {
    this.checkWorks();
    const { index, attachment } = this.#parts;
    this.#part = { ...this.#part, leases };
    await this.#putIndex(() => index.part);
    await attachment.check();
  }

  #setPart(part: IndexPart): void {
    this.#part = part;
    for (const added of this.#added.values()) added.isNamed ||= isNamedBy(part, added.entry);
  }

  /** Whatever else an index is about, its leases are those of now. */
  #putIndex(part: () => IndexPart): Promise<void> {
    const put = this.#puts.then(() => this.#replaceIndex({ ...part(), leases: this.#part.leases }));
    this.#puts = put.catch(() => {});
    return put;
  }

  async #replaceIndex(part: IndexPart): Promise<void> {
    const { index, attachment } = this.#parts;
    try {
      await index.put(part);
    } catch (error) {
      // Whoever has the tenant now, or has deleted it, has removed what we had put: then that is what happened.
      if (isPageliteError(error, 'fenced')) await attachment.check();
      throw error;
    }
  }

  /** Throws if nothing more can be stored, with the reason. */
  checkWorks(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Resolves when the store has everything. Rejects when it never will. */
  async idle(): Promise<void> {
    while (this.#running !== null) await this.#running;
    if (this.#failure !== null) throw this.#failure;
  }

  /** Resolves when the store has everything, and what was dropped is deleted. */
  async settled(): Promise<void> {
    await this.idle();
    await this.#deletions;
  }

  /** Resolves when nothing is under way any more: after the signal fired, what is not stored stays so, and is made of WAL again. */
  async close(): Promise<void> {
    await this.#running;
    await this.#puts;
    await this.#deletions;
  }

  /** Removes layers that were added and that no index names. */
  discard(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.#added.delete(key);
    return this.deleteObjects(keys);
  }

  /** Removes what earlier owners or a crash left, but for what was written anew since, or is meanwhile. */
  async removeLeftovers(keys: readonly string[]): Promise<void> {
    const named = new Set(this.#part.layers.map((entry) => layerKey(this.id, entry)));
    for (const key of keys) if (!named.has(key) && !this.#added.has(key)) this.#leftovers.add(key);
    for (const key of keys) {
      if (!this.#leftovers.delete(key)) continue;
      this.#parts.log.info('removing a file that the index does not name', { file: key });
      this.#removing = key;
      await this.deleteObjects([key]);
      this.#removing = null;
    }
  }

  /** Deletes objects that no index of ours names, in the background. Never rejects. */
  deleteObjects(keys: readonly string[]): Promise<void> {
    this.#deleting += keys.length;
    this.#deletions = this.#deletions
      .then(() => this.#delete(keys))
      .catch((error) => {
        // They are waste from now on, which a later start or a scrub removes.
        if (!this.#parts.signal.aborted) {
          this.#parts.log.warn('objects cannot be deleted', { ...this.id, error: messageOf(error) });
        }
      })
      .finally(() => {
        this.#deleting -= keys.length;
      });
    return this.#deletions;
  }

  #kick(): void {
    if (this.#running === null) this.#occupied(this.#run());
  }

  /** `work` has the store for itself. What comes as it ends, and sees it still under way, is done next. */
  #occupied(work: Promise<void>): void {
    this.#running = work.finally(() => {
      this.#running = null;
      if (this.#waiters.length > 0) this.#kick();
    });
  }

  async #run(): Promise<void> {
    const { index, attachment, log, signal } = this.#parts;
    let waiters: Waiter[] = [];
    try {
      while (this.#waiters.length > 0) {
        waiters = this.#waiters.splice(0);
        const before = index.part;
        const part = this.#part;
        await this.#retry(() => this.#uploadLayers(part));
        await this.#retry(() => this.#putIndex(() => part));
        await this.#retry(() => attachment.check());
        this.#lastError = null;
        for (const { resolve } of waiters.splice(0)) resolve();
        this.#stored(before);
      }
    } catch (error) {
      this.#failure = error as Error;
      for (const { reject } of [...waiters, ...this.#waiters.splice(0)]) reject(error as Error);
      if (signal.aborted) return;
      log.error('a timeline cannot be stored', { ...this.id, error: messageOf(error) });
      this.#parts.onFailure(error as Error);
    }
  }

  /** What `part` names is in the store afterwards. */
  async #uploadLayers(part: IndexPart): Promise<void> {
    const { staging, signal } = this.#parts;
    if (staging === null) return;
    const keys = [...this.#added]
      .filter(([, layer]) => !layer.isUploaded && isNamedBy(part, layer.entry))
      .map(([key]) => key);
    const uploadNext = async (): Promise<void> => {
      for (let key = keys.shift(); key !== undefined; key = keys.shift()) {
        signal.throwIfAborted();
        await staging.upload(key);
        const added = this.#added.get(key);
        if (added !== undefined) added.isUploaded = true;
      }
    };
    const results = await Promise.allSettled(Array.from({ length: uploadsAtOnce }, uploadNext));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** `before`: the index that was stored before the present one. */
  #stored(before: IndexPart): void {
    this.#parts.onStored();
    const stored = this.#parts.index.part;
    const named = new Set(stored.layers.map((entry) => layerKey(this.id, entry)));
    const dropped = before.layers.map((entry) => layerKey(this.id, entry)).filter((key) => !named.has(key));
    for (const [key, { entry, isNamed }] of this.#added) {
      const isStored = named.has(key);
      // Merged, say, before an index with it came to be stored: none will name it any more.
      const isDropped = isNamed && !isStored && !isNamedBy(this.#part, entry);
      if (isDropped) dropped.push(key);
      if (isDropped || isStored) this.#added.delete(key);
    }
    if (dropped.length > 0) void this.deleteObjects(dropped);
  }

  async #delete(keys: readonly string[]): Promise<void> {
    const { store, attachment, signal } = this.#parts;
    await this.#parts.readersGone();
    signal.throwIfAborted();
    await this.#retry(() => attachment.check());
    for (const key of keys) {
      signal.throwIfAborted();
      await this.#retry(() => store.delete(key));
    }
  }

  #retry(work: () => Promise<unknown>): Promise<void> {
    const { clock, log, signal } = this.#parts;
    return retryUnavailable(work, clock, signal, (error) => {
      this.#lastError = messageOf(error);
      log.warn('the object store is away', { ...this.id, error: messageOf(error) });
    });
  }
}

const isNamedBy = ({ layers }: IndexPart, { name, generation }: LayerEntry): boolean =>
  layers.some((entry) => entry.name === name && entry.generation === generation);

/** Does `work` until it succeeds or fails with anything but `unavailable`, or the signal fires. */
export async function retryUnavailable(
  work: () => Promise<unknown>,
  clock: Clock,
  signal: AbortSignal,
  onError: (error: unknown) => void,
): Promise<void> {
  for (let pause = reconnectPauseMinMs; ; pause = Math.min(pause * 2, reconnectPauseMaxMs)) {
    signal.throwIfAborted();
    try {
      await work();
      return;
    } catch (error) {
      if (!isPageliteError(error, 'unavailable')) throw error;
      onError(error);
      await clock.sleep(pause, signal);
    }
  }
}
