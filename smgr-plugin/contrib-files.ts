/**
 * PostgreSQL's contrib modules: their files are put into an instance's file system when it has booted, so that CREATE EXTENSION works for who cannot hand
 * PGlite its `extensions` option, and a database that was made with some of them works everywhere.
 *
 * PGlite's package has a tar archive for each. As PGlite extensions each would be compiled at every start, which costs 0.3 s; as files they cost
 * nothing until PostgreSQL's dlopen compiles the one that is used, at its first use in the session.
 *
 * tar (ustar): blocks of 512 bytes; a header has the name at 0 (100), the size in octal at 124 (12), the type at 156 ('0' or NUL a file), a
 * prefix of the name at 345 (155); the file's bytes follow, filled up to a block. A block of zeros ends it.
 */
import type { PGlite } from '@electric-sql/pglite';
import { concatBytes } from '../engine/bytes.ts';
import { PageliteError } from '../engine/errors.ts';

const installFolder = '/pglite';
const blockBytes = 512;

export interface ContribFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** `pg` has booted. */
export function installContrib(pg: PGlite, files: Iterable<ContribFile>): void {
  const { FS } = pg.Module;
  for (const { path, bytes } of files) {
    const target = `${installFolder}/${path}`;
    FS.mkdirTree(target.slice(0, target.lastIndexOf('/')));
    FS.writeFile(target, bytes, { canOwn: true });
  }
}

/** The regular files of a tar archive. Throws `corrupt` if it is cut short. */
export function untar(archive: Uint8Array, name: string): ContribFile[] {
  const files: ContribFile[] = [];
  for (const { header, start, size } of entries(archive, name)) {
    const type = header[156]!;
    if (type !== 0 && type !== 0x30) continue;
    const prefix = textOf(header, 345, 155);
    const path = (prefix ? `${prefix}/` : '') + textOf(header, 0, 100);
    files.push({ path: path.replace(/^\.\//, ''), bytes: archive.slice(start, start + size) });
  }
  return files;
}

/** One archive of several. */
export function joinTars(archives: readonly { readonly name: string; readonly bytes: Uint8Array }[]): Uint8Array {
  const parts = archives.map(({ name, bytes }) => {
    let end = 0;
    for (const { start, size } of entries(bytes, name)) end = start + Math.ceil(size / blockBytes) * blockBytes;
    return bytes.subarray(0, end);
  });
  return concatBytes([...parts, new Uint8Array(2 * blockBytes)]);
}

function* entries(archive: Uint8Array, name: string): Generator<{ header: Uint8Array; start: number; size: number }> {
  for (let at = 0; at + blockBytes <= archive.length && archive[at] !== 0; ) {
    const header = archive.subarray(at, at + blockBytes);
    const size = Number.parseInt(textOf(header, 124, 12) || '0', 8);
    const start = at + blockBytes;
    if (!(size >= 0) || start + size > archive.length) {
      throw new PageliteError('corrupt', `${name} is damaged at byte ${at}`, { file: name });
    }
    yield { header, start, size };
    at = start + Math.ceil(size / blockBytes) * blockBytes;
  }
}

function textOf(header: Uint8Array, start: number, length: number): string {
  const field = header.subarray(start, start + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end)).trim();
}
