/**
 * The bytes of the pagestream protocol are pinned to its version.
 *
 * Must hold: every sample message encodes to the bytes kept in golden/v1.txt and these decode to the sample; a change of any byte under
 * an old version number fails here. To change the protocol: raise `pagestreamVersion`, add a golden file, add its hash below.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  pagestreamVersion,
  requestTag,
  responseTag,
} from '../../engine/protocol/pagestream.ts';
import { sampleRequests, sampleResponses } from './samples.ts';

/** SHA-256 over the tags and the bytes of all samples. */
const schemaHashes: Record<number, string> = {
  1: 'f04a9ce39cfd8d4dc139a8f8c0ea1146f89500aadb276f49519e3ae40372bc2d',
  2: '34ec6bff7c6063814c2b17fddd153b696fbdf447e51416e7748f028f8814f0f8',
};

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const lines = [...sampleRequests.map(encodeRequest), ...sampleResponses.map(encodeResponse)].map(hex);
const golden = readFileSync(join(import.meta.dirname, `golden/v${pagestreamVersion}.txt`), 'utf8')
  .trim()
  .split('\n');

describe('pagestream bytes', () => {
  it('the schema hash belongs to this version', () => {
    const schema = JSON.stringify([requestTag, responseTag, lines]);
    expect(createHash('sha256').update(schema).digest('hex')).toBe(schemaHashes[pagestreamVersion]);
  });

  it('the samples have a message of every kind', () => {
    expect(new Set(sampleRequests.map((r) => r.kind))).toEqual(new Set(Object.keys(requestTag)));
    expect(new Set(sampleResponses.map((r) => r.kind))).toEqual(new Set(Object.keys(responseTag)));
  });

  it('encodes to the golden bytes', () => {
    expect(lines).toEqual(golden);
  });

  it('decodes the golden bytes', () => {
    const messages = golden.map((line) => new Uint8Array(Buffer.from(line, 'hex')));
    expect(messages.slice(0, sampleRequests.length).map(decodeRequest)).toEqual(sampleRequests);
    expect(messages.slice(sampleRequests.length).map(decodeResponse)).toEqual(sampleResponses);
  });
});
