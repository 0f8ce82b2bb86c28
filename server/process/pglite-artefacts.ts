/**
 * PGlite's compiled code and its data bundle, loaded once in a process and shared by every instance in it.
 *
 * A WebAssembly.Module and a Blob survive structured clone, so that a worker thread gets them in its `workerData` and does not compile
 * again. Where the files are is resolved from the `@electric-sql/pglite` package itself; the version is part of the names of what is cached.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

export interface PGliteArtefacts {
  /** Version of @electric-sql/pglite. */
  readonly version: string;
  /** For the options `pgliteWasmModule`, `initdbWasmModule` and `fsBundle` of PGlite. */
  readonly pgliteWasmModule: WebAssembly.Module;
  readonly initdbWasmModule: WebAssembly.Module;
  readonly fsBundle: Blob;
}

let loaded: Promise<PGliteArtefacts> | undefined;

export function loadPGliteArtefacts(): Promise<PGliteArtefacts> {
  loaded ??= load();
  return loaded;
}

async function load(): Promise<PGliteArtefacts> {
  // The package's entry is dist/index.js; its other files are not exported by name but stand beside it.
  const entry = new URL(import.meta.resolve('@electric-sql/pglite'));
  const read = (name: string) => readFile(fileURLToPath(new URL(name, entry)));
  const compile = async (name: string) => WebAssembly.compile(await read(name));
  const [pgliteWasmModule, initdbWasmModule, bundle, manifest] = await Promise.all([
    compile('pglite.wasm'),
    compile('initdb.wasm'),
    read('pglite.data'),
    read('../package.json'),
  ]);
  const { version } = JSON.parse(manifest.toString()) as { version: string };
  return { version, pgliteWasmModule, initdbWasmModule, fsBundle: new Blob([bundle]) };
}
