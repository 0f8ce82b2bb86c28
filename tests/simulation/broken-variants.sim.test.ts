/** The simulation finds mistakes: each variant of broken-variants.ts within 200 seeds, and none in the code as it is, run in the same way. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transformWithOxc } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { distUrl } from '../support/dist.ts';
import { runProgram } from '../support/repository-rig.ts';
import { type BrokenVariant, brokenVariants } from './broken-variants.ts';

const firstSeed = Number(process.env.SIM_FIRST ?? 1);
const seedCount = 200;
const distDir = fileURLToPath(distUrl('.'));
const root = join(distDir, '..');
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'pagelite-broken-'));
  for (const part of ['engine', 'smgr-plugin', 'tests/simulation', 'tests/support']) {
    cpSync(join(distDir, part), join(folder, part), { recursive: true });
  }
  cpSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function edit(file: string, edits: BrokenVariant['edits']): Promise<void> {
  let source = readFileSync(join(root, file), 'utf8');
  for (const { find, replace } of edits) {
    expect(source.split(find), `"${find}" in ${file}`).toHaveLength(2);
    source = source.replace(find, () => replace);
  }
  const { code } = await transformWithOxc(source, file, { target: 'es2022' });
  const compiled = code.replaceAll(/(from "\.[^"]*)\.ts"/g, '$1.js"');
  writeFileSync(join(folder, file.replace(/\.ts$/, '.js')), compiled);
}

const simulate = (seeds: number) =>
  runProgram(
    process.execPath,
    ['tests/simulation/main.js', '--from', String(firstSeed), '--seeds', String(seeds), '--threads', '1', '--first'],
    folder,
  );

describe('the simulation', () => {
  it('finds nothing in what is not broken', async () => {
    const { code, err } = await simulate(20);
    expect(err).toMatch(/all of it held/);
    expect(code).toBe(0);
  }, 120_000);

  for (const { name, edits } of brokenVariants) {
    it(`finds one that ${name}`, async () => {
      const files = new Set(edits.map(({ file }) => file));
      try {
        for (const file of files) {
          await edit(
            file,
            edits.filter((one) => one.file === file),
          );
        }
        const { code, err } = await simulate(seedCount);
        expect(err).toMatch(/^seed \d+:/m);
        expect(code).toBe(1);
      } finally {
        for (const file of files) await edit(file, []);
      }
    }, 600_000);
  }
});
