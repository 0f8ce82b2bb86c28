/**
 * A proposer whose third safekeeper answers with whatever it likes: changed bytes under a checksum that fits, answers twice, out of order, of another
 * conversation. Acceptors and proposer are real, messages pass as bytes; what is durable is so at once.
 *
 * Must hold: what is wrong with an answer is told and costs that connection, never an assertion; what is committed goes up only, is WAL that was sent, and one
 * of the honest two has it, byte for byte; once the third answers as it should, a new proposer is elected and its WAL is committed.
 *
 * Another run: PAGELITE_SEED, PAGELITE_MUTATIONS (attempts), PAGELITE_FIRST.
 */
import { expect, it } from 'vitest';
import { isPageliteError, type PageliteError } from '../../engine/errors.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import {
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerId,
  type ProposerMessage,
} from '../../engine/protocol/proposer-acceptor.ts';
import {
  Acceptor,
  newControlState,
  newProposerSession,
  type ProposerSession,
} from '../../engine/safekeeper/acceptor.ts';
import { WalProposer } from '../../smgr-plugin/wal/wal-proposer.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { begin, timeline } from './acceptor-talk.ts';
import { mutate } from './mutate-message.ts';

const seed = Number(process.env.PAGELITE_SEED ?? 20_261_129);
const count = Number(process.env.PAGELITE_MUTATIONS ?? 1_500);
const first = Number(process.env.PAGELITE_FIRST ?? 0);
const liar = 2;
const turnsMax = 400;

/** One of three, with its log as bytes. */
class Node {
  readonly acceptor: Acceptor;
  session: ProposerSession = newProposerSession();
  #wal = new Uint8Array(0);
  #startLsn = invalidLsn;

  constructor(id: number) {
    this.acceptor = new Acceptor(id as NodeId, newControlState(timeline), invalidLsn);
  }

  /** The answer, null if there is none, or what ends the connection. */
  take(bytes: Uint8Array): Uint8Array | null | PageliteError {
    let message: ProposerMessage;
    try {
      message = decodeProposerMessage(bytes);
    } catch (error) {
      // A term above all that there are, as the third had the proposer believe in one.
      if (isPageliteError(error)) return error;
      throw error;
    }
    const step = this.acceptor.step(this.session, message);
    for (const effect of step.persist) {
      if (effect.kind === 'truncateWal') {
        if (this.#startLsn === invalidLsn) this.#startLsn = effect.lsn;
        this.#wal = this.#wal.slice(0, effect.lsn - this.#startLsn);
      } else if (effect.kind === 'writeWal') {
        this.#wal = new Uint8Array([...this.#wal, ...effect.bytes]);
      }
    }
    if (step.error) return step.error;
    return step.reply && encodeAcceptorMessage(step.reply);
  }

  has(lsn: Lsn, bytes: Uint8Array): boolean {
    if (this.#startLsn === invalidLsn || lsn < this.#startLsn) return false;
    return Buffer.compare(this.#wal.subarray(lsn - this.#startLsn).subarray(0, bytes.length), bytes) === 0;
  }
}

class Attempt {
  readonly #nodes = [1, 2, 3].map((id) => new Node(id));
  readonly #random: SeededRandom;
  /** What the third said before, to say it again. */
  readonly #said: Uint8Array[] = [];
  #proposer!: WalProposer;
  /** Of this proposer; null until it is elected. */
  #wal: SyntheticWal | null = null;
  /** To the nodes, and to the proposer. */
  #queues: { readonly there: Uint8Array[]; readonly back: Uint8Array[] }[] = [];
  #proposers = 0;
  #isLying = false;
  refused = 0;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  run(): void {
    this.#begin();
    this.#work(5);
    this.#isLying = true;
    for (let proposers = 1 + this.#random.below(3); proposers > 0; proposers--) {
      if (this.#random.chance(0.7)) this.#begin();
      this.#work(this.#random.below(6));
    }
    this.#isLying = false;
    for (let tries = 0; ; tries++) {
      this.#begin();
      if (this.#work(3)) break;
      if (tries === 5) throw new Error(`no proposer gets its WAL committed any more: ${this.#proposer.state}`);
    }
  }

  #begin(): void {
    const proposerId = (++this.#proposers).toString(16).padStart(32, 'a') as ProposerId;
    this.#proposer = new WalProposer({
      id: timeline,
      proposerId,
      acceptorCount: this.#nodes.length,
      startLsnIfEmpty: begin,
      systemIdentifier: syntheticSystemIdentifier,
      configuration: noConfiguration,
    });
    this.#wal = null;
    this.#queues = this.#nodes.map(() => ({ there: [], back: [] }));
    for (const index of this.#nodes.keys()) this.#connect(index);
  }

  #connect(index: number): void {
    this.#nodes[index]!.session = newProposerSession();
    this.#queues[index] = { there: [], back: [] };
    this.#step({ kind: 'connected', acceptor: index });
  }

  #drop(index: number): void {
    this.#step({ kind: 'disconnected', acceptor: index });
    this.#connect(index);
  }

  #step(event: Parameters<WalProposer['step']>[0]): void {
    const before = this.#proposer.commitLsn;
    const { messages, broken, recoveries } = this.#proposer.step(event);
    for (const { acceptor, message } of messages) this.#queues[acceptor]!.there.push(encodeProposerMessage(message));
    for (const { acceptor, error } of broken) {
      this.#told(error);
      this.#queues[acceptor] = { there: [], back: [] };
      // Where an honest one is dropped, it is for what the third had the proposer believe.
      if (this.#proposer.state !== 'fenced') this.#connect(acceptor);
    }
    for (const { acceptor } of recoveries) this.#step({ kind: 'recoveryEnded', acceptor, failed: true });
    if (this.#proposer.state === 'elected') {
      expect(this.#proposer.commitLsn).toBeGreaterThanOrEqual(before);
      expect(this.#proposer.commitLsn).toBeLessThanOrEqual(Math.max(this.#proposer.endLsn, before));
    }
  }

  #told(error: unknown): void {
    if (!isPageliteError(error)) throw error;
    this.refused++;
  }

  /** Appends `records`, and lets messages pass until nothing moves or all is committed. Whether it is. */
  #work(records: number): boolean {
    let left = records;
    let sent: { startLsn: Lsn; bytes: Uint8Array; endLsn: Lsn }[] = [];
    for (let turn = 0; turn < turnsMax; turn++) {
      const { state } = this.#proposer;
      if (state === 'fenced') return false;
      if (state === 'lost') this.#step({ kind: 'campaign' });
      if (state === 'elected' && this.#proposer.isSynced && left > 0) {
        this.#wal ??= SyntheticWal.afterBoot(this.#proposer.startLsn);
        const record = this.#wal.next(new Uint8Array(20 + this.#random.below(200)).fill(this.#proposers));
        sent.push(record);
        this.#step({ kind: 'append', lsn: record.startLsn, bytes: record.bytes });
        left--;
      }
      if (!this.#pass() && (left === 0 || turn % 3 === 2)) this.#step({ kind: 'heartbeat' });
      sent = sent.filter(({ startLsn, endLsn, bytes }) => {
        if (endLsn > this.#proposer.commitLsn) return true;
        const honest = this.#nodes.filter((node, index) => index !== liar && node.has(startLsn, bytes));
        expect(honest.length, 'what is committed is nowhere').toBeGreaterThan(0);
        return false;
      });
      if (left === 0 && sent.length === 0 && this.#proposer.isSynced) return true;
    }
    return false;
  }

  /** Some messages, each way. */
  #pass(): boolean {
    let moved = false;
    for (const index of this.#nodes.keys()) {
      const { there, back } = this.#queues[index]!;
      const asked = there.shift();
      if (asked !== undefined) {
        moved = true;
        const answer = this.#nodes[index]!.take(asked);
        if (answer instanceof Uint8Array) back.push(...(index === liar ? this.#lie(answer) : [answer]));
        else if (answer !== null) {
          this.#told(answer);
          this.#drop(index);
          continue;
        }
      }
      const answered = back.shift();
      if (answered === undefined) continue;
      moved = true;
      try {
        const message = decodeAcceptorMessage(answered);
        this.#step({ kind: 'message', acceptor: index, message });
      } catch (error) {
        this.#told(error);
        this.#drop(index);
      }
    }
    return moved;
  }

  #lie(answer: Uint8Array): Uint8Array[] {
    this.#said.push(answer);
    const random = this.#random;
    if (!this.#isLying || random.chance(0.5)) return [answer];
    switch (random.below(5)) {
      case 0:
        return [];
      case 1:
        return [answer, answer];
      case 2:
        return [this.#said[random.below(this.#said.length)]!];
      case 3:
        return [this.#said[random.below(this.#said.length)]!, answer];
      default:
        return [mutate(answer, random)];
    }
  }
}

it(
  `${count} proposers with a safekeeper that answers anything, seed ${seed}`,
  () => {
    const random = new SeededRandom(seed);
    let refused = 0;
    for (let number = 0; number < first + count; number++) {
      const own = new SeededRandom(random.below(2 ** 32));
      if (number < first) continue;
      const attempt = new Attempt(own);
      try {
        attempt.run();
      } catch (error) {
        throw new Error(`seed ${seed}, attempt ${number}: ${(error as Error).message}`, { cause: error });
      }
      refused += attempt.refused;
    }
    process.stdout.write(`seed ${seed}: ${refused} refusals in ${count} attempts\n`);
    expect(refused).toBeGreaterThan(0);
  },
  count * 20 + 60_000,
);
