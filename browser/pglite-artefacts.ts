/**
 * PGlite's compiled code and its data bundle, fetched once in a page and shared by its workers: a WebAssembly.Module and a Blob survive structured
 * clone. initdb's module is fetched only by who makes a database.
 */
import { messageOf, PageliteError } from '../engine/errors.ts';

export interface PGliteArtefacts {
  readonly pgliteWasmModule: WebAssembly.Module;
  readonly fsBundle: Blob;
}

const urls = {
  wasm: () => new URL('@electric-sql/pglite/pglite.wasm', import.meta.url),
  initdb: () => new URL('@electric-sql/pglite/initdb.wasm', import.meta.url),
  data: () => new URL('@electric-sql/pglite/pglite.data', import.meta.url),
};

let loaded: Promise<PGliteArtefacts> | null = null;

/** Again after a failure. */
export function loadPGliteArtefacts(): Promise<PGliteArtefacts> {
  if (loaded === null) {
    const loading = load();
    loading.catch(() => {
      loaded = null;
    });
    loaded = loading;
  }
  return loaded;
}

export function loadInitdbModule(): Promise<WebAssembly.Module> {
  return compile(urls.initdb());
}

async function load(): Promise<PGliteArtefacts> {
  const [pgliteWasmModule, fsBundle] = await Promise.all([compile(urls.wasm()), fetchFile(urls.data())]);
  return { pgliteWasmModule, fsBundle: await fsBundle.blob() };
}

async function compile(url: URL): Promise<WebAssembly.Module> {
  const response = await fetchFile(url);
  // Compiled while it arrives, if the server names its type.
  if (response.headers.get('content-type') === 'application/wasm') return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

async function fetchFile(url: URL): Promise<Response> {
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response;
  } catch (cause) {
    throw new PageliteError(
      'unavailable',
      `${url} cannot be fetched: ${messageOf(cause)}`,
      { url: url.href },
      { cause },
    );
  }
}
