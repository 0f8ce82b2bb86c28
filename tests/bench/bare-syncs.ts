/** What a disk alone makes of a commit: the least that there is to be compared with. */
import { mkdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { walSegmentSize } from '../../engine/limits.ts';
import { commitBytes } from './wal-writer.ts';

/** Overwrites of blocks that exist, in `files` files at once, until `wanted` of them are synchronised. */
export async function bareSyncs(dir: string) {
  mkdirSync(dir);
  const files = await Promise.all([1, 2, 3].map((name) => open(join(dir, `${name}`), 'w+')));
  for (const file of files) {
    await file.write(Buffer.alloc(walSegmentSize));
    await file.sync();
  }
  const bytes = Buffer.alloc(commitBytes, 7);
  let at = 0;
  return {
    async once(count: number, wanted: number): Promise<number> {
      at = (at + commitBytes) % (walSegmentSize - commitBytes);
      const start = performance.now();
      const took: number[] = [];
      await Promise.all(
        files.slice(0, count).map(async (file) => {
          await file.write(bytes, 0, commitBytes, at);
          await file.datasync();
          took.push(performance.now() - start);
        }),
      );
      return took[wanted - 1]!;
    },
    close: () => Promise.all(files.map((file) => file.close())),
  };
}
