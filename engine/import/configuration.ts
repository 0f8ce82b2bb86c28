/**
 * A server's configuration as a branch can have it: all of it but the settings that name files which only the old server has. With one of those an
 * endpoint would not start, and there would be no server on which to change it.
 */
import { concatBytes } from '../bytes.ts';

/** Libraries are loaded before a compute has those of contrib; the others are paths. (`include` takes no equals sign.) */
const namesFiles =
  /^\s*(shared_preload_libraries|session_preload_libraries|local_preload_libraries|include|include_dir|include_if_exists|data_directory|hba_file|ident_file|external_pid_file)[\s=]/i;
/** A setting that is empty names none. */
const isEmpty = /[\s=]'\s*'\s*(#.*)?$/;
const newline = 10;
const commentMark = new TextEncoder().encode('#');

export interface KeptConfiguration {
  readonly bytes: Uint8Array;
  /** Names of settings that are comments now. */
  readonly leftOut: readonly string[];
}

/** Of a postgresql.conf or postgresql.auto.conf. Everything else stays byte for byte. */
export function configurationForBranch(bytes: Uint8Array): KeptConfiguration {
  const decoder = new TextDecoder();
  const parts: Uint8Array[] = [];
  const leftOut: string[] = [];
  for (let start = 0; start < bytes.length; ) {
    const found = bytes.indexOf(newline, start);
    const end = found < 0 ? bytes.length : found + 1;
    const line = bytes.subarray(start, end);
    const text = decoder.decode(line);
    const match = namesFiles.exec(text);
    if (match !== null && !isEmpty.test(text.trimEnd())) {
      leftOut.push(match[1]!.toLowerCase());
      parts.push(commentMark);
    }
    parts.push(line);
    start = end;
  }
  return { bytes: concatBytes(parts), leftOut };
}
