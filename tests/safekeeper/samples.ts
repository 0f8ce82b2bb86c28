/** One message of every kind and a control file, for the golden bytes and the fuzzing of what decodes them. */

import { PageliteError } from '../../engine/errors.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { type NodeId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import type { AcceptorMessage, ProposerId, ProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../../engine/protocol/version.ts';
import type { WalStreamRequest, WalStreamResponse } from '../../engine/protocol/wal-stream.ts';
import type { ControlState, FlushMark } from '../../engine/safekeeper/control-file.ts';
import type { PeerMark } from '../../engine/safekeeper/peer-memory.ts';

const timeline = {
  tenantId: tenantId('0123456789abcdef0123456789abcdef'),
  timelineId: timelineId('fedcba9876543210fedcba9876543210'),
};
const proposerId = '00112233445566778899aabbccddeeff' as ProposerId;
const term = 7 as Term;
const at = 0x1_2345_6780 as Lsn;
const termHistory = [
  { term: 2 as Term, lsn: 0x1000028 as Lsn },
  { term, lsn: at },
];

export const sampleProposerMessages: readonly ProposerMessage[] = [
  {
    kind: 'proposerGreeting',
    version: proposerAcceptorVersion,
    timeline,
    proposerId,
    systemIdentifier: 7000000000000000001n,
    pgVersion: 180006,
    walSegmentBytes: 16777216,
    configuration: { generation: 3, members: [1 as NodeId, 2 as NodeId, 4 as NodeId] },
  },
  { kind: 'voteRequest', term, proposerId },
  { kind: 'proposerElected', term, startStreamingAt: at, termHistory },
  {
    kind: 'appendRequest',
    term,
    beginLsn: at,
    commitLsn: 0x1_2345_6700 as Lsn,
    mustReply: true,
    bytes: Uint8Array.of(1, 2, 3, 250),
  },
];

const peers = [
  { node: 1 as NodeId, incarnation: 1_795_982_400_001 },
  { node: 4 as NodeId, incarnation: 2 },
];

const error = new PageliteError('fenced', 'another compute has taken over', { term: 8, node: 3 });

export const sampleAcceptorMessages: readonly AcceptorMessage[] = [
  { kind: 'acceptorGreeting', nodeId: 3 as NodeId, incarnation: 1_795_982_400_000, term, ruler: proposerId },
  {
    kind: 'voteResponse',
    term,
    ruler: proposerId,
    voteGiven: true,
    flushLsn: at,
    commitLsn: 0x1000028 as Lsn,
    startLsn: 0x1000028 as Lsn,
    termHistory,
    peers,
  },
  {
    kind: 'appendResponse',
    term,
    ruler: proposerId,
    flushLsn: at,
    writeLsn: (at + 8) as Lsn,
    commitLsn: 0x1000028 as Lsn,
    peers: peers.slice(0, 1),
  },
  { kind: 'error', error },
];

export const sampleWalStreamRequests: readonly WalStreamRequest[] = [
  { kind: 'readWal', timeline, startLsn: at, lastTerm: null },
  { kind: 'readWal', timeline, startLsn: at, lastTerm: 7 },
  { kind: 'getStatus', timeline },
  { kind: 'consumed', lsn: at },
  { kind: 'reportConsistent', timeline, lsn: at },
  { kind: 'describeTimelines' },
  { kind: 'recall', node: 3 as NodeId },
  { kind: 'introduce', node: 3 as NodeId, incarnation: 1_795_982_400_000 },
];

export const sampleWalStreamResponses: readonly WalStreamResponse[] = [
  { kind: 'chunk', chunk: { startLsn: at, bytes: Uint8Array.of(9, 8, 7), commitLsn: (at + 3) as Lsn } },
  { kind: 'status', status: null },
  {
    kind: 'status',
    status: {
      term: 7,
      flushLsn: at,
      commitLsn: 0x1000028 as Lsn,
      startLsn: 0x1000028 as Lsn,
      backupLsn: 0x1000000 as Lsn,
      remoteConsistentLsn: 0x1000020 as Lsn,
      configuration: noConfiguration,
      termHistory: termHistory.map((entry) => [entry.term, entry.lsn] as const),
    },
  },
  { kind: 'error', error },
  { kind: 'timelines', timelines: [] },
  {
    kind: 'timelines',
    timelines: [
      {
        id: timeline,
        term: 7,
        lastTerm: 6,
        flushLsn: at,
        commitLsn: 0x1000028 as Lsn,
        startLsn: 0x1000028 as Lsn,
        backupLsn: 0 as Lsn,
        remoteConsistentLsn: 0x1000020 as Lsn,
        configuration: { generation: 2, members: [1, 3, 4] as NodeId[] },
      },
    ],
  },
  { kind: 'recalled', timelines: [] },
  { kind: 'recalled', timelines: [{ id: timeline, term: 7, commitLsn: 0x1000028 as Lsn }] },
  { kind: 'introduced', introduction: { incarnation: 1_795_982_400_001, known: 7 } },
];

export const sampleControlState: ControlState = {
  timeline,
  systemIdentifier: 7000000000000000001n,
  pgVersion: 180006,
  walSegmentBytes: 16777216,
  term,
  ruler: proposerId,
  startLsn: 0x1000028 as Lsn,
  commitLsn: at,
  termHistory,
  configuration: { generation: 3, members: [1 as NodeId, 2 as NodeId, 4 as NodeId] },
};

export const sampleFlushMark: FlushMark = { flushLsn: (at + 8) as Lsn, commitLsn: at };

export const samplePeerMarks: ReadonlyMap<NodeId, PeerMark> = new Map([
  [1 as NodeId, { term: 7, commitLsn: 0x1000028 as Lsn }],
  [4 as NodeId, { term: 9, commitLsn: at }],
]);
