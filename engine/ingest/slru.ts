/**
 * The SLRUs that WAL rebuilds: clog, multixact offsets and members. Which segments exist and how long they are is kept in memory and
 * stored as it changes; pages are begun by an image of zeros and changed by patches.
 *
 * Every commit is a patch on the newest clog page, so a page is stored whole again after `patchesMax` of them: a reader of the clog (a basebackup,
 * the search for a time) never applies more.
 */
import { pageSize, slruSegmentBlocks } from '../limits.ts';
import { type SlruKind, sizeBlock, slruDirectoryKey, slruKind, slruPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ValueReader, ValueSink } from '../services.ts';
import { clogValueBytes } from './patch.ts';
import { decodeSize, encodeSize } from './rel-sizes.ts';
import { decodeSegments, encodeSegments } from './small-directories.ts';

export const slruFolders: Record<SlruKind, string> = {
  [slruKind.clog]: 'pg_xact',
  [slruKind.multixactMembers]: 'pg_multixact/members',
  [slruKind.multixactOffsets]: 'pg_multixact/offsets',
};
export const allSlrus: readonly SlruKind[] = [slruKind.clog, slruKind.multixactMembers, slruKind.multixactOffsets];

const patchesMax = 1024;
const tombstone = new Uint8Array(0);

export class Slru {
  readonly kind: SlruKind;
  readonly #reader: ValueReader;
  readonly #sink: ValueSink;
  readonly #zeros: Uint8Array;
  /** Page -> patches since it was last stored whole, as far as this process has seen. */
  readonly #patches = new Map<number, number>();
  /** Segment number -> size in blocks. */
  readonly #segments: Map<number, number>;

  private constructor(kind: SlruKind, reader: ValueReader, sink: ValueSink, segments: Map<number, number>) {
    this.kind = kind;
    this.#reader = reader;
    this.#zeros = new Uint8Array(kind === slruKind.clog ? clogValueBytes : pageSize);
    this.#sink = sink;
    this.#segments = segments;
  }

  static async open(kind: SlruKind, reader: ValueReader, sink: ValueSink): Promise<Slru> {
    const directory = slruDirectoryKey(kind);
    const segments = new Map<number, number>();
    for (const segment of decodeSegments(await reader.getImage(directory.prefix, directory.block))) {
      const prefix = slruPrefix(kind, segment);
      segments.set(segment, Math.max(0, decodeSize(await reader.getImage(prefix, sizeBlock), prefix)));
    }
    return new Slru(kind, reader, sink, segments);
  }

  /** A ZEROPAGE record: the page begins, empty. */
  zeroPage(page: number, lsn: Lsn): void {
    const segment = Math.floor(page / slruSegmentBlocks);
    const block = page % slruSegmentBlocks;
    const prefix = slruPrefix(this.kind, segment);
    const size = this.#segments.get(segment);
    for (let gap = size ?? 0; gap < block; gap++) this.#sink.putImage(prefix, gap, lsn, this.#zeros);
    this.#sink.putImage(prefix, block, lsn, this.#zeros);
    this.#patches.delete(page);
    this.#grow(segment, block + 1, lsn);
  }

  /** A promise if the page is to be stored whole, for which it is read first. */
  patch(page: number, lsn: Lsn, patch: Uint8Array): void | Promise<void> {
    const segment = Math.floor(page / slruSegmentBlocks);
    const block = page % slruSegmentBlocks;
    const prefix = slruPrefix(this.kind, segment);
    this.#sink.putPatch(prefix, block, lsn, patch);
    this.#grow(segment, block + 1, lsn);
    const patches = (this.#patches.get(page) ?? 0) + 1;
    this.#patches.set(page, patches % patchesMax);
    if (patches < patchesMax) return;
    return this.#reader.getImage(prefix, block).then((image) => {
      if (image !== null) this.#sink.putImage(prefix, block, lsn, image);
    });
  }

  #grow(segment: number, blocks: number, lsn: Lsn): void {
    const size = this.#segments.get(segment);
    if (size !== undefined && size >= blocks) return;
    this.#segments.set(segment, blocks);
    this.#sink.putImage(slruPrefix(this.kind, segment), sizeBlock, lsn, encodeSize(blocks));
    if (size === undefined) this.#storeDirectory(lsn);
  }

  /** Drops the segments that `dead` says are not needed. */
  truncate(dead: (segment: number) => boolean, lsn: Lsn): void {
    let changed = false;
    for (const segment of [...this.#segments.keys()]) {
      if (!dead(segment)) continue;
      this.#segments.delete(segment);
      this.#sink.putImage(slruPrefix(this.kind, segment), sizeBlock, lsn, tombstone);
      changed = true;
    }
    if (changed) this.#storeDirectory(lsn);
  }

  #storeDirectory(lsn: Lsn): void {
    const directory = slruDirectoryKey(this.kind);
    this.#sink.putImage(directory.prefix, directory.block, lsn, encodeSegments(this.#segments.keys()));
  }
}

/** The read side: pages of one SLRU at some LSN, segment by segment. */
export async function readSlruSegments(
  kind: SlruKind,
  reader: ValueReader,
): Promise<{ segment: number; pages: Uint8Array[] }[]> {
  const directory = slruDirectoryKey(kind);
  const segments = decodeSegments(await reader.getImage(directory.prefix, directory.block));
  return Promise.all(
    segments.map(async (segment) => {
      const prefix = slruPrefix(kind, segment);
      const size = Math.max(0, decodeSize(await reader.getImage(prefix, sizeBlock), prefix));
      const pages = await Promise.all(Array.from({ length: size }, (_, block) => reader.getImage(prefix, block)));
      return { segment, pages: pages.map((page) => page ?? new Uint8Array(8192)) };
    }),
  );
}
