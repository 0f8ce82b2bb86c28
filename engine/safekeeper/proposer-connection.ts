/**
 * One proposer's connection to a safekeeper (W3 of the write path): bytes in, messages to the timeline, replies out.
 *
 * Invariants
 * - messages are processed in order; none is due before the greeting was answered
 * - bytes that are no message, or a message out of order, end this connection with an `error` message that says why; the timeline and the
 *   process go on
 * - at most `walUnsyncedBytesMax` of messages wait to be made durable: a proposer that sends more does not keep the protocol
 */
import { isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { walUnsyncedBytesMax } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import {
  type AcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  type ProposerGreeting,
  type ProposerMessage,
} from '../protocol/proposer-acceptor.ts';
import type { Channel } from '../services.ts';
import { newProposerSession } from './acceptor.ts';
import type { ReplyTarget, SafekeeperTimeline } from './timeline.ts';

export interface ProposerConnectionOptions {
  readonly channel: Channel;
  /** The timeline that the connection was made for; null if the greeting alone says it. */
  readonly expected: TenantTimelineId | null;
  /** Opens the timeline of a greeting, or creates it. */
  readonly openTimeline: (greeting: ProposerGreeting) => Promise<SafekeeperTimeline>;
}

export class ProposerConnection implements ReplyTarget {
  readonly session = newProposerSession();
  readonly #channel: Channel;
  readonly #options: ProposerConnectionOptions;
  #timeline: SafekeeperTimeline | null = null;
  #greeted = false;
  #ended = false;

  constructor(options: ProposerConnectionOptions) {
    this.#options = options;
    this.#channel = options.channel;
    this.#channel.onMessage((bytes) => this.#receive(bytes));
    this.#channel.onClose(() => this.#closed());
  }

  reply(message: AcceptorMessage): void {
    if (!this.#ended) this.#send(message);
  }

  end(error: PageliteError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#timeline?.detach(this);
    this.#send({ kind: 'error', error });
    this.#channel.close(error);
  }

  #send(message: AcceptorMessage): void {
    try {
      this.#channel.send(encodeAcceptorMessage(message));
    } catch (error) {
      // The peer is gone, and the close event is on its way.
      if (!isPageliteError(error, 'closed')) throw error;
    }
  }

  #closed(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#timeline?.detach(this);
  }

  #receive(bytes: Uint8Array): void {
    if (this.#ended) return;
    let message: ProposerMessage;
    try {
      message = decodeProposerMessage(bytes);
    } catch (error) {
      this.end(toPageliteError(error));
      return;
    }
    if (!this.#timeline) this.#open(message);
    else if (this.#timeline.queuedBytes + bytes.length > walUnsyncedBytesMax) {
      this.end(new PageliteError('invalid', `more than ${walUnsyncedBytesMax} bytes of WAL wait to be made durable`));
    } else this.#timeline.process(this, message);
  }

  #open(message: ProposerMessage): void {
    if (message.kind !== 'proposerGreeting' || this.#greeted) {
      this.end(new PageliteError('invalid', `${message.kind} before the greeting was answered`));
      return;
    }
    const { expected, openTimeline } = this.#options;
    const { tenantId, timelineId } = message.timeline;
    if (expected && (tenantId !== expected.tenantId || timelineId !== expected.timelineId)) {
      this.end(new PageliteError('invalid', `greeting for timeline ${tenantId}/${timelineId} on another's connection`));
      return;
    }
    this.#greeted = true;
    openTimeline(message).then(
      (timeline) => {
        if (this.#ended) return;
        this.#timeline = timeline;
        timeline.attach(this);
        timeline.process(this, message);
      },
      (error) => this.end(toPageliteError(error)),
    );
  }
}

function toPageliteError(error: unknown): PageliteError {
  if (isPageliteError(error)) return error;
  return new PageliteError('unavailable', `the safekeeper failed: ${messageOf(error)}`, {}, { cause: error });
}
