/** CRC32C against the published vectors of RFC 3720 (B.4) and against a bit-by-bit implementation, at every alignment. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c, crc32cJoin } from '../../engine/crc32c.ts';

function bitByBit(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe('crc32c', () => {
  it('has the values of RFC 3720', () => {
    expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });

  it('equals the plain algorithm over any range, and continues over a split', () => {
    fc.assert(
      fc.property(fc.nat(1500), fc.nat(20), fc.nat(20), fc.nat(1500), fc.nat(), (length, skipped, start, cut, seed) => {
        // A view that begins anywhere in its buffer.
        const bytes = new Uint8Array(skipped + length).subarray(skipped);
        for (let i = 0; i < length; i++) bytes[i] = Math.imul(i + seed, 0x9e3779b1) >>> 24;
        const from = Math.min(start, length);
        const middle = Math.min(from + cut, length);
        const whole = bitByBit(bytes.subarray(from));
        expect(crc32c(bytes, from)).toBe(whole);
        expect(crc32c(bytes, middle, bytes.length, crc32c(bytes, from, middle))).toBe(whole);
      }),
    );
  });

  it('of two parts is joined from theirs, also where there is nothing before', () => {
    const lengths = [1, 2, 7, 256, 8192];
    const joins = new Map(lengths.map((length) => [length, crc32cJoin(length)]));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.constantFrom(...lengths), fc.nat(), (a, length, seed) => {
        const b = Uint8Array.from({ length }, (_, i) => Math.imul(i + seed, 0x9e3779b1) >>> 24);
        const whole = crc32c(b, 0, length, crc32c(a));
        expect(joins.get(length)!(crc32c(a), crc32c(b))).toBe(whole);
      }),
    );
  });
});
