/** Calls of a page to its worker, or of a worker to another. Errors cross as PageliteError.toJSON. Runs in Chromium. */
import { isPageliteError, messageOf, PageliteError } from '../../../engine/errors.ts';

export interface CallAnswer {
  readonly value?: unknown;
  readonly error?: unknown;
}

// biome-ignore lint/suspicious/noExplicitAny: methods of any signature, called by name
export type Methods = Record<string, (...args: any[]) => unknown>;

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

/** Answers the calls that this worker gets. */
export function serveCalls(methods: Methods): void {
  globalThis.onmessage = async ({ data: { id, method, args } }: MessageEvent<Call>) => {
    try {
      postMessage({ id, value: await methods[method]!(...args) });
    } catch (error) {
      postMessage({
        id,
        error: isPageliteError(error) ? error.toJSON() : { kind: 'unavailable', message: messageOf(error) },
      });
    }
  };
}

/** Calls a worker that serves. */
export function caller(worker: Worker): <T>(method: string, ...args: unknown[]) => Promise<T> {
  const waiting = new Map<number, (answer: CallAnswer) => void>();
  let next = 1;
  worker.onmessage = ({ data }: MessageEvent<CallAnswer & { readonly id: number }>) => {
    waiting.get(data.id)?.(data);
    waiting.delete(data.id);
  };
  return async <T>(method: string, ...args: unknown[]) => {
    const id = next++;
    const answer = new Promise<CallAnswer>((resolve) => waiting.set(id, resolve));
    worker.postMessage({ id, method, args });
    const { value, error } = await answer;
    if (error !== undefined) throw PageliteError.fromJSON(error);
    return value as T;
  };
}
