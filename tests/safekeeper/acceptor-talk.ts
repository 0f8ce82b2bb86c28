/** An Acceptor spoken to without a connection: what a proposer says, one message at a time. */
import { expect } from 'vitest';
import { pgVersionNumber, walSegmentSize } from '../../engine/limits.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Term, TermHistory } from '../../engine/model/term.ts';
import type { ProposerGreeting, ProposerId, ProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../../engine/protocol/version.ts';
import { type Acceptor, newProposerSession, type ProposerSession } from '../../engine/safekeeper/acceptor.ts';
import { type SyntheticRecord, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

export const timeline = { tenantId: tenantId('1'.repeat(32)), timelineId: timelineId('2'.repeat(32)) };
export const begin = (walSegmentSize + 40) as Lsn;
export const history = (...entries: [number, Lsn][]): TermHistory =>
  entries.map(([term, lsn]) => ({ term: term as Term, lsn }));

export const greeting = (proposer: string): ProposerGreeting => ({
  kind: 'proposerGreeting',
  version: proposerAcceptorVersion,
  timeline,
  proposerId: proposer.repeat(32) as ProposerId,
  systemIdentifier: syntheticSystemIdentifier,
  pgVersion: pgVersionNumber,
  walSegmentBytes: walSegmentSize,
  configuration: noConfiguration,
});

export function greet(acceptor: Acceptor, proposer: string): ProposerSession {
  const session = newProposerSession();
  expect(acceptor.step(session, greeting(proposer)).error).toBe(null);
  return session;
}

export const vote = (acceptor: Acceptor, session: ProposerSession, term: number) =>
  acceptor.step(session, { kind: 'voteRequest', term: term as Term, proposerId: session.proposerId });
export const elected = (
  acceptor: Acceptor,
  session: ProposerSession,
  term: number,
  at: Lsn,
  termHistory: TermHistory,
) => acceptor.step(session, { kind: 'proposerElected', term: term as Term, startStreamingAt: at, termHistory });
export const appendRequest = (
  term: number,
  { startLsn, bytes }: Omit<SyntheticRecord, 'endLsn'>,
  commitLsn = begin,
): ProposerMessage => ({
  kind: 'appendRequest',
  term: term as Term,
  beginLsn: startLsn,
  commitLsn,
  mustReply: true,
  bytes,
});
export const append = (
  acceptor: Acceptor,
  session: ProposerSession,
  term: number,
  record: Omit<SyntheticRecord, 'endLsn'>,
  commitLsn = begin,
) => acceptor.step(session, appendRequest(term, record, commitLsn));
