/** The folder of the package: of the checkout, or in node_modules. The same from the sources and from the build in dist/. */
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export function packageRoot(): string {
  const above = resolve(fileURLToPath(import.meta.url), '../../..');
  return above.endsWith('/dist') ? resolve(above, '..') : above;
}
