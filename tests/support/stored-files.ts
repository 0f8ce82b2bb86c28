/** Where the files of a timeline are on a pageserver's disk: their names end in the generation in which they were written. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { must } from '../../engine/assert.ts';
import { parseLayerFile } from '../../engine/layers/layer-name.ts';

/** The index of the newest generation. `dir`: the timeline's folder. */
export function newestIndexFile(dir: string): string {
  const names = readdirSync(dir).filter((name) => name.startsWith('index_part.json'));
  return join(dir, must(names.sort().at(-1), `${dir} has an index`));
}

export function storedLayerFile(dir: string, layer: string): string {
  const found = readdirSync(dir).find((name) => parseLayerFile(name)?.name === layer);
  return join(dir, must(found, `${dir} has the layer`));
}
