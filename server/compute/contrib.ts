/** All of PostgreSQL's contrib modules for an endpoint, whose clients speak the wire protocol (smgr-plugin/contrib-files.ts), from PGlite's package. */
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import type { Extension, PGlite } from '@electric-sql/pglite';
import { installContrib, untar } from '../../smgr-plugin/contrib-files.ts';

/** Puts the files of all contrib modules into an instance when it has booted. */
export function contribFiles(): Extension {
  return {
    name: 'contrib',
    setup: async (pg) => ({
      init: async () => {
        for (const { name, bytes } of await readContribTars()) installContrib(pg as PGlite, untar(bytes, name));
      },
    }),
  };
}

/** Unpacked. */
export async function readContribTars(): Promise<{ name: string; bytes: Uint8Array }[]> {
  const folder = new URL('.', import.meta.resolve('@electric-sql/pglite'));
  const names = (await readdir(fileURLToPath(folder))).filter((name) => name.endsWith('.tar.gz')).sort();
  const read = async (name: string) => ({
    name,
    bytes: gunzipSync(await readFile(fileURLToPath(new URL(name, folder)))),
  });
  return Promise.all(names.map(read));
}
