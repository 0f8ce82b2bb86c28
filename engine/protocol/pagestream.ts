/**
 * The pagestream protocol: a PageService bound to one timeline, spoken over a Channel (R4 and R5 of the read path).
 *
 * Spoken by remote/remote-page-service.ts (client) and server/pageserver/pagestream-handler.ts (server). One Channel message is one
 * protocol message. The first request is `hello`; the answer is `welcome`, or `error` with id 0 and the end of the connection.
 * Then requests are pipelined under ids that the client chooses; answers come in any order. `cancel` carries the id of the request
 * that nobody waits for any more; it has no answer of its own. An `error` with id 0 is about the connection and is its last message.
 *
 *   | bytes  | field    |                                                                     |
 *   |--------|----------|---------------------------------------------------------------------|
 *   | 0      | tag      | `requestTag` or `responseTag`                                       |
 *   | 1..3   | reserved | 0                                                                   |
 *   | 4..7   | id       | of the request; 0 for hello, welcome and errors of the connection   |
 *   | 8..11  | length   | of the body                                                         |
 *   | 12..15 | crc32c   | of bytes 0..11 followed by the body                                 |
 *   | 16..   | body     | by tag: docs/formats.md                                             |
 *
 * Invariants: a message is decoded whole or refused (`invalid`: broken protocol, `corrupt`: wrong checksum); the layout of the header,
 * `hello` and `error` never changes between versions, so that two versions can tell each other so.
 */
import { unreachable } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import {
  blockNumberMax,
  channelMessageBytesMax,
  keysPerRequestMax,
  pageSize,
  pagesPerRequestMax,
  pagestreamRequestBytesMax,
} from '../limits.ts';
import type { TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import { type Key, keyBytes, keyPrefix } from '../model/key.ts';
import { type Lsn, maxLsn } from '../model/lsn.ts';
import type { BlockNumber, ForkNumber, RelTag } from '../model/rel.ts';
import type { ReadLsn, TimelineStatus } from '../services.ts';
import { messageAround, messageHeaderBytes, pagesChecksum } from './answer-pages.ts';
import { ByteReader, ByteWriter } from './byte-codec.ts';
import { readErrorBody } from './message-frame.ts';

/** Raised whenever the bytes of any message change. tests/pagestream/golden.test.ts pins them. */
export const pagestreamVersion = 2;

/** `PLPS` as bytes: opens `hello`. */
const helloMagic = 0x53504c50;

export const requestTag = {
  hello: 1,
  getPages: 2,
  getImages: 3,
  getRelSize: 4,
  listRels: 5,
  getBasebackup: 6,
  getStatus: 7,
  cancel: 8,
  leaseLsn: 9,
} as const;

export const responseTag = {
  welcome: 128,
  pages: 129,
  images: 130,
  relSize: 131,
  rels: 132,
  basebackupChunk: 133,
  status: 134,
  error: 135,
  lease: 136,
} as const;

export type PagestreamRequest =
  | { readonly kind: 'hello'; readonly id: 0; readonly version: number; readonly timeline: TenantTimelineId }
  | {
      readonly kind: 'getPages';
      readonly id: number;
      readonly at: ReadLsn;
      readonly rel: RelTag;
      readonly firstBlock: BlockNumber;
      readonly blockCount: number;
    }
  | { readonly kind: 'getImages'; readonly id: number; readonly at: ReadLsn; readonly keys: readonly Key[] }
  | { readonly kind: 'getRelSize'; readonly id: number; readonly at: ReadLsn; readonly rel: RelTag }
  | { readonly kind: 'listRels'; readonly id: number; readonly at: ReadLsn; readonly spc: number; readonly db: number }
  | { readonly kind: 'getBasebackup'; readonly id: number; readonly lsn: Lsn | null }
  | { readonly kind: 'getStatus'; readonly id: number }
  | { readonly kind: 'leaseLsn'; readonly id: number; readonly lsn: Lsn }
  | { readonly kind: 'cancel'; readonly id: number };

export type PagestreamResponse =
  | { readonly kind: 'welcome'; readonly id: 0; readonly version: number }
  | { readonly kind: 'pages'; readonly id: number; readonly bytes: Uint8Array }
  | { readonly kind: 'images'; readonly id: number; readonly images: (Uint8Array | null)[] }
  | { readonly kind: 'relSize'; readonly id: number; readonly size: BlockNumber | null }
  | { readonly kind: 'rels'; readonly id: number; readonly rels: { rel: RelTag; size: BlockNumber }[] }
  | {
      readonly kind: 'basebackupChunk';
      readonly id: number;
      /** Where these bytes stand in the basebackup's (protocol/basebackup-codec.ts): a missing chunk is noticed. */
      readonly offset: number;
      readonly last: boolean;
      readonly bytes: Uint8Array;
    }
  | { readonly kind: 'status'; readonly id: number; readonly status: TimelineStatus }
  | { readonly kind: 'lease'; readonly id: number; readonly validForMs: number }
  | { readonly kind: 'error'; readonly id: number; readonly error: PageliteError };

const utf8 = new TextEncoder();
/** In `relSize` and `images`: there is none. No size or length reaches it. */
const absent = 0xffffffff;

// Requests

export function encodeRequest(request: PagestreamRequest): Uint8Array {
  const { id } = request;
  switch (request.kind) {
    case 'hello': {
      const { tenantId, timelineId } = request.timeline;
      const out = begin(40).u32(helloMagic).u32(request.version).id(tenantId).id(timelineId);
      return seal(requestTag.hello, id, out);
    }
    case 'getPages': {
      const out = writeReadLsn(begin(40), request.at).rel(request.rel).u32(request.firstBlock).u32(request.blockCount);
      return seal(requestTag.getPages, id, out);
    }
    case 'getImages': {
      const out = writeReadLsn(begin(20 + request.keys.length * keyBytes), request.at).u32(request.keys.length);
      for (const key of request.keys) writeKeyFields(out, key);
      return seal(requestTag.getImages, id, out);
    }
    case 'getRelSize':
      return seal(requestTag.getRelSize, id, writeReadLsn(begin(32), request.at).rel(request.rel));
    case 'listRels':
      return seal(requestTag.listRels, id, writeReadLsn(begin(24), request.at).u32(request.spc).u32(request.db));
    case 'getBasebackup':
      // No LSN is "the last ingested one": maxLsn on the wire.
      return seal(requestTag.getBasebackup, id, begin(8).u53(request.lsn ?? maxLsn));
    case 'getStatus':
      return seal(requestTag.getStatus, id, begin(0));
    case 'leaseLsn':
      return seal(requestTag.leaseLsn, id, begin(8).u53(request.lsn));
    case 'cancel':
      return seal(requestTag.cancel, id, begin(0));
    default:
      return unreachable(request);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed request of this version. */
export function decodeRequest(message: Uint8Array): PagestreamRequest {
  const { tag, id } = open(message, pagestreamRequestBytesMax, 'request');
  const name = nameOfTag(requestTag, tag, 'request');
  const reader = new ByteReader(message, `${name} request`, messageHeaderBytes);
  const request = readRequest(tag, id, reader);
  reader.end();
  return request;
}

function readRequest(tag: number, id: number, reader: ByteReader): PagestreamRequest {
  switch (tag) {
    case requestTag.hello: {
      if (id !== 0) throw reader.invalid(`id ${id}, must be 0`);
      if (reader.u32() !== helloMagic) throw reader.invalid('wrong magic: the peer does not speak pagestream');
      const version = reader.u32();
      const timeline = { tenantId: reader.id() as TenantId, timelineId: reader.id() as TimelineId };
      return { kind: 'hello', id: 0, version, timeline };
    }
    case requestTag.getPages: {
      const at = readReadLsn(reader);
      const rel = reader.rel();
      const firstBlock = reader.u32();
      const blockCount = reader.u32();
      if (blockCount < 1 || blockCount > pagesPerRequestMax) {
        throw reader.invalid(`${blockCount} blocks, must be 1 to ${pagesPerRequestMax}`);
      }
      if (firstBlock + blockCount - 1 > blockNumberMax) throw reader.invalid(`block ${firstBlock} is out of range`);
      return { kind: 'getPages', id, at, rel, firstBlock, blockCount };
    }
    case requestTag.getImages: {
      const at = readReadLsn(reader);
      const count = reader.u32();
      if (count > keysPerRequestMax) throw reader.invalid(`${count} keys, at most ${keysPerRequestMax}`);
      return { kind: 'getImages', id, at, keys: Array.from({ length: count }, () => readKeyFields(reader)) };
    }
    case requestTag.getRelSize:
      return { kind: 'getRelSize', id, at: readReadLsn(reader), rel: reader.rel() };
    case requestTag.listRels:
      return { kind: 'listRels', id, at: readReadLsn(reader), spc: reader.u32(), db: reader.u32() };
    case requestTag.getBasebackup: {
      const lsn = reader.lsn();
      return { kind: 'getBasebackup', id, lsn: lsn === maxLsn ? null : lsn };
    }
    case requestTag.getStatus:
      return { kind: 'getStatus', id };
    case requestTag.leaseLsn:
      return { kind: 'leaseLsn', id, lsn: reader.lsn() };
    default:
      return { kind: 'cancel', id };
  }
}

function writeReadLsn(out: ByteWriter, at: ReadLsn): ByteWriter {
  return out.u53(at.requestLsn).u53(at.notModifiedSince);
}

function readReadLsn(reader: ByteReader): ReadLsn {
  return { requestLsn: reader.lsn(), notModifiedSince: reader.lsn() };
}

function writeKeyFields(out: ByteWriter, { prefix, block }: Key): void {
  out.u8(prefix.kind).u32(prefix.spc).u32(prefix.db).u32(prefix.rel).u8(prefix.fork).u32(block);
}

function readKeyFields(reader: ByteReader): Key {
  const kind = reader.u8();
  const spc = reader.u32();
  const db = reader.u32();
  const rel = reader.u32();
  const fork = reader.u8();
  const block = reader.u32();
  if (kind > 3 || spc >= 1048576 || fork > 3) throw reader.invalid(`key of kind ${kind}, spc ${spc}, fork ${fork}`);
  return { prefix: keyPrefix(kind, spc, db, rel, fork), block };
}

// Responses

/** Pages that have room for a header before them (answer-pages.ts) become the message: whoever gave them does not touch them any more. */
export function encodeResponse(response: PagestreamResponse): Uint8Array {
  const { id } = response;
  switch (response.kind) {
    case 'welcome':
      return seal(responseTag.welcome, id, begin(4).u32(response.version));
    case 'pages': {
      const { bytes } = response;
      const message = messageAround(bytes) ?? begin(bytes.length).put(bytes).finish();
      return seal(responseTag.pages, id, message, (seed) => pagesChecksum(bytes, seed));
    }
    case 'images':
      return seal(responseTag.images, id, writeImages(response.images));
    case 'relSize':
      return seal(responseTag.relSize, id, begin(4).u32(response.size ?? absent));
    case 'rels': {
      const out = begin(4 + response.rels.length * 20).u32(response.rels.length);
      for (const { rel, size } of response.rels) out.rel(rel).u32(size);
      return seal(responseTag.rels, id, out);
    }
    case 'basebackupChunk': {
      const out = begin(12 + response.bytes.length)
        .u53(response.offset)
        .u32(response.last ? 1 : 0);
      return seal(responseTag.basebackupChunk, id, out.put(response.bytes));
    }
    case 'lease':
      return seal(responseTag.lease, id, begin(4).u32(response.validForMs));
    case 'status':
      return seal(responseTag.status, id, writeStatus(response.status));
    case 'error': {
      const text = utf8.encode(JSON.stringify(response.error.toJSON()));
      return seal(responseTag.error, id, begin(text.length).put(text));
    }
    default:
      return unreachable(response);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed response. Bytes in it are views of `message`. */
export function decodeResponse(message: Uint8Array): PagestreamResponse {
  const { tag, id } = open(message, channelMessageBytesMax, 'response');
  const name = nameOfTag(responseTag, tag, 'response');
  const reader = new ByteReader(message, `${name} response`, messageHeaderBytes);
  const response = readResponse(tag, id, reader);
  reader.end();
  return response;
}

function readResponse(tag: number, id: number, reader: ByteReader): PagestreamResponse {
  switch (tag) {
    case responseTag.welcome:
      if (id !== 0) throw reader.invalid(`id ${id}, must be 0`);
      return { kind: 'welcome', id: 0, version: reader.u32() };
    case responseTag.pages: {
      const length = reader.remaining;
      if (length === 0 || length % pageSize !== 0 || length > pagesPerRequestMax * pageSize) {
        throw reader.invalid(`${length} bytes are not whole pages`);
      }
      return { kind: 'pages', id, bytes: reader.bytes(length) };
    }
    case responseTag.images:
      return { kind: 'images', id, images: readImages(reader) };
    case responseTag.relSize: {
      const size = reader.u32();
      return { kind: 'relSize', id, size: size === absent ? null : size };
    }
    case responseTag.rels:
      return { kind: 'rels', id, rels: readRels(reader) };
    case responseTag.basebackupChunk: {
      const offset = reader.u53();
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      return { kind: 'basebackupChunk', id, offset, last: flags === 1, bytes: reader.bytes(reader.remaining) };
    }
    case responseTag.lease:
      return { kind: 'lease', id, validForMs: reader.u32() };
    case responseTag.status:
      return { kind: 'status', id, status: readStatus(reader) };
    default:
      return { kind: 'error', id, error: readErrorBody(reader) };
  }
}

function writeImages(images: readonly (Uint8Array | null)[]): ByteWriter {
  let size = 4 + 4 * images.length;
  for (const image of images) size += image?.length ?? 0;
  const out = begin(size).u32(images.length);
  for (const image of images) out.u32(image?.length ?? absent);
  for (const image of images) if (image !== null) out.put(image);
  return out;
}

function readImages(reader: ByteReader): (Uint8Array | null)[] {
  const count = reader.u32();
  if (count > keysPerRequestMax) throw reader.invalid(`${count} images, at most ${keysPerRequestMax}`);
  const lengths = Array.from({ length: count }, () => reader.u32());
  return lengths.map((length) => (length === absent ? null : reader.bytes(length)));
}

function readRels(reader: ByteReader): { rel: RelTag; size: BlockNumber }[] {
  const count = reader.u32();
  // Checked before anything of that size is allocated.
  if (reader.remaining !== count * 20) throw reader.invalid(`${count} relations in ${reader.remaining} bytes`);
  const rels: { rel: { spc: number; db: number; rel: number; fork: ForkNumber }; size: BlockNumber }[] = [];
  for (let i = 0; i < count; i++) rels.push({ rel: reader.rel(), size: reader.u32() });
  return rels;
}

const noAncestor = '0'.repeat(32);
const statusFlag = { ancestor: 1, stopped: 2 } as const;

function writeStatus(status: TimelineStatus): ByteWriter {
  const stopped = utf8.encode(status.stopped ?? '');
  const flags = (status.ancestor ? statusFlag.ancestor : 0) | (status.stopped !== null ? statusFlag.stopped : 0);
  return begin(88 + stopped.length)
    .u53(status.lastRecordLsn)
    .u53(status.prevRecordLsn)
    .u53(status.diskConsistentLsn)
    .u53(status.remoteConsistentLsn)
    .u53(status.gcCutoffLsn)
    .u53(status.startLsn)
    .u53(status.layerBytes)
    .u53(status.ancestor?.lsn ?? 0)
    .id(status.ancestor?.timelineId ?? noAncestor)
    .u32(flags)
    .u32(stopped.length)
    .put(stopped);
}

function readStatus(reader: ByteReader): TimelineStatus {
  const lastRecordLsn = reader.lsn();
  const prevRecordLsn = reader.lsn();
  const diskConsistentLsn = reader.lsn();
  const remoteConsistentLsn = reader.lsn();
  const gcCutoffLsn = reader.lsn();
  const startLsn = reader.lsn();
  const layerBytes = reader.u53();
  const ancestor = { lsn: reader.lsn(), timelineId: reader.id() };
  const flags = reader.u32();
  const stopped = reader.text(reader.u32());
  return {
    lastRecordLsn,
    prevRecordLsn,
    diskConsistentLsn,
    remoteConsistentLsn,
    gcCutoffLsn,
    startLsn,
    layerBytes,
    ancestor: flags & statusFlag.ancestor ? ancestor : null,
    stopped: flags & statusFlag.stopped ? stopped : null,
  };
}

// The header

function begin(bodyBytes: number): ByteWriter {
  return new ByteWriter(messageHeaderBytes + bodyBytes, messageHeaderBytes);
}

/** Fills the header of a message whose body is complete. `bodyChecksum`: of the body, after what `seed` is the checksum of. */
function seal(
  tag: number,
  id: number,
  body: ByteWriter | Uint8Array,
  bodyChecksum?: (seed: number) => number,
): Uint8Array {
  const message = body instanceof Uint8Array ? body : body.finish();
  if (message.length > channelMessageBytesMax) {
    throw new PageliteError('invalid', `a message of ${message.length} bytes: the limit is ${channelMessageBytesMax}`);
  }
  const view = new DataView(message.buffer);
  view.setUint8(0, tag);
  view.setUint32(4, id, true);
  view.setUint32(8, message.length - messageHeaderBytes, true);
  view.setUint32(12, checksum(message, bodyChecksum), true);
  return message;
}

function checksum(message: Uint8Array, ofBody?: (seed: number) => number): number {
  const seed = crc32c(message, 0, 12);
  return ofBody === undefined ? crc32c(message, messageHeaderBytes, message.length, seed) : ofBody(seed);
}

/** Checks everything about a message that does not depend on its tag. */
function open(message: Uint8Array, bytesMax: number, what: string): { tag: number; id: number } {
  const malformed = (problem: string) =>
    new PageliteError('invalid', `malformed pagestream ${what}: ${problem}`, { length: message.length });
  if (message.length < messageHeaderBytes) throw malformed(`cut short: ${message.length} bytes`);
  if (message.length > bytesMax) throw malformed(`${message.length} bytes: the limit is ${bytesMax}`);
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const bodyBytes = view.getUint32(8, true);
  if (bodyBytes !== message.length - messageHeaderBytes) {
    throw malformed(`${message.length - messageHeaderBytes} bytes of body where its header says ${bodyBytes}`);
  }
  const id = view.getUint32(4, true);
  const expected = view.getUint32(12, true);
  const actual = checksum(message);
  if (actual !== expected) {
    throw new PageliteError('corrupt', `wrong checksum of a pagestream ${what}`, { id, expected, actual });
  }
  if (view.getUint32(0, true) > 0xff) throw malformed('reserved bytes are not zero');
  return { tag: view.getUint8(0), id };
}

function nameOfTag(tags: Record<string, number>, tag: number, what: string): string {
  for (const name in tags) if (tags[name] === tag) return name;
  throw new PageliteError('invalid', `unknown pagestream ${what}: tag ${tag}`, { tag });
}
