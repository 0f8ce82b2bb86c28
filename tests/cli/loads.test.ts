/**
 * What a command of the CLI loads before it does anything: most of the time of a short one.
 *
 * Must hold: nothing of a server. What a command serves or connects to by itself it loads when it does so.
 */
import { readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const servers = new Set(['hono', 'hono/http-exception', '@hono/node-server', 'ws', 'jose', 'pino', 'pg']);

/** What the file imports when it is loaded; types and `import()` are left out. */
function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/^(?:import|export) (?!type )[^;]*?from '([^']+)'|^import '([^']+)'/gm)].map(
    ([, from, bare]) => (from ?? bare)!,
  );
}

/** Paths of imports from the file to packages of servers. */
function pathsToServers(entry: string): string[] {
  const seen = new Map([[entry, relative(root, entry)]]);
  const found: string[] = [];
  for (const [file, path] of seen) {
    for (const name of importsOf(file)) {
      if (servers.has(name)) found.push(`${path} -> ${name}`);
      if (!name.startsWith('.')) continue;
      const next = join(dirname(file), name);
      if (!seen.has(next)) seen.set(next, `${path} -> ${relative(root, next)}`);
    }
  }
  return found;
}

const program = join(root, 'server/cli/program.ts');
const commands = [...readFileSync(program, 'utf8').matchAll(/import\('\.\/([\w-]+\.ts)'\)/g)].map(([, name]) => name!);

it('finds what a server loads', () => {
  expect(commands.length).toBeGreaterThan(10);
  const found = pathsToServers(join(root, 'server/safekeeper/main.ts')).map((path) => path.split(' -> ').at(-1));
  expect(found).toEqual(expect.arrayContaining(['hono', 'ws', 'jose', 'pino']));
});

it.each(['program.ts', ...new Set(commands)])('%s', (name) => {
  expect(pathsToServers(join(root, 'server/cli', name))).toEqual([]);
});
