/**
 * What readers and peers ask of a safekeeper, changed: it answers or ends the connection with an error that has a name, what is read is what is stored, and
 * the safekeeper is as it was. Driven by hostile-messages.ts.
 */

import type { PageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import {
  decodeWalStreamResponse,
  encodeWalStreamRequest,
  type WalStreamRequest,
} from '../../engine/protocol/wal-stream.ts';
import { createChannelPair } from '../../engine/remote/channel-pair.ts';
import { serveWalStream } from '../../engine/remote/wal-stream-handler.ts';
import { controlFileName } from '../../engine/safekeeper/control-file.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { SeededRandom } from '../support/seeded-random.ts';
import {
  type AttackReport,
  check,
  checkEnding,
  newSafekeeper,
  type Recording,
  same,
  storedBytes,
  turn,
} from './hostile-ground.ts';
import { LeanStorage } from './lean-storage.ts';
import { mutate } from './mutate-message.ts';

export class ReaderAttempts {
  readonly #recording: Recording;
  readonly #report: AttackReport;
  readonly #safekeeper: Safekeeper;
  readonly #storage = new LeanStorage();
  #requests: readonly WalStreamRequest[] = [];
  #wal: Uint8Array = new Uint8Array(0);
  #status = '';

  constructor(recording: Recording, report: AttackReport) {
    this.#recording = recording;
    this.#report = report;
    this.#safekeeper = newSafekeeper(this.#storage);
  }

  async prepare(): Promise<void> {
    const { victim, strangerId } = this.#recording;
    for (const script of this.#recording.scripts) {
      const channel = this.#safekeeper.connectProposer(victim);
      for (const message of script) {
        channel.send(message.slice());
        await turn();
      }
      channel.close();
      await turn();
    }
    const status = (await this.#safekeeper.getStatus(victim))!;
    this.#requests = [
      { kind: 'readWal', timeline: victim, startLsn: status.startLsn, lastTerm: null },
      { kind: 'readWal', timeline: victim, startLsn: status.startLsn, lastTerm: status.termHistory.at(-1)![0] },
      { kind: 'readWal', timeline: victim, startLsn: status.flushLsn, lastTerm: null },
      { kind: 'consumed', lsn: status.flushLsn },
      { kind: 'getStatus', timeline: victim },
      { kind: 'getStatus', timeline: strangerId },
      { kind: 'reportConsistent', timeline: victim, lsn: status.commitLsn },
      { kind: 'describeTimelines' },
      { kind: 'recall', node: 2 as NodeId },
      { kind: 'introduce', node: 2 as NodeId, incarnation: 7 },
    ];
    const { segments } = (await this.#storage.openTimeline(victim))!;
    const files = await segments.list();
    this.#wal = await segments.read(files[0]!.name, 0, storedBytes);
    this.#status = await this.#state();
  }

  async run(random: SeededRandom): Promise<void> {
    const [near, far] = createChannelPair();
    serveWalStream(far, this.#safekeeper);
    let told: PageliteError | null = null;
    let ended: PageliteError | null = null;
    let isClosed = false;
    near.onMessage((bytes) => {
      const response = decodeWalStreamResponse(bytes);
      if (response.kind === 'error') told = response.error;
      if (response.kind !== 'chunk') return;
      const offset = response.chunk.startLsn - walSegmentSize;
      const expected = this.#wal.subarray(offset, offset + response.chunk.bytes.length);
      check(same(expected, response.chunk.bytes), 'what is read is not what is stored');
    });
    near.onClose((error) => {
      if (isClosed) return;
      checkEnding(error, told);
      ended = error;
    });
    const messages = Array.from({ length: 1 + random.below(3) }, () =>
      encodeWalStreamRequest(random.pick(this.#requests)),
    );
    const at = random.below(messages.length);
    messages[at] = mutate(messages[at]!, random);
    for (const message of messages) {
      if (ended !== null) break;
      near.send(message);
      await turn();
    }
    isClosed = true;
    near.close();
    await turn();
    if (ended === null) this.#report.taken++;
    else {
      const { kind } = ended as PageliteError;
      this.#report.refused[kind] = (this.#report.refused[kind] ?? 0) + 1;
    }
    check((await this.#state()) === this.#status, 'a reader has changed the safekeeper');
  }

  /** But for what a pageserver says it needs no more. */
  async #state(): Promise<string> {
    const { victim } = this.#recording;
    const { remoteConsistentLsn: _, ...status } = (await this.#safekeeper.getStatus(victim))!;
    const timelines = await this.#safekeeper.listTimelines();
    const control = await (await this.#storage.openTimeline(victim))!.readFile(controlFileName);
    return JSON.stringify([status, timelines, control]);
  }
}
