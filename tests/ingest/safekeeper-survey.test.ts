/** Whoever asks what a safekeeper has is told what it had after that, however many ask at once; and many cost it few questions. */
import { expect, it } from 'vitest';
import { SafekeeperSurvey, type SurveyedService } from '../../engine/ingest/safekeeper-survey.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { nodeId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { SafekeeperTimelineStatus } from '../../engine/services.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const tenant = tenantId('ab'.repeat(16));
const idOf = (n: number): TenantTimelineId => ({
  tenantId: tenant,
  timelineId: timelineId(n.toString(16).padStart(32, '0')),
});

/** A safekeeper whose answers take a while: what it has is looked up when a question arrives. Timelines with odd numbers are not there. */
class Slow {
  commitLsn = 1;
  questions = 0;
  failure: Error | null = null;
  readonly #answers: (() => void)[] = [];

  #statusOf(n: number): SafekeeperTimelineStatus | null {
    if (n % 2 === 1) return null;
    const lsn = this.commitLsn as Lsn;
    const other = { term: 1, flushLsn: lsn, backupLsn: lsn, remoteConsistentLsn: lsn, configuration: noConfiguration };
    return { ...other, termHistory: [], commitLsn: lsn, startLsn: n as Lsn };
  }

  #later<T>(value: T): Promise<T> {
    this.questions++;
    const { failure } = this;
    return new Promise((resolve, reject) => {
      this.#answers.push(() => (failure === null ? resolve(value) : reject(failure)));
    });
  }

  readonly service: SurveyedService = {
    nodeId: nodeId(1),
    connectProposer: () => expect.unreachable(),
    readWal: () => expect.unreachable(),
    reportConsistent: () => expect.unreachable(),
    getStatus: (id) => this.#later(this.#statusOf(Number.parseInt(id.timelineId, 16))),
    describeTimelines: () => {
      const numbers = Array.from({ length: 500 }, (_, i) => 2 * i);
      return this.#later(numbers.map((n) => ({ ...this.#statusOf(n)!, id: idOf(n), lastTerm: 1 })));
    },
  };

  get pending(): number {
    return this.#answers.length;
  }

  async answer(): Promise<void> {
    this.#answers.shift()?.();
    for (let i = 0; i < 10; i++) await Promise.resolve();
  }
}

it('answers are not from before they were asked for', async () => {
  const random = new SeededRandom(11);
  const slow = new Slow();
  const survey = new SafekeeperSurvey();
  const answers: Promise<void>[] = [];
  let asked = 0;
  for (let step = 0; step < 2000; step++) {
    slow.commitLsn++;
    const count = random.below(10) === 0 ? random.below(200) : random.below(3);
    for (let i = 0; i < count; i++) {
      const n = random.below(1000);
      const since = slow.commitLsn;
      asked++;
      answers.push(
        survey.statusOf(slow.service, idOf(n)).then((extent) => {
          if (n % 2 === 1) expect(extent).toBe(null);
          else expect(extent).toMatchObject({ startLsn: n, commitLsn: expect.toSatisfy((lsn) => lsn >= since) });
        }),
      );
    }
    expect(slow.pending).toBeLessThanOrEqual(4);
    if (random.below(2) === 0) await slow.answer();
  }
  while (slow.pending > 0) await slow.answer();
  await Promise.all(answers);
  expect(slow.questions).toBeLessThan(asked / 3);
});

it('one that fails is told to everybody who has asked, and the next question is asked', async () => {
  const slow = new Slow();
  const survey = new SafekeeperSurvey();
  slow.failure = new Error('away');
  const failed = Array.from({ length: 50 }, (_, n) => survey.statusOf(slow.service, idOf(n)).catch((error) => error));
  while (slow.pending > 0) await slow.answer();
  expect(await Promise.all(failed)).toEqual(Array.from({ length: 50 }, () => slow.failure));
  slow.failure = null;
  const answer = survey.statusOf(slow.service, idOf(2));
  await slow.answer();
  expect(await answer).toMatchObject({ startLsn: 2 });
});
