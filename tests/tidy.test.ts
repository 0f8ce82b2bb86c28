/**
 * The two rules of form that are worth a test.
 *
 * 1. `engine/` and `smgr-plugin/` run in a tab as they run in Node: nothing of Node, nothing of the DOM, and no ambient time or
 *    randomness. Each forbidden word stands with its replacement.
 * 2. Imports go one way: server, browser -> smgr-plugin -> engine.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));
}

/** The text without comments and string contents, so that prose may name what code may not. */
function code(file: string): string {
  return readFileSync(join(root, file), 'utf8')
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/(^|[^:'"`])\/\/.*$/gm, '$1')
    .replace(/'(?:[^'\\\n]|\\.)*'/g, "''");
}

const hostFree: [pattern: RegExp, instead: string][] = [
  [/\bBuffer\b/, 'Uint8Array and DataView'],
  [/\bprocess\./, 'an argument from the host'],
  [/\brequire\(/, 'import'],
  // A Date of a given time, and Date.parse of a text with a zone, are the same everywhere.
  [/\bDate\.now\b|\bDate\(\s*\)|\bnew Date\b(?!\()/, 'Clock'],
  [/\bMath\.random\b/, 'Random'],
  [/\bcrypto\./, 'Random'],
  [/\bset(Timeout|Interval|Immediate)\b/, 'Clock.sleep'],
  [/\bperformance\./, 'Clock'],
  [/\b(window|document|localStorage|fetch)\b\s*[.(]/, 'an argument from the host'],
  [/\bconsole\./, 'Log'],
];

describe('engine and smgr-plugin run anywhere', () => {
  for (const file of [...sources('engine'), ...sources('smgr-plugin')]) {
    it(file, () => {
      const text = code(file);
      const found = hostFree
        .filter(([pattern]) => pattern.test(text))
        .map(([pattern, instead]) => `${pattern}: use ${instead}`);
      expect(found).toEqual([]);
      expect(readFileSync(join(root, file), 'utf8')).not.toMatch(/from 'node:/);
    });
  }
});

const mayImport: Record<string, readonly string[]> = {
  engine: ['engine'],
  'smgr-plugin': ['smgr-plugin', 'engine'],
  server: ['server', 'smgr-plugin', 'engine'],
  browser: ['browser', 'smgr-plugin', 'engine'],
};

describe('imports go one way', () => {
  for (const [folder, allowed] of Object.entries(mayImport)) {
    it(folder, () => {
      const wrong: string[] = [];
      for (const file of sources(folder)) {
        const text = readFileSync(join(root, file), 'utf8');
        for (const match of text.matchAll(/(?:from|import\()\s*'(\.[^']*)'/g)) {
          const target = relative(root, resolve(root, file, '..', match[1]!)).split('/')[0]!;
          if (!allowed.includes(target)) wrong.push(`${file} imports ${match[1]}`);
        }
      }
      expect(wrong).toEqual([]);
    });
  }
});
