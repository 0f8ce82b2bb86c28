/** A local file is an array of bytes with holes: reads, writes and truncations as on a Uint8Array. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LocalFile } from '../../smgr-plugin/vfs/local-file.ts';

const limit = 300_000;

describe('local file', () => {
  it('behaves as an array of bytes', () => {
    const step = fc.oneof(
      fc.tuple(
        fc.constant('write' as const),
        fc.nat(limit - 40000),
        fc.integer({ min: 1, max: 40000 }),
        fc.integer({ min: 1, max: 255 }),
      ),
      fc.tuple(fc.constant('truncate' as const), fc.nat(limit), fc.constant(0), fc.constant(0)),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        const file = new LocalFile();
        const model = new Uint8Array(limit);
        let size = 0;
        for (const [what, at, length, fill] of steps) {
          if (what === 'write') {
            const source = new Uint8Array(length + 7).fill(fill);
            file.write(at, source, 7, length);
            model.fill(fill, at, at + length);
            size = Math.max(size, at + length);
          } else {
            file.truncate(at);
            if (at < size) model.fill(0, at);
            size = at;
          }
          expect(file.size).toBe(size);
        }
        const target = new Uint8Array(limit + 10).fill(9);
        expect(file.read(0, target, 3, limit)).toBe(size);
        expect(Buffer.compare(Buffer.from(target.subarray(3, 3 + size)), Buffer.from(model.subarray(0, size)))).toBe(0);
        expect(target[3 + size]).toBe(9);
      }),
      { numRuns: 60 },
    );
  });

  it('takes memory for what was written only', () => {
    const file = new LocalFile();
    file.truncate(16 * 1024 * 1024);
    file.write(9_000_000, new Uint8Array(100), 0, 100);
    expect(file.size).toBe(16 * 1024 * 1024);
    expect(file.bytesInMemory).toBe(64 * 1024);
  });
});
