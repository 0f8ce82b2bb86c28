/** A repository in a new folder, open in this process as a program has it open: imported from the build. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Pagelite } from 'pagelite';
import { keepTemplate, putTemplate } from './template-cache.ts';

/** Whoever asks closes it, and removes the folder. */
export async function openLibrary(): Promise<{ dir: string; lite: Pagelite }> {
  const dir = mkdtempSync(join(tmpdir(), 'pagelite-library-'));
  putTemplate(dir);
  const lite = await Pagelite.open(dir);
  keepTemplate(dir);
  return { dir, lite };
}
