/**
 * Calls between a page and its two workers: comlink, with errors that keep what they are.
 *
 * comlink sends an error's name, message and stack only. A PageliteError crosses as its JSON and is one again on the other side; anything else is a
 * bug or the browser's, and arrives as an Error with its stack in it.
 */
import * as Comlink from 'comlink';
import { isPageliteError, PageliteError } from '../engine/errors.ts';

export { type ProxyMarked, proxy, type Remote, releaseProxy, transfer } from 'comlink';

type Thrown = { readonly pagelite: unknown } | { readonly error: { name: string; message: string; stack: string } };

/** comlink's marker of what was thrown: `{ value }` with a symbol that it does not export; its own handler knows it. */
const plain = Comlink.transferHandlers.get('throw')!;

Comlink.transferHandlers.set('throw', {
  canHandle: (value: unknown): value is { value: unknown } => plain.canHandle(value),
  serialize({ value }: { value: unknown }): [Thrown, Transferable[]] {
    if (isPageliteError(value)) return [{ pagelite: value.toJSON() }, []];
    const error = value instanceof Error ? value : new Error(String(value));
    return [{ error: { name: error.name, message: error.message, stack: error.stack ?? '' } }, []];
  },
  deserialize(thrown: Thrown): never {
    if ('pagelite' in thrown) throw PageliteError.fromJSON(thrown.pagelite);
    throw Object.assign(new Error(thrown.error.message), thrown.error);
  },
});

/** Serves `methods` to the page that started this worker. */
export function serve(methods: object): void {
  Comlink.expose(methods);
}

/** A worker whose end, of whatever kind, rejects what waits for it: comlink alone would wait for ever. */
export class WorkerLink<Methods> {
  readonly #worker: Worker;
  readonly #remote: Comlink.Remote<Methods>;
  readonly #waiting = new Set<(error: PageliteError) => void>();
  #error: PageliteError | null = null;
  #reportEnd: (error: PageliteError) => void = () => {};
  /** Resolves once the worker does not answer any more. */
  readonly ended: Promise<PageliteError>;

  constructor(worker: Worker, name: string) {
    this.#worker = worker;
    this.#remote = Comlink.wrap<Methods>(worker);
    this.ended = new Promise((resolve) => {
      this.#reportEnd = resolve;
    });
    worker.addEventListener('error', (event) => {
      const reason = event.message || 'its script cannot be loaded';
      const text = `the ${name} worker has failed: ${reason}`;
      this.terminate(new PageliteError('unavailable', text, { script: event.filename }));
    });
  }

  get hasEnded(): boolean {
    return this.#error !== null;
  }

  async call<T>(run: (remote: Comlink.Remote<Methods>) => Promise<T>): Promise<T> {
    if (this.#error) throw this.#error;
    let reject: (error: PageliteError) => void = () => {};
    // One for each call: a promise that lives as long as the worker would keep every call that was ever raced with it.
    const ended = new Promise<never>((_, rejects) => {
      reject = rejects;
    });
    this.#waiting.add(reject);
    try {
      return await Promise.race([run(this.#remote), ended]);
    } finally {
      this.#waiting.delete(reject);
    }
  }

  terminate(error: PageliteError = new PageliteError('closed', 'it was closed')): void {
    this.#worker.terminate();
    if (this.#error) return;
    this.#error = error;
    for (const reject of this.#waiting) reject(error);
    this.#reportEnd(error);
  }
}
