/** Must hold: made once however many ask at once, read afterwards, and made again when the file is damaged; no temporary file stays. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { type CachedFile, loadOrMake } from '../../server/process/cached-file.ts';
import { silentLog } from '../../server/process/node-host.ts';

let dir: string;
let made: number;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-cache-'));
  made = 0;
});
afterEach(() => rmSync(dir, { recursive: true }));

const fileOf = (): CachedFile<string> => ({
  path: join(dir, 'value.bin'),
  make: async () => `value ${++made}`,
  encode: (value) => new TextEncoder().encode(`!${value}`),
  decode: (bytes) => {
    const text = new TextDecoder().decode(bytes);
    if (!text.startsWith('!')) throw new PageliteError('corrupt', 'damaged');
    return text.slice(1);
  },
});

it('is made once and read afterwards', async () => {
  expect(await loadOrMake(fileOf(), silentLog)).toBe('value 1');
  expect(await loadOrMake(fileOf(), silentLog)).toBe('value 1');
  expect(made).toBe(1);
});

it('those who race to make it all get the winner', async () => {
  const values = await Promise.all(Array.from({ length: 8 }, () => loadOrMake(fileOf(), silentLog)));
  expect(made).toBe(8);
  expect(new Set(values).size).toBe(1);
  expect(await loadOrMake(fileOf(), silentLog)).toBe(values[0]);
  expect(readdirSync(dir)).toEqual(['value.bin']);
});

it('is made again when it is damaged, and the damaged one is kept aside', async () => {
  writeFileSync(join(dir, 'value.bin'), 'damaged');
  expect(await loadOrMake(fileOf(), silentLog)).toBe('value 1');
  expect(readdirSync(dir)).toEqual(['value.bin', 'value.bin.damaged']);
});
