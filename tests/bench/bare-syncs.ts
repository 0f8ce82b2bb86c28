/** What a disk alone makes of a commit: the least that there is to be compared with. */
import { mkdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { walSegmentSize } from '../../engine/limits.ts';
import { timed } from './harness.ts';
import { commitBytes } from './wal-writer.ts';

/** Overwrites of blocks that exist, each synchronised. */
export async function bareSyncs(dir: string) {
  mkdirSync(dir);
  const file = await open(join(dir, 'wal'), 'w+');
  await file.write(Buffer.alloc(walSegmentSize));
  await file.sync();
  const bytes = Buffer.alloc(commitBytes, 7);
  let at = 0;
  return {
    /** Milliseconds. */
    once(): Promise<number> {
      at = (at + commitBytes) % (walSegmentSize - commitBytes);
      return timed(async () => {
        await file.write(bytes, 0, commitBytes, at);
        await file.datasync();
      });
    },
    close: () => file.close(),
  };
}
