/**
 * R3. Pages that the I/O host fetches before the compute asks for them, so that the network and PostgreSQL work at the same time.
 *
 * The compute says with a request what it is going to want (the rest of a sequential scan, blocks that PostgreSQL announced with
 * posix_fadvise). Each range is fetched at once and kept until it is asked for or pushed out by newer ones.
 *
 * Invariant: a range answers a request only if it was fetched as of an LSN at least as new as the request's `notModifiedSince`: a page that the
 * compute has changed and evicted in the meantime is not answered from here.
 */
import { pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { type RelTag, sameRel } from '../../engine/model/rel.ts';
import type { PageService } from '../../engine/services.ts';

/** Ranges held: bounded twice, as many single blocks or a few long runs (8 MiB). */
const rangesMax = 96;
const pagesMax = 8 * pagesPerRequestMax;

interface Range {
  readonly rel: RelTag;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly lsn: number;
  /** Null: it failed; whoever needs it asks again and hears why. */
  pages: Promise<Uint8Array | null>;
  hasArrived: boolean;
}

export interface Taken {
  readonly pages: Promise<Uint8Array | null>;
  /** The pages are here already: what is asked for next can wait until they are handed over. */
  readonly hasArrived: boolean;
}

export class ReadAhead {
  readonly #pages: PageService;
  readonly #requestLsn: Lsn;
  readonly #ranges: Range[] = [];
  #held = 0;

  constructor(pages: PageService, requestLsn: Lsn) {
    this.#pages = pages;
    this.#requestLsn = requestLsn;
  }

  begin(rel: RelTag, firstBlock: number, blockCount: number, lsn: number, signal: AbortSignal): void {
    for (const range of this.#ranges) {
      if (covers(range, rel, firstBlock, blockCount, lsn)) return;
    }
    const at = { requestLsn: this.#requestLsn, notModifiedSince: lsn as Lsn };
    const range: Range = { rel, firstBlock, blockCount, lsn, pages: Promise.resolve(null), hasArrived: false };
    range.pages = this.#pages.getPages(at, rel, firstBlock, blockCount, signal).then(
      (pages) => {
        range.hasArrived = true;
        return pages;
      },
      () => null,
    );
    this.#ranges.push(range);
    this.#held += blockCount;
    while (this.#ranges.length > rangesMax || (this.#held > pagesMax && this.#ranges.length > 1)) {
      this.#held -= this.#ranges.shift()!.blockCount;
    }
  }

  /** The pages, if a range holds them all or is on its way with them; it is given up then unless pages behind these are left in it. */
  take(rel: RelTag, firstBlock: number, blockCount: number, lsn: number): Taken | null {
    for (const [i, range] of this.#ranges.entries()) {
      if (!covers(range, rel, firstBlock, blockCount, lsn)) continue;
      if (firstBlock + blockCount === range.firstBlock + range.blockCount) {
        this.#ranges.splice(i, 1);
        this.#held -= range.blockCount;
      }
      const from = (firstBlock - range.firstBlock) * pageSize;
      const pages = range.pages.then((whole) => whole?.subarray(from, from + blockCount * pageSize) ?? null);
      return { pages, hasArrived: range.hasArrived };
    }
    return null;
  }
}

function covers(range: Range, rel: RelTag, firstBlock: number, blockCount: number, lsn: number): boolean {
  return (
    range.firstBlock <= firstBlock &&
    firstBlock + blockCount <= range.firstBlock + range.blockCount &&
    range.lsn >= lsn &&
    sameRel(range.rel, rel)
  );
}
