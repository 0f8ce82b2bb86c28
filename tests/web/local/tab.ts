/** The page of a TabWorker: starts the worker that its address names and passes calls to it. Runs in Chromium. */
import type { CallAnswer } from './calls.ts';

const modules: Record<string, () => Worker> = {
  contracts: () => new Worker(new URL('./contracts-worker.ts', import.meta.url), { type: 'module' }),
  repository: () => new Worker(new URL('./repository-worker.ts', import.meta.url), { type: 'module' }),
};

const name = new URLSearchParams(location.search).get('worker') ?? '';
const worker = modules[name]!();
const waiting = new Map<number, (answer: CallAnswer) => void>();
let next = 1;

worker.onerror = (event) => console.error('worker failed', event.message);
worker.onmessage = ({ data }: MessageEvent<CallAnswer & { readonly id: number; readonly acknowledged?: number }>) => {
  if (data.acknowledged !== undefined) {
    // A binding of the test's: it must know before this page is killed.
    (globalThis as unknown as { acknowledge(id: number): void }).acknowledge(data.acknowledged);
    return;
  }
  waiting.get(data.id)?.(data);
  waiting.delete(data.id);
};

Object.assign(globalThis, {
  call(method: string, args: unknown[]): Promise<CallAnswer> {
    const id = next++;
    worker.postMessage({ id, method, args });
    return new Promise((resolve) => waiting.set(id, resolve));
  },
});
