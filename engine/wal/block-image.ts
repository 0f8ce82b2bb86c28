/**
 * Full-page images of WAL records: restored to the page they stand for.
 *
 * Uncompressed images leave out the hole between pd_lower and pd_upper. Compressed ones (wal_compression) are pglz in this build, or lz4 and
 * zstd in builds that have them. Source: src/backend/access/transam/xlogreader.c (RestoreBlockImage), src/common/pg_lzcompress.c.
 */
import { pageSize } from '../limits.ts';
import { corruptRecord } from './parse-record.ts';
import type { BlockReference, WalRecord } from './wal-record.ts';

const compressedPglz = 0x04;
const compressedLz4 = 0x08;
const compressedZstd = 0x10;

/** The page of this image, with the record's end as its LSN as redo sets it. Throws `corrupt` for one that cannot be restored. */
export function restoreImage(record: WalRecord, block: BlockReference): Uint8Array {
  const { bytes, start } = record;
  const stored = bytes.subarray(start + block.imageOffset, start + block.imageOffset + block.imageLength);
  const packed = pageSize - block.holeLength;
  let image = stored;
  if (block.imageInfo & compressedPglz) {
    const unpacked = pglzDecompress(stored, packed);
    if (unpacked === null) throw corruptRecord(record, `image of block ${block.id} does not decompress`);
    image = unpacked;
  } else if (block.imageInfo & (compressedLz4 | compressedZstd)) {
    const method = block.imageInfo & compressedLz4 ? 'lz4' : 'zstd';
    throw corruptRecord(
      record,
      `image of block ${block.id} is compressed with ${method}, which this build does not have`,
    );
  }
  if (image.length !== packed) throw corruptRecord(record, `image of block ${block.id} has ${image.length} bytes`);
  const page = new Uint8Array(pageSize);
  page.set(image.subarray(0, block.holeOffset));
  page.set(image.subarray(block.holeOffset), block.holeOffset + block.holeLength);
  setPageLsn(page, record.endLsn);
  return page;
}

/** A page's LSN: two 32-bit halves, the high one first. A page of zeros (not initialised) has none. */
export function setPageLsn(page: Uint8Array, lsn: number): void {
  if (page[14] === 0 && page[15] === 0) return;
  const view = new DataView(page.buffer, page.byteOffset, 8);
  const low = lsn % 4294967296;
  view.setUint32(0, (lsn - low) / 4294967296, true);
  view.setUint32(4, low, true);
}

/** pglz: control bytes of eight flags; a set flag is a back-reference of 2 or 3 bytes. Null if the bytes are not pglz of `size` bytes. */
export function pglzDecompress(source: Uint8Array, size: number): Uint8Array | null {
  const out = new Uint8Array(size);
  let from = 0;
  let to = 0;
  while (from < source.length && to < size) {
    let control = source[from++]!;
    for (let bit = 0; bit < 8 && from < source.length && to < size; bit++, control >>= 1) {
      if ((control & 1) === 0) {
        out[to++] = source[from++]!;
        continue;
      }
      if (from + 2 > source.length) return null;
      let length = (source[from]! & 0x0f) + 3;
      const distance = ((source[from]! & 0xf0) << 4) | source[from + 1]!;
      from += 2;
      if (length === 18) {
        if (from >= source.length) return null;
        length += source[from++]!;
      }
      if (distance === 0 || distance > to) return null;
      length = Math.min(length, size - to);
      for (let i = 0; i < length; i++, to++) out[to] = out[to - distance]!;
    }
  }
  return to === size && from === source.length ? out : null;
}
