/**
 * The WAL stream protocol: what a WalService offers to readers, spoken over a Channel (W4 of the write path).
 *
 * Spoken by remote/remote-wal-service.ts (client) and remote/wal-stream-handler.ts (server). A connection is for one request, its first
 * message: `readWal` is answered by chunks without end, `getStatus` and `reportConsistent` by one `status`, `describeTimelines` by as many `timelines` as it
 * takes, the last of them empty, and `recall` likewise by `recalled`; `introduce` by `introduced`. The reader says how far it has consumed (`consumed`); the sender keeps at most `walReaderWindowBytes` ahead of that. `error` is a server's last message.
 *
 *   | bytes  | field    |                                               |
 *   |--------|----------|-----------------------------------------------|
 *   | 0      | tag      | `walStreamTag`                                |
 *   | 1      | version  | `walStreamVersion`                            |
 *   | 2..3   | reserved | 0                                             |
 *   | 4..7   | length   | of the body                                   |
 *   | 8..11  | crc32c   | of bytes 0..7 followed by the body            |
 *   | 12..   | body     | by tag: docs/formats.md                       |
 *
 * Invariant: bytes are decoded whole or refused; the layouts of the header and of `error` never change.
 */
import { unreachable } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { termHistoryEntriesMax, walMessageBytesMax } from '../limits.ts';
import type { NodeId, TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type {
  PeerIntroduction,
  PeerTimelineInfo,
  RecalledTimeline,
  SafekeeperTimelineStatus,
  WalChunk,
} from '../services.ts';
import type { ByteReader } from './byte-codec.ts';
import {
  beginMessage,
  finishMessage,
  openMessage,
  readErrorBody,
  sealMessage,
  writeErrorBody,
} from './message-frame.ts';
import { configurationBytes, encodeConfiguration, readConfiguration, readTerm } from './proposer-acceptor.ts';
import { walStreamVersion } from './version.ts';

export type WalStreamRequest =
  | {
      readonly kind: 'readWal';
      readonly timeline: TenantTimelineId;
      readonly startLsn: Lsn;
      /** Uncommitted WAL, too, as long as the last record is of this term; null: committed WAL only. */
      readonly lastTerm: number | null;
    }
  | { readonly kind: 'getStatus'; readonly timeline: TenantTimelineId }
  | { readonly kind: 'consumed'; readonly lsn: Lsn }
  | { readonly kind: 'reportConsistent'; readonly timeline: TenantTimelineId; readonly lsn: Lsn }
  | { readonly kind: 'describeTimelines' }
  | { readonly kind: 'recall'; readonly node: NodeId }
  | { readonly kind: 'introduce'; readonly node: NodeId; readonly incarnation: number };

export type WalStreamResponse =
  | { readonly kind: 'chunk'; readonly chunk: WalChunk }
  | { readonly kind: 'status'; readonly status: SafekeeperTimelineStatus | null }
  | { readonly kind: 'timelines'; readonly timelines: readonly PeerTimelineInfo[] }
  | { readonly kind: 'recalled'; readonly timelines: readonly RecalledTimeline[] }
  | { readonly kind: 'introduced'; readonly introduction: PeerIntroduction }
  | { readonly kind: 'error'; readonly error: PageliteError };

export const walStreamTag = {
  readWal: 1,
  getStatus: 2,
  consumed: 3,
  reportConsistent: 4,
  describeTimelines: 5,
  recall: 6,
  introduce: 7,
  chunk: 129,
  status: 130,
  error: 131,
  timelines: 132,
  recalled: 133,
  introduced: 134,
} as const;

/** Timelines of one message. */
export const timelinesPerMessageMax = 1024;
/** Without its configuration. */
const timelineInfoBytes = 32 + 7 * 8;
const recalledBytes = 32 + 2 * 8;

const frame = { what: 'WAL stream', version: walStreamVersion, errorTag: walStreamTag.error } as const;

export function encodeWalStreamRequest(request: WalStreamRequest): Uint8Array {
  switch (request.kind) {
    case 'readWal':
      return sealMessage(
        frame,
        walStreamTag.readWal,
        beginMessage(52)
          .id(request.timeline.tenantId)
          .id(request.timeline.timelineId)
          .u53(request.startLsn)
          .u32(request.lastTerm === null ? 0 : 1)
          .u53(request.lastTerm ?? 0),
      );
    case 'getStatus': {
      const { tenantId, timelineId } = request.timeline;
      return sealMessage(frame, walStreamTag.getStatus, beginMessage(32).id(tenantId).id(timelineId));
    }
    case 'consumed':
      return sealMessage(frame, walStreamTag.consumed, beginMessage(8).u53(request.lsn));
    case 'reportConsistent': {
      const { tenantId, timelineId } = request.timeline;
      const out = beginMessage(40).id(tenantId).id(timelineId).u53(request.lsn);
      return sealMessage(frame, walStreamTag.reportConsistent, out);
    }
    case 'describeTimelines':
      return sealMessage(frame, walStreamTag.describeTimelines, beginMessage(0));
    case 'recall':
      return sealMessage(frame, walStreamTag.recall, beginMessage(8).u53(request.node));
    case 'introduce':
      return sealMessage(frame, walStreamTag.introduce, beginMessage(16).u53(request.node).u53(request.incarnation));
    default:
      return unreachable(request);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed request. */
export function decodeWalStreamRequest(message: Uint8Array): WalStreamRequest {
  const { tag, reader } = openMessage(frame, message);
  switch (tag) {
    case walStreamTag.readWal: {
      const timeline = readTimeline(reader);
      const startLsn = reader.lsn();
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      const lastTerm = reader.u53();
      return finishMessage(reader, { kind: 'readWal', timeline, startLsn, lastTerm: flags === 1 ? lastTerm : null });
    }
    case walStreamTag.getStatus:
      return finishMessage(reader, { kind: 'getStatus', timeline: readTimeline(reader) });
    case walStreamTag.consumed:
      return finishMessage(reader, { kind: 'consumed', lsn: reader.lsn() });
    case walStreamTag.reportConsistent:
      return finishMessage(reader, { kind: 'reportConsistent', timeline: readTimeline(reader), lsn: reader.lsn() });
    case walStreamTag.describeTimelines:
      return finishMessage(reader, { kind: 'describeTimelines' });
    case walStreamTag.recall:
      return finishMessage(reader, { kind: 'recall', node: reader.u53() as NodeId });
    case walStreamTag.introduce:
      return finishMessage(reader, {
        kind: 'introduce',
        node: reader.u53() as NodeId,
        incarnation: reader.u53(),
      });
    default:
      throw new PageliteError('invalid', `no request of a WAL reader has tag ${tag}`, { tag });
  }
}

export function encodeWalStreamResponse(response: WalStreamResponse): Uint8Array {
  switch (response.kind) {
    case 'chunk': {
      const { startLsn, commitLsn, bytes } = response.chunk;
      const out = beginMessage(16 + bytes.length)
        .u53(startLsn)
        .u53(commitLsn)
        .put(bytes);
      return sealMessage(frame, walStreamTag.chunk, out);
    }
    case 'status': {
      const { status } = response;
      if (status === null) return sealMessage(frame, walStreamTag.status, beginMessage(0));
      const out = beginMessage(52 + configurationBytes(status.configuration) + 16 * status.termHistory.length)
        .u53(status.term)
        .u53(status.flushLsn)
        .u53(status.commitLsn)
        .u53(status.startLsn)
        .u53(status.backupLsn)
        .u53(status.remoteConsistentLsn)
        .put(encodeConfiguration(status.configuration))
        .u32(status.termHistory.length);
      for (const [term, lsn] of status.termHistory) out.u53(term).u53(lsn);
      return sealMessage(frame, walStreamTag.status, out);
    }
    case 'timelines': {
      const { timelines } = response;
      const size = timelines.reduce((sum, one) => sum + timelineInfoBytes + configurationBytes(one.configuration), 4);
      const out = beginMessage(size).u32(timelines.length);
      for (const { id, ...info } of timelines) {
        out
          .id(id.tenantId)
          .id(id.timelineId)
          .u53(info.term)
          .u53(info.lastTerm)
          .u53(info.flushLsn)
          .u53(info.commitLsn)
          .u53(info.startLsn)
          .u53(info.backupLsn)
          .u53(info.remoteConsistentLsn)
          .put(encodeConfiguration(info.configuration));
      }
      return sealMessage(frame, walStreamTag.timelines, out);
    }
    case 'recalled': {
      const { timelines } = response;
      const out = beginMessage(4 + recalledBytes * timelines.length).u32(timelines.length);
      for (const { id, term, commitLsn } of timelines) out.id(id.tenantId).id(id.timelineId).u53(term).u53(commitLsn);
      return sealMessage(frame, walStreamTag.recalled, out);
    }
    case 'introduced': {
      const { incarnation, known } = response.introduction;
      return sealMessage(frame, walStreamTag.introduced, beginMessage(16).u53(incarnation).u53(known));
    }
    case 'error':
      return sealMessage(frame, walStreamTag.error, writeErrorBody(response.error));
    default:
      return unreachable(response);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed response. A chunk's bytes are a view of `message`. */
export function decodeWalStreamResponse(message: Uint8Array): WalStreamResponse {
  const { tag, reader } = openMessage(frame, message);
  switch (tag) {
    case walStreamTag.chunk: {
      const startLsn = reader.lsn();
      const commitLsn = reader.lsn();
      const length = reader.remaining;
      if (length > walMessageBytesMax)
        throw reader.invalid(`${length} bytes of WAL: the limit is ${walMessageBytesMax}`);
      return finishMessage(reader, { kind: 'chunk', chunk: { startLsn, commitLsn, bytes: reader.bytes(length) } });
    }
    case walStreamTag.status:
      if (reader.remaining === 0) return { kind: 'status', status: null };
      return finishMessage(reader, { kind: 'status', status: readStatus(reader) });
    case walStreamTag.timelines:
      return finishMessage(reader, { kind: 'timelines', timelines: readTimelines(reader) });
    case walStreamTag.recalled:
      return finishMessage(reader, { kind: 'recalled', timelines: readRecalled(reader) });
    case walStreamTag.introduced:
      return finishMessage(reader, {
        kind: 'introduced',
        introduction: { incarnation: reader.u53(), known: reader.u53() },
      });
    case walStreamTag.error:
      return finishMessage(reader, { kind: 'error', error: readErrorBody(reader) });
    default:
      throw new PageliteError('invalid', `no answer to a WAL reader has tag ${tag}`, { tag });
  }
}

function readTimeline(reader: ByteReader): TenantTimelineId {
  return { tenantId: reader.id() as TenantId, timelineId: reader.id() as TimelineId };
}

function readStatus(reader: ByteReader): SafekeeperTimelineStatus {
  const term = readTerm(reader);
  const flushLsn = reader.lsn();
  const commitLsn = reader.lsn();
  const startLsn = reader.lsn();
  const backupLsn = reader.lsn();
  const remoteConsistentLsn = reader.lsn();
  const configuration = readConfiguration(reader);
  const count = reader.u32();
  if (count > termHistoryEntriesMax) throw reader.invalid(`${count} terms: the limit is ${termHistoryEntriesMax}`);
  const termHistory: [number, Lsn][] = [];
  for (let i = 0; i < count; i++) termHistory.push([readTerm(reader), reader.lsn()]);
  return { term, flushLsn, commitLsn, startLsn, backupLsn, remoteConsistentLsn, configuration, termHistory };
}

function readCount(reader: ByteReader): number {
  const count = reader.u32();
  if (count > timelinesPerMessageMax)
    throw reader.invalid(`${count} timelines: the limit is ${timelinesPerMessageMax}`);
  return count;
}

function readRecalled(reader: ByteReader): RecalledTimeline[] {
  const count = readCount(reader);
  const timelines: RecalledTimeline[] = [];
  for (let i = 0; i < count; i++)
    timelines.push({ id: readTimeline(reader), term: readTerm(reader), commitLsn: reader.lsn() });
  return timelines;
}

function readTimelines(reader: ByteReader): PeerTimelineInfo[] {
  const count = readCount(reader);
  const timelines: PeerTimelineInfo[] = [];
  for (let i = 0; i < count; i++) {
    timelines.push({
      id: readTimeline(reader),
      term: readTerm(reader),
      lastTerm: readTerm(reader),
      flushLsn: reader.lsn(),
      commitLsn: reader.lsn(),
      startLsn: reader.lsn(),
      backupLsn: reader.lsn(),
      remoteConsistentLsn: reader.lsn(),
      configuration: readConfiguration(reader),
    });
  }
  return timelines;
}
