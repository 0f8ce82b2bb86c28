/**
 * See hostile-messages.ts for what must hold. Another run: PAGELITE_SEED, PAGELITE_MUTATIONS (1,000,000 takes some minutes) and PAGELITE_FIRST, the number of
 * the first attempt, to see one again.
 */
import { describe, expect, it } from 'vitest';
import { walSegmentSize } from '../../engine/limits.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import { termMax } from '../../engine/model/term.ts';
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerGreeting,
  type ProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { attack } from './hostile-messages.ts';
import { LeanStorage } from './lean-storage.ts';
import { sampleProposerMessages } from './samples.ts';

const seed = Number(process.env.PAGELITE_SEED ?? 20_261_129);
const count = Number(process.env.PAGELITE_MUTATIONS ?? 12_000);
const first = Number(process.env.PAGELITE_FIRST ?? 0);

it(
  `${count} changed, misplaced and foreign messages, seed ${seed}`,
  async () => {
    const report = await attack({ seed, count, first });
    process.stdout.write(`seed ${seed}: ${JSON.stringify(report)}\n`);
    expect(report.elected + report.taken).toBeGreaterThan(0);
  },
  count * 10 + 60_000,
);

describe('found so', () => {
  const greeting = sampleProposerMessages[0] as ProposerGreeting;
  const { proposerId } = greeting;
  const storage = new LeanStorage();
  const safekeeper = new Safekeeper({ nodeId: 1 as NodeId, storage, log: silentLog });

  /** The answer to the last of these messages. */
  async function answerTo(...messages: ProposerMessage[]) {
    const channel = safekeeper.connectProposer(greeting.timeline);
    let answer: ReturnType<typeof decodeAcceptorMessage> | null = null;
    channel.onMessage((bytes) => {
      answer = decodeAcceptorMessage(bytes);
    });
    for (const message of messages) {
      answer = null;
      channel.send(encodeProposerMessage(message));
      await expect.poll(() => answer).not.toBeNull();
    }
    channel.close();
    return answer;
  }

  it('a greeting that is refused makes no timeline', async () => {
    const refusal = { kind: 'error', error: { kind: 'invalid' } };
    expect(await answerTo({ ...greeting, walSegmentBytes: 2 * walSegmentSize })).toMatchObject(refusal);
    const members = [2 as NodeId, 3 as NodeId];
    expect(await answerTo({ ...greeting, configuration: { generation: 1, members } })).toMatchObject(refusal);
    expect(await storage.listTimelines()).toEqual([]);
  });

  it('one vote does not use up all terms', async () => {
    const vote = (term: number) => ({ kind: 'voteRequest', term, proposerId }) as ProposerMessage;
    expect(await answerTo(greeting, vote(3))).toMatchObject({ kind: 'voteResponse', voteGiven: true });
    for (const [term, says] of [
      [termMax, 'out of reach of term 3'],
      [termMax + 1, 'there are none above'],
      [Number.MAX_SAFE_INTEGER, 'there are none above'],
    ] as const) {
      expect(await answerTo(greeting, vote(term))).toMatchObject({
        kind: 'error',
        error: { kind: 'invalid', message: expect.stringContaining(says) },
      });
    }
    expect(await answerTo(greeting, vote(4))).toMatchObject({ kind: 'voteResponse', term: 4, voteGiven: true });
  });
});
