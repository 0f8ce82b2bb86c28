/**
 * Pages as they are answered: with room before them for the header of a message (pagestream.ts), which then is sent without another copy of them, and with what
 * holds them here, so that the checksum of a page that is asked for again and again is computed once.
 *
 * Called by the page service of a timeline, which fills them, and by the pagestream protocol, which takes them over.
 */
import { crc32c, crc32cJoin } from '../crc32c.ts';
import type { PageHolder } from '../layers/value-chain.ts';
import { pageSize } from '../limits.ts';

/** Of a pagestream message. */
export const messageHeaderBytes = 16;

type Holders = (PageHolder | null)[];
const holdersOf = new WeakMap<Uint8Array, Holders>();
let join: ((a: number, b: number) => number) | null = null;

/** `count` pages of zeros. `holders`: where each has been copied from, if that is a memory of its own. */
export function answerPages(count: number): { readonly pages: Uint8Array; readonly holders: Holders } {
  const pages = new Uint8Array(messageHeaderBytes + count * pageSize).subarray(messageHeaderBytes);
  const holders: Holders = new Array(count).fill(null);
  holdersOf.set(pages, holders);
  return { pages, holders };
}

/** The whole buffer of pages that `answerPages` made, its header not filled yet; null if they stand elsewhere. */
export function messageAround(pages: Uint8Array): Uint8Array<ArrayBuffer> | null {
  const { buffer, byteOffset, length } = pages;
  const isMade = byteOffset === messageHeaderBytes && buffer.byteLength === messageHeaderBytes + length;
  return isMade && buffer instanceof ArrayBuffer ? new Uint8Array(buffer) : null;
}

/** CRC32C of whole pages, after what `seed` is the checksum of. */
export function pagesChecksum(pages: Uint8Array, seed: number): number {
  const holders = holdersOf.get(pages);
  if (holders === undefined) return crc32c(pages, 0, pages.length, seed);
  join ??= crc32cJoin(pageSize);
  let crc = seed;
  for (let i = 0, start = 0; i < holders.length; i++, start += pageSize) {
    const holder = holders[i]!;
    if (holder === null) crc = crc32c(pages, start, start + pageSize, crc);
    else {
      if (holder.pageChecksum < 0) holder.pageChecksum = crc32c(pages, start, start + pageSize);
      crc = join(crc, holder.pageChecksum);
    }
  }
  return crc;
}
