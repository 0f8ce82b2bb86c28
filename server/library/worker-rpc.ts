/**
 * Calls from the library's thread to its storage thread, and events back: structured clones over the worker's message port, in order.
 *
 * Invariants
 * - an error keeps its kind and data on the way; a thread that ends fails every call that waits, and every later one, with its reason
 * - the thread keeps the process alive only while a call is under way: a program that never closes its Pagelite still ends
 */
import type { MessagePort, Worker } from 'node:worker_threads';
import { type ErrorJson, isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';

/** Methods that can be called from elsewhere: arguments and results are cloned. */
type RpcMethods<Methods> = { readonly [M in keyof Methods]: (...args: never[]) => Promise<unknown> };

type AnyMethod = (...args: readonly unknown[]) => Promise<unknown>;

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

type Reply =
  | { readonly kind: 'result'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: ErrorJson }
  | { readonly kind: 'event'; readonly event: unknown };

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class RpcClient<Methods extends RpcMethods<Methods>, Event> {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #ended: PageliteError | null = null;

  constructor(worker: Worker, onEvent: (event: Event) => void) {
    this.#worker = worker;
    worker.on('message', (reply: Reply) => {
      if (reply.kind === 'event') onEvent(reply.event as Event);
      else this.#settle(reply);
    });
    worker.on('error', (cause) => this.#end(`the storage thread has failed: ${messageOf(cause)}`, cause));
    worker.on('exit', (code) => this.#end(`the storage thread has ended with code ${code}`));
    worker.unref();
  }

  call<M extends keyof Methods & string>(method: M, ...args: Parameters<Methods[M]>): ReturnType<Methods[M]> {
    const answer = new Promise((resolve, reject) => {
      if (this.#ended) {
        reject(this.#ended);
        return;
      }
      const id = this.#nextId++;
      if (this.#waiting.size === 0) this.#worker.ref();
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, args } satisfies Call);
    });
    return answer as ReturnType<Methods[M]>;
  }

  /** Ends the thread. */
  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #settle(reply: Exclude<Reply, { kind: 'event' }>): void {
    const waiting = this.#waiting.get(reply.id);
    if (!waiting) return;
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (reply.kind === 'result') waiting.resolve(reply.value);
    else waiting.reject(PageliteError.fromJSON(reply.error));
  }

  #end(why: string, cause?: unknown): void {
    this.#ended ??= new PageliteError('closed', why, {}, { cause });
    for (const waiting of this.#waiting.values()) waiting.reject(this.#ended);
    this.#waiting.clear();
  }
}

/** Serves calls; returns how to send events. */
export function serveRpc<Methods extends RpcMethods<Methods>, Event>(
  port: MessagePort,
  methods: Methods,
): (event: Event) => void {
  const post = (reply: Reply) => port.postMessage(reply);
  port.on('message', async ({ id, method, args }: Call) => {
    const call = methods[method as keyof Methods] as unknown as AnyMethod;
    try {
      post({ kind: 'result', id, value: await call(...args) });
    } catch (error) {
      post({ kind: 'error', id, error: asJson(error) });
    }
  });
  return (event) => post({ kind: 'event', event });
}

function asJson(error: unknown): ErrorJson {
  if (isPageliteError(error)) return error.toJSON();
  // A bug, or the operating system's: its place is in the text, as the stack does not travel.
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new PageliteError('unavailable', stack).toJSON();
}
