/**
 * Makes sure that nobody has WAL of a timeline, and that nobody who is about to be elected for it will be: before layers from elsewhere become
 * its history.
 *
 * Speaks the proposer's side of the protocol as far as the vote, with each safekeeper by itself: it takes a term above the one that rules, and
 * the answer says what WAL there is. Whoever was voted for before can then no longer announce itself or append on a quorum; who
 * is elected later asks the pageserver where to begin.
 *
 * Resolves with whether WAL has begun at any safekeeper that answered. Rejects `unavailable` if a quorum does not answer.
 */
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { pgVersionNumber, walFenceTimeoutMs, walSegmentSize } from '../limits.ts';
import { noConfiguration } from '../model/configuration.ts';
import { newTenantId, type TenantTimelineId } from '../model/ids.ts';
import { invalidLsn } from '../model/lsn.ts';
import { quorumOf } from '../model/quorum.ts';
import type { Term } from '../model/term.ts';
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerId,
  type VoteResponse,
} from '../protocol/proposer-acceptor.ts';
import { proposerAcceptorVersion } from '../protocol/version.ts';
import type { Clock, Log, Random, WalService } from '../services.ts';

export interface WalFenceParts {
  readonly services: readonly WalService[];
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** A rival may take each term that is asked for; it does not do so for ever. */
const attemptsMax = 10;

export async function fenceWal(id: TenantTimelineId, parts: WalFenceParts): Promise<{ hasWal: boolean }> {
  const { services, log } = parts;
  const votes = await Promise.all(
    services.map((service) =>
      fenceOne(id, service, parts).catch((error: unknown) => {
        log.warn('a safekeeper does not say whether it has WAL', {
          ...id,
          nodeId: service.nodeId,
          error: messageOf(error),
        });
        return isPageliteError(error, 'invalid') ? 'refused' : null;
      }),
    ),
  );
  // A safekeeper that refuses the greeting holds WAL of another version under this id.
  const hasWal = votes.some((vote) => vote === 'refused' || (vote !== null && vote.startLsn !== invalidLsn));
  const answered = votes.filter((vote) => vote !== null).length;
  if (!hasWal && answered < quorumOf(services.length) && services.length > 0) {
    throw new PageliteError(
      'unavailable',
      `${answered} of ${services.length} safekeepers say whether timeline ${id.timelineId} has WAL: a majority must. Try again`,
      { ...id },
    );
  }
  return { hasWal };
}

async function fenceOne(id: TenantTimelineId, service: WalService, parts: WalFenceParts): Promise<VoteResponse> {
  const proposerId = newTenantId(parts.random) as string as ProposerId;
  const channel = service.connectProposer(id);
  const timeout = new AbortController();
  try {
    return await new Promise<VoteResponse>((resolve, reject) => {
      let attempts = 0;
      const ask = (term: number) => {
        if (attempts++ === attemptsMax) reject(new PageliteError('unavailable', 'others take every term'));
        else channel.send(encodeProposerMessage({ kind: 'voteRequest', term: (term + 1) as Term, proposerId }));
      };
      const receive = (bytes: Uint8Array) => {
        const message = decodeAcceptorMessage(bytes);
        if (message.kind === 'error') reject(message.error);
        else if (message.kind === 'acceptorGreeting') ask(message.term);
        else if (message.kind !== 'voteResponse') return;
        else if (message.voteGiven) resolve(message);
        else ask(message.term);
      };
      channel.onClose((error) => reject(error ?? new PageliteError('unavailable', 'the connection was closed')));
      channel.onMessage((bytes) => {
        try {
          receive(bytes);
        } catch (error) {
          reject(error);
        }
      });
      parts.clock.sleep(walFenceTimeoutMs, timeout.signal).then(
        () => reject(new PageliteError('unavailable', 'it does not answer')),
        () => {},
      );
      channel.send(
        encodeProposerMessage({
          kind: 'proposerGreeting',
          version: proposerAcceptorVersion,
          timeline: id,
          proposerId,
          // Not known here: what was announced is yet to be looked at, and a safekeeper remembers it.
          systemIdentifier: 0n,
          pgVersion: pgVersionNumber,
          walSegmentBytes: walSegmentSize,
          configuration: noConfiguration,
        }),
      );
    });
  } finally {
    timeout.abort();
    channel.close();
  }
}
