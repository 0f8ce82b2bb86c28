/**
 * W5 to W8. Follows a timeline's WAL: from the safekeeper that has committed most, through the decoder and ingest, into the open layer.
 *
 * Works in batches of `ingestBytesPerTurn`: after each the timeline's lastRecordLsn moves, reads that wait are woken and the event loop gets
 * a turn. A safekeeper that is away, or does not know the timeline yet, is asked again later; the pause ends early when a read waits. WAL
 * that cannot be decoded or ingested stops the timeline for good and says where: nothing is skipped.
 *
 * Invariants:
 * - records are ingested once each, in order, from lastRecordLsn on; after a lost connection reading goes on at the last whole record
 * - lastRecordLsn only moves past records that are ingested completely
 */
import type { TimelineCounters } from '../counters.ts';
import { isAccessRefusal, isPageliteError, messageOf, PageliteError } from '../errors.ts';
import { inTime } from '../in-time.ts';
import {
  ingestBytesPerTurn,
  walReceiverGraceMs,
  walReceiverPauseMaxMs,
  walReceiverPauseMinMs,
  walReceiverSilenceMs,
} from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock, Log, Random, ValueReader, ValueSink, WalChunk, WalService } from '../services.ts';
import { WalDecoder } from '../wal/wal-decoder.ts';
import type { SafekeeperSurvey, WalExtent } from './safekeeper-survey.ts';
import { WalIngest } from './wal-ingest.ts';

/** What the receiver needs of a timeline. */
export interface IngestTarget extends ValueSink, ValueReader {
  readonly id: TenantTimelineId;
  readonly systemIdentifier: bigint;
  readonly lastRecordLsn: Lsn;
  readonly prevRecordLsn: Lsn;
  /** Why ingest ended for good, if it did. */
  readonly stopped: Error | null;
  readonly counters: TimelineCounters;
  blocksAdded: number;
  advance(lsn: Lsn, prevLsn: Lsn): void;
  stop(error: Error): void;
}

export interface WalReceiverParts {
  readonly target: IngestTarget;
  readonly services: readonly WalService[];
  /** Of all receivers that follow these services. */
  readonly survey: SafekeeperSurvey;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly yieldTurn: () => Promise<void>;
  /** Called after each batch; the receiver awaits what it returns before it takes more. */
  afterBatch(): Promise<void> | undefined;
  /** Every whole record below `lsn` is ingested. */
  onFed(lsn: Lsn): void;
  /** A safekeeper is followed now. */
  onFollow?(): void;
}

export class WalReceiver {
  readonly #parts: WalReceiverParts;
  readonly #abort = new AbortController();
  #pause: AbortController | null = null;
  #hurried = false;
  #ingest: WalIngest | null = null;
  #running: Promise<void> | null = null;
  /** Safekeepers whose stored WAL of this timeline is damaged. */
  readonly #damaged = new Set<WalService>();
  /** Safekeepers that refuse the token. */
  readonly #refusing = new Set<WalService>();

  constructor(parts: WalReceiverParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** A read waits for WAL: ask for it now. */
  hurry(): void {
    this.#hurried = true;
    this.#pause?.abort();
  }

  async close(): Promise<void> {
    this.#abort.abort(new PageliteError('closed', 'the WAL receiver was closed'));
    this.#pause?.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { target, log } = this.#parts;
    const { signal } = this.#abort;
    let pauseMs = walReceiverPauseMinMs;
    while (!signal.aborted && target.stopped === null) {
      const before = target.lastRecordLsn;
      try {
        const service = await this.#furthest();
        if (service !== null) await this.#follow(service);
      } catch (error) {
        if (signal.aborted || target.stopped !== null) return;
        const fatal = error instanceof IngestError ? (error.cause as Error) : this.#allDamaged(error);
        if (fatal !== null) {
          log.error('a timeline stopped ingesting', { ...target.id, error: messageOf(fatal) });
          target.stop(fatal);
          return;
        }
        log.warn('WAL stream lost', { ...target.id, error: messageOf(error) });
      }
      if (target.lastRecordLsn > before || this.#hurried) pauseMs = walReceiverPauseMinMs;
      this.#hurried = false;
      await this.#sleep(pauseMs);
      pauseMs = Math.min(pauseMs * 2, walReceiverPauseMaxMs);
    }
  }

  /** Receivers that only look again now and then do so at the same time, so that they are answered together (safekeeper-survey.ts): at least `ms` from now. */
  #untilRound(ms: number): number {
    const at = this.#parts.clock.now() + ms;
    return ms + walReceiverPauseMaxMs - (at % walReceiverPauseMaxMs);
  }

  /** The error if no safekeeper is left that may have this WAL undamaged. */
  #allDamaged(error: unknown): Error | null {
    return this.#damaged.size === this.#parts.services.length ? (error as Error) : null;
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#hurried || this.#abort.signal.aborted) return;
    this.#pause = new AbortController();
    const pauseMs = ms < walReceiverPauseMaxMs ? ms * (0.5 + this.#parts.random.next() / 2) : this.#untilRound(0);
    await this.#parts.clock.sleep(pauseMs, this.#pause.signal).catch(() => {});
    this.#pause = null;
  }

  /**
   * The safekeeper whose commitLsn is highest; null if none knows the timeline or all are away. Those at the same LSN are chosen by chance. One that has
   * given up what is needed, and would have to read it from the object store, is asked only if all have. One that hangs is not waited for when others answer.
   */
  async #furthest(): Promise<WalService | null> {
    const { services, survey, target, random } = this.#parts;
    const statuses: (WalExtent | null)[] = services.map(() => null);
    const asks = services.map((service, i) =>
      survey.statusOf(service, target.id).then(
        (status) => {
          this.#refusing.delete(service);
          statuses[i] = status;
          return status !== null;
        },
        (error: unknown) => {
          this.#tellAway(service, error);
          return false;
        },
      ),
    );
    await this.#mostOf(asks);
    const able = services.flatMap((service, i) => {
      const status = statuses[i] ?? null;
      if (this.#damaged.has(service) || status === null || status.startLsn === 0) return [];
      return status.commitLsn < target.lastRecordLsn ? [] : [{ service, ...status }];
    });
    const holding = able.filter(({ startLsn }) => startLsn <= target.lastRecordLsn);
    const asked = holding.length > 0 ? holding : able;
    const bestLsn = Math.max(...asked.map(({ commitLsn }) => commitLsn));
    const best = asked.filter(({ commitLsn }) => commitLsn === bestLsn);
    return best[Math.floor(random.next() * best.length)]?.service ?? null;
  }

  /** Resolves when all have answered, or a while after the first one that knows something has. */
  async #mostOf(asks: readonly Promise<boolean>[]): Promise<void> {
    const timer = new AbortController();
    const { clock } = this.#parts;
    const enough = new Promise<void>((resolve) => {
      const wait = () => clock.sleep(walReceiverGraceMs, timer.signal).then(resolve, () => {});
      for (const ask of asks) void ask.then((knows) => (knows ? wait() : undefined));
    });
    await Promise.race([Promise.all(asks), enough]);
    timer.abort();
  }

  /** One that is away comes back by itself; one that refuses the token waits for somebody to do something, and is told of once. */
  #tellAway(service: WalService, error: unknown): void {
    const { target, log } = this.#parts;
    const about = { ...target.id, nodeId: service.nodeId, error: messageOf(error) };
    if (!isAccessRefusal(error)) log.debug('a safekeeper is away', about);
    else if (!this.#refusing.has(service)) {
      this.#refusing.add(service);
      log.error('a safekeeper refuses this pageserver', about);
    }
  }

  /** Ingests what `service` sends until its stream ends, fails, or another one is ahead of it. */
  async #follow(service: WalService): Promise<void> {
    const { target, log } = this.#parts;
    const startLsn = target.lastRecordLsn;
    // It may have been closed while safekeepers were asked.
    this.#abort.signal.throwIfAborted();
    const stream = new AbortController();
    const end = () => stream.abort(this.#abort.signal.reason);
    this.#abort.signal.addEventListener('abort', end, { once: true });
    const decoder = new WalDecoder(startLsn, {
      prevLsn: target.prevRecordLsn,
      systemIdentifier: target.systemIdentifier,
    });
    this.#parts.onFollow?.();
    log.debug('following WAL', { ...target.id, nodeId: service.nodeId, lsn: formatLsn(startLsn) });
    const chunks = service.readWal(target.id, startLsn, stream.signal)[Symbol.asyncIterator]();
    try {
      let next = chunks.next();
      for (;;) {
        const result = await this.#orSilence(next);
        if (result === null) {
          if (await this.#isBehind(service)) return;
          continue;
        }
        if (result.done) return;
        next = chunks.next();
        // A failure of the next chunk is heard when its turn comes.
        next.catch(() => {});
        await this.#ingestChunk(decoder, result.value);
      }
    } catch (error) {
      // Of the stream itself: what is at fault in the records is an IngestError.
      if (isPageliteError(error, 'corrupt')) this.#damaged.add(service);
      throw error;
    } finally {
      this.#abort.signal.removeEventListener('abort', end);
      stream.abort(new PageliteError('cancelled', 'the WAL stream is not read any more'));
      // Ends the generator of an in-process safekeeper; a pending `next` may hold it up, and nobody waits for it.
      chunks.return?.(undefined)?.catch(() => {});
    }
  }

  /** The next chunk, or null if none came for a while. */
  async #orSilence(next: Promise<IteratorResult<WalChunk>>): Promise<IteratorResult<WalChunk> | null> {
    const { clock, services } = this.#parts;
    if (services.length < 2) return next;
    return inTime(next, clock, this.#untilRound(walReceiverSilenceMs));
  }

  async #isBehind(service: WalService): Promise<boolean> {
    const { target, survey } = this.#parts;
    const best = await this.#furthest();
    if (best === null || best === service) return false;
    const status = await survey.statusOf(best, target.id).catch(() => null);
    return status !== null && status.commitLsn > target.lastRecordLsn;
  }

  async #ingestChunk(decoder: WalDecoder, chunk: WalChunk): Promise<void> {
    const { yieldTurn, afterBatch } = this.#parts;
    if (chunk.bytes.length === 0) return;
    this.#parts.target.counters.walBytesReceived += chunk.bytes.length;
    feed(decoder, chunk);
    for (let more = true; more; ) {
      more = await this.#ingestBatch(decoder);
      const room = afterBatch();
      if (room !== undefined) await room;
      if (more) await yieldTurn();
      this.#abort.signal.throwIfAborted();
      if (this.#parts.target.stopped !== null) return;
    }
    this.#parts.onFed(decoder.fedTo);
  }

  /** Ingests up to `ingestBytesPerTurn` of the records that the decoder has. False if there are no more. */
  async #ingestBatch(decoder: WalDecoder): Promise<boolean> {
    const { target } = this.#parts;
    let doneLsn = target.lastRecordLsn;
    let donePrevLsn = target.prevRecordLsn;
    const stopAt = doneLsn + ingestBytesPerTurn;
    const { counters } = target;
    try {
      this.#ingest ??= await WalIngest.open(target, target);
      const ingest = this.#ingest;
      while (doneLsn < stopAt) {
        const record = decoder.next();
        if (record === null) return false;
        const putBefore = counters.valuesPutCount;
        const pending = ingest.ingest(record);
        if (pending !== undefined) await pending;
        counters.walRecordsReceived++;
        if (counters.valuesPutCount > putBefore) counters.walRecordsCommitted++;
        doneLsn = record.endLsn;
        donePrevLsn = record.lsn;
      }
      return true;
    } catch (error) {
      // What ingest has to read may be away for a while (a remote ancestor); to ingest the record again then changes nothing.
      if (isPageliteError(error, 'unavailable')) throw error;
      throw new IngestError(error);
    } finally {
      // Also after a failure: the records before it are whole.
      if (doneLsn > target.lastRecordLsn && target.stopped === null) {
        target.blocksAdded = this.#ingest?.blocksAdded ?? 0;
        target.advance(doneLsn, donePrevLsn);
      }
    }
  }
}

/** The WAL itself, or a layer that ingest had to read, is at fault: trying again does not help. */
class IngestError extends Error {
  constructor(cause: unknown) {
    super(messageOf(cause), { cause });
  }
}

function feed(decoder: WalDecoder, chunk: WalChunk): void {
  try {
    decoder.feed(chunk.startLsn, chunk.bytes);
  } catch (error) {
    throw new IngestError(error);
  }
}
