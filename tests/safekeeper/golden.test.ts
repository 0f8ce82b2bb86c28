/**
 * The bytes of the WAL's two protocols and of the safekeeper's files are pinned to their versions.
 *
 * Must hold: every sample encodes to the bytes kept in golden/ and these decode to the sample; a change of any byte under an old version
 * number fails here. To change one: raise its version, add a golden file, add its hash below. Golden control files of old versions stay
 * readable, or the safekeeper that reads them converts them.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { noConfiguration } from '../../engine/model/configuration.ts';
import {
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
  messageTag,
} from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion, walStreamVersion } from '../../engine/protocol/version.ts';
import {
  decodeWalStreamRequest,
  decodeWalStreamResponse,
  encodeWalStreamRequest,
  encodeWalStreamResponse,
  walStreamTag,
} from '../../engine/protocol/wal-stream.ts';
import {
  controlFileVersion,
  decodeControlFile,
  decodeFlushMark,
  encodeControlFile,
  encodeFlushMark,
} from '../../engine/safekeeper/control-file.ts';
import { decodePeerMarks, encodePeerMarks } from '../../engine/safekeeper/peer-memory.ts';
import {
  sampleAcceptorMessages,
  sampleControlState,
  sampleFlushMark,
  samplePeerMarks,
  sampleProposerMessages,
  sampleWalStreamRequests,
  sampleWalStreamResponses,
} from './samples.ts';

/** SHA-256 over the tags and the bytes of all samples. */
const schemaHashes: Record<string, string> = {
  'proposer-acceptor-v3': '1017f1012324017dcf22205cebdb657e510d8ce81255a780845714807a7f7758',
  'wal-stream-v4': '717d0ea9f39ebed4f5afe65ed6ad723b878d0d21554da684eef18df47ee09610',
  'control-file-v2': '258f04272b47fc5a193107fb464e434a757462d419fbe9c76bff918fd1f890dd',
  'peer-marks-v1': 'dec535a325b8014ceb3ec8cf8645bc482a9ba856c2c549103a5e4d55fc82e31f',
};

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const unhex = (line: string) => new Uint8Array(Buffer.from(line, 'hex'));

interface Pinned {
  readonly name: string;
  readonly tags: object;
  readonly lines: readonly string[];
  /** Decodes line `i`. */
  readonly decode: (bytes: Uint8Array, i: number) => unknown;
  readonly samples: readonly unknown[];
}

const pinned: Pinned[] = [
  {
    name: `proposer-acceptor-v${proposerAcceptorVersion}`,
    tags: messageTag,
    lines: [
      ...sampleProposerMessages.map(encodeProposerMessage),
      ...sampleAcceptorMessages.map(encodeAcceptorMessage),
    ].map(hex),
    decode: (bytes, i) =>
      i < sampleProposerMessages.length ? decodeProposerMessage(bytes) : decodeAcceptorMessage(bytes),
    samples: [...sampleProposerMessages, ...sampleAcceptorMessages],
  },
  {
    name: `wal-stream-v${walStreamVersion}`,
    tags: walStreamTag,
    lines: [
      ...sampleWalStreamRequests.map(encodeWalStreamRequest),
      ...sampleWalStreamResponses.map(encodeWalStreamResponse),
    ].map(hex),
    decode: (bytes, i) =>
      i < sampleWalStreamRequests.length ? decodeWalStreamRequest(bytes) : decodeWalStreamResponse(bytes),
    samples: [...sampleWalStreamRequests, ...sampleWalStreamResponses],
  },
  {
    name: `control-file-v${controlFileVersion}`,
    tags: {},
    lines: [encodeControlFile(sampleControlState), encodeFlushMark(sampleFlushMark)].map(hex),
    decode: (bytes, i) =>
      i === 0 ? decodeControlFile(bytes, sampleControlState.timeline, 'safekeeper.control') : decodeFlushMark(bytes),
    samples: [sampleControlState, sampleFlushMark],
  },
  {
    name: 'peer-marks-v1',
    tags: {},
    lines: [encodePeerMarks(samplePeerMarks)].map(hex),
    decode: decodePeerMarks,
    samples: [samplePeerMarks],
  },
];

describe.each(pinned)('$name', ({ name, tags, lines, decode, samples }) => {
  const file = join(import.meta.dirname, `golden/${name}.txt`);
  const golden = readFileSync(file, 'utf8').trim().split('\n');

  it('the schema hash belongs to this version', () => {
    const schema = JSON.stringify([tags, lines]);
    expect(createHash('sha256').update(schema).digest('hex')).toBe(schemaHashes[name]);
  });

  it('encodes to the golden bytes', () => {
    expect(lines).toEqual(golden);
  });

  it('decodes the golden bytes', () => {
    expect(golden.map((line, i) => decode(unhex(line), i))).toEqual(samples);
  });
});

it('a control file of version 1, from before there were configurations, is read', () => {
  const [line] = readFileSync(join(import.meta.dirname, 'golden/control-file-v1.txt'), 'utf8').split('\n');
  expect(decodeControlFile(unhex(line!), sampleControlState.timeline, 'safekeeper.control')).toEqual({
    ...sampleControlState,
    configuration: noConfiguration,
  });
});

it('the samples have a message of every kind', () => {
  const kinds = (samples: readonly { kind: string }[]) => samples.map(({ kind }) => kind);
  expect(new Set(kinds([...sampleProposerMessages, ...sampleAcceptorMessages]))).toEqual(
    new Set(Object.keys(messageTag)),
  );
  expect(new Set(kinds([...sampleWalStreamRequests, ...sampleWalStreamResponses]))).toEqual(
    new Set(Object.keys(walStreamTag)),
  );
});
