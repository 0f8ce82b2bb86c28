/**
 * Where the built tree is. A worker thread runs JavaScript, and Node 20 strips no types, so tests start workers from `dist/`;
 * `npm test` builds it first.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** URL of a built file, by its path in the tree: `distUrl('server/compute/compute-worker.js')`. */
export function distUrl(path: string): URL {
  // This file is tests/support/dist.ts, or dist/tests/support/dist.js once built.
  const here = import.meta.url;
  const root = here.endsWith('.ts') ? new URL('../../dist/', here) : new URL('../../', here);
  const url = new URL(path, root);
  if (!existsSync(fileURLToPath(url))) throw new Error(`${url.pathname} is not built: run npm run build`);
  return url;
}
