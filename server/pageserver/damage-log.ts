/**
 * Tells of stored objects that reads have found damaged, once each for a while: a compute asks for the same page again and again, and everyone who hears
 * of it is told by an error of his own. Called with every answer of the page service that is an error (serve.ts).
 */
import { isPageliteError } from '../../engine/errors.ts';
import { damagedObjectsMax, damageLogPauseMs } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Clock, Log } from '../../engine/services.ts';

export class DamageLog {
  readonly #log: Log;
  readonly #clock: Pick<Clock, 'now'>;
  /** When each object was told of, the longest ago first. */
  readonly #toldMs = new Map<string, number>();

  constructor(log: Log, clock: Pick<Clock, 'now'>) {
    this.#log = log;
    this.#clock = clock;
  }

  /** A read of `id` failed. */
  observe(id: TenantTimelineId, error: unknown): void {
    if (!isPageliteError(error, 'corrupt')) return;
    const { file } = error.data;
    const object = typeof file === 'string' ? file : `${id.timelineId}: ${error.message}`;
    const now = this.#clock.now();
    const before = this.#toldMs.get(object);
    if (before !== undefined && now - before < damageLogPauseMs) return;
    this.#toldMs.delete(object);
    this.#toldMs.set(object, now);
    if (this.#toldMs.size > damagedObjectsMax) this.#toldMs.delete(this.#toldMs.keys().next().value!);
    this.#log.error('a read found damage', { ...id, ...error.data, error: error.message });
  }
}
