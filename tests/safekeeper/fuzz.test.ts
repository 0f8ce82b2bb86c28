/**
 * Bytes that nobody has checked: whatever is decoded as a message or a control file either is one, or is a typed error. Attacked with cut,
 * changed, extended and random bytes, with and without a checksum that fits.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isPageliteError } from '../../engine/errors.ts';
import {
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import {
  decodeWalStreamRequest,
  decodeWalStreamResponse,
  encodeWalStreamRequest,
  encodeWalStreamResponse,
} from '../../engine/protocol/wal-stream.ts';
import { decodeControlFile, encodeControlFile } from '../../engine/safekeeper/control-file.ts';
import { seal } from './mutate-message.ts';
import {
  sampleAcceptorMessages,
  sampleControlState,
  sampleProposerMessages,
  sampleWalStreamRequests,
  sampleWalStreamResponses,
} from './samples.ts';

const decoders: [name: string, samples: Uint8Array[], decode: (bytes: Uint8Array) => unknown][] = [
  ['proposer messages', sampleProposerMessages.map(encodeProposerMessage), decodeProposerMessage],
  ['acceptor messages', sampleAcceptorMessages.map(encodeAcceptorMessage), decodeAcceptorMessage],
  ['WAL stream requests', sampleWalStreamRequests.map(encodeWalStreamRequest), decodeWalStreamRequest],
  ['WAL stream responses', sampleWalStreamResponses.map(encodeWalStreamResponse), decodeWalStreamResponse],
];

describe.each(decoders)('%s', (_, samples, decode) => {
  const refuses = (bytes: Uint8Array) => {
    try {
      decode(bytes);
      return false;
    } catch (error) {
      if (isPageliteError(error, 'invalid') || isPageliteError(error, 'corrupt')) return true;
      throw error;
    }
  };
  const sample = fc.constantFrom(...samples);

  it('every cut and every changed byte is refused', () => {
    for (const message of samples) {
      for (let end = 0; end < message.length; end++) expect(refuses(message.slice(0, end))).toBe(true);
      for (let at = 0; at < message.length; at++) {
        const changed = message.slice();
        changed[at]! ^= 0x40;
        expect(refuses(changed)).toBe(true);
      }
    }
  });

  it('a body that was tampered with under a right checksum is a message or a typed error', () => {
    fc.assert(
      fc.property(
        sample,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
        fc.nat(),
        (message, changes, cut) => {
          const tampered = message.slice(0, 12 + (cut % (message.length - 11)));
          for (const [at, value] of changes) tampered[at % tampered.length] = value;
          refuses(seal(tampered));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('random bytes are refused', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => refuses(bytes)));
  });
});

it('a control file with any changed or missing byte is corrupt, and the file is named', () => {
  const bytes = encodeControlFile(sampleControlState);
  const refusal = expect.objectContaining({
    kind: 'corrupt',
    message: expect.stringContaining('/x/safekeeper.control'),
  });
  const decode = (changed: Uint8Array) => () =>
    decodeControlFile(changed, sampleControlState.timeline, '/x/safekeeper.control');
  for (let at = 0; at < bytes.length; at++) {
    const changed = bytes.slice();
    changed[at]! ^= 1;
    expect(decode(changed)).toThrowError(refusal);
    expect(decode(bytes.slice(0, at))).toThrowError(refusal);
  }
});
