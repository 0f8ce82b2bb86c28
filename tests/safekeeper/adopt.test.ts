/**
 * An acceptor that goes on with the WAL of a peer, and a proposer that comes meanwhile: from its first word on it says what the log is. The moment is so short
 * that the simulation meets it in one run of a thousand; here it is made.
 */
import { expect, it } from 'vitest';
import type { NodeId } from '../../engine/model/ids.ts';
import { invalidLsn } from '../../engine/model/lsn.ts';
import type { Term } from '../../engine/model/term.ts';
import { Acceptor, newControlState, newProposerSession } from '../../engine/safekeeper/acceptor.ts';
import { SyntheticWal } from '../support/synthetic-wal.ts';
import { append, begin, elected, greet, history, timeline, vote } from './acceptor-talk.ts';

/** It has one record of term 1 and has begun to take what a peer has, who has voted for the proposer of term 2 already. */
function adopting() {
  const acceptor = new Acceptor(1 as NodeId, newControlState(timeline), invalidLsn);
  const wal = new SyntheticWal(begin);
  const [first, ofPeer] = [wal.next(new Uint8Array(100).fill(1)), wal.next(new Uint8Array(100).fill(2))];
  const writer = greet(acceptor, 'a');
  vote(acceptor, writer, 1);
  elected(acceptor, writer, 1, begin, history([1, begin]));
  append(acceptor, writer, 1, first);
  const session = newProposerSession();
  const step = acceptor.adopt(session, {
    term: 2 as Term,
    startLsn: begin,
    flushLsn: ofPeer.endLsn,
    commitLsn: begin,
    termHistory: history([1, begin]),
  });
  expect(step?.error).toBe(null);
  expect(acceptor.control.term).toBe(2);
  return { acceptor, session, first, ofPeer };
}

it('takes what the peer sends as long as no proposer comes', () => {
  const { acceptor, session, ofPeer } = adopting();
  expect(append(acceptor, session, 2, ofPeer).error).toBe(null);
  expect(acceptor.flushLsn).toBe(ofPeer.endLsn);
});

it.each([true, false])(
  'takes no more of it from the election on (asked for its vote: %s), only what the proposer sends',
  (asks) => {
    const { acceptor, session, first, ofPeer } = adopting();
    const proposer = greet(acceptor, 'b');
    if (asks) vote(acceptor, proposer, 2);
    // Elected by others, who do not have what the peer has.
    const { error } = elected(acceptor, proposer, 2, first.endLsn, history([1, begin], [2, first.endLsn]));
    expect(error).toBe(null);
    expect(append(acceptor, session, 2, ofPeer).error).toMatchObject({ kind: 'invalid' });
    expect(acceptor.flushLsn).toBe(first.endLsn);
    const own = SyntheticWal.afterBoot(first.endLsn).next(new Uint8Array(30));
    expect(append(acceptor, proposer, 2, own).error).toBe(null);
    expect(acceptor.flushLsn).toBe(own.endLsn);
  },
);

it('takes no more of it from a vote on', () => {
  const { acceptor, session, first, ofPeer } = adopting();
  vote(acceptor, greet(acceptor, 'b'), 2);
  expect(append(acceptor, session, 2, ofPeer).error).toMatchObject({ kind: 'invalid' });
  expect(acceptor.flushLsn).toBe(first.endLsn);
});
