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
  #end: (error: PageliteError) => void = () => {};
  /** Resolves once the worker does not answer any more. */
  readonly ended: Promise<PageliteError>;
  readonly #rejected: Promise<never>;

  constructor(worker: Worker, name: string) {
    this.#worker = worker;
    this.#remote = Comlink.wrap<Methods>(worker);
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#rejected = this.ended.then((error) => Promise.reject(error));
    this.#rejected.catch(() => {});
    worker.addEventListener('error', (event) => {
      const reason = event.message || 'its script cannot be loaded';
      this.#end(
        new PageliteError('unavailable', `the ${name} worker has failed: ${reason}`, { script: event.filename }),
      );
      worker.terminate();
    });
  }

  call<T>(run: (remote: Comlink.Remote<Methods>) => Promise<T>): Promise<T> {
    return Promise.race([run(this.#remote), this.#rejected]);
  }

  terminate(error: PageliteError = new PageliteError('closed', 'it was closed')): void {
    this.#end(error);
    this.#worker.terminate();
  }
}
