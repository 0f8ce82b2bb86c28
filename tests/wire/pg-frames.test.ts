/**
 * Framing: any cut of a stream gives the same messages; bounds hold before memory is taken; rings keep every byte in order.
 * Attack: streams of random messages cut at random places (fast-check prints the seed).
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  BackendFrames,
  errorResponse,
  FrontendBuffer,
  frontendMessageBytes,
  message,
  parseCommandLineOptions,
} from '../../server/compute/pg-frames.ts';
import { createSharedWire } from '../../server/compute/ring.ts';
import { encodeControl, readReady, readyBytes, writeReady } from '../../server/compute/session-protocol.ts';

const cuts = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 30 });

function* chunksOf(bytes: Buffer, sizes: readonly number[]): Generator<Buffer> {
  for (let at = 0, index = 0; at < bytes.length; index++) {
    const size = sizes[index % sizes.length]!;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

test('backend stream: control messages and notifications are taken out, all else goes on, however it is cut', () => {
  const part = fc.record({
    type: fc.constantFrom('D', 'C', 'Z', 'A', '\x12', '\x11'),
    body: fc.uint8Array({ maxLength: 300 }),
  });
  fc.assert(
    fc.property(fc.array(part, { maxLength: 20 }), cuts, (parts, sizes) => {
      const stream = Buffer.concat(parts.map(({ type, body }) => message(type, body)));
      const forwarded: Buffer[] = [];
      const taken: string[] = [];
      const frames = new BackendFrames({
        forward: (bytes) => forwarded.push(Buffer.from(bytes)),
        message: (type, body) => taken.push(`${type}:${body.toString('hex')}`),
      });
      for (const chunk of chunksOf(stream, sizes)) frames.push(chunk);
      const isTaken = ({ type }: { type: string }) => type === 'A' || type < ' ';
      const expected = Buffer.concat(
        parts.filter((each) => !isTaken(each)).map(({ type, body }) => message(type, body)),
      );
      expect(Buffer.concat(forwarded).equals(expected)).toBe(true);
      expect(taken).toEqual(
        parts.filter(isTaken).map(({ type, body }) => `${type.charCodeAt(0)}:${Buffer.from(body).toString('hex')}`),
      );
    }),
  );
});

test('client stream: headers and bytes come out whole, however they came in', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 20 }), cuts, (bodies, sizes) => {
      const stream = Buffer.concat(bodies.map((body) => message('d', body)));
      const buffer = new FrontendBuffer();
      for (const chunk of chunksOf(stream, sizes)) buffer.append(chunk);
      for (const body of bodies) {
        expect(buffer.peekHeader()).toEqual({ type: 0x64, bytes: 5 + body.length });
        expect(
          buffer
            .peekBytes(5 + body.length)
            .subarray(5)
            .equals(Buffer.from(body)),
        ).toBe(true);
        for (let left = 5 + body.length; left > 0; ) {
          const taken = buffer.front(left).length;
          buffer.skip(taken);
          left -= taken;
        }
      }
      expect(buffer.size).toBe(0);
    }),
  );
});

test('types and lengths that clients may not send', () => {
  expect(frontendMessageBytes(0x51, 5)).toBe(6);
  for (const type of [0, 1, 2, 3, 4, 0x3f, 0x70, 0x52, 0xff])
    expect(() => frontendMessageBytes(type, 4)).toThrow('type');
  for (const length of [0, 3, 10_001]) expect(() => frontendMessageBytes(0x53, length)).toThrow('length');
  expect(() => frontendMessageBytes(0x51, 0x7fffffff)).toThrow('length');
});

test('command line options of the startup packet', () => {
  expect(parseCommandLineOptions('-c a=1 -cb=2  --some-name=x\\ y')).toEqual([
    ['a', '1'],
    ['b', '2'],
    ['some_name', 'x y'],
  ]);
  for (const bad of ['-c', 'a=1', '-c =1', '--x']) expect(() => parseCommandLineOptions(bad)).toThrow('invalid');
});

test('rings keep every byte in order, over their end and the end of their counters', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1, maxLength: 30 }), (sizes) => {
      const { inbound, words } = createSharedWire();
      // Near 2^32 and off the ring's start.
      words[0] = -100_001;
      words[1] = -100_001;
      let written = 0;
      let read = 0;
      const target = new Uint8Array(100_000);
      for (const size of sizes) {
        const source = Uint8Array.from({ length: size }, (_, index) => (written + index) % 251);
        written += inbound.write(source, 0, size);
        const count = inbound.read(target, 0, Math.floor(inbound.used / 2));
        for (let index = 0; index < count; index++) if (target[index] !== (read + index) % 251) return false;
        read += count;
        if (inbound.used !== written - read) return false;
      }
      return true;
    }),
  );
});

test('messages between the threads', () => {
  const ready = { status: 'T', pinned: true, consumed: 0xfffffffe, idleInTransactionMs: 5, idleSessionMs: 7 } as const;
  const view = new DataView(new ArrayBuffer(readyBytes));
  writeReady(view, ready);
  expect(readReady(new Uint8Array(view.buffer).subarray(5))).toEqual(ready);
  expect(Buffer.from(encodeControl(1, { a: 'ä' })).toString('hex')).toBe('010000000e7b2261223a22c3a4227d');
  expect(errorResponse({ severity: 'ERROR', code: '1', message: 'm' }).toString()).toBe(
    'E\0\0\0\x1fSERROR\0VERROR\0C1\0Mm\0\0'.replace('\x1f', String.fromCharCode(4 + 7 + 7 + 3 + 3 + 1)),
  );
});
