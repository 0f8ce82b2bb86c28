/**
 * The proposer-acceptor protocol: how a compute's proposer wins a term and writes its WAL to safekeepers (W2 and W3 of the write path).
 *
 * Spoken by smgr-plugin/wal/proposer-driver.ts and engine/safekeeper/proposer-connection.ts. One Channel message is one protocol
 * message. In order: greeting and its answer, vote request and its answer, `proposerElected` (no answer), then append requests, each
 * answered once it is durable; several may be answered by one answer. Neon's messages without membership configurations.
 *
 *   | bytes  | field    |                                               |
 *   |--------|----------|-----------------------------------------------|
 *   | 0      | tag      | `messageTag`                                  |
 *   | 1      | version  | `proposerAcceptorVersion`                     |
 *   | 2..3   | reserved | 0                                             |
 *   | 4..7   | length   | of the body                                   |
 *   | 8..11  | crc32c   | of bytes 0..7 followed by the body            |
 *   | 12..   | body     | by tag: docs/formats.md                       |
 *
 * Invariants: bytes are decoded whole or refused (`invalid`: broken protocol, `corrupt`: wrong checksum); the layouts of the header, of
 * `proposerGreeting`'s magic and version, and of `error` never change, so that two versions can tell each other so.
 */
import { unreachable } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { type ErrorJson, PageliteError } from '../errors.ts';
import { channelMessageBytesMax, termHistoryEntriesMax, walMessageBytesMax } from '../limits.ts';
import type { NodeId, TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import { checkTermHistory, type Term, type TermHistory, type TermSwitch } from '../model/term.ts';
import { ByteReader, ByteWriter } from './byte-codec.ts';
import { proposerAcceptorVersion } from './version.ts';

/** 32 hex digits, drawn anew by each proposer. Two proposers never share one: votes are repeated to the id that got them. */
export type ProposerId = string & { readonly __brand: 'ProposerId' };
/** Nobody has been voted for. */
export const noProposer = '0'.repeat(32) as ProposerId;

export interface ProposerGreeting {
  readonly kind: 'proposerGreeting';
  readonly version: number;
  readonly timeline: TenantTimelineId;
  readonly proposerId: ProposerId;
  /** 0 if the proposer does not know it yet. */
  readonly systemIdentifier: bigint;
  /** server_version_num; the format of WAL depends on its major version. */
  readonly pgVersion: number;
  readonly walSegmentBytes: number;
}

export interface AcceptorGreeting {
  readonly kind: 'acceptorGreeting';
  readonly nodeId: NodeId;
  readonly term: Term;
  /** Whom the acceptor voted for in `term`. */
  readonly ruler: ProposerId;
}

export interface VoteRequest {
  readonly kind: 'voteRequest';
  readonly term: Term;
  readonly proposerId: ProposerId;
}

export interface VoteResponse {
  readonly kind: 'voteResponse';
  readonly term: Term;
  readonly ruler: ProposerId;
  readonly voteGiven: boolean;
  /** End of the last whole record that is durable here; 0 if there was never any. */
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  /** First LSN held here; 0 if none. */
  readonly startLsn: Lsn;
  /** Of the WAL below flushLsn. */
  readonly termHistory: TermHistory;
}

export interface ProposerElected {
  readonly kind: 'proposerElected';
  readonly term: Term;
  /** The acceptor truncates its WAL here, and appends go on from here. */
  readonly startStreamingAt: Lsn;
  /** The proposer's: ends with its own term. */
  readonly termHistory: TermHistory;
}

export interface AppendRequest {
  readonly kind: 'appendRequest';
  readonly term: Term;
  readonly beginLsn: Lsn;
  readonly commitLsn: Lsn;
  /** Answer even if there is nothing to make durable: a heartbeat. */
  readonly mustReply: boolean;
  /** Cut anywhere; empty: only commitLsn moved, or a heartbeat. A view of the message. */
  readonly bytes: Uint8Array;
}

export interface AppendResponse {
  readonly kind: 'appendResponse';
  /** Above the proposer's: it is fenced, and the LSNs say nothing. */
  readonly term: Term;
  readonly ruler: ProposerId;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
}

/** Why the acceptor ends the connection; its last message. */
export interface AcceptorError {
  readonly kind: 'error';
  readonly error: PageliteError;
}

export type ProposerMessage = ProposerGreeting | VoteRequest | ProposerElected | AppendRequest;
export type AcceptorMessage = AcceptorGreeting | VoteResponse | AppendResponse | AcceptorError;

export const messageTag = {
  proposerGreeting: 1,
  voteRequest: 2,
  proposerElected: 3,
  appendRequest: 4,
  acceptorGreeting: 129,
  voteResponse: 130,
  appendResponse: 131,
  error: 132,
} as const;

/** `PLPA` as bytes: opens the greeting. */
const greetingMagic = 0x41504c50;
export const messageHeaderBytes = 12;
/** Fixed fields of an append request before its WAL. */
export const appendHeaderBytes = messageHeaderBytes + 28;

const utf8 = new TextEncoder();

export function encodeProposerMessage(message: ProposerMessage): Uint8Array {
  switch (message.kind) {
    case 'proposerGreeting':
      return seal(
        messageTag.proposerGreeting,
        begin(72)
          .u32(greetingMagic)
          .u32(message.version)
          .id(message.timeline.tenantId)
          .id(message.timeline.timelineId)
          .id(message.proposerId)
          .u64(message.systemIdentifier)
          .u32(message.pgVersion)
          .u32(message.walSegmentBytes),
      );
    case 'voteRequest':
      return seal(messageTag.voteRequest, begin(24).u53(message.term).id(message.proposerId));
    case 'proposerElected': {
      const { termHistory } = message;
      const out = begin(20 + 16 * termHistory.length)
        .u53(message.term)
        .u53(message.startStreamingAt);
      return seal(messageTag.proposerElected, writeHistory(out, termHistory));
    }
    case 'appendRequest':
      return seal(
        messageTag.appendRequest,
        begin(28 + message.bytes.length)
          .u53(message.term)
          .u53(message.beginLsn)
          .u53(message.commitLsn)
          .u32(message.mustReply ? 1 : 0)
          .put(message.bytes),
      );
    default:
      return unreachable(message);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed message of a proposer. */
export function decodeProposerMessage(message: Uint8Array): ProposerMessage {
  const tag = open(message);
  switch (tag) {
    case messageTag.proposerGreeting: {
      const reader = new ByteReader(message, 'proposer greeting', messageHeaderBytes);
      if (reader.u32() !== greetingMagic) throw reader.invalid('wrong magic: the peer is not a proposer');
      const version = reader.u32();
      if (version !== proposerAcceptorVersion) throw wrongVersion(version);
      return finish(reader, {
        kind: 'proposerGreeting',
        version,
        timeline: { tenantId: reader.id() as TenantId, timelineId: reader.id() as TimelineId },
        proposerId: reader.id() as ProposerId,
        systemIdentifier: reader.u64(),
        pgVersion: reader.u32(),
        walSegmentBytes: reader.u32(),
      });
    }
    case messageTag.voteRequest: {
      const reader = new ByteReader(message, 'vote request', messageHeaderBytes);
      return finish(reader, { kind: 'voteRequest', term: readTerm(reader), proposerId: reader.id() as ProposerId });
    }
    case messageTag.proposerElected: {
      const reader = new ByteReader(message, 'proposer elected', messageHeaderBytes);
      const term = readTerm(reader);
      const startStreamingAt = reader.lsn();
      const termHistory = readHistory(reader);
      if (termHistory.at(-1)?.term !== term) throw reader.invalid(`the term history does not end with term ${term}`);
      return finish(reader, { kind: 'proposerElected', term, startStreamingAt, termHistory });
    }
    case messageTag.appendRequest: {
      const reader = new ByteReader(message, 'append request', messageHeaderBytes);
      const term = readTerm(reader);
      const beginLsn = reader.lsn();
      const commitLsn = reader.lsn();
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      const length = reader.remaining;
      if (length > walMessageBytesMax)
        throw reader.invalid(`${length} bytes of WAL: the limit is ${walMessageBytesMax}`);
      if (!Number.isSafeInteger(beginLsn + length)) throw reader.invalid('WAL past the last LSN');
      return finish(reader, {
        kind: 'appendRequest',
        term,
        beginLsn,
        commitLsn,
        mustReply: flags === 1,
        bytes: reader.bytes(length),
      });
    }
    default:
      throw new PageliteError('invalid', `no message of a proposer has tag ${tag}`, { tag });
  }
}

export function encodeAcceptorMessage(message: AcceptorMessage): Uint8Array {
  switch (message.kind) {
    case 'acceptorGreeting':
      return seal(messageTag.acceptorGreeting, begin(32).u53(message.nodeId).u53(message.term).id(message.ruler));
    case 'voteResponse': {
      const out = begin(56 + 16 * message.termHistory.length)
        .u53(message.term)
        .id(message.ruler)
        .u32(message.voteGiven ? 1 : 0)
        .u53(message.flushLsn)
        .u53(message.commitLsn)
        .u53(message.startLsn);
      return seal(messageTag.voteResponse, writeHistory(out, message.termHistory));
    }
    case 'appendResponse':
      return seal(
        messageTag.appendResponse,
        begin(40).u53(message.term).id(message.ruler).u53(message.flushLsn).u53(message.commitLsn),
      );
    case 'error': {
      const text = utf8.encode(JSON.stringify(message.error.toJSON()));
      return seal(messageTag.error, begin(text.length).put(text));
    }
    default:
      return unreachable(message);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed message of an acceptor. */
export function decodeAcceptorMessage(message: Uint8Array): AcceptorMessage {
  const tag = open(message);
  switch (tag) {
    case messageTag.acceptorGreeting: {
      const reader = new ByteReader(message, 'acceptor greeting', messageHeaderBytes);
      const nodeId = reader.u53() as NodeId;
      return finish(reader, {
        kind: 'acceptorGreeting',
        nodeId,
        term: readTerm(reader),
        ruler: reader.id() as ProposerId,
      });
    }
    case messageTag.voteResponse: {
      const reader = new ByteReader(message, 'vote response', messageHeaderBytes);
      const term = readTerm(reader);
      const ruler = reader.id() as ProposerId;
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      return finish(reader, {
        kind: 'voteResponse',
        term,
        ruler,
        voteGiven: flags === 1,
        flushLsn: reader.lsn(),
        commitLsn: reader.lsn(),
        startLsn: reader.lsn(),
        termHistory: readHistory(reader),
      });
    }
    case messageTag.appendResponse: {
      const reader = new ByteReader(message, 'append response', messageHeaderBytes);
      return finish(reader, {
        kind: 'appendResponse',
        term: readTerm(reader),
        ruler: reader.id() as ProposerId,
        flushLsn: reader.lsn(),
        commitLsn: reader.lsn(),
      });
    }
    case messageTag.error: {
      const reader = new ByteReader(message, 'error message', messageHeaderBytes);
      return finish(reader, { kind: 'error', error: readError(reader) });
    }
    default:
      throw new PageliteError('invalid', `no message of an acceptor has tag ${tag}`, { tag });
  }
}

function readTerm(reader: ByteReader): Term {
  return reader.u53() as Term;
}

function writeHistory(out: ByteWriter, history: TermHistory): ByteWriter {
  out.u32(history.length);
  for (const entry of history) out.u53(entry.term).u53(entry.lsn);
  return out;
}

function readHistory(reader: ByteReader): TermHistory {
  const count = reader.u32();
  // Checked before anything of that size is allocated.
  if (count > termHistoryEntriesMax) throw reader.invalid(`${count} terms: the limit is ${termHistoryEntriesMax}`);
  const history: TermSwitch[] = [];
  for (let i = 0; i < count; i++) history.push({ term: readTerm(reader), lsn: reader.lsn() });
  checkTermHistory(history);
  return history;
}

function readError(reader: ByteReader): PageliteError {
  const text = reader.text(reader.remaining);
  let json: ErrorJson;
  try {
    json = JSON.parse(text) as ErrorJson;
  } catch {
    throw reader.invalid('not JSON');
  }
  return PageliteError.fromJSON(json);
}

function finish<T>(reader: ByteReader, message: T): T {
  reader.end();
  return message;
}

function wrongVersion(version: number): PageliteError {
  return new PageliteError(
    'invalid',
    `the peer speaks version ${version} of the proposer-acceptor protocol, this is version ${proposerAcceptorVersion}`,
    { version },
  );
}

// The header

function begin(bodyBytes: number): ByteWriter {
  return new ByteWriter(messageHeaderBytes + bodyBytes, messageHeaderBytes);
}

/** Fills the header of a message whose body is complete. */
function seal(tag: number, body: ByteWriter): Uint8Array {
  const message = body.finish();
  const view = new DataView(message.buffer);
  view.setUint8(0, tag);
  view.setUint8(1, proposerAcceptorVersion);
  view.setUint32(4, message.length - messageHeaderBytes, true);
  view.setUint32(8, checksum(message), true);
  return message;
}

function checksum(message: Uint8Array): number {
  return crc32c(message, messageHeaderBytes, message.length, crc32c(message, 0, 8));
}

/** Checks everything about a message that does not depend on its tag, and returns that. */
function open(message: Uint8Array): number {
  const malformed = (problem: string) =>
    new PageliteError('invalid', `malformed proposer-acceptor message: ${problem}`, { length: message.length });
  if (message.length < messageHeaderBytes) throw malformed(`cut short: ${message.length} bytes`);
  if (message.length > channelMessageBytesMax) throw malformed(`${message.length} bytes`);
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const tag = view.getUint8(0);
  const version = view.getUint8(1);
  if (version !== proposerAcceptorVersion && tag !== messageTag.proposerGreeting && tag !== messageTag.error) {
    throw wrongVersion(version);
  }
  if (view.getUint16(2, true) !== 0) throw malformed('reserved bytes are not zero');
  const bodyBytes = view.getUint32(4, true);
  if (bodyBytes !== message.length - messageHeaderBytes) {
    throw malformed(`${message.length - messageHeaderBytes} bytes of body where its header says ${bodyBytes}`);
  }
  const expected = view.getUint32(8, true);
  const actual = checksum(message);
  if (actual !== expected) {
    throw new PageliteError('corrupt', 'wrong checksum of a proposer-acceptor message', { expected, actual });
  }
  return tag;
}
