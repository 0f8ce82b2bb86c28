/**
 * PostgreSQL's contrib modules, for an endpoint: a client that speaks the wire protocol cannot hand PGlite its `extensions` option, so the files of all of
 * them are there for CREATE EXTENSION, and a database that the library made with some of them works on an endpoint, too.
 *
 * PGlite's package has a tar archive for each. As PGlite extensions each would be compiled at every start, which costs 0.3 s; here their files
 * are only put into the instance's file system, and PostgreSQL's dlopen compiles the one that is used, at its first use in the session.
 *
 * tar (ustar): blocks of 512 bytes; a header has the name at 0 (100), the size in octal at 124 (12), the type at 156 ('0' or NUL a file), a
 * prefix of the name at 345 (155); the file's bytes follow, filled up to a block.
 */
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import type { Extension } from '@electric-sql/pglite';
import { PageliteError } from '../../engine/errors.ts';

const installFolder = '/pglite';
const blockBytes = 512;

interface File {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** Puts the files of all contrib modules into an instance when it has booted. */
export function contribFiles(): Extension {
  return {
    name: 'contrib',
    setup: async (pg) => ({
      init: async () => {
        const { FS } = pg.Module;
        for (const { path, bytes } of await readBundles()) {
          const target = `${installFolder}/${path}`;
          FS.mkdirTree(target.slice(0, target.lastIndexOf('/')));
          FS.writeFile(target, bytes, { canOwn: true });
        }
      },
    }),
  };
}

async function readBundles(): Promise<File[]> {
  const folder = new URL('.', import.meta.resolve('@electric-sql/pglite'));
  const names = (await readdir(fileURLToPath(folder))).filter((name) => name.endsWith('.tar.gz'));
  const bundles = await Promise.all(names.map((name) => readFile(fileURLToPath(new URL(name, folder)))));
  return bundles.flatMap((bundle, index) => untar(gunzipSync(bundle), names[index]!));
}

/** The regular files of a tar archive. Throws `corrupt` if it is cut short. */
export function untar(archive: Uint8Array, name: string): File[] {
  const files: File[] = [];
  for (let at = 0; at + blockBytes <= archive.length && archive[at] !== 0; ) {
    const header = archive.subarray(at, at + blockBytes);
    const size = Number.parseInt(textOf(header, 124, 12) || '0', 8);
    const start = at + blockBytes;
    if (!(size >= 0) || start + size > archive.length) {
      throw new PageliteError('corrupt', `${name} is damaged at byte ${at}`, { file: name });
    }
    const type = header[156]!;
    if (type === 0 || type === 0x30) {
      const prefix = textOf(header, 345, 155);
      const path = (prefix ? `${prefix}/` : '') + textOf(header, 0, 100);
      files.push({ path: path.replace(/^\.\//, ''), bytes: archive.slice(start, start + size) });
    }
    at = start + Math.ceil(size / blockBytes) * blockBytes;
  }
  return files;
}

function textOf(header: Uint8Array, start: number, length: number): string {
  const field = header.subarray(start, start + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end)).trim();
}
