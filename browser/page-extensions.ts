/**
 * PGlite's `extensions` option in a tab. What an extension adds to the object lives in the page; its files go to the compute's worker, by their address,
 * where PGlite installs them as it boots.
 */
import type { Extensions, PGliteInterface } from '@electric-sql/pglite';

/** For the compute's worker. */
export interface ExtensionBundle {
  readonly name: string;
  readonly url: string;
  readonly sharedPreloadLibraries?: string[];
}

/** Set up, for one connection. */
export interface ReadyExtensions {
  readonly bundles: readonly ExtensionBundle[];
  /** In their order, once PostgreSQL runs. */
  begin(): Promise<void>;
  end(): Promise<void>;
}

/** Puts each extension's namespace on `pg`. Rejects with what an extension's own code throws. */
export async function setUpExtensions(pg: PGliteInterface, extensions: Extensions): Promise<ReadyExtensions> {
  const bundles: ExtensionBundle[] = [];
  const begins: (() => Promise<void>)[] = [];
  const ends: (() => Promise<void>)[] = [];
  for (const [name, extension] of Object.entries(extensions)) {
    if (extension instanceof URL) {
      bundles.push({ name, url: extension.href });
      continue;
    }
    const { namespaceObj, bundlePath, sharedPreloadLibraries, init, close } = await extension.setup(pg, {}, true);
    if (namespaceObj) Object.assign(pg, { [name]: namespaceObj });
    if (bundlePath) {
      bundles.push({ name, url: bundlePath.href, ...(sharedPreloadLibraries && { sharedPreloadLibraries }) });
    }
    if (init) begins.push(init);
    if (close) ends.push(close);
  }
  const inOrder = async (all: readonly (() => Promise<void>)[]) => {
    for (const one of all) await one();
  };
  return { bundles, begin: () => inOrder(begins), end: () => inOrder(ends) };
}
