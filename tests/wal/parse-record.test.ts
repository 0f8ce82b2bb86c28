/**
 * What has passed its CRC is still not trusted: a record whose lengths contradict each other is refused with its LSN, no offset ever leaves the
 * record, and a compressed image that does not decompress to a page is refused.
 *
 * Attacked by: one contradiction at a time, and random changes of a valid record inside a buffer whose other bytes would be taken for data.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isPageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { lsn } from '../../engine/model/lsn.ts';
import { pglzDecompress, restoreImage } from '../../engine/wal/block-image.ts';
import { parseRecord } from '../../engine/wal/parse-record.ts';
import { rmgr, WalRecord } from '../../engine/wal/wal-record.ts';

const u16 = (n: number) => [n & 255, n >> 8];
const u32 = (n: number) => [n & 255, (n >>> 8) & 255, (n >>> 16) & 255, n >>> 24];
const rel = [...u32(1663), ...u32(5), ...u32(16384)];
const shortMain = (bytes: number[]) => [255, bytes.length, ...bytes];

/** A record with this body; its bytes stand in the middle of others. */
function record(body: readonly number[], total = 24 + body.length): WalRecord {
  const out = new WalRecord();
  const padding = 100;
  out.bytes = new Uint8Array(padding + 24 + body.length + padding).fill(0x5a);
  out.bytes.fill(0, padding, padding + 24);
  out.bytes.set(u32(total), padding);
  out.bytes[padding + 17] = rmgr.heap;
  out.bytes.set(body, padding + 24);
  out.view = new DataView(out.bytes.buffer);
  out.start = padding;
  out.lsn = lsn(0x1000028);
  out.endLsn = lsn(0x1000100);
  return out;
}

function refusal(body: readonly number[]): string {
  try {
    parseRecord(record(body));
  } catch (error) {
    expect(isPageliteError(error, 'corrupt')).toBe(true);
    expect(String(error)).toContain('0/1000028');
    return String(error);
  }
  return 'accepted';
}

describe('parseRecord', () => {
  it('reads block references, origin, top-level xid and main data', () => {
    const body = [
      ...[0, 0x20 | 0x40, ...u16(3), ...rel, ...u32(7)],
      ...[2, 0x80 | 2, ...u16(0), ...u32(9)],
      ...[253, ...u16(5)],
      ...[252, ...u32(4242)],
      ...[255, 2],
      ...[1, 2, 3],
      ...[8, 9],
    ];
    const parsed = record(body);
    parseRecord(parsed);
    expect(parsed).toMatchObject({ blockCount: 2, origin: 5, topLevelXid: 4242, mainLength: 2 });
    expect(parsed.blocks[0]).toMatchObject({ id: 0, rel: 16384, fork: 0, block: 7, willInit: true, dataLength: 3 });
    expect(parsed.blocks[1]).toMatchObject({ id: 2, rel: 16384, fork: 2, block: 9, willInit: false, dataLength: 0 });
    expect([...parsed.bytes.subarray(parsed.start + parsed.mainOffset).subarray(0, 2)]).toEqual([8, 9]);
    expect([...parsed.bytes.subarray(parsed.start + parsed.blocks[0]!.dataOffset).subarray(0, 3)]).toEqual([1, 2, 3]);
  });

  const image = (length: number, hole: number, info: number, more: number[] = []) => [
    ...[0, 0x10, ...u16(0)],
    ...[...u16(length), ...u16(hole), info, ...more],
    ...rel,
    ...u32(0),
    ...Array(Math.min(length, 9000)).fill(1),
  ];

  it.each<[string, number[], RegExp]>([
    ['a block id twice', [0, 0, 0, 0, ...rel, ...u32(1), 0, 0x80, 0, 0, ...u32(1)], /out-of-order block id 0/],
    ['a block id that is none', [100, 0, 0, 0], /invalid block id 100/],
    ['a flag for data and no data', [0, 0x20, 0, 0, ...rel, ...u32(1)], /wrong data length 0/],
    ['data and no flag', [0, 0, ...u16(4), ...rel, ...u32(1), 1, 2, 3, 4], /wrong data length 4/],
    ['a fork that is none', [0, 7, 0, 0, ...rel, ...u32(1)], /fork 7/],
    ['the relation of a block before the first', [0, 0x80, 0, 0, ...u32(1)], /refers to a relation before it/],
    ['a block header cut short', [0, 0], /cut short/],
    ['a relation cut short', [0, 0, 0, 0, 1, 2, 3], /cut short/],
    ['a block number cut short', [0, 0, 0, 0, ...rel, 1], /cut short/],
    ['an origin cut short', [253, 1], /cut short/],
    ['a top-level xid cut short', [252, 1], /cut short/],
    ['main data longer than the record', [255, 9, 1], /bytes of data where/],
    ['main data of gigabytes', [254, ...u32(0xfffffff0), 1], /bytes of data where/],
    ['bytes that nothing announces', [...shortMain([1]), 2, 3], /bytes of data where/],
    [
      'block data longer than the record',
      [0, 0x20, ...u16(50000), ...rel, ...u32(1), 1],
      /bytes of data where|cut short/,
    ],
    ['an image longer than a page', image(8193, 0, 2), /wrong hole|too long/],
    ['an image with a hole that begins at 0', image(100, 0, 3), /wrong hole/],
    ['an image with a hole beyond the page', image(100, 8100, 3), /wrong hole/],
    ['a short image without a hole', image(100, 0, 2), /wrong hole/],
    ['a compressed image as long as a page', image(8192, 0, 6), /length of a page/],
    ['an image header cut short', [0, 0x10, 0, 0, 1, 2], /cut short/],
    ['a hole length cut short', [0, 0x10, 0, 0, ...u16(10), ...u16(24), 7, 1], /cut short/],
  ])('refuses %s', (_name, body, reason) => {
    expect(refusal(body)).toMatch(reason);
  });

  it('never points outside the record', () => {
    const body = [
      ...[0, 0x10 | 0x20, ...u16(6)],
      ...[...u16(40), ...u16(30), 3],
      ...rel,
      ...u32(3),
      ...[1, 0x80 | 0x20, ...u16(4), ...u32(11)],
      ...[255, 5],
      ...Array(40).fill(0),
      ...[1, 2, 3, 4, 5, 6],
      ...[7, 8, 9, 10],
      ...[11, 12, 13, 14, 15],
    ];
    const valid = record(body);
    parseRecord(valid);
    const change = fc.record({ at: fc.nat(body.length - 1), byte: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const changed = body.slice();
        for (const { at, byte } of changes) changed[at] = byte;
        const parsed = record(changed);
        try {
          parseRecord(parsed);
        } catch (error) {
          if (!isPageliteError(error, 'corrupt')) throw error;
          return;
        }
        const total = parsed.totalLength;
        expect(parsed.mainOffset + parsed.mainLength).toBe(total);
        for (const block of parsed.blocks.slice(0, parsed.blockCount)) {
          expect(block.imageOffset).toBeGreaterThanOrEqual(24);
          expect(block.imageOffset + block.imageLength).toBeLessThanOrEqual(total);
          expect(block.dataOffset + block.dataLength).toBeLessThanOrEqual(total);
          expect(block.holeOffset + block.holeLength).toBeLessThanOrEqual(pageSize);
          if (block.applyImage) restoreOrRefuse(parsed, block);
        }
      }),
      { numRuns: 3000 },
    );
  });

  it('names the compression that this build does not have', () => {
    for (const [info, method] of [
      [0x08, 'lz4'],
      [0x10, 'zstd'],
    ] as const) {
      const parsed = record([
        ...[0, 0x10, 0, 0, ...u16(20), ...u16(0), info | 2, ...rel, ...u32(0)],
        ...[255, 0],
        ...Array(20).fill(1),
      ]);
      parseRecord(parsed);
      expect(() => restoreImage(parsed, parsed.blocks[0]!)).toThrow(new RegExp(`compressed with ${method}`));
    }
  });
});

function restoreOrRefuse(parsed: WalRecord, block: WalRecord['blocks'][number]): void {
  try {
    expect(restoreImage(parsed, block).length).toBe(pageSize);
  } catch (error) {
    if (!isPageliteError(error, 'corrupt')) throw error;
  }
}

describe('pglz', () => {
  it('restores literals, short and long back-references, and ones that overlap what they make', () => {
    // Control byte: bit set = back-reference of length 3 + low nibble (15: one more byte), distance = high nibble and next byte.
    const source = [0b1000, 97, 98, 99, 0x0f, 3, 50, 0];
    const text = 'abc'.repeat(100);
    const length = 3 + 18 + 50;
    const out = pglzDecompress(Uint8Array.from(source.slice(0, 7)), length);
    expect(new TextDecoder().decode(out!)).toBe(text.slice(0, length));
  });

  it('is null for bytes that are cut, too long, or refer to what is not there', () => {
    expect(pglzDecompress(Uint8Array.from([0b1, 0x0f, 3]), 10)).toBeNull();
    expect(pglzDecompress(Uint8Array.from([0b10, 97, 0x00, 0]), 4)).toBeNull();
    expect(pglzDecompress(Uint8Array.from([0b10, 97, 0x00, 2]), 4)).toBeNull();
    expect(pglzDecompress(Uint8Array.from([0, 97, 98]), 3)).toBeNull();
    expect(pglzDecompress(Uint8Array.from([0, 97, 98]), 1)).toBeNull();
  });

  it('never leaves its buffers and always ends', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(pageSize), (source, size) => {
        const out = pglzDecompress(source, size);
        if (out !== null) expect(out.length).toBe(size);
      }),
      { numRuns: 2000 },
    );
  });
});
