/**
 * Questions about a timeline at an LSN that are answered from several keys. All go through one `getImage` at that LSN.
 */
import { type KeyPrefix, keyKind, keyPrefix, relDirectoryKey, relPrefix, sizeBlock } from '../model/key.ts';
import type { RelTag } from '../model/rel.ts';
import type { ValueReader } from '../services.ts';
import { RelDirectory } from './rel-directory.ts';
import { decodeSize, noRel } from './rel-sizes.ts';

/** Size in blocks, or null if the fork does not exist. */
export async function readRelSize(reader: ValueReader, rel: RelTag): Promise<number | null> {
  const prefix: KeyPrefix = relPrefix(rel);
  const size = decodeSize(await reader.getImage(prefix, sizeBlock), prefix);
  return size === noRel ? null : size;
}

/** Every fork of every relation of a database, in key order. */
export async function readRels(reader: ValueReader, spc: number, db: number): Promise<{ rel: RelTag; size: number }[]> {
  const key = relDirectoryKey(spc, db);
  const directory = RelDirectory.decode(await reader.getImage(key.prefix, key.block));
  return Promise.all(
    directory.list().map(async ({ rel, fork }) => {
      const prefix = keyPrefix(keyKind.rel, spc, db, rel, fork);
      const size = decodeSize(await reader.getImage(prefix, sizeBlock), prefix);
      return { rel: { spc, db, rel, fork }, size: Math.max(0, size) };
    }),
  );
}
