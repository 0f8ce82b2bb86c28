/**
 * PostgreSQL's contrib modules in a tab, as an endpoint has them: a branch whose database has extensions works here too. The ready bundle has all of them in
 * one archive beside its workers (server/console/build-bundle-files.ts), 1.5 MB that are fetched for a database that has an extension, or a statement that
 * makes one. Null where there is no archive, as in a bundle that an npm user made: there PGlite's `extensions` option is the way.
 */
import { type ContribFile, untar } from '../smgr-plugin/contrib-files.ts';
import { fetchBundled } from './bundled-files.ts';
import { pgliteVersion } from './local/tab-template.ts';

export const contribFile = `contrib-${pgliteVersion}.tar`;

const decoder = new TextDecoder();
let fetched: Promise<readonly ContribFile[] | null> | null = null;

/** Kept for the next PGlite of this worker; asked for again after a failure. */
export function fetchContrib(): Promise<readonly ContribFile[] | null> {
  fetched ??= fetchBundled(contribFile)
    .then((bytes) => bytes && untar(bytes, contribFile))
    .catch((error) => {
      fetched = null;
      throw error;
    });
  return fetched;
}

/** Whether a message of the wire protocol may have to do with extensions: the word in the text of a Query or a Parse. */
export function mentionsExtension(message: Uint8Array): boolean {
  const isText = message[0] === 0x51 || message[0] === 0x50;
  return isText && /\bextension\b/i.test(decoder.decode(message));
}
