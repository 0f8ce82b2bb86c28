/**
 * The two workers of a tab, started from wherever this module was loaded.
 *
 * `new Worker(new URL(...))` is the form that bundlers know: they build the worker with the page that imports this package. A browser refuses it if
 * the script is of another origin, which is how a page gets the ready bundle from a Pagelite server; then a worker of this origin imports it.
 */
export function startComputeWorker(): Worker {
  try {
    return new Worker(new URL('./compute-worker.js', import.meta.url), { type: 'module', name: 'pagelite compute' });
  } catch (error) {
    return importingWorker('compute-worker.js', error);
  }
}

export function startStorageWorker(): Worker {
  try {
    return new Worker(new URL('./storage-worker.js', import.meta.url), { type: 'module', name: 'pagelite storage' });
  } catch (error) {
    return importingWorker('storage-worker.js', error);
  }
}

/** In the ready bundle all files are in one folder, under these names. */
function importingWorker(file: string, error: unknown): Worker {
  if (!(error instanceof DOMException) || error.name !== 'SecurityError') throw error;
  const script = new URL(/* @vite-ignore */ file, import.meta.url).href;
  const url = URL.createObjectURL(new Blob([`import ${JSON.stringify(script)};`], { type: 'text/javascript' }));
  const worker = new Worker(url, { type: 'module', name: file });
  URL.revokeObjectURL(url);
  return worker;
}
