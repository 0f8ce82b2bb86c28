/**
 * PostgreSQL's timers (statement_timeout, lock_timeout, deadlock_timeout, ...). Emscripten's setitimer is a JavaScript timer, which in a
 * thread that never goes back to its event loop would never fire: while the backend serves, `setTimeout` keeps such timers here, and
 * the listener, which has an event loop, says when one is due.
 */
export class BackendTimers {
  readonly #announce: (dueAt: number) => void;
  readonly #timers = new Map<number, { readonly dueAt: number; readonly run: () => void }>();
  #next = 1;
  #setTimeout: typeof globalThis.setTimeout | null = null;
  #clearTimeout: typeof globalThis.clearTimeout | null = null;

  constructor(announce: (dueAt: number) => void) {
    this.#announce = announce;
  }

  install(): void {
    this.#setTimeout = globalThis.setTimeout;
    this.#clearTimeout = globalThis.clearTimeout;
    const add = (run: () => void, ms = 0) => {
      const id = this.#next++;
      const dueAt = Date.now() + ms;
      this.#timers.set(id, { dueAt, run });
      this.#announce(dueAt);
      return id;
    };
    globalThis.setTimeout = add as unknown as typeof globalThis.setTimeout;
    globalThis.clearTimeout = ((id: number) => this.#timers.delete(id)) as unknown as typeof globalThis.clearTimeout;
  }

  uninstall(): void {
    if (this.#setTimeout !== null) globalThis.setTimeout = this.#setTimeout;
    if (this.#clearTimeout !== null) globalThis.clearTimeout = this.#clearTimeout;
  }

  runDue(): void {
    const now = Date.now();
    for (const [id, timer] of this.#timers) {
      if (timer.dueAt > now) continue;
      this.#timers.delete(id);
      timer.run();
    }
    // The listener keeps one alarm, the earliest that it has heard of.
    let earliest = Number.POSITIVE_INFINITY;
    for (const { dueAt } of this.#timers.values()) earliest = Math.min(earliest, dueAt);
    if (earliest < Number.POSITIVE_INFINITY) this.#announce(earliest);
  }
}
