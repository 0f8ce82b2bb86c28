/**
 * Reaches a backend that is busy: cancel, timeouts, a client that went away.
 *
 * A WASM module has no signals, and its memory is not shared; a thread that runs SQL does not look at its messages. But V8 serves
 * its inspector at the loops and calls of running code: what is evaluated in the thread that way can set InterruptPending in the
 * module's memory, and PostgreSQL finds it at its next CHECK_FOR_INTERRUPTS, as after a signal. Measured: the hook runs within
 * about 1 ms of the request in the middle of `select count(*) from generate_series(...)`. Nothing is paid until the first interrupt,
 * no port is opened, and no debugger domain is enabled, so code stays optimised.
 *
 * Not reached: a thread that blocks in Atomics.wait (those waits look at the signal words themselves) and C code that loops without
 * CHECK_FOR_INTERRUPTS, as in PostgreSQL.
 */
import { Session } from 'node:inspector';

export class Interrupter {
  readonly #hookName: string;
  #session: Session | null = null;
  readonly #workers = new Set<string>();
  #messageId = 0;

  constructor(hookName: string) {
    this.#hookName = hookName;
  }

  /** Asks every worker that serves a backend to look at its signals. */
  interrupt(): void {
    this.#connect();
    const expression = `globalThis[Symbol.for(${JSON.stringify(this.#hookName)})]?.()`;
    for (const sessionId of this.#workers) {
      const request = { id: ++this.#messageId, method: 'Runtime.evaluate', params: { expression, silent: true } };
      // A worker that has just ended refuses; there is nothing to interrupt then.
      this.#post('NodeWorker.sendMessageToWorker', { sessionId, message: JSON.stringify(request) });
    }
  }

  close(): void {
    this.#session?.disconnect();
    this.#session = null;
    this.#workers.clear();
  }

  #connect(): void {
    if (this.#session !== null) return;
    const session = new Session();
    session.connect();
    session.on('NodeWorker.attachedToWorker', (event: { params: { sessionId: string } }) => {
      this.#workers.add(event.params.sessionId);
    });
    session.on('NodeWorker.detachedFromWorker', (event: { params: { sessionId: string } }) => {
      this.#workers.delete(event.params.sessionId);
    });
    this.#session = session;
    // Attaches to the workers that run now before it returns, and to later ones as they start.
    this.#post('NodeWorker.enable', { waitForDebuggerOnStart: false });
  }

  #post(method: string, parameters: object): void {
    const session = this.#session as unknown as { post(method: string, parameters: object, done: () => void): void };
    session.post(method, parameters, () => {});
  }
}
