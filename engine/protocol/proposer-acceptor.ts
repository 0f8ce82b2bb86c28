/**
 * The proposer-acceptor protocol: how a compute's proposer wins a term and writes its WAL to safekeepers (W2 and W3 of the write path).
 *
 * Spoken by smgr-plugin/wal/proposer-driver.ts and engine/safekeeper/proposer-connection.ts. One Channel message is one protocol
 * message. In order: greeting and its answer, vote request and its answer, `proposerElected` (no answer), then append requests, each
 * answered once it is durable; several may be answered by one answer. Neon's messages.
 *
 * The frame is protocol/message-frame.ts; bodies by tag are in docs/formats.md.
 *
 * Invariant: bytes are decoded whole or refused (`invalid`: broken protocol, `corrupt`: wrong checksum).
 */
import { unreachable } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { safekeepersMax, termHistoryEntriesMax, walMessageBytesMax } from '../limits.ts';
import { checkConfiguration, type SafekeeperConfiguration } from '../model/configuration.ts';
import type { NodeId, TenantId, TenantTimelineId, TimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import { checkTermHistory, type Term, type TermHistory, type TermSwitch, termMax } from '../model/term.ts';
import { type ByteReader, ByteWriter } from './byte-codec.ts';
import {
  beginMessage,
  finishMessage,
  messageHeaderBytes,
  openMessage,
  readErrorBody,
  sealMessage,
  writeErrorBody,
} from './message-frame.ts';
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
  /** The safekeepers that the proposer writes to. */
  readonly configuration: SafekeeperConfiguration;
}

export interface AcceptorGreeting {
  readonly kind: 'acceptorGreeting';
  readonly nodeId: NodeId;
  /** See PeerIncarnation; 0: it has no peers, and its disk is its own. */
  readonly incarnation: number;
  readonly term: Term;
  /** Whom the acceptor voted for in `term`. */
  readonly ruler: ProposerId;
}

/**
 * A safekeeper's process, as its peers heard of it: a later one has a higher number. What one of before has acknowledged or promised may be forgotten since,
 * if its disk was put back to an older state, and counts only together with answers of others that have not heard of a later one.
 */
export interface PeerIncarnation {
  readonly node: NodeId;
  readonly incarnation: number;
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
  /** As known when the answer leaves. */
  readonly peers: readonly PeerIncarnation[];
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
  /** End of the last whole record that is durable. */
  readonly flushLsn: Lsn;
  /** End of what is durable: flushLsn, and the beginning of a record that is not whole yet. */
  readonly writeLsn: Lsn;
  readonly commitLsn: Lsn;
  /** As known when the answer leaves. */
  readonly peers: readonly PeerIncarnation[];
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
/** Fixed fields of an append request before its WAL. */
export const appendHeaderBytes = messageHeaderBytes + 28;

const frame = {
  what: 'proposer-acceptor',
  version: proposerAcceptorVersion,
  errorTag: messageTag.error,
} as const;

export function encodeProposerMessage(message: ProposerMessage): Uint8Array {
  switch (message.kind) {
    case 'proposerGreeting':
      return sealMessage(
        frame,
        messageTag.proposerGreeting,
        beginMessage(84 + 8 * message.configuration.members.length)
          .u32(greetingMagic)
          .u32(message.version)
          .id(message.timeline.tenantId)
          .id(message.timeline.timelineId)
          .id(message.proposerId)
          .u64(message.systemIdentifier)
          .u32(message.pgVersion)
          .u32(message.walSegmentBytes)
          .put(encodeConfiguration(message.configuration)),
      );
    case 'voteRequest':
      return sealMessage(frame, messageTag.voteRequest, beginMessage(24).u53(message.term).id(message.proposerId));
    case 'proposerElected': {
      const { termHistory } = message;
      const out = beginMessage(20 + 16 * termHistory.length)
        .u53(message.term)
        .u53(message.startStreamingAt);
      return sealMessage(frame, messageTag.proposerElected, writeHistory(out, termHistory));
    }
    case 'appendRequest':
      return sealMessage(
        frame,
        messageTag.appendRequest,
        beginMessage(28 + message.bytes.length)
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
  const { tag, reader } = openMessage(frame, message);
  switch (tag) {
    case messageTag.proposerGreeting: {
      if (reader.u32() !== greetingMagic) throw reader.invalid('wrong magic: the peer is not a proposer');
      const version = reader.u32();
      if (version !== proposerAcceptorVersion) throw reader.invalid(`version ${version}`);
      return finishMessage(reader, {
        kind: 'proposerGreeting',
        version,
        timeline: { tenantId: reader.id() as TenantId, timelineId: reader.id() as TimelineId },
        proposerId: reader.id() as ProposerId,
        systemIdentifier: reader.u64(),
        pgVersion: reader.u32(),
        walSegmentBytes: reader.u32(),
        configuration: readConfiguration(reader),
      });
    }
    case messageTag.voteRequest: {
      return finishMessage(reader, {
        kind: 'voteRequest',
        term: readTerm(reader),
        proposerId: reader.id() as ProposerId,
      });
    }
    case messageTag.proposerElected: {
      const term = readTerm(reader);
      const startStreamingAt = reader.lsn();
      const termHistory = readHistory(reader);
      if (termHistory.at(-1)?.term !== term) throw reader.invalid(`the term history does not end with term ${term}`);
      return finishMessage(reader, { kind: 'proposerElected', term, startStreamingAt, termHistory });
    }
    case messageTag.appendRequest: {
      const term = readTerm(reader);
      const beginLsn = reader.lsn();
      const commitLsn = reader.lsn();
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      const length = reader.remaining;
      if (length > walMessageBytesMax)
        throw reader.invalid(`${length} bytes of WAL: the limit is ${walMessageBytesMax}`);
      if (!Number.isSafeInteger(beginLsn + length)) throw reader.invalid('WAL past the last LSN');
      return finishMessage(reader, {
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
      return sealMessage(
        frame,
        messageTag.acceptorGreeting,
        beginMessage(40).u53(message.nodeId).u53(message.incarnation).u53(message.term).id(message.ruler),
      );
    case 'voteResponse': {
      const out = beginMessage(60 + 16 * (message.termHistory.length + message.peers.length))
        .u53(message.term)
        .id(message.ruler)
        .u32(message.voteGiven ? 1 : 0)
        .u53(message.flushLsn)
        .u53(message.commitLsn)
        .u53(message.startLsn);
      return sealMessage(
        frame,
        messageTag.voteResponse,
        writePeers(writeHistory(out, message.termHistory), message.peers),
      );
    }
    case 'appendResponse': {
      const out = beginMessage(52 + 16 * message.peers.length)
        .u53(message.term)
        .id(message.ruler)
        .u53(message.flushLsn)
        .u53(message.writeLsn)
        .u53(message.commitLsn);
      return sealMessage(frame, messageTag.appendResponse, writePeers(out, message.peers));
    }
    case 'error':
      return sealMessage(frame, messageTag.error, writeErrorBody(message.error));
    default:
      return unreachable(message);
  }
}

/** Throws `invalid` or `corrupt` on anything that is not a well-formed message of an acceptor. */
export function decodeAcceptorMessage(message: Uint8Array): AcceptorMessage {
  const { tag, reader } = openMessage(frame, message);
  switch (tag) {
    case messageTag.acceptorGreeting: {
      const nodeId = reader.u53() as NodeId;
      return finishMessage(reader, {
        kind: 'acceptorGreeting',
        nodeId,
        incarnation: reader.u53(),
        term: readTerm(reader),
        ruler: reader.id() as ProposerId,
      });
    }
    case messageTag.voteResponse: {
      const term = readTerm(reader);
      const ruler = reader.id() as ProposerId;
      const flags = reader.u32();
      if (flags > 1) throw reader.invalid(`flags ${flags}`);
      return finishMessage(reader, {
        kind: 'voteResponse',
        term,
        ruler,
        voteGiven: flags === 1,
        flushLsn: reader.lsn(),
        commitLsn: reader.lsn(),
        startLsn: reader.lsn(),
        termHistory: readHistory(reader),
        peers: readPeers(reader),
      });
    }
    case messageTag.appendResponse: {
      return finishMessage(reader, {
        kind: 'appendResponse',
        term: readTerm(reader),
        ruler: reader.id() as ProposerId,
        flushLsn: reader.lsn(),
        writeLsn: reader.lsn(),
        commitLsn: reader.lsn(),
        peers: readPeers(reader),
      });
    }
    case messageTag.error: {
      return finishMessage(reader, { kind: 'error', error: readErrorBody(reader) });
    }
    default:
      throw new PageliteError('invalid', `no message of an acceptor has tag ${tag}`, { tag });
  }
}

/** generation u64, number of members u32, node id u64 each. */
export function encodeConfiguration(configuration: SafekeeperConfiguration): Uint8Array {
  const { generation, members } = configuration;
  const out = new ByteWriter(configurationBytes(configuration)).u53(generation).u32(members.length);
  for (const id of members) out.u53(id);
  return out.finish();
}

export const configurationBytes = ({ members }: SafekeeperConfiguration): number => 12 + 8 * members.length;

export function readConfiguration(reader: ByteReader): SafekeeperConfiguration {
  const generation = reader.u53();
  const count = reader.u32();
  if (count > safekeepersMax) throw reader.invalid(`${count} safekeepers: the limit is ${safekeepersMax}`);
  const configuration = { generation, members: Array.from({ length: count }, () => reader.u53() as NodeId) };
  checkConfiguration(configuration);
  return configuration;
}

/** Throws `invalid` above termMax. */
export function readTerm(reader: ByteReader): Term {
  const term = reader.u53();
  if (term > termMax) throw reader.invalid(`term ${term}: there are none above ${termMax}`);
  return term as Term;
}

function writePeers(out: ByteWriter, peers: readonly PeerIncarnation[]): ByteWriter {
  out.u32(peers.length);
  for (let i = 0; i < peers.length; i++) out.u53(peers[i]!.node).u53(peers[i]!.incarnation);
  return out;
}

function readPeers(reader: ByteReader): readonly PeerIncarnation[] {
  const count = reader.u32();
  if (count > safekeepersMax) throw reader.invalid(`${count} peers: the limit is ${safekeepersMax}`);
  const peers: PeerIncarnation[] = [];
  for (let i = 0; i < count; i++) peers.push({ node: reader.u53() as NodeId, incarnation: reader.u53() });
  return peers;
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
