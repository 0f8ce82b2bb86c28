/**
 * Bytes that nobody vouches for.
 *
 * Must hold: what was encoded decodes to itself; a message that is cut, lengthened, has any byte changed, or is noise throws a PageliteError
 * `invalid` or `corrupt` and nothing else; the same for a well-framed message (right length and checksum) with a garbage body, which may
 * decode only to something that encodes back to the same bytes. fast-check prints the seed of a failure.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c } from '../../engine/crc32c.ts';
import { isPageliteError } from '../../engine/errors.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { messageHeaderBytes } from '../../engine/protocol/answer-pages.ts';
import { basebackupChunks, decodeBasebackup } from '../../engine/protocol/basebackup-codec.ts';
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  requestTag,
  responseTag,
} from '../../engine/protocol/pagestream.ts';
import type { Basebackup } from '../../engine/services.ts';
import { sampleRequests, sampleResponses } from './samples.ts';

type Direction = {
  name: string;
  decode: (m: Uint8Array) => unknown;
  encode: (m: never) => Uint8Array;
  samples: Uint8Array[];
  tags: number[];
};
const directions: Direction[] = [
  {
    name: 'request',
    decode: decodeRequest,
    encode: encodeRequest,
    samples: sampleRequests.map(encodeRequest),
    tags: Object.values(requestTag),
  },
  {
    name: 'response',
    decode: decodeResponse,
    encode: encodeResponse,
    samples: sampleResponses.map(encodeResponse),
    tags: Object.values(responseTag),
  },
];

/** True if `decode` refused it as it should. Any other error fails the test. */
function refused(decode: () => unknown): boolean {
  try {
    decode();
    return false;
  } catch (error) {
    if (isPageliteError(error, 'invalid') || isPageliteError(error, 'corrupt')) return true;
    throw error;
  }
}

/** A message with a right header around any body. */
function frame(tag: number, id: number, body: Uint8Array): Uint8Array {
  const message = new Uint8Array(messageHeaderBytes + body.length);
  message.set(body, messageHeaderBytes);
  const view = new DataView(message.buffer);
  view.setUint8(0, tag);
  view.setUint32(4, id, true);
  view.setUint32(8, body.length, true);
  view.setUint32(12, crc32c(message, messageHeaderBytes, message.length, crc32c(message, 0, 12)), true);
  return message;
}

describe.each(directions)('pagestream $name', ({ decode, encode, samples, tags }) => {
  it('is refused when cut anywhere', () => {
    for (const sample of samples) {
      const step = sample.length > 1000 ? 97 : 1;
      for (let length = 0; length < sample.length; length += step) {
        expect(refused(() => decode(sample.subarray(0, length)))).toBe(true);
      }
    }
  });

  it('is refused when a byte is changed or added', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (sample, position, change) => {
          const damaged = sample.slice();
          damaged[position % sample.length]! ^= change;
          expect(refused(() => decode(damaged))).toBe(true);
          const longer = new Uint8Array(sample.length + (change % 9) + 1);
          longer.set(sample);
          expect(refused(() => decode(longer))).toBe(true);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('is refused when it is noise', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => refused(() => decode(noise))));
  });

  it('with a garbage body is refused, or says exactly those bytes', () => {
    const body = fc.oneof(
      fc.uint8Array({ maxLength: 120 }),
      // The body of a real message with some bytes replaced: gets past the first checks.
      fc
        .tuple(fc.constantFrom(...samples), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }))
        .map(([sample, changes]) => {
          const bytes = sample.slice(messageHeaderBytes);
          for (const [position, value] of changes) if (bytes.length > 0) bytes[position % bytes.length] = value;
          return bytes;
        }),
    );
    let accepted = 0;
    fc.assert(
      fc.property(fc.oneof(fc.constantFrom(...tags), fc.nat(255)), fc.nat(0xffffffff), body, (tag, id, bytes) => {
        const message = frame(tag, id, bytes);
        let decoded: unknown;
        if (
          refused(() => {
            decoded = decode(message);
          })
        )
          return;
        accepted++;
        // An error's JSON and unused status fields have more than one spelling; they must still encode.
        const again = encode(decoded as never);
        if (tag !== responseTag.error && tag !== responseTag.status) expect(again).toEqual(message);
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeGreaterThan(0);
  });
});

describe('pagestream limits', () => {
  it('refuses a request longer than any request before it looks inside', () => {
    const message = frame(requestTag.getImages, 1, new Uint8Array(70_000));
    expect(() => decodeRequest(message)).toThrow(/limit/);
  });

  it('refuses too many blocks, blocks past the last and no blocks', () => {
    const ask = { kind: 'getPages', id: 1, at: { requestLsn: 1 as Lsn, notModifiedSince: 0 as Lsn } } as const;
    const rel = { spc: 1663, db: 5, rel: 1259, fork: 0 } as const;
    for (const [firstBlock, blockCount] of [
      [0, 0],
      [0, 129],
      [0xffffffff, 1],
      [0xfffffffe, 2],
    ] as const) {
      expect(() => decodeRequest(encodeRequest({ ...ask, rel, firstBlock, blockCount }))).toThrow(/malformed getPages/);
    }
    expect(decodeRequest(encodeRequest({ ...ask, rel, firstBlock: 0xfffffffe, blockCount: 1 }))).toBeTruthy();
  });
});

describe('basebackup bytes', () => {
  const rel = { spc: 1663, db: 5, rel: 1259, fork: 0 } as const;
  const backups: fc.Arbitrary<Basebackup> = fc.record({
    lsn: fc.maxSafeNat().map((n) => n as Lsn),
    prevLsn: fc.maxSafeNat().map((n) => n as Lsn),
    systemIdentifier: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    files: fc.array(
      fc.record({
        path: fc.constantFrom('PG_VERSION', 'base/5', 'global/pg_control', 'pg_xact/0000', 'é/ü'),
        bytes: fc.option(fc.uint8Array({ maxLength: 400 })),
      }),
      { maxLength: 5 },
    ),
    prewarm: fc.array(
      fc.record({
        rel: fc.constant(rel),
        relSize: fc.nat(9),
        firstBlock: fc.nat(9),
        pages: fc.nat(2).map((n) => new Uint8Array(n * 8192).fill(n)),
      }),
      { maxLength: 2 },
    ),
  });

  function join(backup: Basebackup, chunkBytes: number): Uint8Array {
    const chunks = [...basebackupChunks(backup, chunkBytes)];
    let size = 0;
    for (const [i, chunk] of chunks.entries()) {
      expect(chunk.offset).toBe(size);
      expect(chunk.last).toBe(i === chunks.length - 1);
      if (!chunk.last) expect(chunk.bytes.length).toBe(chunkBytes);
      size += chunk.bytes.length;
    }
    return new Uint8Array(Buffer.concat(chunks.map((chunk) => chunk.bytes)));
  }

  it('come back from chunks of any size, and are refused when cut', () => {
    fc.assert(
      fc.property(backups, fc.integer({ min: 1, max: 1000 }), fc.nat(), (backup, chunkBytes, cut) => {
        const bytes = join(backup, chunkBytes);
        expect(decodeBasebackup(bytes)).toEqual(backup);
        expect(refused(() => decodeBasebackup(bytes.subarray(0, cut % bytes.length)))).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('refuse paths that leave the data directory', () => {
    for (const path of ['/etc/passwd', '../x', 'base/../../x', '', 'base//5', './x', 'a\0b']) {
      const bytes = join(
        { lsn: 0 as Lsn, prevLsn: 0 as Lsn, systemIdentifier: 0n, files: [{ path, bytes: null }], prewarm: [] },
        100,
      );
      expect(() => decodeBasebackup(bytes), path).toThrow(/malformed basebackup: path/);
    }
  });
});
