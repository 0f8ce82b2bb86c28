/** What the browser's sources say about the package must be what the package says: they cannot read it there. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { pgliteVersion } from '../browser/local/tab-template.ts';

it('the template of a tab is named after the PGlite that is installed', () => {
  const { version } = JSON.parse(readFileSync('node_modules/@electric-sql/pglite/package.json', 'utf8')) as {
    version: string;
  };
  expect(pgliteVersion).toBe(version);
});
